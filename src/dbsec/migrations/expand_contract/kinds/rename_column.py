"""The same values under another name: RENAME COLUMN would break the running release in the same second."""

from __future__ import annotations

from dbsec.migrations.expand_contract import mapped, settled
from dbsec.migrations.expand_contract.ask import Ask
from dbsec.migrations.expand_contract.copies import Carried, copies
from dbsec.migrations.expand_contract.mapping import Field, Mapping
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Change
from dbsec.migrations.rules._words import ident


def plan(place: Place, ask: Ask) -> Change:
    """``--old NAME --new NAME``."""
    ask.only(old=1, new=1)
    old, new = settled.alone(ask.old[0]), settled.alone(ask.new[0])
    column = place.old(old)
    place.new(new)
    kind = settled.type_of(column)
    early, late = settled.defaults(place, old.name, ident(old.name))
    fields = Mapping(
        (Field(old.name, kind, ident(new.name), column.not_null, total=True),),
        (Field(new.name, kind, ident(old.name), column.not_null, early, total=True),),
        alike=True,
    )
    made = copies(place, Carried({old.name: new.name}))
    about = f"{place.name}.{ident(old.name)} gets the name {ident(new.name)}."
    return mapped.change(mapped.Plan(place, fields, made, about, settled.late(fields.new[0], late)))
