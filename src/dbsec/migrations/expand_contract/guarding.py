"""The acts of encrypt-column: a trigger that lets no stale ciphertext stand and no plaintext reach the server log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dbsec.migrations.expand_contract import expressions, printing, steps
from dbsec.migrations.expand_contract.copies import Copies
from dbsec.migrations.expand_contract.mapping import check_functions
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.expand_contract.script import Act
from dbsec.migrations.expand_contract.templates import filled
from dbsec.migrations.operations import Column, ConstraintKind
from dbsec.migrations.rules._words import ident


@dataclass(frozen=True, slots=True)
class Cipher:
    """``plain``: the column that goes. ``name``, ``type``: of the ciphertext. ``lookup``: its blind index, or ""."""

    place: Place
    plain: Column
    name: str
    type: str
    lookup: str
    copies: Copies

    @property
    def made(self) -> tuple[str, ...]:
        """The columns that come."""
        return (self.name, self.lookup) if self.lookup else (self.name,)

    @property
    def some(self) -> str:
        """What holds for a row of both releases."""
        if not self.plain.not_null:
            return ""
        return f"{ident(self.plain.name)} IS NOT NULL OR {ident(self.name)} IS NOT NULL"

    def whole(self, name: str) -> str:
        """What holds of a new column in a row of the next release alone."""
        filled_ = f"{ident(name)} IS NOT NULL"
        return filled_ if self.plain.not_null else f"{ident(self.plain.name)} IS NULL OR {filled_}"


def expand(cipher: Cipher, trigger: str, some: str) -> list[Act]:
    """Add the columns, the trigger, and the copies of what serves look-ups."""
    place = cipher.place
    acts = [steps.add_column(place, cipher.name, cipher.type)]
    if cipher.lookup:
        acts.append(steps.add_column(place, cipher.lookup, "bytea"))
    acts += [Act(_function(cipher, trigger, {some: cipher.some})), steps.create_trigger(place, trigger)]
    if cipher.some:
        acts += steps.add_check(place, some, cipher.some, "the net below the trigger; ACCESS EXCLUSIVE for a moment")
        drop = f"ALTER TABLE {place.name} ALTER COLUMN {ident(cipher.plain.name)} DROP NOT NULL;"
        acts.append(Act(drop, "the next release will stop writing it"))
    return [*acts, *cipher.copies.early]


def expand_down(cipher: Cipher, trigger: str, some: str) -> list[Act]:
    """Drop the new columns, after a proof that no value stands there alone."""
    place, plain = cipher.place, cipher.plain.name
    proof = place.fresh(f"{place.table.name.name}_{plain}_present")
    alone = f"{ident(plain)} IS NOT NULL" + ("" if cipher.some else f" OR {ident(cipher.name)} IS NULL")
    acts = [*steps.add_check(place, proof, alone), steps.validate(place, proof)]
    if cipher.some:
        why = "the valid constraint is proof: no row is read"
        acts.append(Act(f"ALTER TABLE {place.name} ALTER COLUMN {ident(plain)} SET NOT NULL;", why))
    return [
        *acts,
        *steps.drop_trigger(place, trigger),
        Act(f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {ident(some)};"),
        steps.drop_columns(place, cipher.made),
        Act(f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {ident(proof)};"),
    ]


def contract(cipher: Cipher, trigger: str, some: str, proofs: Mapping[str, str]) -> list[Act]:
    """Prove that every row is encrypted, and drop the plaintext."""
    place, plain = cipher.place, ident(cipher.plain.name)
    strict = {proof: cipher.whole(name) for name, proof in proofs.items()}
    function = _function(cipher, trigger, {some: cipher.some, **strict})
    acts = [Act(function, "from here on no row comes without ciphertext; refused without a value in the log")]
    for name, proof in proofs.items():
        if cipher.some:
            acts += steps.require(place, name, proof)
        else:
            acts += [*steps.add_check(place, proof, cipher.whole(name)), steps.validate(place, proof)]
    block = [
        f"DROP TRIGGER IF EXISTS {ident(trigger)} ON {place.name};",
        f"ALTER TABLE {place.name} DROP COLUMN IF EXISTS {plain};",
        *cipher.copies.swap,
    ]
    why = f"ACCESS EXCLUSIVE for a moment; whatever stood on {plain} goes with it"
    gone = Act(f"DROP FUNCTION IF EXISTS {place.beside(trigger)}();")
    return [*acts, *cipher.copies.late, steps.together(block, why), gone]


def contract_down(cipher: Cipher, trigger: str, some: str, proofs: Mapping[str, str]) -> list[Act]:
    """Take the proofs back, and let rows without ciphertext come again."""
    place = cipher.place
    acts = [steps.still(place, (cipher.plain.name,))]
    for name, proof in proofs.items():
        if cipher.some:
            acts += steps.unrequire(place, name, proof)
        else:
            acts.append(Act(f"ALTER TABLE {place.name} DROP CONSTRAINT IF EXISTS {ident(proof)};"))
    return [*acts, Act(_function(cipher, trigger, {some: cipher.some}))]


def _function(cipher: Cipher, trigger: str, own: Mapping[str, str]) -> str:
    plain, made = ident(cipher.plain.name), [ident(name) for name in cipher.made]
    changed = f"NEW.{plain} IS DISTINCT FROM OLD.{plain}"
    if cipher.plain.not_null:
        changed += f" AND NEW.{plain} IS NOT NULL"
    rules = {name: text for name, text in own.items() if text} | dict(_checks(cipher))
    check_functions(cipher.place, rules.values())
    refusals = [*_refused_nulls(cipher), *(_refused(cipher.place, name, text) for name, text in rules.items())]
    return filled(
        "encrypt",
        function=cipher.place.beside(trigger),
        plain_changed=changed,
        cipher_kept=f"NEW.{made[0]} IS NOT DISTINCT FROM OLD.{made[0]}",
        forget="\n".join(f"    NEW.{name} := NULL;" for name in made),
        refusals="\n".join(refusals) or "  NULL;",
    )


def _checks(cipher: Cipher) -> Iterator[tuple[str, str]]:
    """Yield the table's own checks; a generated column has no value before the trigger has ended."""
    generated = {column.name for column in cipher.place.table.columns.values() if column.generated}
    for constraint in cipher.place.definitions.constraints:
        if printing.kind_of(constraint) is ConstraintKind.CHECK:
            text = printing.expression(constraint.raw_expr)
            if not generated & set(expressions.columns_of(text)):
                yield constraint.conname, text


def _refused_nulls(cipher: Cipher) -> Iterable[str]:
    table = cipher.place.table
    for column in table.columns.values():
        if column.not_null and not (column.generated or column.identity) and column.name != cipher.plain.name:
            text = f'null value in column "{column.name}" of relation "{table.name.name}" violates not-null constraint'
            words = f"ERRCODE = 'not_null_violation', COLUMN = {_literal(column.name)}"
            yield _raised(cipher.place, f"NEW.{ident(column.name)} IS NULL", text, words)


def _refused(place: Place, name: str, condition: str) -> str:
    text = f'new row for relation "{place.table.name.name}" violates check constraint "{name}"'
    words = f"ERRCODE = 'check_violation', CONSTRAINT = {_literal(name)}"
    return _raised(place, f"({expressions.of_row(condition, 'NEW')}) IS FALSE", text, words)


def _raised(place: Place, condition: str, text: str, words: str) -> str:
    table = place.table.name
    return (
        f"  IF {condition} THEN\n    RAISE EXCEPTION USING MESSAGE = {_literal(text)},\n"
        f"      {words}, SCHEMA = {_literal(table.schema or '')}, TABLE = {_literal(table.name)};\n  END IF;"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
