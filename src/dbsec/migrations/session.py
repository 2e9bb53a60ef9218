"""What the session of a migration has set when a statement runs, and what its open transaction already holds."""

from __future__ import annotations

from msgspec import Struct, field

from dbsec.migrations.effects import coercion
from dbsec.migrations.effects.model import Effect, LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AlterEnum, Operation, SetVariable
from dbsec.migrations.statement import Statement


class Session(Struct):
    """``settings``: what SET has in force. ``held``: locks of the open transaction. ``major``: the server's.

    ``block`` is the open transaction's number (``Statement.block``); ``held``, ``local`` and ``added_values`` end with
    it. ``added_values``: enum labels added in it.
    ``zones``: all that timezone has been set to.
    """

    major: int
    settings: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)
    block: int = 0
    held: dict[Name, LockMode] = field(default_factory=dict)
    added_values: dict[Name, set[str]] = field(default_factory=dict)
    zones: set[str] = field(default_factory=set)

    def setting(self, name: str) -> str | None:
        """Tell what a variable is set to; None where the session never set it."""
        return self.local.get(name, self.settings.get(name))

    @property
    def zone(self) -> str | None:
        """Tell the zone of all literals without an offset: "UTC", "" where the server's own holds, else None."""
        zones = {zone.lower() for zone in (*self.zones, self.setting("timezone") or "")}
        return "" if zones == {""} else "UTC" if zones <= coercion.UTC else None

    def enter(self, block: int) -> None:
        """Go to the transaction of the next statement; 0 is one of its own."""
        if block != self.block or not block:
            self.block = block
            self.held.clear()
            self.local.clear()
            self.added_values.clear()

    def advance(self, statement: Statement, operation: Operation, effect: Effect) -> None:
        """Keep what an operation sets, adds and locks for those after it."""
        if isinstance(operation, SetVariable):
            self._set(operation, in_transaction=statement.in_transaction)
        elif isinstance(operation, AlterEnum) and operation.old is None:
            self.added_values.setdefault(operation.type, set()).add(operation.value)
        if statement.in_transaction:
            for table, mode in effect.locks:
                self.held[table] = max(mode, self.held.get(table, mode))

    def _set(self, variable: SetVariable, *, in_transaction: bool) -> None:
        if variable.local and not in_transaction:
            return
        scope = self.local if variable.local else self.settings
        if variable.value is not None:
            scope[variable.name] = variable.value
        elif variable.name == "all":
            scope.clear()
        else:
            scope.pop(variable.name, None)
        if variable.name == "timezone":
            self.zones.add(variable.value or "")
