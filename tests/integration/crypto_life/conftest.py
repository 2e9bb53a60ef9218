"""A table with encrypted columns, a KEK file for each tenant, and the settings that name both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec.crypto import CryptoSettings, Envelope, KeyRow, open_envelope, settings
from dbsec.crypto.life import rows, tables
from dbsec.kms import Kms, Patience, open_kms
from dbsec.kms.kek_file import Cost
from dbsec.kms.port import PATIENCE
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.pg import Conninfo, connect, own
from dbsec.secret import Secret

PASSPHRASE = "a passphrase of the tests"
TENANTS = ("acme", "globex")
CHEAP = Cost(n=2**14)  # scrypt's least: the tests are not about it
TABLE = """
CREATE SCHEMA app;
CREATE TABLE app.users (
    id bigint PRIMARY KEY, tenant text NOT NULL, phone text, phone_enc bytea, phone_bidx bigint,
    email_enc bytea, email_2 bytea);
"""
COLUMNS: list[dict[str, Any]] = [
    {
        "table": "app.users",
        "column": "phone_enc",
        "field": "app.users.phone",
        "tenant": "tenant",
        "index": {"column": "phone_bidx", "bits": 63, "normal": "digits"},
    },
    {
        "table": "app.users",
        "column": "email_enc",
        "field": "app.users.email",
        "tenant": "tenant",
        "mode": "deterministic",
    },
    {
        "table": "app.users",
        "column": "email_2",
        "field": "app.users.email",
        "tenant": "tenant",
        "mode": "deterministic",
        "generation": 2,
    },
]


def phone(number: int) -> str:
    """The phone of a row."""
    return f"+49 30 {number:07}"


@dataclass
class Scene:
    """A database with rows of two tenants, and what encrypts them."""

    conninfo: Conninfo
    db: psycopg.Connection[Any]
    folder: Path
    kms_uri: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> CryptoSettings:
        return settings.of_table({"kms": self.kms_uri, "ttl": "5min", "columns": COLUMNS, **self.more})

    @property
    def connect(self) -> Callable[[], psycopg.Connection[Any]]:
        return partial(connect, self.conninfo)

    def kms(self, patience: Patience = PATIENCE) -> Kms:
        return open_kms(self.kms_uri, environ={}, patience=patience)

    def admin(self, tenant: str) -> FileKekAdmin:
        return FileKekAdmin(self.folder / f"{tenant}.json", lambda: Secret(PASSPHRASE), cost=CHEAP)

    def envelope(self) -> Envelope:
        """What a process that begins now holds."""
        return open_envelope(self.settings, self.connect, {})

    phone = staticmethod(phone)

    def fill(
        self,
        count: int,
        *,
        first: int = 1,
        envelope: Envelope | None = None,
        tenants: tuple[str, ...] = TENANTS,
    ) -> None:
        """Insert encrypted rows, of the tenants in turn."""
        envelope, column = envelope or self.envelope(), self.settings.of("app.users", "phone_enc")
        assert column.index is not None
        for n in range(first, first + count):
            tenant, text = tenants[n % len(tenants)], phone(n)
            value = envelope.encrypt(text.encode(), column.field, tenant=tenant, row=n)
            index = envelope.blind_index(text, column.field, column.index[1], tenant=tenant)
            query = "INSERT INTO app.users (id, tenant, phone_enc, phone_bidx) VALUES (%s, %s, %s, %s)"
            self.db.execute(query, (n, tenant, value, index))

    def phones(self, envelope: Envelope | None = None) -> dict[int, str]:
        """Decrypt every row, by a process that begins now."""
        envelope, column = envelope or self.envelope(), self.settings.of("app.users", "phone_enc")
        found = self.db.execute("SELECT id, tenant, phone_enc FROM app.users WHERE phone_enc IS NOT NULL ORDER BY id")
        return {
            number: envelope.decrypt(value, column.field, tenant=tenant, row=number).decode()
            for number, tenant, value in found
        }

    def keyring(self, **of: Any) -> list[KeyRow]:
        return rows.read(self.db, **of)

    def key_ids(self, column: str = "phone_enc") -> dict[int | None, int]:
        """How many values are under which key."""
        return dict(tables.values_by_key(self.db, self.settings.of("app.users", column)))

    def versions(self) -> list[tuple[int, str, str]]:
        """Where and by which transaction each row of data was written last."""
        return self.db.execute("SELECT id, ctid::text, xmin::text FROM app.users ORDER BY id").fetchall()

    def config(self) -> Path:
        """Write dbsec.toml, and the DSN beside it."""
        lines = ["[crypto]", f'kms = "{self.kms_uri}"', 'ttl = "5min"']
        for name, value in self.more.items():
            lines.append(f'{name} = "{value}"')
        for one in COLUMNS:
            lines.append("[[crypto.columns]]")
            for name, value in one.items():
                shown = (
                    ", ".join(f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in value.items())
                    if (isinstance(value, dict))
                    else ""
                )
                lines.append(
                    f"{name} = {{ {shown} }}"
                    if shown
                    else f'{name} = "{value}"'
                    if isinstance(value, str)
                    else f"{name} = {value}"
                )
        file = self.folder / "dbsec.toml"
        file.write_text("\n".join(lines) + "\n")
        dsn = self.folder / "dsn"
        dsn.touch(mode=0o600)
        dsn.write_text(self.conninfo.text())
        return file


@pytest.fixture(scope="session")
def keks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the KEK files once; a test gets a copy."""
    folder = tmp_path_factory.mktemp("keks")
    for tenant in TENANTS:
        FileKekAdmin(folder / f"{tenant}.json", lambda: Secret(PASSPHRASE), cost=CHEAP).create()
    return folder


@pytest.fixture
def scene_of(tmp_path: Path, keks: Path) -> Iterator[Callable[[Conninfo], Scene]]:
    with ExitStack() as stack:

        def made(conninfo: Conninfo, folder: Path = tmp_path) -> Scene:
            folder.mkdir(exist_ok=True)
            for file in keks.glob("*.json"):
                shutil.copy2(file, folder)
            secret = folder / "passphrase"
            secret.touch(mode=0o600)
            secret.write_text(PASSPHRASE)
            db = stack.enter_context(closing(connect(conninfo)))
            own.install(db)
            db.execute(TABLE)
            return Scene(conninfo, db, folder, f"file-kek:{folder}/{{tenant}}.json?passphrase=file:{secret}")

        yield made


@pytest.fixture
def scene(database: Any, scene_of: Callable[[Conninfo], Scene]) -> Scene:
    return scene_of(database.conninfo)
