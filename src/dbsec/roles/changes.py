"""A plan is data: the statements that would be run, each with its way back and its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from dbsec.roles.desired import Model

PUBLIC = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One statement. ``undo`` is empty where nothing has to be undone (a lock) or nothing can be."""

    kind: str
    object: str
    statement: str
    undo: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order in which they are made; empty where the server is as it shall be.

    ``model`` is what it was made from; None where it is about settings of the server.
    """

    changes: tuple[Change, ...] = ()
    model: Model | None = None

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def render(self) -> str:
        """Write the plan for a person: the statements, each under its reason, and what takes them back at the end."""
        if not self.changes:
            return "nothing to do: the server is as it shall be\n"
        ahead = [f"-- {n}. {c.kind} {c.object}: {c.reason}\n{c.statement};" for n, c in enumerate(self.changes, 1)]
        back = [f"--   {c.undo};" for c in reversed(self.changes) if c.undo]
        return "\n".join([*ahead, "", "-- the way back, in this order:", *back]) + "\n"


def change(kind: str, target: str, statement: Composable, undo: Composable | None, reason: str) -> Change:
    """Write a composed statement and its way back as text."""
    return Change(kind, target, statement.as_string(), undo.as_string() if undo else "", reason)


def role_name(name: str) -> Composable:
    """Name a role as a grantee; the empty name is PUBLIC."""
    return Identifier(name) if name else SQL("PUBLIC")


def words(text: str) -> SQL:
    """Take SQL that is no identifier: key words of ours, or a signature that the server itself has written."""
    return SQL(text)


def listed(privileges: frozenset[str] | set[str]) -> SQL:
    """Join privileges in a fixed order."""
    return words(", ".join(sorted(privileges)))
