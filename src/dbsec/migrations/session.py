"""What the session of a migration has set when a statement runs, and what its open transaction already holds."""

from __future__ import annotations

from msgspec import Struct, field

from dbsec.migrations.effects import coercion
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name


class Session(Struct):
    """``settings``: what SET has in force. ``held``: locks of the open transaction. ``major``: the server's.

    ``block`` is the open transaction's number (``Statement.block``); the engine clears ``held``, ``local`` and
    ``added_values`` when it changes. ``added_values``: enum labels added in it.
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
