"""A column that every row will have: from a default, or computed from others for writers that do not know it."""

from __future__ import annotations

import json

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import expressions, mapped, settled, steps
from dbsec.migrations.expand_contract.ask import Ask, Side
from dbsec.migrations.expand_contract.mapping import Field, check_functions
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Act, Change, comment, written
from dbsec.migrations.expand_contract.templates import filled
from dbsec.migrations.rules._words import ident

_FOLLOWS = """
The running release does not know it: it may be NULL, and a trigger computes it for every writer that gives none. While
nobody sets it to something else, it follows the columns that it is computed from.
"""
_DEFAULT = "The running release does not know it: it may be NULL, and rows to come get the default."


def plan(place: Place, ask: Ask) -> Change:
    """``--new "NAME TYPE [= SQL over other columns]" [--default SQL]``: one of both at least."""
    ask.only(old=0, new=1, but=("default",))
    new = ask.new[0]
    place.new(new)
    _check(place, new, ask.default)
    trigger = steps.trigger_name(place, new.name) if new.value else ""
    proof = steps.proof_of(place, new.name)
    slug = f"{place.table.name.name}_{new.name}"
    drop = steps.drop_trigger(place, trigger) if trigger else []
    column = f"{place.name}.{ident(new.name)}"
    why = _FOLLOWS.strip() if trigger else _DEFAULT
    ends = " The trigger goes: from here on every release writes it." if trigger else ""
    name = ident(new.name)
    told = {"set": f"{name} = {new.value or ask.default}", "where": f"{name} IS NULL"}
    told |= {"scope": "true", "check": f"{name} IS NOT NULL"}
    lines = [f"{key} = {json.dumps(text)}" for key, text in told.items()]
    undone = f"The way back of the backfill of {slug}: nothing is to be done; that of expand drops the column."
    return Change(
        slug,
        written(_expand(place, ask, trigger), f"{column} comes.\n\n{why}\n\n{mapped.EACH}", phase="expand"),
        written([*drop, steps.drop_columns(place, (new.name,))], f"The way back of expand of {slug}."),
        mapped.backfill_text(place, f"Fills {column} in the rows that have none.", lines),
        comment(undone) + "\n",
        written(
            [*steps.require(place, new.name, proof), *drop],
            f"{column} becomes NOT NULL. Run it when the backfill is verified.{ends}",
            phase="contract",
        ),
        written(_contract_down(place, ask, trigger, proof), "The way back of contract from any of its steps."),
    )


def _check(place: Place, new: Side, default: str) -> None:
    if not new.type:
        raise UsageError(f"'--new {new.name}' has no type", hint=f"--new '{new.name} text'")
    if not new.value and not default:
        raise UsageError(
            f"'{new.name}' has no value for the rows that are there",
            hint=f"--default \"'new'\", or --new '{new.name} {new.type} = lower(email)'",
        )
    if new.value:
        settled.check_reads(new.value, tuple(place.table.columns), new.name)
    if default and expressions.columns_of(default):
        raise UsageError(f"the default '{default}' reads a column", hint=f"--new '{new.name} {new.type} = {default}'")
    check_functions(place, (new.value, default))


def _expand(place: Place, ask: Ask, trigger: str) -> list[Act]:
    new = ask.new[0]
    acts = [steps.add_column(place, new.name, new.type)]
    if ask.default:
        acts.append(steps.set_default(place, new.name, ask.default))
    if trigger:
        acts += _keeping(place, new, trigger)
    return acts


def _keeping(place: Place, new: Side, trigger: str) -> list[Act]:
    field = Field(new.name, new.type, new.value)
    mine, before = f"NEW.{field.sql}", f"OLD.{field.sql}"
    inputs = [ident(name) for name in expressions.columns_of(new.value)]
    function = filled(
        "derive",
        function=place.beside(trigger),
        new=mine,
        unchanged=field.equals(mine, before),
        inputs_changed=f"({' OR '.join(f'NEW.{name} IS DISTINCT FROM OLD.{name}' for name in inputs)})",
        was_derived=field.equals(before, expressions.of_row(new.value, "OLD")),
        value=expressions.of_row(new.value, "NEW"),
    )
    return [Act(function), steps.create_trigger(place, trigger)]


def _contract_down(place: Place, ask: Ask, trigger: str, proof: str) -> list[Act]:
    new = ask.new[0]
    again = _keeping(place, new, trigger) if trigger else []
    return [*again, *steps.unrequire(place, new.name, proof)]
