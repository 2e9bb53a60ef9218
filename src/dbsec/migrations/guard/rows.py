"""The policy as the rows of dbsec_guard's tables."""

from __future__ import annotations

from dataclasses import dataclass

from dbsec.migrations.guard.policy import GUARDS, Policy

Row = tuple[str | int | bool, ...]
FORMAT = 1
SCRATCH = "dbsec_guard_selftest"  # the schema of the selftest, whose table is above its limit with its first row
BIG = f"{SCRATCH}.big"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a table; ``key``: that many columns come first and are unique.

    ``owned``: others may have rows there too, told apart by ``by_policy``.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    key: int
    owned: bool = True


def rows(policy: Policy) -> tuple[Rows, ...]:
    """Return what each table holds, ordered by key."""
    guards = ((guard.name, guard.sqlstate, str(policy.mode_of(guard.name))) for guard in GUARDS)
    settings = {
        "format": str(FORMAT),
        "lock_timeout": policy.lock_timeout,
        "max_override": policy.max_override,
        "max_table_bytes": str(policy.max_table_size),
        "transaction_timeout": policy.transaction_timeout,
    }
    limits = {name: (limit.max_size or 0, limit.reason) for name, limit in policy.tables.items()}
    limits[BIG] = (0, "dbsec migrate guard selftest")
    protected = ((kind, name) for kind, names in policy.protected.items() for name in names)
    lists = {
        "search_path": policy.search_paths,
        "tenant_schema": policy.tenant_schemas,
        "not_tenant_table": policy.not_tenant_tables,
    }
    return (
        Rows("guards", ("name", "sqlstate", "mode"), tuple(sorted(guards)), 1, owned=False),
        Rows("settings", ("name", "value"), tuple(sorted(settings.items())), 1, owned=False),
        Rows(
            "table_limits",
            ("table_name", "max_bytes", "reason"),
            tuple((name, *limit) for name, limit in sorted(limits.items())),
            1,
        ),
        Rows("protected", ("object_type", "object_identity"), tuple(sorted(set(protected))), 2),
        Rows(
            "lists",
            ("list", "entry"),
            tuple((name, entry) for name, entries in sorted(lists.items()) for entry in sorted(set(entries))),
            2,
        ),
    )
