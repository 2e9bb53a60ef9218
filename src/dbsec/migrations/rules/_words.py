"""What the rules say alike: names as SQL, objects as targets, and what a piece of work under a lock does to others."""

from __future__ import annotations

from functools import cache, lru_cache

from dbsec.migrations.effects.model import LockMode, Task, Work
from dbsec.migrations.names import Name, quoted
from dbsec.migrations.rule import Hazard, Step
from dbsec.migrations.schema.model import Schema

Blocked = tuple[Task, LockMode]

_DOES = {
    Work.REWRITE: "writes every row and index of {} anew",
    Work.BUILD: "builds an index over {}",
    Work.FK_SCAN: "looks up every row of {} in the referenced table",
    Work.SCAN: "reads every row of {}",
    Work.WRITE: "writes rows of {}",
}
_HEAVIEST = tuple(_DOES)


@cache
def _reserved() -> frozenset[str]:
    from pglast import keywords

    return frozenset(keywords.RESERVED_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS)


@lru_cache(maxsize=4096)
def ident(identifier: str) -> str:
    """Write an identifier as SQL needs it, reserved words quoted."""
    return f'"{identifier}"' if identifier in _reserved() else quoted(identifier)


def sql(name: Name) -> str:
    """Write a name as SQL needs it."""
    return ident(name.name) if name.schema is None else f"{ident(name.schema)}.{ident(name.name)}"


def columns(names: tuple[str, ...]) -> str:
    """Write a list of columns, without the parentheses."""
    return ", ".join(ident(name) for name in names)


def full(schema: Schema, name: Name) -> Name:
    """Give a relation its schema: the one it is known by, else the first of the search path."""
    known = schema.table(name)
    return known.name if known is not None else schema.qualified(name)


def target(step: Step, name: Name, *inner: str) -> str:
    """Name an object for findings and suppressions: ``app.users``, ``app.users.phone``."""
    return ".".join([str(full(step.schema, name)), *(quoted(part) for part in inner)])


def blocked(step: Step, *of: Work) -> list[Blocked]:
    """List the work (of some kinds) that others wait for, the heaviest first."""
    found = [one for one in step.blocking if not of or one[0].work in of]
    return sorted(found, key=lambda one: _HEAVIEST.index(one[0].work)) if len(found) > 1 else found


def is_empty(schema: Schema, name: Name) -> bool:
    """Tell whether this release made the relation and put no rows into it."""
    known = schema.table(name)
    return known is not None and known.empty


def is_old(schema: Schema, name: Name) -> bool:
    """Tell whether the running release may know the relation."""
    known = schema.table(name)
    return known is None or not known.new


def told(step: Step, act: str, found: list[Blocked], *, why: bool = True) -> str:
    """Say in one sentence what ``act`` does under its lock, to whom, and why (where ``act`` does not say it)."""
    task, mode = found[0]
    others = {str(more.table) for more, _ in found} - {str(task.table)}
    table = f"'{task.table}'" + (f" (and {len(others)} more)" if others else "")
    reason = f": {task.why}" if why and task.why else ""
    does = _DOES[task.work].format(table)
    return f"{act} {does} under {mode.sql}, and {waits(mode)} until it is done{reason}{unsure(step)}"


def waits(mode: LockMode) -> str:
    """Say who waits for a lock."""
    return "reads and writes wait" if mode.blocks_reads else "writes wait"


def hazard(mode: LockMode) -> Hazard:
    """Class a lock by whom it blocks."""
    return Hazard.BLOCKS_ALL if mode.blocks_reads else Hazard.BLOCKS_WRITES


def unsure(step: Step) -> str:
    """Say that the worst is assumed, where the schema is not known."""
    return "; without --schema or --dsn the worst is assumed" if step.effect.unsure else ""
