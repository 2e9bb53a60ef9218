"""What a table is made of, as an online rewrite makes it again; and what it does not, which refuses the rewrite."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, LiteralString

import psycopg

from dbsec import canonical
from dbsec.errors import ApplyError
from dbsec.migrations.names import Name

Rows = tuple[tuple[Any, ...], ...]
_OID: LiteralString = "SELECT pg_catalog.to_regclass(%s)::oid::bigint"
_PREFIX = "dbsec_shadow_"
_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class Facts:
    """A table in the words of the catalog: each field has the rows of the query of its name in ``sql/``."""

    name: Name
    oid: int
    table: Rows
    columns: Rows
    details: Rows
    key: Rows
    indexes: Rows
    keys: Rows
    checks: Rows
    outgoing: Rows
    incoming: Rows
    grants: Rows
    sequence_grants: Rows
    triggers: Rows
    policies: Rows
    comments: Rows
    statistics: Rows

    @property
    def owner(self) -> str:
        return str(self.table[0][0])

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that are written: a generated one is computed."""
        return tuple(row[0] for row in self.columns if not row[4])

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(row[0] for row in self.key)

    @property
    def digest(self) -> str:
        """What the table looks like: a rewrite ends only with the table for which it was begun."""
        return hashlib.sha256(canonical.json_bytes(canonical.as_read(asdict(self)))).hexdigest()[:16]

    @property
    def shadow(self) -> Name:
        """The table that takes its place."""
        return Name(self.name.schema, short(_PREFIX + self.name.name))

    @property
    def gone(self) -> Name:
        """What the old table is called once it was replaced."""
        return Name(self.name.schema, short(f"dbsec_gone_{self.name.name}"))

    @property
    def sync(self) -> str:
        """The triggers, and their function, that keep the shadow in step."""
        return short(f"zz_{_PREFIX}{self.name.name}")

    def temporary(self, name: str) -> str:
        """Name an index or a constraint of the shadow until it may bear its own name."""
        return short(f"dbsec_{hashlib.sha256(f'{self.name}.{name}'.encode()).hexdigest()[:8]}_{name}")


def short(name: str) -> str:
    """Cut a name to what PostgreSQL keeps; what is cut is told apart by a hash."""
    raw = name.encode()
    if len(raw) <= _NAME_BYTES:
        return name
    return raw[: _NAME_BYTES - 9].decode(errors="ignore") + "_" + hashlib.sha256(raw).hexdigest()[:8]


@cache
def query(name: str) -> LiteralString:
    """Read a query of ``sql/``."""
    text: Any = (files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return text  # type: ignore[no-any-return] # our own files


def oid_of(connection: psycopg.Connection[Any], table: Name) -> int | None:
    """Look a table up; None where it is not there."""
    row = connection.execute(_OID, (str(table),)).fetchone()
    return int(row[0]) if row is not None and row[0] is not None else None


def read(connection: psycopg.Connection[Any], table: Name) -> Facts:
    """Read a table, in the transaction that is open or one of its own. Errors: ``ApplyError`` where it is not there."""
    oid = oid_of(connection, table)
    if oid is None or table.schema is None:
        raise ApplyError(f"there is no table '{table}' in this database", hint="name it with its schema")
    names = [name for name in Facts.__dataclass_fields__ if name not in ("name", "oid")]
    with connection.transaction():
        # every definition comes with its schemas written out
        connection.execute("SELECT pg_catalog.set_config('search_path', '', true)")
        values = {"oid": oid, "name": str(table)}
        found = {name: tuple(map(tuple, connection.execute(query(name), values).fetchall())) for name in names}
    return Facts(table, oid, **found)


def refusals(connection: psycopg.Connection[Any], table: Name) -> list[str]:
    """Say what of a table an online rewrite does not make again; VACUUM FULL in a window keeps all of it."""
    oid = oid_of(connection, table)
    if oid is None:
        raise ApplyError(f"there is no table '{table}' in this database", hint="name it with its schema")
    return [
        f"{what}: '{name}'" if name else str(what) for what, name in connection.execute(query("refusals"), {"oid": oid})
    ]
