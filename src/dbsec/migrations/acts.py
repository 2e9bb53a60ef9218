"""The acts of a script in order: each operation with its statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from dbsec.migrations.interpret import operations_of
from dbsec.migrations.operations import Operation, TransactionControl
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.statement import Statement

Act = tuple[Statement, Operation]
TOO_DEEP = "an expression is nested too deeply to be judged"


class Read(Struct):
    """A script, read: ``unread`` is what could not be, ``number`` counts its statements."""

    acts: list[Act]
    number: int
    unread: list[Unread]


def read(script: Script) -> Read:
    """Read a script's statements and tell what each does."""
    statements, unread = parse(script)
    acts: list[Act] = []
    for statement in statements:
        try:
            acts += [(statement, operation) for operation in operations_of(statement)]
        except RecursionError:
            unread.append(too_deep(statement))
    return Read(acts, len(statements), unread)


def too_deep(statement: Statement) -> Unread:
    """Tell that a statement takes more levels than Python has."""
    return Unread(statement.script.path, statement.line, TOO_DEEP)


class Window(Sequence[Act]):
    """A window on the acts of a script, without a copy for each step."""

    def __init__(self, acts: list[Act], start: int, stop: int | None = None) -> None:
        self._acts, self._range = acts, range(start, len(acts) if stop is None else stop)

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[Act]:
        return (self._acts[at] for at in self._range)

    def __getitem__(self, at):  # type: ignore[no-untyped-def] # the overloads of Sequence say less than this line
        if isinstance(at, slice):
            return [self._acts[index] for index in self._range[at]]
        return self._acts[self._range[at]]


def rolls_back(following: Iterable[Operation]) -> bool:
    """Tell whether a transaction that is open ends with ROLLBACK, by what follows in it."""
    for operation in following:
        if isinstance(operation, TransactionControl) and operation.act in ("commit", "rollback", "begin"):
            return operation.act == "rollback"
    return False
