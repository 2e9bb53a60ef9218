"""How anything resumes: each step is recorded as begun and as done, so a job that was killed goes on where it stopped.

A step may be run again when the kill came between its effect and its record; ``Step.interrupted`` tells it so. Over a
store in the database, a step inside the transaction of its effect is there once or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from dbsec import canonical
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import DbsecError, JournalError

Record = Mapping[str, Any]


class Edge(StrEnum):
    """Where a step can die: begun is recorded; the effect is there, unrecorded; done is recorded."""

    BEFORE = "before"
    AFTER_EFFECT = "after-effect"
    AFTER_RECORD = "after-record"


Observer = Callable[[str, Edge], None]


class Store(Protocol):
    """Where records lie. Its opener holds it alone until it is closed."""

    def read(self) -> list[Record]:
        """Return every record, oldest first."""

    def append(self, record: Record) -> None:
        """Add a record; it is durable when this returns, or when the caller's transaction is."""


@runtime_checkable
class Transactional(Protocol):
    """A store whose records can go again, because the caller's transaction was rolled back."""

    def lost(self) -> int:
        """Look whether records have gone, and return how often that was so; ``read`` then has what is left."""


@dataclass(slots=True)
class Step:
    """One step while it runs. ``result`` is a JSON value: set it, or read what an earlier run recorded.

    ``interrupted``: an earlier run began it and recorded no end, so its effect may be there already.
    """

    name: str
    done: bool
    interrupted: bool
    result: Any = None


class Journal:
    """The steps of one job over a store. ``observer`` is called at each edge, so that a test can die exactly there."""

    def __init__(self, store: Store, *, clock: Clock = SYSTEM, observer: Observer | None = None) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._lost = 0
        self._refresh()

    @contextmanager
    def step(self, name: str, **facts: Any) -> Iterator[Step]:
        """Run the block as a step; it must do nothing where ``step.done``.

        ``facts`` are what the step depends on, as JSON values without secrets: a run that resumes must give the same.
        Errors: ``JournalError`` for other facts; what the block raises, after it was recorded as failed.
        """
        known = canonical.as_read(facts)
        self._forget_lost()
        last = self._last.get(name)
        if last is not None and self._facts[name] != known:
            raise JournalError(
                f"step '{name}' was begun for {_shown(self._facts[name])}, not for {_shown(known)}",
                hint="finish that job first, or give this one a journal of its own",
            )
        if last is not None and last["event"] == "done":
            yield Step(name, done=True, interrupted=False, result=last["result"])
            return
        step = Step(name, done=False, interrupted=last is not None and last["event"] == "begun")
        self._record("begun", name, facts=known)
        self._observe(name, Edge.BEFORE)
        try:
            yield step
        except BaseException as exc:
            # The text of other exceptions is not ours, and may quote a value.
            self._record("failed", name, error=str(exc) if isinstance(exc, DbsecError) else type(exc).__name__)
            raise
        self._observe(name, Edge.AFTER_EFFECT)
        step.result = canonical.as_read(step.result)
        self._record("done", name, result=step.result)
        step.done = True
        self._observe(name, Edge.AFTER_RECORD)

    def run(self, name: str, act: Callable[[], Any], **facts: Any) -> Any:
        """Call ``act`` once and return its result as JSON reads it; later runs return what was recorded."""
        with self.step(name, **facts) as step:
            if not step.done:
                step.result = act()
        return step.result

    def done(self) -> list[str]:
        """Name the steps that are recorded as done, in the order in which they ended."""
        self._forget_lost()
        return [name for name, last in self._last.items() if last["event"] == "done"]

    def _forget_lost(self) -> None:
        """Forget what a rollback of the caller's transaction has taken from the store."""
        if isinstance(self._store, Transactional) and (lost := self._store.lost()) != self._lost:
            self._lost = lost
            self._refresh()

    def _refresh(self) -> None:
        self._last: dict[str, Record] = {}
        self._facts: dict[str, Any] = {}
        for record in self._store.read():
            self._remember(record)

    def _observe(self, step: str, edge: Edge) -> None:
        if self._observer is not None:
            self._observer(step, edge)

    def _record(self, event: str, step: str, **body: Any) -> None:
        record = {"event": event, "step": step, "at": rfc3339(self._clock.now()), **body}
        self._store.append(record)
        self._remember(record)

    def _remember(self, record: Record) -> None:
        self._last.pop(record["step"], None)
        self._last[record["step"]] = record
        if record["event"] == "begun":
            self._facts[record["step"]] = record["facts"]


def _shown(facts: Any) -> str:
    return canonical.json_bytes(facts).decode()
