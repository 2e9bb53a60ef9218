"""Which envelope an engine works with: kept by its dialect, which types are given where they convert values."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect

from dbsec.crypto.binding import Field
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import ModeRefused
from dbsec.crypto.orm.errors import UnboundParameter
from dbsec.crypto.orm.plan import TablePlan


@dataclass(frozen=True)
class Attached:
    """The envelope of one engine, and which column each field was seen in."""

    envelope: Envelope
    seen: dict[tuple[Field, int], str] = field(default_factory=dict)

    def check(self, plan: TablePlan) -> None:
        """Refuse a field that stands for columns of two tables: they would take each other's values."""
        for target in plan.targets.values():
            place = f"{target.declared.table}.{target.declared.column}"
            key = (target.declared.field, target.declared.generation)
            other = self.seen.setdefault(key, place)
            if other != place:
                raise ModeRefused(
                    f"'{target.declared.field}' is the field of '{other}' and of '{place}'",
                    hint="a Field of its own for each column",
                )


ENGINES: WeakKeyDictionary[Dialect, Attached] = WeakKeyDictionary()


def attached(dialect: Dialect) -> Attached:
    """Return what an engine was given. Errors: ``Unbound`` for one that was given nothing."""
    found = ENGINES.get(dialect)
    if found is None:
        raise UnboundParameter("this engine has no envelope", hint="dbsec.crypto.orm.attach(engine, envelope)")
    return found
