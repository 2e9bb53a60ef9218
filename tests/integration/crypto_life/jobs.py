"""Steps in the life of keys as processes of their own, for tests that kill them at every step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from dbsec.backfill import Limits
from dbsec.config import load
from dbsec.crypto import CryptoSettings, open_envelope, settings
from dbsec.crypto.life import reencrypt, rewrap, rotation
from dbsec.crypto.life.shredding import Shredder
from dbsec.crypto.opening import Connect
from dbsec.evidence import Outcome
from dbsec.journal import Observer
from dbsec.kms import open_admin, open_kms
from dbsec.pg import Conninfo, connect


def opened(folder: Path) -> tuple[CryptoSettings, Connect]:
    """Read what the test wrote into the folder."""
    conninfo = Conninfo.parse((folder / "dsn").read_text())
    return settings.of(load(folder / "dbsec.toml")), partial(connect, conninfo)


def rotate(folder: Path, observer: Observer | None = None) -> None:
    """Rotate the keys that the test wrote down, those that are still active."""
    found, connecting = opened(folder)
    ids = {int(text) for text in (folder / "wanted").read_text().split()}
    with connecting() as session:
        wanted = [row for row in rotation.candidates(session) if row.id in ids]
    list(rotation.rotate(connecting, open_kms(found.kms, environ={}), wanted, observer=observer))


def rewrap_all(folder: Path, observer: Observer | None = None) -> None:
    """Rotate each KEK and rewrap."""
    found, connecting = opened(folder)
    kms = open_kms(found.kms, environ={})
    rewrap.rewrap(
        connecting,
        kms,
        admin_of=lambda tenant: open_admin(found.kms, environ={}, tenant=tenant),
        batch=2,
        observer=observer,
    )


def reencrypt_phones(folder: Path, observer: Observer | None = None, *, batch_rows: int = 5) -> None:
    """Bring phone_enc to the active keys."""
    found, connecting = opened(folder)
    with connecting() as session:
        envelope, column = open_envelope(found, connecting, {}), found.of("app.users", "phone_enc")
        work = reencrypt.plan(session, envelope, column, batch_rows=batch_rows)
    limits = Limits(reconnect_s=30, give_up_s=30, range_batches=1)
    reencrypt.run(connecting, work, limits=limits, observer=observer)


def reencrypt_large_batches(folder: Path, observer: Observer | None = None) -> None:
    """Do the same with so many rows in a batch that a writer comes between its reading and its writing."""
    reencrypt_phones(folder, observer, batch_rows=100)


def shred(folder: Path, observer: Observer | None = None) -> None:
    """Shred tenant acme, and what it proves must hold."""
    found, connecting = opened(folder)
    done = Shredder(found, connecting, {}).shred(
        "acme", open_admin(found.kms, environ={}, tenant="acme"), observer=observer
    )
    assert done.outcome is Outcome.PASS, done.proofs


if __name__ == "__main__":
    reencrypt_phones(Path(sys.argv[1]))
