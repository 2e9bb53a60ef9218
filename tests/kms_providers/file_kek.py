"""What the contract of a KMS needs of file-kek: a folder, a passphrase, and a scrypt that costs little."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from dbsec import files
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.secret import Secret
from dbsec.testing.kms import Provider


def provider(request: pytest.FixtureRequest, folder: Path) -> Provider:
    passphrase = secrets.token_urlsafe(16)
    files.write_atomic(folder / "passphrase", passphrase)
    return Provider(
        f"file-kek:{folder}/{{tenant}}.json?passphrase=file:{folder}/passphrase",
        secrets=(passphrase,),
        admin=lambda tenant: FileKekAdmin(folder / f"{tenant}.json", lambda: Secret(passphrase), cost=Cost(2**14)),
        lacks={"away": "there is no server: a file is there or it is not"},
    )
