"""What may be asked of an encrypted column in SQL: equality where it can be answered, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import BindParameter, ClauseElement, ColumnElement, Dialect, bindparam, type_coerce
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeEngine, UserDefinedType

from dbsec.crypto import batches
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.lookup import BlindIndex
from dbsec.crypto.orm.attached import attached
from dbsec.crypto.orm.errors import Unsearchable, as_it_is
from dbsec.crypto.orm.plan import Target
from dbsec.crypto.orm.reading import beside, target_of
from dbsec.crypto.orm.types import BlindIndexed
from dbsec.crypto.scope import current_tenant
from dbsec.errors import DbsecError

EXACT_BITS = 63  # of a billion rows one lookup in 10^10 finds a wrong one
_EQUAL = (operators.eq, operators.in_op)
_UNEQUAL = (operators.ne, operators.not_in_op)
NAMES: dict[Any, str] = {
    operators.like_op: "LIKE",
    operators.ilike_op: "ILIKE",
    operators.lt: "<",
    operators.le: "<=",
    operators.gt: ">",
    operators.ge: ">=",
    operators.concat_op: "||",
    operators.add: "||",
    operators.between_op: "BETWEEN",
    operators.desc_op: "ORDER BY",
    operators.asc_op: "ORDER BY",
    operators.ne: "!=",
    operators.eq: "==",
    operators.in_op: "IN",
    operators.not_in_op: "NOT IN",
}


class Term(UserDefinedType[Any]):
    """A value that is looked for: what goes to the server is its blind index, or its deterministic ciphertext."""

    cache_ok = True

    def __init__(self, declared: EncryptedColumn, how: BlindIndex | None) -> None:
        self.declared = declared
        self.how = how

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        envelope = attached(dialect).envelope
        declared, how = self.declared, self.how

        def look(value: Any) -> Any:
            try:
                tenant = current_tenant(declared.field) if declared.tenant else ""
                return None if value is None else batches.term(envelope, declared, how, value, tenant)
            except DbsecError as exc:
                raise as_it_is(exc) from exc.__cause__

        return look

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        raise Unsearchable(f"a value of '{self.declared.field}' is never written into SQL", hint="no literal_binds")


class EncryptedComparator(UserDefinedType.Comparator[Any]):
    """Rewrites equality to what is stored, and refuses by name what would give wrong answers."""

    @property
    def _field(self) -> object:
        return getattr(self.type, "field", self.expr)

    def operate(self, op: Any, *other: Any, **options: Any) -> ColumnElement[Any]:
        value = other[0] if other else None
        if op in (operators.is_, operators.is_not) or (op in (operators.eq, operators.ne) and _stands(value)):
            return super().operate(op, *other, **options)
        if (op in _EQUAL or op in _UNEQUAL) and (op in (operators.eq, operators.ne) or _is_list(value)):
            return self._compared(op, value)
        raise refusal(self._field, NAMES.get(op) or op.__name__)

    def reverse_operate(self, op: Any, other: Any, **options: Any) -> ColumnElement[Any]:
        raise refusal(self._field, NAMES.get(op) or op.__name__)

    def _compared(self, op: Any, value: Any) -> ColumnElement[Any]:
        target = target_of(self.expr)
        stored, how = searched(target, self.expr)
        if op in _UNEQUAL and how is not None and how.bits < EXACT_BITS:
            raise Unsearchable(
                f"'{self._field}' has an index of {how.bits} bits: {NAMES[op]} would lose rows that only share it",
                hint="compare after loading",
            )
        sought = term(value, Term(target.declared, how), many=op in (operators.in_op, operators.not_in_op))
        return stored.operate(op, sought)


class IndexComparator(UserDefinedType.Comparator[Any]):
    """An index column is compared by us only, or with NULL."""

    def operate(self, op: Any, *other: Any, **options: Any) -> ColumnElement[Any]:
        value = other[0] if other else None
        if op in (operators.is_, operators.is_not) or _stands(value):
            return super().operate(op, *other, **options)
        raise refusal(self.expr, NAMES.get(op) or op.__name__)

    def reverse_operate(self, op: Any, other: Any, **options: Any) -> ColumnElement[Any]:
        raise refusal(self.expr, NAMES.get(op) or op.__name__)


class Stored(UserDefinedType[Any]):
    """A column as it is stored. Python cannot compare it, so that no session guesses which of its objects are meant."""

    cache_ok = True


def searched(target: Target, column: ColumnElement[Any]) -> tuple[ColumnElement[Any], BlindIndex | None]:
    """Return the column that equality is asked of, and how its values are made. Errors: ``Unsearchable``."""
    if target.declared.mode is Mode.DETERMINISTIC:
        return type_coerce(column, Stored()), None
    if not target.indexes:
        raise Unsearchable(
            f"'{target.declared.field}' is encrypted differently each time: == finds nothing",
            hint="index_column(...) beside it, or mode=Mode.DETERMINISTIC",
        )
    index = target.indexes[0]
    assert isinstance(index.type, BlindIndexed)
    return type_coerce(beside(column, index.key), Stored()), index.type.how


def term(value: Any, kind: TypeEngine[Any], *, many: bool) -> ColumnElement[Any]:
    """Return a parameter that is encrypted when the statement is executed, not before."""
    if isinstance(value, BindParameter):
        typed: ColumnElement[Any] = type_coerce(value, kind).typed_expression
        return typed
    return bindparam(None, list(value) if many else value, type_=kind, unique=True, expanding=many)


def refusal(field: object, what: str) -> Unsearchable:
    """Return the error for a use of a column, by name."""
    return Unsearchable(
        f"'{field}' is encrypted: {what} would work on ciphertext",
        hint="whole values are found by == and IN; load the rows and do the rest in the program",
    )


def _stands(value: Any) -> bool:
    """A column or NULL: what reaches SQL is judged when it is compiled, lists of columns compare them too."""
    return value is None or (_is_sql(value) and not isinstance(value, BindParameter))


def _is_list(value: Any) -> bool:
    return isinstance(value, BindParameter) or (
        not _is_sql(value) and not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    )


def _is_sql(value: Any) -> bool:
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
