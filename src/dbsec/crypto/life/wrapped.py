"""Whether a wrapped DEK is the one that its row has committed to."""

from __future__ import annotations

from dbsec.crypto import dek as deks
from dbsec.crypto.dek import Dek
from dbsec.crypto.format import KEY_BYTES
from dbsec.crypto.store import NewKey
from dbsec.errors import ApplyError
from dbsec.kms import Kms


def is_kept(row: NewKey, unwrapped: bytearray) -> bool:
    """Tell whether an unwrapped DEK, which is zeroed, is the one of the row."""
    if len(unwrapped) != KEY_BYTES:
        deks.erase(unwrapped)
        return False
    return Dek(unwrapped, row.salt).keeps(row.commitment)


def prove(kms: Kms, new: NewKey) -> None:
    """Unwrap a key before anything is encrypted under it. Errors: ``KmsError``; ``ApplyError`` for another DEK."""
    if not is_kept(new, kms.unwrap(new.wrapped, new.aad)):
        raise ApplyError(f"the KMS gives another DEK back for a key of '{new.context}'", hint="dbsec crypto keys")
