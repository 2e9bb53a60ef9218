"""The acts of a script in order: each operation with its statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dbsec.migrations.operations import Operation, TransactionControl
from dbsec.migrations.statement import Statement

Act = tuple[Statement, Operation]


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
