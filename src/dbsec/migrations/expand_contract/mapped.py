"""The three steps of a change whose values SQL computes in both directions: a trigger keeps both sides alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from dbsec.migrations.expand_contract import steps
from dbsec.migrations.expand_contract.copies import Copies
from dbsec.migrations.expand_contract.mapping import Field, Mapping, check_functions, words
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Act, Change, comment, written
from dbsec.migrations.expand_contract.templates import filled
from dbsec.migrations.rules._words import columns, ident

_BOTH = """
The release that runs writes {old}, the next one {new}; a trigger computes the other side, so that both see every write.

Where one statement writes both and they do not agree, {new} counts. A value that the other side cannot hold is refused
while it comes from the next release; from the one that runs now it leaves {new} empty.

The next release may read {new} once the backfill has ended: a row that is not filled yet shows NULL there, and to write
NULL over that NULL is no change. COPY without a list of columns, and SELECT *, see {new} at once.

The trigger issues no statement, hence cannot loop; it is the last of the table's BEFORE triggers and sees what they
made of the row. It does not fire under session_replication_role = replica.
"""
EACH = "Each statement is a transaction of its own; running the file again changes nothing."
_GONE = """
Until the transaction at its end this file is undone by its .down.sql. After it the old values are gone, and the way is
forward: dbsec migrate new expand-contract with both sides exchanged.
"""


@dataclass(slots=True)
class Plan:
    """What a kind knows: its mapping, what hangs on the old columns, in which words it speaks of itself."""

    place: Place
    mapping: Mapping
    copies: Copies
    about: str
    late_defaults: list[Field] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def change(plan: Plan) -> Change:
    """Write the files of a plan. Errors: ``UsageError`` where the table does not allow it."""
    place, mapping = plan.place, plan.mapping
    check_functions(place, [one.value for one in (*mapping.old, *mapping.new)])
    slug = "_".join((place.table.name.name, *(one.name for one in mapping.new)))
    trigger = steps.trigger_name(place, "_".join(one.name for one in mapping.new))
    proof = place.fresh(f"{place.table.name.name}_{mapping.new[0].name}_agrees")
    required = {one.name: steps.proof_of(place, one.name) for one in mapping.new if one.not_null}
    notes = [*plan.notes, *plan.copies.notes]
    return Change(
        slug,
        _expand(plan, trigger, notes),
        _expand_down(plan, trigger, slug),
        _backfill(plan),
        comment(f"The way back of the backfill of {slug}: nothing is to be done; that of expand drops the columns.")
        + "\n",
        _contract(plan, trigger, proof, required),
        _contract_down(plan, proof, required),
        tuple(notes),
    )


def backfill_text(place: Place, about: str, lines: list[str]) -> str:
    """Write a backfill's TOML: table, key, then the lines."""
    key = place.key
    keys = json.dumps(ident(key[0])) if len(key) == 1 else json.dumps([ident(name) for name in key])
    head = ["# dbsec: phase backfill", "#", comment(about, "#"), ""]
    job = ["format = 1", f"table = {json.dumps(place.name)}", f"key = {keys}", *lines, "batch_rows = 1000"]
    return "".join(f"{line}\n" for line in [*head, *job])


def _sides(mapping: Mapping) -> tuple[str, str]:
    return columns(tuple(one.name for one in mapping.old)), columns(tuple(one.name for one in mapping.new))


def _expand(plan: Plan, trigger: str, notes: list[str]) -> str:
    place, mapping = plan.place, plan.mapping
    old, new = _sides(mapping)
    acts = [steps.add_column(place, one.name, one.type) for one in mapping.new]
    acts += [steps.set_default(place, one.name, one.default) for one in mapping.new if one.default]
    acts += [
        Act(filled("dual_write", function=place.beside(trigger), **words(place, mapping))),
        steps.create_trigger(place, trigger),
        *plan.copies.early,
    ]
    head = "\n\n".join([plan.about, _BOTH.format(old=old, new=new).strip(), EACH, *notes])
    return written(acts, head, phase="expand")


def _expand_down(plan: Plan, trigger: str, slug: str) -> str:
    place, (old, new) = plan.place, _sides(plan.mapping)
    acts = [*steps.drop_trigger(place, trigger), steps.drop_columns(place, tuple(one.name for one in plan.mapping.new))]
    return written(acts, f"The way back of expand of {slug}, once no release uses {new}: {old} has every value.")


def _backfill(plan: Plan) -> str:
    about = (
        f"Fills {_sides(plan.mapping)[1]} of {plan.place.name} where the trigger of expand has not, by the same SQL."
    )
    mapping = plan.mapping
    told = {"set": mapping.assignment(), "where": mapping.disagrees(), "scope": "true", "check": mapping.agrees()}
    lines = [f"{name} = {json.dumps(text)}" for name, text in told.items()]
    return backfill_text(plan.place, about, lines)


def _contract(plan: Plan, trigger: str, proof: str, required: dict[str, str]) -> str:
    place, mapping = plan.place, plan.mapping
    old, new = _sides(mapping)
    why = "ACCESS EXCLUSIVE for a moment. The trigger holds it for every row that is written; the rows are proven next"
    acts = steps.add_check(place, proof, mapping.agrees(), why)
    acts.append(steps.validate(place, proof))
    for name, of in required.items():
        acts += steps.require(place, name, of)
    acts += plan.copies.late
    block = [f"DROP TRIGGER IF EXISTS {ident(trigger)} ON {place.name};"]
    drops = ", ".join(f"DROP COLUMN IF EXISTS {ident(one.name)}" for one in mapping.old)
    block += [f"ALTER TABLE {place.name} {drops};", *plan.copies.swap]
    block += [steps.set_default(place, one.name, one.default).sql for one in plan.late_defaults]
    together = "ACCESS EXCLUSIVE for a moment, in one transaction: no row is written between trigger and column"
    acts += [
        steps.together(block, f"{together}. The proof, and what stood on {old}, go with the column"),
        Act(f"DROP FUNCTION IF EXISTS {place.beside(trigger)}();"),
    ]
    head = f"{place.name} loses {old}: {new} took its place. Run it when the backfill is verified and no client of the "
    return written(acts, f"{head}old release is left.\n\n{_GONE.strip()}", phase="contract")


def _contract_down(plan: Plan, proof: str, required: dict[str, str]) -> str:
    acts = [steps.still(plan.place, tuple(one.name for one in plan.mapping.old))]
    acts.append(Act(f"ALTER TABLE {plan.place.name} DROP CONSTRAINT IF EXISTS {ident(proof)};"))
    for name, of in required.items():
        acts += steps.unrequire(plan.place, name, of)
    head = "The way back of contract from any step before the columns were dropped; after it the first statement fails."
    return written(acts, head)
