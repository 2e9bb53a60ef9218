"""Where the linter and PostgreSQL part: what was foretold of a statement, and what it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.names import Name

_SAID = LockMode.SHARE_UPDATE_EXCLUSIVE  # weaker ones never make anybody wait but DDL
_IN_REWRITE = (Work.SCAN, Work.BUILD)

Done = frozenset[tuple[Work, Name]]


def done(work: Iterable[Task], tables: Set[Name]) -> Done:
    """Reduce work to what can be compared: a rewrite reads and indexes its table anyway; rows that are written depend
    on the data; a table that the statement makes itself is nobody's yet."""
    pairs = {(task.work, task.table) for task in work if task.table in tables and task.work is not Work.WRITE}
    rewritten = {table for of, table in pairs if of is Work.REWRITE}
    return frozenset((of, table) for of, table in pairs if not (of in _IN_REWRITE and table in rewritten))


def disagreements(
    foretold: Effect, observed: Effect, *, tables: Set[Name], held: Mapping[Name, LockMode] | None = None
) -> tuple[str, ...]:
    """Say in sentences where the two part, nothing where they do not.

    ``tables``: those that were there before the release; what it makes itself is nobody's yet. ``held``: what its
    transaction had locked already, so that nothing new was seen. Where the foretelling is ``unsure``, what it says
    beyond what happened is no disagreement.
    """
    found = []
    if foretold.fails:
        found.append(f"the linter says that it fails ({foretold.fails}), and PostgreSQL does it")
    for name in sorted({name for name, _ in (*foretold.locks, *observed.locks) if name in tables}):
        said, seen = (effect.lock_on(name) for effect in (foretold, observed))
        if differ(said, seen, held.get(name) if held else None) and not (foretold.unsure and _less(seen, said)):
            found.append(f"lock on {name}: the linter says {_sql(said)}, PostgreSQL takes {_sql(seen)}")
    said_work, seen_work = done(foretold.work, tables), done(observed.work, tables)
    found += [f"{work} of {table}: the linter does not foretell it" for work, table in sorted(seen_work - said_work)]
    if not foretold.unsure and not foretold.fails:
        found += [f"{work} of {table}: PostgreSQL does not do it" for work, table in sorted(said_work - seen_work)]
    return tuple(found)


def differ(said: LockMode | None, seen: LockMode | None, held: LockMode | None) -> bool:
    """Tell whether two locks on a table differ in what they make wait."""
    strong_said, strong_seen = (mode if mode and mode >= _SAID else None for mode in (said, seen))
    if strong_said == strong_seen:
        return False
    return not (strong_seen is None and held is not None and strong_said is not None and held >= strong_said)


def _less(seen: LockMode | None, said: LockMode | None) -> bool:
    return said is not None and (seen is None or seen < said)


def _sql(mode: LockMode | None) -> str:
    return mode.sql if mode else "none"
