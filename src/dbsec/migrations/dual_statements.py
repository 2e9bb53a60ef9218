"""Statements of SQLAlchemy that write one column of a pair, made to write the other too; what cannot be is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.util import immutabledict

from dbsec.errors import UsageError

BYPASS = "dbsec_dual_write"  # an execution option: False lets a statement pass as it is
_WRITES = re.compile(r"\b(?:insert|update|merge|copy)\b", re.IGNORECASE)
_TABLE = r'(?:["\w]+\s*\.\s*)?"?{}"?'
# INSERT and COPY without a list of columns name none, and write every one; COPY ... TO reads
_UNLISTED = rf"\b(?:insert\s+into|copy)\s+{_TABLE}\s+(?:as\s+\w+\s+)?(?:values|select|with|table|from|overriding)\b"
# The columns that a statement sets, as it goes to the driver
_SETS = (
    rf"\binsert\s+into\s+{_TABLE}\s*(?:as\s+\w+\s*)?\(([^)]*)\)"
    rf"|\bupdate\s+(?:only\s+)?{_TABLE}(?:\s+(?:as\s+)?\w+)?\s+set\s+(.*?)(?:\swhere\s|\sfrom\s|\sreturning\s|$)"
)
_PARAMETER = re.compile(r"%\(\w+\)s|:\w+")
_ABSENT = object()


@dataclass(frozen=True, slots=True, eq=False)
class Writer:
    """``old``: the column that statements name. ``others``: those that follow it, each with what computes it from the
    plaintext; the first one takes its place. None follows None."""

    old: Column[Any]
    others: tuple[tuple[Column[Any], Callable[[Any], Any]], ...]

    @property
    def name(self) -> str:
        """The old column, as messages have it."""
        return f"{self.old.table.fullname}.{self.old.name}"

    def made(self, plain: Any) -> dict[str, Any]:
        """Compute what follows a plaintext, by key of its column."""
        return {column.key: None if plain is None else act(plain) for column, act in self.others}

    def rewritten(self, clause: Any, many: Any, params: Any, *, keep: bool) -> tuple[Any, Any, Any]:
        """Rewrite a statement with its parameters; ``keep``: the old column is written too. Errors: ``UsageError``."""
        self._check_nested(clause)
        if not isinstance(clause, (Insert, Update)) or not self._is_ours(clause):
            return clause, many, params
        self._check_conflict(clause, keep=keep)
        if getattr(clause, "select", None) is not None and self._names(clause._select_names):
            raise self.unseen("INSERT ... SELECT brings values that no process sees")
        if clause._multi_values:
            rows = [self._values(row, keep=keep) for rows in clause._multi_values for row in rows]
            clause = _with(clause, _multi_values=(rows,))
        elif clause._values:
            clause, many, params = self._set(clause, many, params, keep=keep)
        return clause, [self._row(row, keep=keep) for row in many] if many else many, self._row(params, keep=keep)

    def check_text(self, text: str, *, reads: bool) -> None:
        """Refuse SQL as text that names the old column alone and writes, or (``reads``) does anything."""
        said = set(re.findall(r"\w+", text.lower()))
        names = {str(self.old.table.name).lower(), self.old.name.lower()}
        if names <= said and (reads or _WRITES.search(text)) and self.others[0][0].name.lower() not in said:
            raise self.unseen(f"SQL as text names '{self.old.name}'")
        if re.search(_UNLISTED.replace("{}", re.escape(str(self.old.table.name).lower())), text.lower()):
            raise self.unseen("SQL as text writes the table without a list of columns")

    def check_sent(self, statement: str) -> None:
        """Refuse what goes to the driver and still sets the old column alone: the net below all other ways."""
        text = _PARAMETER.sub("?", statement.lower())
        for found in re.finditer(_SETS.replace("{}", re.escape(str(self.old.table.name).lower())), text, re.DOTALL):
            said = set(re.findall(r"\w+", " ".join(filter(None, found.groups()))))
            if self.old.name.lower() in said and self.others[0][0].name.lower() not in said:
                raise self.unseen(f"a statement sets '{self.old.name}' by itself")

    def check_reads(self, clause: Any) -> None:
        """Refuse a query of the old column: where it is no longer written, rows would be missed in silence."""
        parts = [clause]
        if isinstance(clause, (Insert, Update)):  # what they set has been rewritten
            parts = [*getattr(clause, "_where_criteria", ()), *clause._returning]
        for part in parts:
            for element in visitors.iterate(part):
                if isinstance(element, ColumnElement) and element.shares_lineage(self.old):
                    raise UsageError(
                        f"{self.name}: in mode 'new' the column has no values, and a statement reads it",
                        hint="select the object, and compare with equals(value)",
                    )

    def unseen(self, what: str, hint: str = "") -> UsageError:
        """Say that a value cannot be followed."""
        return UsageError(
            f"{self.name}: {what}: '{self.others[0][0].name}' would not follow",
            hint=hint or f"write values through SQLAlchemy, or say execution_options({BYPASS}=False)",
        )

    # --- what a statement sets

    def _set(self, clause: Any, many: Any, params: Any, *, keep: bool) -> tuple[Any, Any, Any]:
        """Rewrite VALUES or SET; a value that is a parameter of each row moves into the rows, under its column."""
        given = self._given(clause._values)
        first = many[0] if many else params
        if not isinstance(given, BindParameter) or not given.required or given.key not in first:
            return _with(clause, _values=self._values(clause._values, keep=keep)), many, params
        kept = {name: value for name, value in clause._values.items() if not self._names([name])}
        rows = [
            {**{name: value for name, value in row.items() if name != given.key}, self.old.key: row[given.key]}
            for row in many or [params]
        ]
        clause = _with(clause, _values=kept or None)
        return (clause, rows, params) if many else (clause, many, rows[0])

    def _values(self, values: Any, *, keep: bool) -> dict[Any, Any]:
        if not isinstance(values, Mapping):
            raise self.unseen("VALUES has no names", hint="values({'column': value})")
        given = self._given(values)
        if given is _ABSENT:
            return dict(values)
        plain = self._literal(given)
        made = self.made(plain)
        told = {_key(name) for name, value in values.items() if not _is_null(value)}
        columns = {column: made[column.key] for column, _ in self.others if column.key not in told}
        replaced = {self.old.key, *(column.key for column in columns)}
        others = {name: value for name, value in values.items() if _key(name) not in replaced}
        return {**others, self.old: plain if keep else None, **columns}

    def _row(self, row: Any, *, keep: bool) -> Any:
        if not isinstance(row, Mapping) or self.old.key not in row:
            return row
        plain = self._literal(row[self.old.key])
        made = {name: value for name, value in self.made(plain).items() if row.get(name) is None}
        return {**row, **made, self.old.key: plain if keep else None}

    def _literal(self, value: Any) -> Any:
        if isinstance(value, BindParameter) and not value.required:
            return value.effective_value
        if isinstance(value, ClauseElement):
            raise self.unseen("SQL computes the value")
        return value

    # --- what cannot be seen

    def _check_nested(self, clause: Any) -> None:
        for element in _below(clause):
            if isinstance(element, (Insert, Update)) and element is not clause and self._is_ours(element):
                raise self.unseen("a statement inside another writes the table")

    def _check_conflict(self, clause: Any, *, keep: bool) -> None:
        given = dict(getattr(getattr(clause, "_post_values_clause", None), "update_values_to_set", None) or ())
        values = {_key(name): value for name, value in given.items()}
        if self.old.key not in values:
            return
        table = getattr(values[self.old.key], "table", None)
        if not {column.key for column, _ in self.others} <= set(values) or (
            not keep and getattr(table, "name", "") != "excluded"
        ):
            wanted = ", ".join([self.old.key, *(column.key for column, _ in self.others)])
            raise self.unseen("ON CONFLICT DO UPDATE sets it by itself", f"set_ takes {wanted} from excluded")

    # --- small questions

    def _is_ours(self, clause: Any) -> bool:
        return getattr(clause.table, "fullname", None) == self.old.table.fullname

    def _names(self, names: Any) -> bool:
        return any(_key(name) == self.old.key for name in names or ())

    def _given(self, values: Mapping[Any, Any]) -> Any:
        return next((value for name, value in values.items() if _key(name) == self.old.key), _ABSENT)


def _below(clause: Any) -> Iterator[Any]:
    """Yield every element of a statement, and of what stands in its WITH."""
    for element in visitors.iterate(clause):
        yield element
        for cte in getattr(element, "_independent_ctes", ()):
            yield from _below(cte.element)


def _key(name: Any) -> str:
    return str(getattr(name, "key", name))


def _is_null(value: Any) -> bool:
    if isinstance(value, BindParameter) and not value.required:
        return value.effective_value is None
    return value is None


def _with(clause: Any, **private: Any) -> Any:
    """Copy a statement with other values: its own ``values()`` only adds, and not behind ``ordered_values()``."""
    made = clause._generate()
    for name, value in private.items():
        setattr(made, name, _bound(value) if isinstance(value, dict) else value)
    return made


def _bound(values: dict[Any, Any]) -> Any:
    return immutabledict(
        {
            name: value
            if isinstance(value, ClauseElement)
            else BindParameter(None, value, type_=getattr(name, "type", None), unique=True)
            for name, value in values.items()
        }
    )
