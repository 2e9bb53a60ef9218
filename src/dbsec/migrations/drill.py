"""The attacks on safe migrations: a change of the schema as it is done in a hurry, against a live table.

They work on a twin of ``app.users`` that no service knows: what blocks, breaks or loses it costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dbsec.evidence import Control, Drill
from dbsec.migrations import attacks
from dbsec.pg import Conninfo

REWRITE = Control(
    "MIG-GUARD-REWRITE",
    "Nobody rewrites a big table while the service needs it",
    "a type is changed at 3 a.m., and no request is answered until the last row is written again",
    ("NIST SP 800-53 CM-3", "NIST SP 800-53 SI-10"),
)
INDEX = Control(
    "MIG-GUARD-INDEX",
    "An index on a big table is built without stopping its writers",
    "one CREATE INDEX without a word too many, and every write waits until it is built",
    ("NIST SP 800-53 CM-3",),
)
DROP = Control(
    "MIG-GUARD-DROP",
    "A table that matters is not dropped by a slip",
    "DROP … CASCADE takes more than its author knew",
    ("NIST SP 800-53 CM-3", "NIST SP 800-53 CP-9"),
)
DEFINER = Control(
    "MIG-GUARD-DEFINER",
    "A SECURITY DEFINER function says where its names lie",
    "whoever may create in a schema of its search_path acts with the owner's rights",
    ("CVE-2018-1058", "CWE-426"),
)
LINT = Control(
    "MIG-LINT",
    "A migration that would block, break or lose is refused before it runs",
    "it works on the empty database of a laptop, and stops production",
    ("NIST SP 800-53 CM-4",),
)
QUEUE = Control(
    "MIG-QUEUE",
    "A change of the schema never makes the service wait behind it",
    "ALTER TABLE waits for one forgotten transaction, and every reader waits for ALTER TABLE",
    ("NIST SP 800-53 SC-5",),
)


Deploy = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class MigrationTarget:
    """Who is let at the database, by present DSNs: ``migrator`` (changes the schema), ``reader``, ``admin``.

    ``deploy`` brings a migration file (its name without a number, its text) to the database in the way that the team
    does it now, as the migrator; it raises where that way refuses it.
    """

    migrator: Callable[[], Conninfo]
    reader: Callable[[], Conninfo]
    admin: Callable[[], Conninfo]
    deploy: Deploy


def drills(target: MigrationTarget) -> tuple[Drill, ...]:
    """Return every drill of this pillar; each makes its own twin, and drops it."""
    return (
        _attempt(target, REWRITE, "ALTER COLUMN … TYPE, by hand", attacks.REWRITE),
        _attempt(target, REWRITE, "the same inside a DO block", attacks.REWRITE_IN_DO),
        _attempt(target, INDEX, "CREATE INDEX, by hand", attacks.INDEX),
        _attempt(target, INDEX, "the same inside a DO block", attacks.INDEX_IN_DO),
        _attempt(target, DROP, "DROP TABLE … CASCADE of a protected table", attacks.DROP),
        _attempt(target, DEFINER, "SECURITY DEFINER without search_path", attacks.DEFINER),
        Drill(LINT, "deploy a type change that rewrites the table", lambda: attacks.dangerous_file(target)),
        Drill(QUEUE, "add a column while a report holds the table", lambda: attacks.queue(target)),
    )


def _attempt(target: MigrationTarget, control: Control, name: str, slip: attacks.Slip) -> Drill:
    return Drill(control, name, lambda: attacks.by_hand(target, slip))
