"""Several columns become one."""

from __future__ import annotations

from dbsec.migrations.expand_contract import mapped, settled
from dbsec.migrations.expand_contract.ask import Ask
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Change


def plan(place: Place, ask: Ask) -> Change:
    """``--old "NAME = SQL over the new one"`` twice or more, ``--new "NAME TYPE = SQL over the old ones"``."""
    ask.only(old=None, new=1)
    return mapped.change(settled.computed(place, ask, "become"))
