"""What the kinds ask of their columns: types, defaults, and that each side is computed from the other."""

from __future__ import annotations

from dbsec.errors import UsageError
from dbsec.migrations.effects.volatility import Volatility, volatility
from dbsec.migrations.expand_contract import expressions
from dbsec.migrations.expand_contract.ask import Ask, Side
from dbsec.migrations.expand_contract.copies import Copies, lost
from dbsec.migrations.expand_contract.mapped import Plan
from dbsec.migrations.expand_contract.mapping import Field, Mapping
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.operations import Column
from dbsec.migrations.reading import grammar
from dbsec.migrations.rules._words import columns, ident
from dbsec.migrations.schema import spelled

_FAMILY = {
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), "text"),
    **dict.fromkeys(("int2", "int4", "int8", "numeric", "float4", "float8"), "number"),
    **dict.fromkeys(("timestamp", "timestamptz", "date"), "time"),
}


def alone(side: Side) -> Side:
    """Check that a side is a name and nothing else. Errors: ``UsageError``."""
    if side.type or side.value:
        raise UsageError(f"'{side.name}': a name alone stands here, no type and no '='", hint="change-type takes both")
    return side


def type_of(column: Column) -> str:
    """Write a column's type as SQL, with its collation."""
    return str(column.type) + (f" COLLATE {ident(column.collation)}" if column.collation else "")


def bare(kind: str) -> str:
    """Take the collation off a type: a cast has none."""
    return kind if " collate " not in kind.lower() else kind[: kind.lower().index(" collate ")]


def same_family(place: Place, old: Column, new: str) -> bool:
    """Tell whether both types have the same operators and functions, so that checks and expressions hold for both."""
    kinds = [old.type, *spelled.types([bare(new)]).values()]
    for number, kind in enumerate(kinds):
        while (domain := place.schema.domain(kind)) is not None:
            kind = domain.base
        kinds[number] = kind
    one, other = (_FAMILY.get(kind.name, str(kind)) for kind in kinds)
    return one == other and kinds[0].array == kinds[1].array


def defaults(place: Place, old: str, forth: str) -> tuple[str, str]:
    """Return the default of a new column, for expand and for contract; one of them at most is not empty.

    One that differs from row to row (nextval) waits: while the old column has it, the new one follows.
    Errors: ``UsageError`` for a column that owns a sequence, which would go with it.
    """
    if any(owner == (place.table.name, old) for owner in place.schema.owners.values()):
        raise UsageError(
            f"column '{place.name}.{ident(old)}' owns a sequence, which would be dropped with it",
            hint="ALTER SEQUENCE ... OWNED BY NONE",
        )
    if (default := place.definitions.defaults.get(old)) is None:
        return "", ""
    value = expressions.over(forth, {old: f"({default})"})
    node = grammar.expression_of(default)
    steady = node is not None and volatility(node, place.schema, place.major)[0] is Volatility.SETTLED
    return (value, "") if steady else ("", value)


def late(field: Field, value: str) -> list[Field]:
    """Give a field the default that it gets with contract."""
    return [Field(field.name, field.type, field.value, default=value)] if value else []


def check_reads(value: str, allowed: tuple[str, ...], column: str) -> None:
    """Check that an expression reads the other side and nothing else. Errors: ``UsageError``."""
    read = expressions.columns_of(value)
    strange = [name for name in read if name not in allowed]
    if strange or not read:
        what = f"reads '{strange[0]}'" if strange else "reads no column"
        raise UsageError(
            f"'{column} = {value}' {what}: each side is computed from the other alone",
            hint=f"the columns of the other side are {columns(allowed)}",
        )


def computed(place: Place, ask: Ask, becomes: str) -> Plan:
    """Plan a change whose every column says its SQL."""
    olds, news = tuple(side.name for side in ask.old), tuple(side.name for side in ask.new)
    found = [place.old(side) for side in ask.old]
    for side in (*ask.old, *ask.new):
        if not side.value:
            raise UsageError(f"'{side.name}' does not say how it is computed", hint=f"'{side.name} = EXPRESSION'")
    for side in ask.new:
        place.new(side)
        if not side.type:
            raise UsageError(f"'--new {side.name}' has no type", hint=f"--new '{side.name} text = {side.value}'")
        check_reads(side.value, olds, side.name)
    for side in ask.old:
        check_reads(side.value, news, side.name)
        if place.definitions.defaults.get(side.name) is not None:
            raise UsageError(f"'{side.name}' has a default, which has no single successor", hint="DROP DEFAULT first")
    mapping = Mapping(
        tuple(
            Field(one.name, type_of(column), one.value, column.not_null)
            for one, column in zip(ask.old, found, strict=True)
        ),
        tuple(Field(one.name, one.type, one.value) for one in ask.new),
    )
    about = f"{place.name}: {columns(olds)} {becomes} {columns(news)}."
    return Plan(place, mapping, Copies(), about, notes=lost(place, olds))
