"""What an encrypted column costs a program on SQLAlchemy: CPU of the client a row, beside the same column in clear.

Four acts on rows with a 64-byte text: bulk insert, flush of objects, select of entities, select of the column alone.
"dbsec" binds each value to tenant and row; "dbsec, indexed" fills a 63-bit blind index beside it. SQLAlchemy-Utils
(StringEncryptedType with AES-GCM) runs in an environment of its own, beside a plain table of its own. All take turns in
each round, and the fastest round counts. The server's time is not in the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from _bench import arguments, last_line, peer
from _orm_turns import ACTS, TENANT, Base, Plain, Turn, engine_of, turn
from rich.console import Console
from rich.table import Table
from sqlalchemy import BigInteger, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from dbsec.crypto import BlindIndex, Envelope, Field, Keyring, PostgresKeyStore
from dbsec.crypto.orm import attach, encrypted_column, index_column, tenant_scope
from dbsec.kms import open_admin, open_kms
from dbsec.lab import account, ports
from dbsec.pg import Conninfo, connect, own
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

UTILS = "SQLAlchemy-Utils"
Best = dict[str, Turn]


class ByDbsec(Base):
    """The row with its value encrypted."""

    __tablename__ = "by_dbsec"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID] = mapped_column(Uuid())
    name: Mapped[str] = mapped_column(Text())
    value: Mapped[str] = encrypted_column(Field("bench.by_dbsec", "value"), tenant="tenant_id")


class Indexed(Base):
    """The row with a blind index besides."""

    __tablename__ = "by_dbsec_indexed"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID] = mapped_column(Uuid())
    name: Mapped[str] = mapped_column(Text())
    value: Mapped[str] = encrypted_column(Field("bench.by_dbsec_indexed", "value"), tenant="tenant_id")
    value_bidx: Mapped[int] = index_column("value", BlindIndex(63))


OURS: dict[str, Any] = {"clear": Plain, "dbsec": ByDbsec, "dbsec, indexed": Indexed}


class Peer:
    """SQLAlchemy-Utils as a process that measures itself."""

    def __init__(self, stack: ExitStack, conninfo: Conninfo) -> None:
        argv: list[str | Path] = [peer("sqlalchemy-utils") / "python", "-W", "ignore"]
        argv.append(Path(__file__).with_name("_orm_turns.py"))
        child = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert child.stdin is not None
        assert child.stdout is not None
        stack.callback(child.stdin.close)
        self._questions, self._answers = child.stdin, child.stdout
        self._questions.write(conninfo.text() + "\n")

    def turn(self, rows: int, flushed: int) -> dict[str, Turn]:
        self._questions.write(json.dumps([rows, flushed]) + "\n")
        self._questions.flush()
        told = json.loads(self._answers.readline())
        return {"clear, beside it": told["plain"], UTILS: told["by_sqlalchemy_utils"]}


@contextmanager
def server() -> Iterator[tuple[Path, Conninfo, Conninfo]]:
    """Start a server with a database for each side, ours with schema dbsec."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        clusters = Clusters(folder, 17, account=account.server_account(Silent()), free_port=lambda: ports.free(1)[0])
        try:
            cluster = clusters.create()
            ours, theirs = cluster.create_database("ours"), cluster.create_database("theirs")
            with connect(ours) as admin:
                own.install(admin)
            yield folder, ours, theirs
        finally:
            clusters.close()


def envelope(folder: Path, conninfo: Conninfo) -> Envelope:
    """Open the Envelope of a service: the keyring in a table, its DEKs wrapped by a KEK file."""
    passphrase = folder / "passphrase"
    passphrase.write_text("a passphrase of the benchmark")
    passphrase.chmod(0o600)
    uri = f"file-kek:{folder}/kek.json?passphrase=file:{passphrase}"
    open_admin(uri, environ={}).create()
    return Envelope(Keyring(PostgresKeyStore(lambda: connect(conninfo)), open_kms(uri, environ={})))


def measured(rounds: int, rows: int, flushed: int) -> Best:
    """Let all sides take turns; the least of each act counts."""
    best: Best = {}
    with ExitStack() as stack, tenant_scope(TENANT):
        folder, ours, theirs = stack.enter_context(server())
        other = Peer(stack, theirs)
        engine = engine_of(ours.text())
        stack.callback(engine.dispose)
        attach(engine, envelope(folder, ours))
        Base.metadata.create_all(engine)
        for number in range(rounds):
            turns = {name: turn(engine, kind, rows, flushed) for name, kind in OURS.items()}
            for name, found in {**turns, **other.turn(rows, flushed)}.items():
                known = best.setdefault(name, found)
                best[name] = {act: min(known[act], found[act]) for act in ACTS}
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return best


def show(best: Best, rows: int) -> dict[str, Turn]:
    """Print microseconds a row and multiples of the column in clear; returns the multiples."""
    table = Table(title=f"{rows:,} rows, client CPU in us a row (and x the column in clear)", title_justify="left")
    table.add_column("")
    for act in ACTS:
        table.add_column(act, justify="right")
    ratios: dict[str, Turn] = {}
    for name, found in best.items():
        clear = best["clear, beside it" if name == UTILS else "clear"]
        ratios[name] = {act: found[act] / clear[act] for act in ACTS}
        in_clear = name.startswith("clear")
        shown = [f"{found[act]:.1f}" + ("" if in_clear else f" (x{ratios[name][act]:.2f})") for act in ACTS]
        table.add_row(name, *shown)
    Console(width=110).print(table)
    return ratios


def main() -> None:
    """Measure and print."""
    asked = arguments(__doc__ or "")
    rounds, rows, flushed = (3, 10_000, 2_000) if asked.quick else (5, 100_000, 10_000)
    ratios = show(measured(rounds, rows, flushed), rows)

    def keys(name: str) -> dict[str, float]:
        return {f"{act.replace(' ', '_')}_ratio_to_clear": round(ratios[name][act], 2) for act in ACTS}

    indexed = {f"indexed_{key}": value for key, value in keys("dbsec, indexed").items()}
    last_line(asked.json, rows=rows, **keys("dbsec"), **indexed, peers={UTILS: keys(UTILS)})


if __name__ == "__main__":
    main()
