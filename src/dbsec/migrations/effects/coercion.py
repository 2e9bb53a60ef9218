"""Does a value of one type become one of another without being touched: the matrix behind ALTER COLUMN … TYPE.

Measured on 15, 17 and 18 for every pair of 70 types; source: ATColumnChangeRequiresRewrite and pg_cast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from msgspec import Struct
from msgspec.structs import replace

from dbsec.migrations.facts import builtins
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Type
from dbsec.migrations.schema.model import Domain, Schema

SERIALS = {"smallserial": "int2", "serial": "int4", "bigserial": "int8"}
STRINGS = frozenset({"text", "varchar", "bpchar", "name", "citext"})
_ZONED = {("timestamp", "timestamptz"), ("timestamptz", "timestamp")}
_CITEXT = {("text", "citext"), ("varchar", "citext"), ("citext", "text"), ("citext", "varchar"), ("citext", "bpchar")}
# The server's own types without a btree class, and citext.
_OTHERS = frozenset(
    {"varchar", "cidr", "json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "citext"}
    | {"regclass", "regtype", "regproc", "regprocedure", "regrole", "regnamespace"}
    | {"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"}
)
_NUMBERS = {"int2": 1, "int4": 1, "int8": 1, "numeric": 2, "float4": 3, "float8": 3}  # cast upwards without being asked
_JOINABLE = (
    {"int2", "int4", "int8", "oid", "regclass"},
    {*STRINGS, "char"},
    {"date", "timestamp", "timestamptz"},
    {"time", "timetz", "interval"},
    {"inet", "cidr"},
    {"bit", "varbit"},
)
_PREFERRED = ("text", "oid", "inet")  # of several binary casts the one to these picks the operator class
# Names of zones whose offset was always 0: a timestamp keeps its bytes when it gets one of them.
_ZERO = ("utc", "uct", "gmt", "zulu", "universal", "greenwich", "gmt0", "gmt+0", "gmt-0")
UTC = frozenset({*_ZERO, *(f"etc/{name}" for name in _ZERO), "utc0", "0", "+0", "-0", "00", "+00", "00:00", "+00:00"})
_MAX_PRECISION = 6
_INTERVAL_FIELDS = ((12, 0), (11, 1), (10, 2), (3, 3), (1, 4), (2, 5))  # bit of the mask, rank; second is the least


class Cast(Struct, frozen=True):
    """``unsure``: a type or a setting is not known, and a rewrite is assumed. ``why`` completes "because …"."""

    rewrites: bool
    why: str
    unsure: bool = False


def cast(old: Type, new: Type, schema: Schema, major: int, timezone: str | None) -> Cast:
    """Judge an assignment cast. ``timezone``: what the session has set, None where it is not known."""
    old, new = plain(old), plain(new)
    if old == new or (old.array == new.array and schema.domain(old) is schema.domain(new) is not None):
        return Cast(False, f"the type stays {new}")
    target, constrained = base(new, schema)
    if constrained:
        return Cast(True, f"each value is checked against the domain {new}")
    source, _ = base(old, schema)
    if schema.domain(old) is not None:
        source = replace(source, modifiers=())  # PostgreSQL does not look below the domain for a limit
    if (source.name, source.array > 0) == (target.name, target.array > 0):
        return _modifiers(source, target)
    if source.array or target.array:
        return Cast(True, f"{old} is converted to {new}")
    return _names(source, target, schema, major, timezone)


def _names(old: Type, new: Type, schema: Schema, major: int, timezone: str | None) -> Cast:
    pair = (old.name, new.name)
    if pair in _ZONED and new.modifiers in ((), (_MAX_PRECISION,)):
        if timezone is None:
            return Cast(True, f"{old} is converted to {new} unless the session's TimeZone is UTC", unsure=True)
        if timezone.strip().lower() in UTC:
            return Cast(False, f"the session's TimeZone is {timezone}")
        return Cast(True, f"{old} is converted to {new} in the session's TimeZone, {timezone}")
    if not new.modifiers and (pair in _binary(major) or pair in _CITEXT):
        return Cast(False, f"{old} and {new} have the same bytes")
    unsure = not all(known(one, schema, major) for one in (old, new))
    return Cast(True, f"{old} is converted to {new}", unsure=unsure)


def _modifiers(old: Type, new: Type) -> Cast:
    if old.modifiers == new.modifiers:
        return Cast(False, f"{new} is what it was")
    if not new.modifiers:
        return Cast(False, f"{new} has no limit that {old} could exceed")
    widens = _WIDENS.get(new.name)
    if not new.array and widens is not None and widens(old.modifiers, new.modifiers):
        return Cast(False, f"every value of {old} fits into {new}")
    return Cast(True, f"each value is cut, padded or rounded to {new}")


def _longer(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    return bool(old) and new[0] >= old[0]


def _numeric(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    return bool(old) and new[0] >= old[0] and (*new, 0)[1] == (*old, 0)[1]


def _finer(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    return new[0] >= _MAX_PRECISION or _longer(old, new)


def _interval(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    def least(modifiers: tuple[int, ...]) -> int:
        return next((rank for bit, rank in _INTERVAL_FIELDS if not modifiers or modifiers[0] >> bit & 1), 0)

    precision = new[1] if len(new) > 1 else _MAX_PRECISION
    before = old[1] if len(old) > 1 else _MAX_PRECISION
    return least(new) <= least(old) and (least(old) > 0 or precision >= before)


_WIDENS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "varchar": _longer,
    "varbit": _longer,
    "numeric": _numeric,
    "time": _finer,
    "timetz": _finer,
    "timestamp": _finer,
    "timestamptz": _finer,
    "interval": _interval,
}


def plain(of: Type) -> Type:
    """Take a serial for the integer that it makes."""
    return replace(of, name=SERIALS[of.name]) if of.schema is None and of.name in SERIALS else of


def base(of: Type, schema: Schema) -> tuple[Type, bool]:
    """Resolve domains: the type below them, and whether one of them has a constraint."""
    constrained = False
    of = plain(of)
    for domain in domains(of, schema):
        constrained = constrained or bool(domain.constraints)
        of = plain(domain.base)
    return of, constrained


def domains(of: Type, schema: Schema) -> list[Domain]:
    """Return the domains that a type consists of, the named one first; an array of a domain is none."""
    found: list[Domain] = []
    while not of.array and (domain := schema.domain(of)) is not None and domain not in found:
        found.append(domain)
        of = domain.base
    return found


def user_type(of: Type, schema: Schema) -> str | None:
    """Tell the kind of a type that somebody made (enum, composite, range, base); None for the server's own."""
    name = Name(of.schema, of.name)
    if name in schema.types or of.schema is not None:
        return schema.types.get(name)
    found = (schema.types.get(Name(path, of.name)) for path in schema.search_path)
    return next((kind for kind in found if kind is not None), None)


def known(of: Type, schema: Schema, major: int) -> bool:
    """Tell whether a type is the server's own or stands in the schema."""
    if user_type(of, schema) or schema.domain(of) is not None:
        return True
    return of.schema is None and (of.name in _families(major) or of.name in _OTHERS)


def index_class(of: Type, schema: Schema, major: int) -> str:
    """Name what decides whether an index stays good: the type whose default operator class is used.

    Where the operator class takes any array, the domain over an array counts as a type of its own.
    """
    below, _ = base(of, schema)
    if below.array:
        return str(replace(plain(of), modifiers=()))
    if below.schema is None and below.name not in _families(major):
        targets = {target for source, target in _binary(major) if source == below.name}
        return next((target for target in _PREFERRED if target in targets), below.name)
    return str(replace(below, modifiers=()))


def collatable(of: Type, schema: Schema) -> bool:
    """Tell whether a type has a collation."""
    return base(of, schema)[0].name in STRINGS


def castable(old: Type, new: Type, schema: Schema, major: int) -> bool:
    """Tell whether ALTER COLUMN … TYPE may do without USING; true where that is not known for sure."""
    source, target = base(old, schema)[0], base(new, schema)[0]
    if (source.name, source.array > 0) == (target.name, target.array > 0) or (
        target.name in STRINGS and not target.array
    ):
        return True
    if (source.array and target.array) or not all(known(one, schema, major) for one in (source, target)):
        return True
    kinds = {user_type(one, schema) for one in (source, target)}
    return bool(kinds & {"base", "range"}) or (source.name, target.name) in _assignments(major)


def joins(own: Type, referenced: Type, schema: Schema, major: int) -> bool:
    """Tell whether a foreign key can join two types; true where that is not known for sure."""
    pair = [base(side, schema)[0] for side in (own, referenced)]
    if not all(known(side, schema, major) for side in pair):
        return True
    if bool(pair[0].array) != bool(pair[1].array):
        return False
    first, second = pair[0].name, pair[1].name
    if first in _NUMBERS and second in _NUMBERS:
        return _NUMBERS[first] <= _NUMBERS[second]
    return first == second or any({first, second} <= group for group in _JOINABLE)


@cache
def _families(major: int) -> frozenset[str]:
    return frozenset(builtins.load(major)["index_families"]["btree"])


@cache
def _binary(major: int) -> tuple[tuple[str, str], ...]:
    return tuple((source, target) for source, target in builtins.load(major)["binary_casts"])


@cache
def _assignments(major: int) -> frozenset[tuple[str, str]]:
    return frozenset((source, target) for source, target in builtins.load(major)["assignment_casts"])
