"""One column becomes several."""

from __future__ import annotations

from dbsec.migrations.expand_contract import mapped, settled
from dbsec.migrations.expand_contract.ask import Ask
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Change


def plan(place: Place, ask: Ask) -> Change:
    """``--old "NAME = SQL over the new ones" --new "NAME TYPE = SQL over the old one"``, --new twice or more."""
    ask.only(old=1, new=None)
    return mapped.change(settled.computed(place, ask, "is split into"))
