"""ON CONFLICT DO UPDATE: a value that was encrypted for the new row must not end in another one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, Insert
from sqlalchemy.dialects.postgresql.dml import OnConflictDoUpdate
from sqlalchemy.sql import visitors

from dbsec.crypto.orm.errors import UnboundParameter
from dbsec.crypto.orm.plan import TablePlan, Target
from dbsec.crypto.orm.told import equal_columns

_EXCLUDED = "excluded"


def check(clause: Insert, plan: TablePlan) -> None:
    """Refuse an upsert whose new value would be bound to another row, or another tenant, than the one it is written to.

    Errors: ``Unbound``.
    """
    extension = getattr(clause, "_post_values_clause", None)
    for element in visitors.iterate(extension) if extension is not None else ():
        if isinstance(element, OnConflictDoUpdate):
            _check(element, plan)


def _check(upsert: OnConflictDoUpdate, plan: TablePlan) -> None:
    told = {getattr(name, "key", name): value for name, value in dict[Any, Any](upsert.update_values_to_set).items()}
    written = [target for key, target in plan.targets.items() if key in told]
    for column in plan.bound_to.values():
        if column.key in told and not _is_excluded(told[column.key], column.key):
            raise _refused(plan, column.key, f"set {column.name} to excluded.{column.name}, or leave it out")
    for target in written:
        for column in (target.column, *target.indexes):
            if not _is_excluded(told.get(column.key), column.key):
                raise _refused(plan, column.key, f"set_: {column.key!r}: stmt.excluded.{column.key}")
        _same_row(upsert, plan, target, set(told))
    if any(column.key in told for column in plan.bound_to.values()) and len(written) < len(plan.targets):
        raise _refused(plan, next(iter(plan.bound_to)), "set all encrypted columns together with it")


def _same_row(upsert: OnConflictDoUpdate, plan: TablePlan, target: Target, told: set[str]) -> None:
    same = _conflicting(upsert, plan) | told | equal_columns(upsert.update_whereclause)
    for column, _ in (*target.row, *([target.tenant] if target.tenant else [])):
        if column.key not in same:
            raise _refused(plan, target.column.key, f"where=table.c.{column.key} == stmt.excluded.{column.key}")


def _conflicting(upsert: OnConflictDoUpdate, plan: TablePlan) -> set[str]:
    if upsert.inferred_target_elements is not None:
        return {str(getattr(element, "key", element)) for element in upsert.inferred_target_elements}
    primary = plan.table.primary_key
    return {column.key for column in primary} if upsert.constraint_target == primary.name else set()


def _is_excluded(value: Any, key: str) -> bool:
    if isinstance(value, BindParameter) and value.effective_value is None and not value.required:
        return True
    table = getattr(value, "table", None)
    return getattr(table, "name", None) == _EXCLUDED and getattr(value, "key", None) == key


def _refused(plan: TablePlan, key: str, hint: str) -> UnboundParameter:
    return UnboundParameter(
        f"ON CONFLICT DO UPDATE would write '{plan.table.fullname}.{key}' into a row that it is not bound to", hint=hint
    )
