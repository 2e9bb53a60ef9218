"""Write tests/vectors/crypto_legacy.json: values that SQLAlchemy-Utils and Fernet made, for migrate-from to read.

Runs in an environment with SQLAlchemy-Utils: pip install --require-hashes -r benchmarks/peers/sqlalchemy-utils.txt
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import sqlalchemy
from cryptography.fernet import Fernet, MultiFernet
from sqlalchemy_utils import StringEncryptedType
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine, FernetEngine

TEXTS = ["+49 30 1234567", "", "Zoë Müller", "sixteen bytes ok", "a longer text that takes more than one block of AES"]
KEY, OTHER = "an old key of the application", "another key"
ENGINES = {
    "sqlalchemy-utils-aes": AesEngine,
    "sqlalchemy-utils-gcm": AesGcmEngine,
    "sqlalchemy-utils-fernet": FernetEngine,
}
PADDINGS = {AesEngine: ("naive", "pkcs5", "zeroes", "oneandzeroes")}


def main() -> None:
    """Write the file that is named."""
    cases = []
    for name, engine in ENGINES.items():
        for padding in PADDINGS.get(engine, (None,)):
            kind = StringEncryptedType(sqlalchemy.Unicode, KEY, engine, padding)
            values = [{"plain": text, "value": kind.process_bind_param(text, None)} for text in TEXTS]
            cases.append({"format": name, "keys": [KEY], "padding": padding or "", "values": values})
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    for cipher, of in ((Fernet(keys[0]), keys[:1]), (MultiFernet([Fernet(keys[1])]), keys)):
        values = [{"plain": text, "value": cipher.encrypt(text.encode()).decode()} for text in TEXTS]
        cases.append({"format": "fernet", "keys": of, "padding": "", "values": values})
    made = {name: version(name) for name in ("SQLAlchemy-Utils", "cryptography")}
    Path(sys.argv[1]).write_text(json.dumps({"made_with": made, "wrong_key": OTHER, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
