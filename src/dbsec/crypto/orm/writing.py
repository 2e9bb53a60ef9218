"""Writing: all values of an INSERT or UPDATE are encrypted before SQLAlchemy sees them, each for its row and tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Column, Connection, Insert, Update

from dbsec.crypto import batches
from dbsec.crypto.binding import UNBOUND
from dbsec.crypto.envelope import Row
from dbsec.crypto.orm import ids, upserts
from dbsec.crypto.orm.attached import attached
from dbsec.crypto.orm.errors import UnboundParameter
from dbsec.crypto.orm.parts import Kind, tenant_text, tenant_value
from dbsec.crypto.orm.plan import TablePlan, Target, plan_of
from dbsec.crypto.orm.told import Expression, Params, Statement, Told, lacks
from dbsec.crypto.orm.types import BlindIndexed, Ciphertext, IndexBytes, IndexNumber
from dbsec.crypto.orm.waiting import apart
from dbsec.crypto.scope import SCOPE, current_tenant

_Executed = tuple[Any, Sequence[Params], Mapping[str, Any]]


def before_execute(
    connection: Connection, clause: Any, multiparams: Sequence[Params], params: Params, _: Mapping[str, Any]
) -> _Executed:
    """Hook of the engine. Errors: ``Unbound``, ``KmsError``, and nothing is sent."""
    plan = plan_of(clause.table) if isinstance(clause, Insert | Update) else None
    if plan is None:
        return clause, multiparams, params
    attached(connection.dialect).check(plan)
    rows = multiparams or ([params] if params else [])
    if isinstance(clause, Insert):
        upserts.check(clause, plan)
        if clause.select is not None:
            _refuse_select(clause, plan)
            return clause, multiparams, params
    written, made = _Write(connection, plan, Told(clause, plan.table, rows)).run()
    return (written, [], made[0]) if len(made) == 1 else (written, made, {})


def _refuse_select(clause: Insert, plan: TablePlan) -> None:
    names = {str(getattr(name, "key", name)) for name in clause._select_names or ()}
    for key in names & (set(plan.targets) | {c.key for t in plan.targets.values() for c in t.indexes}):
        raise UnboundParameter(
            f"'{plan.table.fullname}.{key}' would be filled by a SELECT with values that are bound to other rows",
            hint="read the rows, and insert them",
        )


class _Write:
    """One statement. Tenants and ids of its rows are found once, whatever the number of its encrypted columns."""

    def __init__(self, connection: Connection, plan: TablePlan, told: Told) -> None:
        self._connection = connection
        self._plan = plan
        self._told = told
        self._is_insert = isinstance(told.clause, Insert)
        self._pinned: dict[str, list[Any]] = {} if self._is_insert else told.pinned()
        self._tenants: dict[str, list[str]] = {}
        self._ids: dict[str, list[Any]] = {}

    def run(self) -> tuple[Statement, Sequence[Params]]:
        self._check_moved()
        for target in self._plan.targets.values():
            if self._told.has(target.column.key):
                self._encrypt(target)
            else:
                self._check_indexes(target)
        return self._told.result()

    def _encrypt(self, target: Target) -> None:
        told, column = self._told, target.declared
        values = told.values(target.column.key)
        if Expression in map(type, values):
            raise UnboundParameter(
                f"'{column.field}' would be computed by the server, which has no key", hint="compute it in the program"
            )
        # an INSERT in the scope of a tenant says whose row it is, whatever else it says
        asked = any(value is not None for value in values) or (self._is_insert and isinstance(SCOPE.get(), str))
        tenants = self._tenants_of(target) if asked else [""] * len(values)
        rows = self._rows_of(target, values)
        dialect = self._connection.dialect
        envelope = attached(dialect).envelope
        blobs = apart(dialect, partial(batches.encrypt, envelope, column, values, tenants, rows))
        told.put(target.column.key, [None if blob is None else Ciphertext(blob) for blob in blobs])
        for companion in target.indexes:
            assert isinstance(companion.type, BlindIndexed)
            how = companion.type.how
            mark = IndexNumber if how.integer else IndexBytes
            made = apart(dialect, partial(batches.index, envelope, column, how, values, tenants))
            told.put(companion.key, [None if value is None else mark(value) for value in made])

    # --- whose row it is

    def _tenants_of(self, target: Target) -> list[str]:
        if target.tenant is None:
            return [""] * len(self._told.rows)
        column, kind = target.tenant
        if column.key not in self._tenants:
            self._tenants[column.key] = self._find_tenants(column, kind, target)
        return self._tenants[column.key]

    def _find_tenants(self, column: Column[Any], kind: Kind, target: Target) -> list[str]:
        said = self._told.values(column.key) if self._told.has(column.key) else self._pinned.get(column.key)
        if said is None or all(value is None for value in said):
            return self._tenants_of_scope(column, target)
        first = said[0]
        alike = all(value is first for value in said)
        names = {value: tenant_text(kind.normal(value)) for value in ([first] if alike else set(said))}
        scope = SCOPE.get()
        for name in names.values():
            if name is None:
                raise UnboundParameter(f"a row of '{self._plan.table.fullname}' has no {column.name}")
            if isinstance(scope, str) and name != scope:
                raise UnboundParameter(
                    f"a row of '{self._plan.table.fullname}' is of another tenant than the scope",
                    hint="with tenant_scope(row.tenant_id): ... (or EVERY_TENANT in a job)",
                )
        return [names[first] or ""] * len(said) if alike else [names[value] or "" for value in said]

    def _tenants_of_scope(self, column: Column[Any], target: Target) -> list[str]:
        """The row must be of the tenant that its values are bound to: an INSERT says so, an UPDATE asks for it."""
        tenant = current_tenant(target.declared.field)
        count = len(self._told.rows)
        value = tenant_value(column, tenant)
        if self._is_insert:
            self._told.put(column.key, [value] * count)
        else:
            assert isinstance(self._told.clause, Update)
            self._told.clause = self._told.clause.where(column == value)
        return [tenant] * count

    # --- which row it is

    def _rows_of(self, target: Target, values: Sequence[Any]) -> Sequence[Row]:
        if not target.row or all(value is None for value in values):
            return [UNBOUND] * len(values)
        parts = [self._ids_of(column, kind, target) for column, kind in target.row]
        return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))

    def _ids_of(self, column: Column[Any], kind: Kind, target: Target) -> list[Any]:
        found = self._ids.get(column.key)
        if found is None:
            if self._is_insert:
                ids.complete(self._connection, self._told, column)
            said = self._told.values(column.key) if self._told.has(column.key) else self._pinned.get(column.key)
            if said is None or lacks(said):
                raise UnboundParameter(
                    f"a value of '{target.declared.field}' is bound to '{column.name}', which nothing says here",
                    hint=f"update().where({column.name} == ...), or a parameter set for each row",
                )
            found = self._ids[column.key] = kind.normals(said)
        return found

    # --- what would leave a value behind

    def _check_moved(self) -> None:
        """An UPDATE of an id or a tenant must write all values that are bound to it."""
        for key in () if self._is_insert else self._plan.bound_to:
            if not self._told.has(key) or self._told.values(key) == self._pinned.get(key):
                continue
            for target in self._plan.targets.values():
                parts = [column.key for column, _ in (*target.row, *([target.tenant] if target.tenant else []))]
                if key in parts and not self._told.has(target.column.key):
                    raise UnboundParameter(
                        f"'{target.declared.field}' is bound to '{key}': it would be unreadable under another one",
                        hint=f"set {target.column.key} in the same statement",
                    )

    def _check_indexes(self, target: Target) -> None:
        for companion in target.indexes:
            if self._told.has(companion.key) and any(value is not None for value in self._told.values(companion.key)):
                raise UnboundParameter(
                    f"'{companion.name}' is filled from '{target.column.name}', and by nobody else",
                    hint=f"set {target.column.key}",
                )
