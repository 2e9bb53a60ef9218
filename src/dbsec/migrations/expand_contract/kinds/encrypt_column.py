"""Plaintext becomes ciphertext that the application makes: SQL never has the key, so a trigger only guards."""

from __future__ import annotations

import json

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import guarding, mapped, settled, steps
from dbsec.migrations.expand_contract.ask import Ask
from dbsec.migrations.expand_contract.copies import Carried, Copies, copies, lost
from dbsec.migrations.expand_contract.guarding import Cipher
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Change, comment, written
from dbsec.migrations.operations import ConstraintKind
from dbsec.migrations.rules._words import ident

_EXPAND = """
{table}.{plain} gets an encrypted place: {cipher}. The running release goes on with {plain}; the next one writes both
while the two run side by side (dbsec.migrations.dual_write), and {cipher} alone once the old one is gone. So {plain}
may be NULL from here on, where {cipher} is not.

Where a release that does not encrypt changes {plain}, a trigger empties {cipher}: old ciphertext must not be read for
it, and the backfill fills it again.

A CHECK or NOT NULL that fails writes the whole row to the server log, the plaintext with it: the trigger refuses first,
in the same words, without a value. What it cannot refuse first is a duplicate in a unique index: PostgreSQL logs its
key. log_error_verbosity = terse leaves out both.
"""
_CONTRACT = """
{table} loses {plain}. Run it when the backfill is verified and every release reads {cipher} alone.

The plaintext is then gone from every query, and not from the disk. It still stands in the table's file and in that of
pg_statistic, in old WAL, in standbys and backups. After this file: dbsec migrate rewrite {table}; then expire WAL and
backups of before; then prove it: dbsec migrate residue.
"""


def plan(place: Place, ask: Ask) -> Change:
    """``--old NAME --new "NAME [bytea]" --python MODULE:FUNCTION [--lookup NAME] [--check MODULE:FUNCTION]``.

    A look-up column of the same name as the new one says that the ciphertext is deterministic: equality stays with it.
    """
    ask.only(old=1, new=1, but=("python", "lookup", "check"))
    old, new = settled.alone(ask.old[0]), ask.new[0]
    column = place.old(old)
    place.new(new)
    if new.value:
        raise UsageError("SQL does not encrypt: the key would be in the log", hint="--python app.crypto:encrypt_phones")
    if not ask.python:
        raise UsageError("the backfill has no function that encrypts", hint="--python app.crypto:encrypt_phones")
    if ask.lookup == new.name and not column.not_null:
        # a release that writes NULL beside the same ciphertext looks to the trigger like one that erased the value
        hint = f"ALTER COLUMN {ident(old.name)} SET NOT NULL first; or a blind index: --lookup {old.name}_bidx"
        raise UsageError(f"'{old.name}' may be NULL: a deterministic ciphertext of it could be lost", hint=hint)
    made = _copies(place, ask, old.name)
    lookup = "" if ask.lookup == new.name else ask.lookup
    cipher = Cipher(place, column, new.name, new.type or "bytea", lookup, made)
    slug = f"{place.table.name.name}_{new.name}"
    names = {"table": place.name, "plain": ident(old.name), "cipher": ident(new.name)}
    trigger = steps.trigger_name(place, new.name)
    some = place.fresh(f"{slug}_or_{old.name}")
    head = "\n\n".join([_EXPAND.format(**names).strip(), mapped.EACH, *made.notes])
    undone = f"The way back of the backfill of {slug}: nothing is to be done; that of expand drops the columns."
    proofs = {name: steps.proof_of(place, name) for name in cipher.made}
    return Change(
        slug,
        written(guarding.expand(cipher, trigger, some), head, phase="expand"),
        written(guarding.expand_down(cipher, trigger, some), _BACK.format(**names).strip()),
        _backfill(place, ask, old.name),
        comment(undone) + "\n",
        written(guarding.contract(cipher, trigger, some, proofs), _CONTRACT.format(**names).strip(), phase="contract"),
        written(guarding.contract_down(cipher, trigger, some, proofs), _BEFORE),
        tuple(made.notes),
    )


_UNCHECKED = """
Where the same value is encrypted to another one each time, a verification needs a function here (--check) that decrypts
and compares: check = "module:function". Without it the values are made again and compared.
"""
_BACK = """
The way back of expand of {table}.{cipher}, once no release writes it. Rows that have {cipher} alone stop it before
anything is dropped: decrypt them first.
"""
_BEFORE = "The way back of contract from any step before the column was dropped; after it the plaintext is gone."


def _copies(place: Place, ask: Ask, old: str) -> Copies:
    """Carry equality over to the lookup column. Errors: ``UsageError`` where uniqueness would be lost."""
    if ask.lookup:
        if ask.lookup in place.table.columns:
            raise UsageError(f"'--lookup {ask.lookup}' is there already", hint="--lookup phone_bidx")
        return copies(place, Carried({old: ask.lookup}, values=False))
    for constraint in place.table.of_kind(ConstraintKind.UNIQUE):
        if old in constraint.columns:
            raise UsageError(
                f"'{constraint.name}' makes '{old}' unique, which ciphertext cannot be", hint=f"--lookup {old}_bidx"
            )
    made = Copies()
    made.notes += lost(place, (old,))
    return made


def _backfill(place: Place, ask: Ask, old: str) -> str:
    plain, cipher = ident(old), ident(ask.new[0].name)
    wanting = list(dict.fromkeys([cipher, *([ident(ask.lookup)] if ask.lookup else [])]))
    empty = " OR ".join(f"{name} IS NULL" for name in wanting)
    about = f"Encrypts {plain} of {place.name} into {', '.join(wanting)}, in a process that has the key."
    checked = ["# what a verification asks of each encrypted row", f"check = {json.dumps(ask.check)}"]
    lines = [
        f"python = {json.dumps(ask.python)}",
        f"columns = {json.dumps([plain])}",
        f"where = {json.dumps(f'{plain} IS NOT NULL AND ({empty})')}",
        f"scope = {json.dumps(f'{plain} IS NOT NULL')}",
        *(checked if ask.check else [comment(_UNCHECKED, "#")]),
    ]
    return mapped.backfill_text(place, about, lines)
