"""StringEncryptedType of SQLAlchemy-Utils with FernetEngine: Fernet under the SHA-256 of the key."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from dbsec.crypto.life.legacy import Format, Reader
from dbsec.crypto.life.legacy.fernet import of_keys
from dbsec.secret import Secret


def _open(keys: Sequence[Secret], _: str) -> Reader:
    return of_keys([base64.urlsafe_b64encode(hashlib.sha256(key.reveal().encode()).digest()) for key in keys])


FORMAT = Format("SQLAlchemy-Utils, FernetEngine", _open)
