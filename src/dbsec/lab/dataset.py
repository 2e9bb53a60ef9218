"""The reference service's data: seeded, the same on every server, written by the server itself."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from itertools import accumulate
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from dbsec.errors import LabError
from dbsec.lab.deployment import deployment_folder
from dbsec.progress import Progress
from dbsec.secret import Secret

_CHUNK = 500_000
_SPAN_US = 1000 * 86_400 * 1_000_000
_SAMPLED_USERS = 100


class Scale(StrEnum):
    """How much data: tenants, users, orders."""

    SMALL = "small"
    DEFAULT = "default"
    LARGE = "large"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Return the numbers of tenants, users and orders."""
        return _SIZES[self]


_SIZES = {
    Scale.SMALL: (10, 20_000, 50_000),
    Scale.DEFAULT: (50, 200_000, 600_000),
    Scale.LARGE: (200, 2_000_000, 6_000_000),
}


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant, its key in clear, and some of its users' ids and phones."""

    id: UUID
    slug: str
    api_key: Secret
    user_ids: tuple[int, ...]
    phones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was written: the same for a scale and a seed, but for the keys, which are random. Biggest tenant first."""

    scale: Scale
    seed: int
    tenants: tuple[Tenant, ...]

    @property
    def api_keys(self) -> tuple[tuple[str, Secret], ...]:
        """Return (slug, key) of each tenant."""
        return tuple((tenant.slug, tenant.api_key) for tenant in self.tenants)


def create(connection: psycopg.Connection[Any], scale: Scale, *, seed: int, progress: Progress) -> Dataset:
    """Make the schema of ``app/schema.sql`` and fill it, as one transaction; ``connection`` is a superuser's.

    Locks: ACCESS EXCLUSIVE on its tables until it commits. Errors: ``LabError`` where there are tenants already.
    """
    tenants, users, orders = scale.sizes
    salt = 100 * seed  # each draw adds its own number below 100
    keys = [Secret(secrets.token_urlsafe(32)) for _ in range(tenants)]
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        progress.step(f"data: {tenants} tenants, {users:,} users, {orders:,} orders (seed {seed})")
        cursor.execute((deployment_folder() / "app" / "schema.sql").read_bytes())
        _refuse_unless_empty(cursor)
        cursor.execute(_sql("draw"))
        cursor.execute(_sql("tenants"), {"salt": salt, "hashes": [_digest(key) for key in keys]})
        made = sorted(cursor.fetchall(), key=lambda row: int(row[1].rpartition("-")[2]))
        weights = list(accumulate(1_000_000 // number for number in range(1, tenants + 1)))
        shared = {"salt": salt, "tenants": [row[0] for row in made], "thresholds": weights, "total": weights[-1]}
        with _bulk(cursor):
            _insert(cursor, "users", users, {**shared, "step_us": _SPAN_US // users}, progress)
            counts = {"users": users, "orders": orders, "step_us": _SPAN_US // orders}
            _insert(cursor, "orders", orders, {**shared, **counts}, progress)
        cursor.execute("ANALYZE app.tenants, app.users, app.orders, app.idempotency_keys")
        return Dataset(scale, seed, tuple(_sample(cursor, made, keys)))


def _refuse_unless_empty(cursor: psycopg.Cursor[Any]) -> None:
    if cursor.execute("SELECT FROM app.tenants LIMIT 1").fetchone() is not None:
        raise LabError("the database holds tenants already", hint="take an empty database")


@contextmanager
def _bulk(cursor: psycopg.Cursor[Any]) -> Iterator[None]:
    """Load without foreign-key triggers, and without the indexes that no constraint owns, which are made again.

    The generated rows fit by construction; a test looks for orphans. This halves the time.
    """
    indexes = cursor.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index AS i"
        " WHERE i.indrelid IN ('app.users'::regclass, 'app.orders'::regclass)"
        " AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)"
    ).fetchall()
    cursor.execute("SET LOCAL session_replication_role = replica")
    for name, _ in indexes:
        cursor.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(*name.split("."))))
    yield
    for _, definition in indexes:
        cursor.execute(definition)
    cursor.execute("SET LOCAL session_replication_role = origin")


def _insert(cursor: psycopg.Cursor[Any], table: str, rows: int, params: dict[str, object], progress: Progress) -> None:
    for first in range(1, rows + 1, _CHUNK):
        last = min(first + _CHUNK - 1, rows)
        cursor.execute(_sql(table), {**params, "first": first, "last": last})
        progress.count(f"data: {table}", last, rows)
    # an identity column does not see ids that were written into it
    cursor.execute("SELECT setval(pg_get_serial_sequence('app.' || %s, 'id'), %s)", (table, rows))


def _sample(cursor: psycopg.Cursor[Any], made: list[Any], keys: list[Secret]) -> Iterator[Tenant]:
    for (tenant_id, slug), key in zip(made, keys, strict=True):
        users = cursor.execute(
            "SELECT id, phone FROM app.users WHERE tenant_id = %s ORDER BY id LIMIT %s", (tenant_id, _SAMPLED_USERS)
        ).fetchall()
        yield Tenant(tenant_id, slug, key, tuple(row[0] for row in users), tuple(row[1] for row in users))


def _digest(key: Secret) -> bytes:
    return hashlib.sha256(key.reveal().encode()).digest()


def _sql(name: str) -> bytes:
    return (resources.files("dbsec.lab") / "sql" / f"dataset_{name}.sql").read_bytes()
