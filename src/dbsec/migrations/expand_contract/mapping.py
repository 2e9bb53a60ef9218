"""Old and new columns that PostgreSQL computes from each other, and the SQL that compares and converts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import expressions
from dbsec.migrations.expand_contract.place import Place
from dbsec.migrations.rules._expand import WITHOUT_EQUALITY
from dbsec.migrations.rules._words import ident
from dbsec.migrations.schema import spelled

_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a mapping. ``value`` computes it from the other side; ``total``: that cannot fail."""

    name: str
    type: str
    value: str
    not_null: bool = False
    default: str = ""
    total: bool = False

    @property
    def sql(self) -> str:
        return ident(self.name)

    def differs(self, one: str, other: str) -> str:
        """Compare two values of it, as text where the type has no equality in pg_catalog."""
        cast = "::text" if self._as_text else ""
        return f"{expressions.wrapped(one)}{cast} IS DISTINCT FROM {expressions.wrapped(other)}{cast}"

    @property
    def _as_text(self) -> bool:
        """Tell whether a trigger's pinned search path has no = for it: a type of an extension, of a user, any json."""
        (one,) = spelled.types([self.type.partition(" COLLATE ")[0]]).values() if self.type else (None,)
        return one is not None and (one.schema not in (None, "pg_catalog") or one.name in WITHOUT_EQUALITY)

    def equals(self, one: str, other: str) -> str:
        """Compare two values of it: NULL equals NULL."""
        return self.differs(one, other).replace(" IS DISTINCT FROM ", " IS NOT DISTINCT FROM ", 1)


@dataclass(frozen=True, slots=True)
class Mapping:
    """``old`` are columns that are there, ``new`` those that come. ``alike``: the same value under another name."""

    old: tuple[Field, ...]
    new: tuple[Field, ...]
    alike: bool = False

    def disagrees(self) -> str:
        """Say of a row that neither side follows from the other; the text of a WHERE."""
        forth = " OR ".join(one.differs(one.sql, one.value) for one in self.new)
        if self.alike:
            return forth
        back = " OR ".join(one.differs(one.sql, one.value) for one in self.old)
        return f"({forth}) AND ({back})"

    def agrees(self) -> str:
        """Say of a row that one side follows from the other; the text of a CHECK."""
        forth = " AND ".join(one.equals(one.sql, one.value) for one in self.new)
        if self.alike:
            return forth
        back = " AND ".join(one.equals(one.sql, one.value) for one in self.old)
        return f"({forth}) OR ({back})"

    def assignment(self) -> str:
        """Fill the new side from the old one; the text after SET."""
        return ", ".join(f"{one.sql} = {one.value}" for one in self.new)


def words(place: Place, mapping: Mapping) -> dict[str, str]:
    """Fill the words of the template ``dual_write``."""
    forth = {one.name: f"forth_{number}" for number, one in enumerate(mapping.new, 1)}
    return {
        "declared": _lines("  ", (f"{forth[one.name]} {place.name}.{one.sql}%TYPE;" for one in mapping.new)),
        "forth": _computed(mapping, forth),
        "agrees": _and(one.equals(_new(one), forth[one.name]) for one in mapping.new),
        "new_given": _or(
            one.differs(_new(one), one.default) if one.default else f"{_new(one)} IS NOT NULL" for one in mapping.new
        ),
        "new_changed": _or(one.differs(_new(one), f"OLD.{one.sql}") for one in mapping.new),
        "old_changed": _or(one.differs(_new(one), f"OLD.{one.sql}") for one in mapping.old),
        "new_empty": _and((f"{_new(one)} IS NULL" for one in mapping.new), inside=len(mapping.new) > 1),
        "write_old": _lines(
            _INDENT, (f"{_new(one)} := {expressions.of_row(one.value, 'NEW')};" for one in mapping.old)
        ),
        "write_new": _lines(_INDENT, (f"{_new(one)} := {forth[one.name]};" for one in mapping.new)),
    }


def check_functions(place: Place, texts: Iterable[str]) -> None:
    """Check that no expression calls a function of the database's own without its schema: the search path is pinned."""
    for text in filter(None, texts):
        for parts in expressions.functions_of(text):
            homes = [name.schema for name in place.schema.functions if len(parts) == 1 and name.name == parts[0]]
            if homes:
                raise UsageError(
                    f"'{text}' calls '{parts[0]}' without its schema: the trigger has a pinned search path",
                    hint=f"write {homes[0]}.{parts[0]}(...)",
                )


def _computed(mapping: Mapping, forth: dict[str, str]) -> str:
    """Compute the new side; where that can fail, the write of the old release must not."""
    lines = [f"{forth[one.name]} := {expressions.of_row(one.value, 'NEW')};" for one in mapping.new]
    if all(one.total for one in mapping.new):
        return _lines("  ", lines)
    empty = " ".join(f"{name} := NULL;" for name in forth.values())
    inside = [f"  {line}" for line in lines]
    reason = "-- a value that the new column cannot hold does not stop the old release; the contract finds its row"
    return _lines("  ", ["BEGIN", *inside, "EXCEPTION WHEN data_exception THEN", f"  {reason}", f"  {empty}", "END;"])


def _new(one: Field) -> str:
    return f"NEW.{one.sql}"


def _and(terms: Iterable[str], *, inside: bool = False) -> str:
    text = " AND ".join(terms)
    return f"({text})" if inside else text


def _or(terms: Iterable[str]) -> str:
    return " OR ".join(terms)


def _lines(indent: str, lines: Iterable[str]) -> str:
    return "\n".join(indent + line for line in lines)
