"""The same values in another type: ALTER TYPE would write the table anew under ACCESS EXCLUSIVE."""

from __future__ import annotations

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import mapped, settled
from dbsec.migrations.expand_contract.ask import Ask
from dbsec.migrations.expand_contract.copies import Carried, copies
from dbsec.migrations.expand_contract.mapping import Field, Mapping
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Change
from dbsec.migrations.rules._words import ident


def plan(place: Place, ask: Ask) -> Change:
    """``--old "NAME [= SQL back]" --new "NAME TYPE [= SQL forth]"``; without SQL a value is cast."""
    ask.only(old=1, new=1)
    old, new = ask.old[0], ask.new[0]
    column = place.old(old)
    place.new(new)
    if not new.type:
        raise UsageError(f"'--new {new.name}' has no type", hint=f"--new '{new.name} bigint'")
    kind = settled.type_of(column)
    forth = new.value or f"{ident(old.name)}::{settled.bare(new.type)}"
    back = old.value or f"{ident(new.name)}::{kind}"
    settled.check_reads(forth, (old.name,), new.name)
    settled.check_reads(back, (new.name,), old.name)
    early, late = settled.defaults(place, old.name, forth)
    fields = Mapping(
        (Field(old.name, kind, back, column.not_null),),
        (Field(new.name, new.type, forth, column.not_null, early),),
    )
    made = copies(
        place, Carried({old.name: new.name}, values=settled.same_family(place, column, new.type), same_type=False)
    )
    about = f"{place.name}.{ident(old.name)} ({kind}) becomes {ident(new.name)} ({new.type})."
    return mapped.change(mapped.Plan(place, fields, made, about, settled.late(fields.new[0], late)))
