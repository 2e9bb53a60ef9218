"""Locks and work of one operation: what the linter foretells and the oracle measures, in the same words."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from msgspec import Struct

from dbsec.migrations.names import Name


class LockMode(IntEnum):
    """Table locks of PostgreSQL in their order; source: explicit-locking, table 13.2."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def sql(self) -> str:
        """``ACCESS EXCLUSIVE``, as LOCK TABLE writes it."""
        return _SQL[self]

    @property
    def pg_locks(self) -> str:
        """``AccessExclusiveLock``, as pg_locks.mode says it."""
        return self.name.title().replace("_", "") + "Lock"

    @property
    def blocks_writes(self) -> bool:
        """INSERT, UPDATE and DELETE (ROW EXCLUSIVE) wait for it."""
        return self >= LockMode.SHARE

    @property
    def blocks_reads(self) -> bool:
        """SELECT (ACCESS SHARE) waits for it."""
        return self is LockMode.ACCESS_EXCLUSIVE


_SQL = {mode: mode.name.replace("_", " ") for mode in LockMode}


class Work(StrEnum):
    """What takes time that grows with a table."""

    REWRITE = "rewrite"  # every row is written anew, and every index is built again
    SCAN = "scan"  # every row is read: a check, NOT NULL, a partition's bound
    FK_SCAN = "foreign key scan"  # every row is looked up in the referenced table
    BUILD = "index build"
    WRITE = "row writes"  # UPDATE, DELETE, INSERT … SELECT: row locks, WAL, dead rows


class Task(Struct, frozen=True):
    """One piece of work on ``table``; ``why`` completes "because …"."""

    work: Work
    table: Name
    why: str = ""


class Effect(Struct, frozen=True):
    """What one operation does.

    ``locks``: table -> mode held to the end of its transaction, without ACCESS SHARE of what is only read, and without
    catalogs and indexes. ``work``: empty where only the catalog changes. ``proofs``: why a scan or rewrite that one
    would expect is skipped. ``fails``: what PostgreSQL says instead of doing it ("cannot run inside a transaction
    block"), else "". ``unsure``: the schema is not known well enough, and the worst is assumed.
    """

    locks: tuple[tuple[Name, LockMode], ...] = ()
    work: tuple[Task, ...] = ()
    proofs: tuple[str, ...] = ()
    fails: str = ""
    unsure: bool = False

    def lock_on(self, table: Name) -> LockMode | None:
        """Tell the strongest lock on a table."""
        return max((mode for name, mode in self.locks if name == table), default=None)

    def blocking(self, *of: Work) -> tuple[tuple[Task, LockMode], ...]:
        """Pair each task (of some kinds) with the strongest lock held meanwhile that makes writers or readers wait."""
        if not (self.work and self.locks):
            return ()
        strongest = max([mode for _, mode in self.locks])
        if not strongest.blocks_writes:
            return ()
        wanted = [task for task in self.work if task.work is not Work.WRITE and (not of or task.work in of)]
        return tuple([(task, strongest) for task in wanted])


NOTHING = Effect()
