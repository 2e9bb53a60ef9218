"""Two columns with one value for SQLAlchemy, while a release moves from the old one to the new: encryption above all.

::

    PHONE = dual_write(User.phone, User.phone_enc, write=encrypt, read=decrypt, lookup=(User.phone_bidx, blind),
                       mode=lambda: flags["phone"])
    session.add(User(phone="+49 30 1"))                  # writes what the mode says
    session.scalar(select(User).where(PHONE.equals("+49 30 1"))).phone   # read from where the mode says

The application knows the old attribute alone. The modes are taken one step at a time, each when no process is in the
one before the last; from ``new`` the way back is one step, for its rows have no plaintext. What is written without a
statement of SQLAlchemy (the driver's own cursor, COPY, another program) is not seen here: the trigger of expand is the
net. An UPDATE past the session leaves the new column of loaded objects as it was until they are refreshed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, event, or_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.attributes import get_history, set_committed_value
from sqlalchemy.sql.elements import ClauseElement, TextClause

from dbsec.errors import UsageError
from dbsec.migrations.dual_statements import BYPASS, Writer

__all__ = ["BYPASS", "DualWrite", "Mode", "dual_write"]

Attribute = InstrumentedAttribute[Any]
Function = Callable[[Any], Any]


class Mode(StrEnum):
    """Which columns are written, and which one is read where both have a value."""

    OLD = "old"
    BOTH_READ_OLD = "both-read-old"
    BOTH_READ_NEW = "both-read-new"
    NEW = "new"

    @property
    def reads_new(self) -> bool:
        return self in (Mode.BOTH_READ_NEW, Mode.NEW)


@dataclass(frozen=True, slots=True, eq=False)
class DualWrite:
    """One pair of columns; made by ``dual_write``."""

    old: Attribute
    new: Attribute
    read: Function
    mode: Callable[[], str]
    lookup: tuple[Attribute, Function] | None
    _writer: Writer
    _listening: list[tuple[Any, str, Any]] = field(default_factory=list)

    def equals(self, value: Any) -> ColumnElement[bool]:
        """Compare with a plaintext: by the old column, or by the look-up column where the mode reads the new one.

        Rows without a look-up value are found by the old column as long as it is written.
        """
        mode = self._mode()
        if not mode.reads_new:
            return self.old.__eq__(value)
        if self.lookup is None:
            hint = "dual_write(..., lookup=(column, function))"
            raise UsageError(f"{self._writer.name}: ciphertext is not compared", hint=hint)
        column, blind = self.lookup
        found = column.__eq__(blind(value))
        return found if mode is Mode.NEW else or_(found, and_(column.is_(None), self.old == value))

    def remove(self) -> None:
        """Stop listening, for tests."""
        while self._listening:
            event.remove(*self._listening.pop())

    def _mode(self) -> Mode:
        said = self.mode()
        try:
            return Mode(said)
        except ValueError as exc:
            raise UsageError(f"{self._writer.name}: '{said}' is no mode", hint=f"one of {', '.join(Mode)}") from exc

    def _listen(self) -> None:
        for target, name, function, options in (
            (self.old.class_, "before_insert", self._on_flush, {"propagate": True}),
            (self.old.class_, "before_update", self._on_flush, {"propagate": True}),
            (self.old.class_, "load", self._on_load, {"propagate": True}),
            (self.old.class_, "refresh", self._on_load, {"propagate": True}),
            (Engine, "before_execute", self._on_execute, {"retval": True}),
            (Engine, "before_cursor_execute", self._on_cursor, {}),
        ):
            event.listen(target, name, function, **options)
            self._listening.append((target, name, function))

    def _on_flush(self, mapper: Any, connection: Any, target: Any) -> None:
        """Give the object itself what is written for it, so that it is not stale after the flush."""
        plain = target.__dict__.get(self.old.key)
        changed = get_history(target, self.old.key).has_changes()
        if self._mode() is Mode.OLD or not changed or isinstance(plain, ClauseElement):
            return  # SQL as a value is refused when its statement comes
        made = self._writer.made(plain)
        for attribute in (self.new, *(self.lookup or ())[:1]):
            setattr(target, attribute.key, made[_column(attribute).key])

    def _on_load(self, target: Any, *_: Any) -> None:
        state = target.__dict__
        if self.old.key not in state or not self._mode().reads_new:
            return
        if self.new.key not in state:
            raise UsageError(
                f"{self._writer.name}: '{self.old.key}' is loaded without '{self.new.key}', where its value is read",
                hint=f"load_only(..., {self.new.key}), or no load_only at all",
            )
        if state[self.new.key] is not None:
            set_committed_value(target, self.old.key, self.read(state[self.new.key]))

    def _on_execute(self, connection: Any, clause: Any, many: Any, params: Any, options: Any) -> tuple[Any, Any, Any]:
        mode = self._mode()
        if mode is Mode.OLD or options.get(BYPASS) is False:
            return clause, many, params
        clause = getattr(clause, "_resolved", clause)  # of lambda_stmt()
        if isinstance(clause, TextClause):
            self._writer.check_text(clause.text, reads=mode is Mode.NEW)
        clause, many, params = self._writer.rewritten(clause, many, params, keep=mode is not Mode.NEW)
        if mode is Mode.NEW:
            self._writer.check_reads(clause)
        return clause, many, params

    def _on_cursor(self, connection: Any, cursor: Any, statement: str, params: Any, context: Any, many: Any) -> None:
        """See SQL that goes to the driver: as it is, or compiled from what was not seen (an alias, a default)."""
        if context is None or context.execution_options.get(BYPASS) is False or (mode := self._mode()) is Mode.OLD:
            return
        self._writer.check_sent(statement)
        if context.compiled is None:
            self._writer.check_text(statement, reads=mode is Mode.NEW)


def dual_write(
    old: Attribute,
    new: Attribute,
    *,
    write: Function,
    read: Function,
    mode: Callable[[], str],
    lookup: tuple[Attribute, Function] | None = None,
) -> DualWrite:
    """Let every write of ``old`` write ``new`` as ``mode()`` says, for every engine of this process.

    ``write`` makes the new value of an old one and ``read`` the old of a new one; None is never passed. ``lookup``: a
    column and what computes it from the plaintext. A write that cannot be seen (SQL computes the value, INSERT ...
    SELECT, text) raises ``UsageError`` before it is sent, unless ``execution_options(dbsec_dual_write=False)`` says
    that it is meant.
    """
    others = [(_column(new), write)]
    if lookup is not None:
        others.append((_column(lookup[0]), lookup[1]))
    made = DualWrite(old, new, read, mode, lookup, Writer(_column(old), tuple(others)))
    made._listen()
    return made


def _column(attribute: Attribute) -> Any:
    return attribute.property.columns[0]
