"""FOR VALUES as a CHECK that PostgreSQL accepts as its proof, for the partition and, turned round, for the DEFAULT."""

from __future__ import annotations

from itertools import pairwise

from msgspec import Struct

from dbsec.migrations.rules import _source
from dbsec.migrations.rules._words import ident
from dbsec.migrations.schema.model import Table


class Checks(Struct, frozen=True):
    """``inside`` holds for the rows of the partition, ``outside`` for those that the DEFAULT partition may keep."""

    inside: str
    outside: str


def checks(parent: Table, clause: str) -> Checks | None:
    """Write the bound that ATTACH PARTITION or PARTITION OF names; None for hash, DEFAULT and a key of expressions."""
    strategy, key = parent.partition_by or ("", ())
    if not key or "" in key:
        return None
    if (start := _for_values(clause)) < 0:
        return None
    bound = clause[start:]
    if strategy == "list":
        return _list(ident(key[0]), _source.listed(_source.parenthesised(bound, "IN_P")))
    lower, upper = (_source.listed(_source.parenthesised(bound, word)) for word in ("FROM", "TO"))
    if strategy != "range" or len(lower) != len(key) or len(upper) != len(key):
        return None
    return _range([ident(column) for column in key], lower, upper)


def _for_values(clause: str) -> int:
    found = [word for word in _source.words(clause) if word.depth == 0]
    return next((one.start for one, two in pairwise(found) if (one.name, two.name) == ("FOR", "VALUES")), -1)


def _list(column: str, values: list[str]) -> Checks:
    plain = [value for value in values if value.upper() != "NULL"]
    among, not_among = (f"{column} {word} ({', '.join(plain)})" for word in ("IN", "NOT IN"))
    if len(plain) == len(values):
        return Checks(f"{column} IS NOT NULL AND {among}", f"{column} IS NULL OR {not_among}")
    if not plain:
        return Checks(f"{column} IS NULL", f"{column} IS NOT NULL")
    return Checks(f"{column} IS NULL OR {among}", f"{column} IS NOT NULL AND {not_among}")


def _range(key: list[str], lower: list[str], upper: list[str]) -> Checks:
    """Write it in the form in which PostgreSQL keeps it: it proves by comparing pieces, not by understanding."""
    same = next((at for at, pair in enumerate(zip(lower, upper, strict=True)) if pair[0] != pair[1]), 0)
    pinned = [f"{column} = {value}" for column, value in zip(key[:same], lower, strict=False)]
    ends = [
        _side(key[same:], lower[same:], ">", {"MINVALUE": ">=", "MAXVALUE": ">", "": ">="}),
        _side(key[same:], upper[same:], "<", {"MINVALUE": "<", "MAXVALUE": "<=", "": "<"}),
    ]
    ends = [end for end in ends if end]
    inside = " AND ".join([*(f"{column} IS NOT NULL" for column in key), *pinned, *ends])
    if len(key) > 1:
        return Checks(inside, f"NOT ({inside})")
    turned = [end.replace(" >= ", " < ", 1) if " >= " in end else end.replace(" < ", " >= ", 1) for end in ends]
    return Checks(inside, " OR ".join([f"{key[0]} IS NULL", *turned]))


def _side(key: list[str], values: list[str], operator: str, last: dict[str, str]) -> str:
    """Write one end of a range: ``(a > 1) OR (a = 1 AND b >= 2)``; "" where it is open.

    ``last``: the operator of the last column that counts, by the word that stands behind it.
    """
    ways, equal = [], list[str]()
    words = [value.upper() if value.upper() in ("MINVALUE", "MAXVALUE") else "" for value in values]
    for column, value, word, following in zip(key, values, words, [*words[1:], ""], strict=True):
        if word:
            break
        ended = bool(following) or len(equal) == len(key) - 1
        ways.append(" AND ".join([*equal, f"{column} {last[following] if ended else operator} {value}"]))
        equal.append(f"{column} = {value}")
    if len(ways) < 2:
        return "".join(ways)
    return "(" + " OR ".join(f"({way})" for way in ways) + ")"
