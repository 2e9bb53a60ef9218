"""What was committed of a revision before its end: a retry, and a run after a kill, pass it over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from dbsec.errors import ApplyError
from dbsec.journal import Journal, PostgresStore


class Done:
    """The statements of one revision by their number and a digest: those committed, and those of this transaction.

    ``store`` is None where schema dbsec is not there: a retry still knows, a run after a kill does not.
    """

    def __init__(self, path: str, store: PostgresStore | None) -> None:
        self._path = path
        self._store = store
        self._journal = Journal(store) if store is not None else None
        self._at = 0
        self._pending: list[str] = []
        self._committed: list[str] = []
        self._begun: set[str] = set()
        self._read()

    @property
    def lasting(self) -> bool:
        """Tell whether a run after a kill will know."""
        return self._journal is not None

    @property
    def pending(self) -> bool:
        """Tell whether this transaction has changed anything."""
        return bool(self._pending)

    def restart(self) -> None:
        """Begin the revision anew, with all that was committed of it."""
        self._at, self._pending = 0, []
        self._read()

    def passes_over(self, text: str) -> bool:
        """Count a statement; True where it was committed before.

        Errors: ``ApplyError`` where another statement was committed in its place.
        """
        self._at += 1
        name = f"{self._at:03}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if self._at > len(self._committed):
            self._pending.append(name)
            return False
        if self._committed[self._at - 1] != name:
            raise ApplyError(
                f"'{self._path}' was applied up to statement {len(self._committed)}, and statement {self._at} reads "
                "otherwise now",
                hint="bring back what was run (git diff), or undo it by hand and delete its rows in dbsec.journal",
            )
        return True

    def take_back(self) -> str:
        """Take the statement that was counted last out of this transaction, and return its name."""
        return self._pending.pop()

    def give_back(self, name: str) -> None:
        """Put a statement that was taken back into the transaction that has begun."""
        self._pending.append(name)

    def record(self) -> None:
        """Record this transaction's statements in it, before it commits."""
        if self._journal is not None and self._pending:
            self._journal.run(f"up to {self._pending[-1]}", lambda: self._pending)

    def committed(self) -> None:
        """Note that the transaction was committed."""
        self._committed += self._pending
        self._pending = []

    def interrupted(self) -> bool:
        """Tell whether an earlier run may have done the statement that was counted last; without a journal, always."""
        return self._journal is None or f"up to {self._pending[-1]}" in self._begun

    def around(self) -> Callable[[], AbstractContextManager[object]]:
        """Give what records the statement that was counted last, where it is its own transaction or runs in none."""
        if self._journal is None:
            return nullcontext
        journal, names = self._journal, list(self._pending)

        @contextmanager
        def recorded() -> Iterator[None]:
            with journal.step(f"up to {names[-1]}") as step:
                yield
                step.result = names

        return recorded

    def forget(self) -> None:
        """Delete the records, in the transaction that ends the revision."""
        if self._store is not None:
            self._store.forget()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _read(self) -> None:
        if self._store is None:
            return
        self._store.lost()  # a rollback has taken what was not committed
        self._committed, self._begun = [], set()
        for record in self._store.read():
            if record["event"] == "done":
                self._committed += _names(record["result"])
            self._begun.add(record["step"])


def _names(result: Any) -> list[str]:
    return [str(name) for name in result] if isinstance(result, list) else []
