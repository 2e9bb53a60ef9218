"""Two columns with one value for SQLAlchemy, while a release moves from the old one to the new: encryption above all.

::

    PHONE = dual_write(User.phone, User.phone_enc, write=encrypt, read=decrypt, lookup=(User.phone_bidx, blind),
                       mode=lambda: flags["phone"])
    session.add(User(phone="+49 30 1"))                  # writes what the mode says
    session.scalar(select(User).where(PHONE.equals("+49 30 1"))).phone   # read from where the mode says

The application knows the old attribute alone. The modes are taken one step at a time, each when no process is in the
one before the last; from ``new`` the way back is one step, for its rows have no plaintext. What is written without a
statement of SQLAlchemy (the driver itself, COPY, another program) is not seen here: the trigger of expand is the net.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, event, or_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.attributes import get_history, set_committed_value
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BindParameter, ClauseElement, TextClause

from dbsec.errors import UsageError

__all__ = ["BYPASS", "DualWrite", "Mode", "dual_write"]

BYPASS = "dbsec_dual_write"  # an execution option: False lets a statement pass as it is
_WRITES = re.compile(r"\b(?:insert|update|merge|copy)\b", re.IGNORECASE)
_Row = Mapping[str, Any]


class Mode(StrEnum):
    """Which columns are written, and which one is read where both have a value."""

    OLD = "old"
    BOTH_READ_OLD = "both-read-old"
    BOTH_READ_NEW = "both-read-new"
    NEW = "new"

    @property
    def reads_new(self) -> bool:
        return self in (Mode.BOTH_READ_NEW, Mode.NEW)


@dataclass(frozen=True, slots=True)
class DualWrite:
    """One pair of columns; made by ``dual_write``."""

    old: InstrumentedAttribute[Any]
    new: InstrumentedAttribute[Any]
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    mode: Callable[[], str]
    lookup: tuple[InstrumentedAttribute[Any], Callable[[Any], Any]] | None = None
    _listening: list[tuple[Any, str, Any]] = field(default_factory=list)

    def equals(self, value: Any) -> ColumnElement[bool]:
        """Compare with a plaintext: by the old column, or by the look-up column where the mode reads the new one.

        Rows without a look-up value are found by the old column as long as it is written.
        """
        mode = self._mode()
        if not mode.reads_new:
            return self.old == value
        if self.lookup is None:
            raise UsageError(
                f"{self._name}: ciphertext is not compared", hint="dual_write(..., lookup=(column, function))"
            )
        column, blind = self.lookup
        found = column == blind(value)
        return found if mode is Mode.NEW else or_(found, and_(column.is_(None), self.old == value))

    def remove(self) -> None:
        """Stop listening, for tests."""
        while self._listening:
            event.remove(*self._listening.pop())

    # --- what the ORM tells

    def _on_flush(self, mapper: Any, connection: Any, target: Any) -> None:
        """Give the object itself what is written for it, so that it is not stale after the flush."""
        plain = target.__dict__.get(self.old.key)
        changed = get_history(target, self.old.key).has_changes()
        if self._mode() is Mode.OLD or not changed or isinstance(plain, ClauseElement):
            return  # SQL as a value is refused when its statement comes
        for key, value in self._made(plain).items():
            setattr(target, self._attribute(key), value)

    def _on_load(self, target: Any, context: Any, *_: Any) -> None:
        if not self._mode().reads_new:
            return
        state = target.__dict__
        if self.old.key in state and self.new.key not in state:
            raise UsageError(
                f"{self._name}: '{self.old.key}' is loaded without '{self.new.key}', where its value is read",
                hint=f"load_only(..., {self.new.key}), or no load_only at all",
            )
        if self.old.key in state and state[self.new.key] is not None:
            set_committed_value(target, self.old.key, self.read(state[self.new.key]))

    # --- what the engine tells

    def _on_execute(self, connection: Any, clause: Any, many: Any, params: Any, options: Any) -> Any:
        mode = self._mode()
        if mode is Mode.OLD or options.get(BYPASS) is False:
            return clause, many, params
        if isinstance(clause, TextClause):
            self._check_text(clause.text, mode)
        if isinstance(clause, (Insert, Update)) and self._is_ours(clause.table):
            clause, many, params = self._rewritten(clause, many, params, mode)
        if mode is Mode.NEW:
            self._check_reads(clause)
        return clause, many, params

    def _on_cursor(self, connection: Any, cursor: Any, statement: str, params: Any, context: Any, many: Any) -> None:
        mode = self._mode()
        bypassed = context is not None and context.execution_options.get(BYPASS) is False
        if mode is not Mode.OLD and not bypassed and getattr(context, "compiled", None) is None:
            self._check_text(statement, mode)

    def _rewritten(self, clause: Any, many: Any, params: Any, mode: Mode) -> tuple[Any, Any, Any]:
        self._check_dml(clause)
        first = many[0] if many else params
        if clause._multi_values:
            rows = [self._in_values(row, {}, mode) for rows in clause._multi_values for row in rows]
            clause = _with(clause, _multi_values=(rows,))
        elif clause._values and self._given(clause._values) is not _ABSENT:
            many, params, clause = self._in_clause(clause, many, params, mode, first)
        return clause, [self._in_row(row, mode) for row in many] if many else many, self._in_row(params, mode)

    def _in_clause(self, clause: Any, many: Any, params: Any, mode: Mode, first: _Row) -> tuple[Any, Any, Any]:
        """Rewrite VALUES or SET of the statement; one that is a parameter of each row moves into the rows."""
        given = self._given(clause._values)
        name = given.key if isinstance(given, BindParameter) and given.required else None
        if name is None or name not in first:
            return many, params, _with(clause, _values=self._in_values(clause._values, first, mode))
        kept = {key: value for key, value in clause._values.items() if _key(key) != self._column.key}
        moved = [
            {**{k: v for k, v in row.items() if k != name}, self._column.key: row[name]} for row in many or [params]
        ]
        return (
            (moved, params, _with(clause, _values=kept or None))
            if many
            else ([], moved[0], _with(clause, _values=kept or None))
        )

    def _in_values(self, values: Any, params: _Row, mode: Mode) -> dict[Any, Any]:
        if not isinstance(values, Mapping):
            raise UsageError(f"{self._name}: VALUES without names are not seen", hint="values({'phone': ...})")
        given = self._given(values)
        if given is _ABSENT:
            return dict(values)
        plain = self._literal(given)
        others = {key: value for key, value in values.items() if _key(key) != self._column.key}
        told = {_key(key) for key, value in others.items() if not _is_null(value)}
        made = {key: value for key, value in self._made(plain).items() if key not in told}
        others = {key: value for key, value in others.items() if _key(key) not in made}
        table = self._column.table.c
        return {**others, self._column: None if mode is Mode.NEW else plain, **{table[k]: v for k, v in made.items()}}

    def _in_row(self, row: Any, mode: Mode) -> Any:
        key = self._column.key
        if not isinstance(row, Mapping) or key not in row:
            return row
        plain = self._literal(row[key])
        made = {name: value for name, value in self._made(plain).items() if row.get(name) is None}
        return {**row, **made, key: None if mode is Mode.NEW else plain}

    # --- what cannot be seen

    def _check_dml(self, clause: Any) -> None:
        key = self._column.key
        if getattr(clause, "select", None) is not None and key in (clause._select_names or ()):
            raise self._unseen("INSERT ... SELECT brings values that no process sees")
        after = getattr(clause, "_post_values_clause", None)
        names = {_key(name) for name, _ in getattr(after, "update_values_to_set", None) or ()}
        if key in names and not {column.key for column in self._columns()} <= names:
            wanted = ", ".join(column.key for column in self._columns())
            raise self._unseen(f"ON CONFLICT DO UPDATE sets '{key}' alone", f"set_ has to take {wanted} from excluded")

    def _check_text(self, text: str, mode: Mode) -> None:
        said = set(re.findall(r"\w+", text.lower()))
        names = {self._column.table.name.lower(), self._column.name.lower()}
        if names <= said and (mode is Mode.NEW or _WRITES.search(text)) and self._new.name.lower() not in said:
            raise self._unseen(f"SQL as text names '{self._column.name}'")

    def _check_reads(self, clause: Any) -> None:
        """Where the old column is no longer written, a query that names it would silently miss rows."""
        parts = [clause] if not isinstance(clause, (Insert, Update)) else [*_parts(clause)]
        for part in parts:
            for element in visitors.iterate(part):
                if isinstance(element, ColumnElement) and element.shares_lineage(self._column):
                    raise UsageError(
                        f"{self._name}: in mode 'new' the column has no values, and a statement reads it",
                        hint="select the object, and compare with equals(value)",
                    )

    def _unseen(self, what: str, hint: str = "") -> UsageError:
        return UsageError(
            f"{self._name}: {what}: '{self._new.name}' would not follow",
            hint=hint or f"write values through SQLAlchemy, or say execution_options({BYPASS}=False)",
        )

    # --- small questions

    @property
    def _column(self) -> Any:
        return self.old.property.columns[0]

    @property
    def _new(self) -> Any:
        return self.new.property.columns[0]

    @property
    def _name(self) -> str:
        return f"{self._column.table.fullname}.{self._column.name}"

    def _mode(self) -> Mode:
        said = self.mode()
        try:
            return Mode(said)
        except ValueError as exc:
            raise UsageError(f"{self._name}: '{said}' is no mode", hint=f"one of {', '.join(Mode)}") from exc

    def _columns(self) -> Iterator[Any]:
        yield self._new
        if self.lookup is not None:
            yield self.lookup[0].property.columns[0]

    def _made(self, plain: Any) -> dict[str, Any]:
        """Compute what stands beside a plaintext, by key of its column."""
        acts = [self.write, *([self.lookup[1]] if self.lookup is not None else [])]
        columns = zip(self._columns(), acts, strict=True)
        return {column.key: None if plain is None else act(plain) for column, act in columns}

    def _attribute(self, key: str) -> str:
        return self.new.key if key == self._new.key or self.lookup is None else self.lookup[0].key

    def _is_ours(self, table: Any) -> bool:
        return getattr(table, "fullname", None) == self._column.table.fullname

    def _given(self, values: Mapping[Any, Any]) -> Any:
        return next((value for key, value in values.items() if _key(key) == self._column.key), _ABSENT)

    def _literal(self, value: Any) -> Any:
        if isinstance(value, BindParameter) and not value.required:
            return value.effective_value
        if isinstance(value, ClauseElement):
            raise self._unseen("SQL computes the value")
        return value


_ABSENT = object()


def dual_write(
    old: InstrumentedAttribute[Any],
    new: InstrumentedAttribute[Any],
    *,
    write: Callable[[Any], Any],
    read: Callable[[Any], Any],
    mode: Callable[[], str],
    lookup: tuple[InstrumentedAttribute[Any], Callable[[Any], Any]] | None = None,
) -> DualWrite:
    """Let every write of ``old`` write ``new`` as ``mode()`` says, for every engine of this process.

    ``write`` makes the new value of an old one and ``read`` the old of a new one; None is never passed. ``lookup``: a
    column and what computes it from the plaintext. A write that cannot be seen (SQL computes the value, INSERT ...
    SELECT, text) raises ``UsageError`` before it is sent, unless ``execution_options(dbsec_dual_write=False)`` says
    that it is meant.
    """
    made = DualWrite(old, new, write, read, mode, lookup)
    entity = old.class_
    for target, name, function, more in (
        (entity, "before_insert", made._on_flush, {"propagate": True}),
        (entity, "before_update", made._on_flush, {"propagate": True}),
        (entity, "load", made._on_load, {"propagate": True}),
        (entity, "refresh", made._on_load, {"propagate": True}),
        (Engine, "before_execute", made._on_execute, {"retval": True}),
        (Engine, "before_cursor_execute", made._on_cursor, {}),
    ):
        event.listen(target, name, function, **more)
        made._listening.append((target, name, function))
    return made


def _key(name: Any) -> str:
    return str(getattr(name, "key", name))


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, BindParameter) and not value.required and value.effective_value is None)


def _with(clause: Any, **private: Any) -> Any:
    """Copy a statement with other values: its own ``values()`` only adds, and not behind ``ordered_values()``."""
    made = clause._generate()
    for name, value in private.items():
        setattr(made, name, _frozen(value))
    return made


def _frozen(value: Any) -> Any:
    from sqlalchemy.util import immutabledict

    return immutabledict({k: _bound(k, v) for k, v in value.items()}) if isinstance(value, dict) else value


def _bound(column: Any, value: Any) -> Any:
    return (
        value
        if isinstance(value, ClauseElement)
        else BindParameter(None, value, type_=getattr(column, "type", None), unique=True)
    )


def _parts(clause: Any) -> Sequence[Any]:
    return [*getattr(clause, "_where_criteria", ()), *getattr(clause, "_returning", ())]
