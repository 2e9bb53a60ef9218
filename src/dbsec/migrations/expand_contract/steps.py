"""The acts that several changes share: a column, a trigger, a proof that no row is without a value, the end."""

from __future__ import annotations

from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Act, Bounds
from dbsec.migrations.rules._words import columns, ident

_MOMENT = "ACCESS EXCLUSIVE for a moment, no row is read or written"
CONSTRAINT = 18  # from here on NOT NULL is a constraint that can be NOT VALID
_LAST = "zz_dbsec_"  # triggers fire in the order of their names: ours sees what the others have made of the row


def add_column(place: Place, name: str, kind: str) -> Act:
    """ADD COLUMN without default: the rows that are there stay as they are."""
    return Act(f"ALTER TABLE {place.name} ADD COLUMN IF NOT EXISTS {ident(name)} {kind};", _MOMENT)


def set_default(place: Place, name: str, value: str) -> Act:
    """SET DEFAULT: for rows to come."""
    why = "for rows to come; those that are there are not touched"
    return Act(f"ALTER TABLE {place.name} ALTER COLUMN {ident(name)} SET DEFAULT {value};", why)


def drop_columns(place: Place, names: tuple[str, ...]) -> Act:
    """DROP COLUMN of what expand has made, with its indexes and constraints."""
    drops = ", ".join(f"DROP COLUMN IF EXISTS {ident(name)}" for name in names)
    return Act(f"ALTER TABLE {place.name} {drops};")


def trigger_name(place: Place, wanted: str) -> str:
    """Find a name for a trigger and its function that is behind all others of the table."""
    name = place.fresh(f"{_LAST}{place.table.name.name}_{wanted}")
    behind = max(place.table.triggers, default="")
    return name if name > behind else place.fresh(f"{'z' * (len(behind) - len(behind.lstrip('z')) + 1)}_{name}")


def create_trigger(place: Place, name: str) -> Act:
    """CREATE TRIGGER before each row."""
    return Act(
        f"CREATE OR REPLACE TRIGGER {ident(name)} BEFORE INSERT OR UPDATE ON {place.name}\n"
        f"FOR EACH ROW EXECUTE FUNCTION {place.beside(name)}();",
        "SHARE ROW EXCLUSIVE for a moment: writers wait, readers do not",
    )


def drop_trigger(place: Place, name: str) -> list[Act]:
    """Drop a trigger and its function."""
    return [
        Act(f"DROP TRIGGER IF EXISTS {ident(name)} ON {place.name};"),
        Act(f"DROP FUNCTION IF EXISTS {place.beside(name)}();"),
    ]


def add_check(place: Place, name: str, condition: str, why: str = "") -> list[Act]:
    """ADD CHECK … NOT VALID: from here on for every row that is written."""
    drop = f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {ident(name)};"
    add = f"ALTER TABLE {place.name} ADD CONSTRAINT {ident(name)} CHECK ({condition}) NOT VALID;"
    return [Act(drop, "what a run that broke off has left"), Act(add, why or _MOMENT)]


def validate(place: Place, name: str, why: str = "") -> Act:
    """VALIDATE CONSTRAINT: reads every row while all go on."""
    said = why or "SHARE UPDATE EXCLUSIVE while the rows are read, for minutes if need be: all go on"
    return Act(f"ALTER TABLE {place.name} VALIDATE CONSTRAINT {ident(name)};", said, Bounds.LONG)


def proof_of(place: Place, column: str) -> str:
    """Name the proof of ``require``: on PostgreSQL 18 it is the constraint itself, under its usual name."""
    return place.fresh(f"{place.table.name.name}_{column}_{'not_null' if place.major >= CONSTRAINT else 'present'}")


def require(place: Place, column: str, name: str) -> list[Act]:
    """Make a column NOT NULL by a proof: SET NOT NULL alone would read the table under ACCESS EXCLUSIVE.

    PostgreSQL 18 takes the constraint itself as NOT VALID; before, a CHECK is the proof and goes again.
    """
    table, quoted = place.name, ident(column)
    if place.major >= CONSTRAINT:
        return [
            Act(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {ident(name)};", "what a run that broke off has left"),
            Act(f"ALTER TABLE {table} ADD CONSTRAINT {ident(name)} NOT NULL {quoted} NOT VALID;", _MOMENT),
            validate(place, name),
        ]
    return [
        *add_check(place, name, f"{quoted} IS NOT NULL"),
        validate(place, name),
        Act(
            f"ALTER TABLE {table} ALTER COLUMN {quoted} SET NOT NULL;", "the valid constraint is proof: no row is read"
        ),
        Act(f"ALTER TABLE {table} DROP CONSTRAINT {ident(name)};"),
    ]


def unrequire(place: Place, column: str, name: str) -> list[Act]:
    """Go back from any step of ``require``."""
    return [
        Act(f"ALTER TABLE {place.name} ALTER COLUMN {ident(column)} DROP NOT NULL;"),
        Act(f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {ident(name)};"),
    ]


def still(place: Place, names: tuple[str, ...]) -> Act:
    """Stop a way back where the columns are gone: there is nothing to go back to, and the proofs must stay."""
    why = "stops here once the old side is gone: the rest must stay"
    return Act(f"SELECT {columns(names)} FROM {place.name} LIMIT 0;", why)  # noqa: S608 # quoted


def together(statements: list[str], why: str) -> Act:
    """Run short statements in one transaction."""
    return Act("\n".join(["BEGIN;", *statements, "COMMIT;"]), why)
