"""One statement of a script: its parse tree, its place, and the transaction that it runs in."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from dbsec.migrations.script import Script

Node = dict[str, Any]
"""A node of libpg_query's JSON tree: ``{"ColumnDef": {...}}``, or what stands under it."""


class Origin(StrEnum):
    """Where a statement stands."""

    DIRECT = "direct"
    DO = "do"  # in the body of a DO block: runs in its caller's transaction, inside a function
    EXECUTE = "execute"  # the literal of EXECUTE in such a body


class Statement(Struct, frozen=True):
    """``kind`` and ``node`` are the tree's: ``"AlterTableStmt"`` and what stands under it.

    ``line`` counts from 1 in the file. ``block`` numbers the transaction that the statement runs in, within the script:
    equal numbers share one; 0 is a transaction of its own (autocommit). A DO block in autocommit is a block too.
    ``start`` is where ``text`` begins in the UTF-8 bytes that the tree's locations count: location L of ``node`` is at
    byte ``L - start`` of ``text``.
    """

    script: Script
    kind: str
    node: Node
    text: str
    line: int
    block: int = 0
    origin: Origin = Origin.DIRECT
    start: int = 0

    @property
    def in_transaction(self) -> bool:
        """True where CONCURRENTLY and VACUUM are refused, and a lock is held past the statement."""
        return self.block > 0
