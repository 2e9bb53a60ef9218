"""Write tests/vectors/backup_sealed.json: a small repository of backups, what it holds, and what of it must be refused.

Salts and keys are random: another run writes another file. docs/formats.md, 6, has the format.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbsec.backup import BackupSettings, Cluster, Repository, init_repository
from dbsec.backup.codec import Codec
from dbsec.backup.key_records import EPOCHS, epoch_name
from dbsec.backup.recipients import create_recipient
from dbsec.backup.rekey import Targets, rekey
from dbsec.kms import open_kms
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.secret import Secret

FILE = Path(__file__).parents[1] / "tests" / "vectors" / "backup_sealed.json"
PASSPHRASE = "a passphrase of the vectors"  # noqa: S105 - of the vectors alone
SYSTEM = 7_300_000_000_000_000_001
WAL = "wal/00000001/00000000/000000010000000000000001"
PIECE = "wal/pieces/00000001/000000010000000000000002/00000000-00000064"
EMPTY = "notes/empty"
FOR_RECIPIENT = "wal/00000001/00000000/000000010000000000000003"


def made(folder: Path) -> tuple[Repository, str]:
    """Make the repository; its epochs are under version 1 and, by a page, 2 of a KEK, one is for a recipient."""
    environ = {"KEK": PASSPHRASE}
    (folder / "store").mkdir()
    admin = FileKekAdmin(folder / "kek.json", lambda: Secret(PASSPHRASE), cost=Cost(2**14))
    admin.create()
    uri = f"file-kek:{folder}/kek.json?passphrase=env:KEK"
    settings = BackupSettings(store=f"file://{folder}/store", kms=uri)
    cluster = Cluster(SYSTEM, 16 << 20)
    repository = init_repository(settings, cluster, environ=environ)
    repository.put(WAL, b"the bytes of a segment\n" * 20, timeline=1)
    repository.put(PIECE, bytes(range(100)), timeline=1, codec=Codec.NONE)
    admin.rotate()
    rekey(init_repository(settings, cluster, environ=environ), Targets(open_kms(uri, environ=environ)))
    repository.put(EMPTY, b"", codec=Codec.NONE, epoch=repository.keys.begin())
    recipient = create_recipient(repository.keys).public.hex()
    told = {"kms": "", "recipient": recipient, "content_key": "env:CONTENT"}
    environ["CONTENT"] = repository.keys.content().hex()
    host = init_repository(settings.model_copy(update=told), cluster, environ=environ)
    host.put(FOR_RECIPIENT, b"sealed by a host that only writes", timeline=1)
    return repository, (folder / "kek.json").read_text()


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def invalid(files: dict[str, bytes], repository: Repository) -> list[dict[str, Any]]:
    """Return changes of files, after each of which one object must be refused."""
    raw = files[WAL]
    epoch = epoch_name(repository.header(FOR_RECIPIENT).epoch)
    other = next(name for name in files if name.startswith(EPOCHS) and name != epoch)
    key = json.loads(files[epoch])

    def of(what: str, name: str, path: str, data: bytes) -> dict[str, Any]:
        return {"name": what, "object": name, "files": {path: data.hex()}}

    cases: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("a bit of the ciphertext", lambda data: flipped(data, len(data) - 20)),
        ("a bit of the salt", lambda data: flipped(data, 20)),
        ("a bit of the commitment", lambda data: flipped(data, 48 + int.from_bytes(data[6:8], "big"))),
        ("cut by a byte", lambda data: data[:-1]),
        ("without its frames", lambda data: data[: 80 + int.from_bytes(data[6:8], "big")]),
        ("a byte more", lambda data: data + b"\0"),
        ("another magic", lambda data: b"\xd6" + data[1:]),
        ("a later version", lambda data: data[:4] + b"\2" + data[5:]),
        ("another timeline in the header", lambda data: data.replace(b'"timeline":1', b'"timeline":2')),
        ("another cluster in the header", lambda data: data.replace(b"0001,", b"0002,")),
    ]
    found = [of(what, WAL, WAL, act(raw)) for what, act in cases]
    found.append(of("another object under this name", WAL, WAL, files[PIECE]))
    found.append(of("the key of another epoch", FOR_RECIPIENT, epoch, files[other]))
    found.append(
        of("an epoch that nobody vouches for", FOR_RECIPIENT, epoch, json.dumps({**key, "proof": "00" * 32}).encode())
    )
    found.append(of("an epoch of a later format", FOR_RECIPIENT, epoch, json.dumps({**key, "format": 2}).encode()))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository, kek = made(Path(folder))
        store = Path(folder) / "store"
        files = {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}
        names = [name for name in files if name.split("/")[0] in ("wal", "notes") and "rekeys" not in name]
        told = {
            "format": 1,
            "passphrase": PASSPHRASE,
            "kek": json.loads(kek),
            "files": {name: raw.hex() for name, raw in files.items()},
            "valid": [{"object": name, "plaintext": repository.get(name).hex()} for name in names],
            "invalid": invalid(files, repository),
        }
    FILE.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
