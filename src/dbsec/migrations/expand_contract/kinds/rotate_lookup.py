"""A blind index or a deterministic ciphertext under the next lookup key, in a column of its own: UNIQUE never rests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import guarding, mapped, printing, settled, steps
from dbsec.migrations.expand_contract.ask import Ask
from dbsec.migrations.expand_contract.copies import Carried, copies
from dbsec.migrations.expand_contract.guarding import Cipher
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Act, Bounds, Change, comment, written
from dbsec.migrations.operations import ConstraintKind
from dbsec.migrations.rules._words import columns, ident

_EXPAND = """
{table}.{old} gets a second generation: {new}, under the next lookup key, with the same indexes. Two generations in one
column would let a value in twice, for under two keys it is two values.

The release that runs goes on with {old}; the next one writes both and reads {old}; the one after it reads {new}, when
the backfill is verified; the last one knows {new} alone. No two of them run together but neighbours.

Where a release that does not know {new} changes {old}, a trigger empties {new}, and the backfill fills it again.
"""
_BEFORE = """
{table}.{old} is unique no longer: {new} is. Run it when every release writes both and reads {new}, before one comes
that knows {new} alone: where it changes a value, {old} keeps the one of before, which would refuse somebody else's.
"""
_BEFORE_BACK = (
    "The way back, as long as no release has run that knows {new} alone: {old} of its rows would be old values."
)
_CONTRACT = """
{table} loses {old}. Run it when every release reads and writes {new} alone. The old lookup key has then done its work
here: dbsec crypto keys.
"""
_BACK = """
The way back of expand of {table}.{new}, once every release writes {old} again. Rows that have {new} alone stop it
before anything is dropped: they cannot be found by {old}.
"""
_STILL = "The way back of contract from any step before {old} was dropped; after it the way is forward: rotate again."
_FREED = "ACCESS EXCLUSIVE for a moment"
_BUILD = "SHARE UPDATE EXCLUSIVE while it is built: all read and write"


def plan(place: Place, ask: Ask, reads: Sequence[str] = ()) -> Change:
    """``--old NAME --new "NAME [TYPE]" --python MODULE:FUNCTION [--check MODULE:FUNCTION]``.

    ``reads``: the columns that the function reads. Errors: ``UsageError`` where the table does not allow it.
    """
    ask.only(old=1, new=1, but=("python", "check"))
    old, new = settled.alone(ask.old[0]), ask.new[0]
    column = place.old(old)
    place.new(new)
    if new.value:
        raise UsageError("SQL has no lookup key", hint="--python app.encryption:next_phone_index")
    if not ask.python:
        raise UsageError("the backfill has no function that computes it", hint="--python app.encryption:next_phones")
    made = copies(place, Carried({old.name: new.name}, values=False))
    cipher = Cipher(place, column, new.name, new.type or settled.type_of(column), "", made)
    slug = f"{place.table.name.name}_{new.name}"
    names = {"table": place.name, "old": ident(old.name), "new": ident(new.name)}
    trigger = steps.trigger_name(place, new.name)
    some = place.fresh(f"{slug}_or_{old.name}")
    proofs = {name: steps.proof_of(place, name) for name in cipher.made}
    head = "\n\n".join([_EXPAND.format(**names).strip(), mapped.EACH, *made.notes])
    undone = f"The way back of the backfill of {slug}: nothing is to be done; that of expand drops the column."
    return Change(
        slug,
        written(guarding.expand(cipher, trigger, some), head, phase="expand"),
        written(guarding.expand_down(cipher, trigger, some), _BACK.format(**names).strip()),
        _backfill(place, ask, reads),
        comment(undone) + "\n",
        written(guarding.contract(cipher, trigger, some, proofs), _CONTRACT.format(**names).strip(), phase="contract"),
        written(guarding.contract_down(cipher, trigger, some, proofs), _STILL.format(**names)),
        tuple(made.notes),
        _before(place, old.name, names),
    )


def _before(place: Place, old: str, names: Mapping[str, str]) -> tuple[str, str] | None:
    """Write what ends the old column's uniqueness, and brings it back; None where it has none."""
    drops, builds = [], []
    for index in place.definitions.indexes:
        if index.unique and old in printing.columns_of(index):
            again = printing.renamed(index, {})
            again.concurrent = again.if_not_exists = True
            name = place.beside(index.idxname)
            drops.append(Act(f"DROP INDEX CONCURRENTLY IF EXISTS {name};", "", Bounds.CONCURRENT))
            builds.append(Act(f"{printing.printed(again)};", _BUILD, Bounds.CONCURRENT))
    for constraint in place.definitions.constraints:
        if printing.kind_of(constraint) is ConstraintKind.UNIQUE and old in printing.columns_of(constraint):
            name = ident(constraint.conname)
            drops.append(Act(f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {name};", _FREED))
            builds += _unique_again(place, constraint)
    if not drops:
        return None
    down = written(builds, _BEFORE_BACK.format(**names))
    return written(drops, _BEFORE.format(**names).strip(), phase="contract"), down


def _unique_again(place: Place, constraint: Any) -> list[Act]:
    name, clauses = ident(constraint.conname), ""
    if constraint.including:
        clauses += f" INCLUDE ({columns(tuple(one.sval for one in constraint.including))})"
    if constraint.nulls_not_distinct:
        clauses += " NULLS NOT DISTINCT"
    on = f"{place.name} ({columns(tuple(one.sval for one in constraint.keys))}){clauses}"
    deferred = " DEFERRABLE" * bool(constraint.deferrable) + " INITIALLY DEFERRED" * bool(constraint.initdeferred)
    add = f"ALTER TABLE {place.name} ADD CONSTRAINT {name} UNIQUE USING INDEX {name}{deferred};"
    build = f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {on};"
    return [Act(build, _BUILD, Bounds.CONCURRENT), Act(add, _FREED)]


def _backfill(place: Place, ask: Ask, reads: Sequence[str]) -> str:
    old, new = ident(ask.old[0].name), ident(ask.new[0].name)
    keys = place.key
    read = list(dict.fromkeys(ident(name) for name in (ask.old[0].name, *reads) if name not in keys))
    lines = [
        f"python = {json.dumps(ask.python)}",
        f"columns = {json.dumps(read)}",
        f"where = {json.dumps(f'{old} IS NOT NULL AND {new} IS NULL')}",
        f"scope = {json.dumps(f'{old} IS NOT NULL')}",
        *([f"check = {json.dumps(ask.check)}"] if ask.check else []),
    ]
    about = f"Fills {new} of {place.name} from what {old} stands for, in a process that has the keys."
    return mapped.backfill_text(place, about, lines)
