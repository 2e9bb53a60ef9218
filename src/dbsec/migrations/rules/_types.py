"""What a change of a column's type does to its values and to those who read them."""

from __future__ import annotations

from dbsec.migrations import tree
from dbsec.migrations.effects.coercion import domains
from dbsec.migrations.operations import AlterColumnType, Type
from dbsec.migrations.rule import Step
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.statement import Node

_FAMILIES = {
    "text": ("text", "varchar", "bpchar", "name", "citext"),
    "integer": ("int2", "int4", "int8", "smallserial", "serial", "bigserial", "oid"),
    "float": ("float4", "float8"),
    "network": ("inet", "cidr"),
    "bits": ("bit", "varbit"),
}
_FAMILY = {name: family for family, names in _FAMILIES.items() for name in names}
_INTEGERS = frozenset(_FAMILIES["integer"])
_EXACT_TO_FLOAT = {
    ("int8", "float8"),
    ("int8", "float4"),
    ("int4", "float4"),
    ("numeric", "float8"),
    ("numeric", "float4"),
}
_CUTS_THE_TIME = {("timestamp", "date"), ("timestamptz", "date")}
_CUTS_THE_DAY = {("timestamp", "time"), ("timestamptz", "time"), ("timestamptz", "timetz")}
_CUTTING = frozenset(
    ("left", "right", "substr", "substring", "round", "trunc", "floor", "ceil", "ceiling", "date_trunc", "split_part")
)
_MICROSECONDS = 6


def free_type(schema: Schema, of: Type) -> Type:
    """Take a type that a column can have without a rewrite: below a domain with constraints, the type it rests on."""
    found = domains(of, schema)
    return found[-1].base if any(domain.constraints for domain in found) else of


def family(step: Step, of: Type) -> tuple[str, int]:
    """Class a type by what clients make of it: integers of any width are one, text of any length is; domains open."""
    domain = step.schema.domain(of)
    if domain is not None:
        return family(step, domain.base)
    name = _FAMILY.get(of.name, of.name) if of.schema is None else f"{of.schema}.{of.name}"
    return name, of.array


def loss(before: Type, change: AlterColumnType) -> str:
    """Say what the values lose ("digits behind the point are rounded away"), "" where nothing is lost in silence.

    A value that does not fit at all (bigint to int, text to varchar(n) without USING) is refused, not lost.
    """
    after, using = change.type, change.using
    if before.array or after.array:
        return ""
    return _by_using(using) or _by_types(before, after) or _by_length(before, after, using)


def _by_using(using: Node | None) -> str:
    if using is None:
        return ""
    functions = tree.functions_in(using)
    if not functions and not tree.columns_in(using):
        return "every value is replaced by one constant"
    cuts = next((name.name for name in functions if name.name in _CUTTING), "")
    return f"{cuts}() in USING drops a part of each value" if cuts else ""


def _by_types(before: Type, after: Type) -> str:
    pair = (before.name, after.name)
    if pair in _CUTS_THE_TIME:
        return "the time of day is cut off"
    if pair in _CUTS_THE_DAY:
        return "the day is cut off"
    if pair == ("timetz", "time"):
        return "the time zone is cut off"
    if before.name in ("numeric", "float4", "float8") and after.name in _INTEGERS:
        return "digits behind the point are rounded away"
    if pair == ("float8", "float4") or pair in _EXACT_TO_FLOAT:
        return "digits beyond the precision of the new type are rounded away"
    if before.name in _INTEGERS and after.name == "bool":
        return "every number but 0 becomes true"
    if after.name == "numeric" and before.name in ("numeric", "float4", "float8"):
        return _by_scale(before, after)
    return _by_seconds(before, after)


def _by_scale(before: Type, after: Type) -> str:
    if not after.modifiers:
        return ""
    scale = after.modifiers[1] if len(after.modifiers) > 1 else 0
    stood = before.modifiers[1] if len(before.modifiers) > 1 else 0
    unlimited = before.name != "numeric" or not before.modifiers
    return f"values are rounded to {scale} decimal places" if unlimited or scale < stood else ""


def _by_seconds(before: Type, after: Type) -> str:
    timed = ("timestamp", "timestamptz", "time", "timetz")
    if before.name not in timed or after.name not in timed or not after.modifiers:
        return ""
    stood = before.modifiers[0] if before.modifiers else _MICROSECONDS
    return "fractions of seconds are rounded away" if after.modifiers[0] < stood else ""


def _by_length(before: Type, after: Type, using: Node | None) -> str:
    """An explicit cast cuts text without a word; the cast that ALTER makes itself refuses with 22001."""
    if using is None or after.name not in ("varchar", "bpchar") or _FAMILY.get(before.name) != "text":
        return "text beyond 63 bytes is cut off" if after.name == "name" and before.name != "name" else ""
    length = after.modifiers[0] if after.modifiers else 0
    stood = before.modifiers[0] if before.modifiers else 0
    return f"text beyond {length} characters is cut off" if length and (not stood or length < stood) else ""
