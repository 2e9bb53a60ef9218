"""Compares a clone with its witness: exactly, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from dbsec.backup.drill.content import Content, contents, sequences, tables
from dbsec.backup.drill.witness import Witness


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a clone holds beside its witness; it is ``exact`` where nothing differs."""

    rows: int
    text_bytes: int
    differences: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not self.differences


def compare(session: psycopg.Connection[Any], witness: Witness) -> Comparison:
    """Count and hash on the clone what the witness has, and say each difference. Errors: ``psycopg.Error``."""
    with session.transaction():
        known, _ = tables(session)
        there = contents(session, [table for table in known if str(table) in witness.tables])
        numbers = sequences(session)
    found = (*_tables(witness.tables, there), *_sequences(witness.sequences, numbers))
    rows = sum(content.rows for content in there.values())
    return Comparison(rows, sum(content.text_bytes for content in there.values()), found)


def _tables(expected: Mapping[str, Content], there: Mapping[str, Content]) -> Iterator[str]:
    for name, content in expected.items():
        seen = there.get(name)
        if seen is None:
            yield f"'{name}' is not there: {content.rows} rows"
        elif seen.columns != content.columns:
            yield f"'{name}' has other columns"
        elif seen.rows != content.rows:
            yield f"'{name}' has {seen.rows} rows, not {content.rows}"
        elif seen.digest != content.digest:
            yield f"'{name}' has its {content.rows} rows, and other values in them"


def _sequences(expected: Mapping[str, int], there: Mapping[str, int]) -> Iterator[str]:
    for name, value in expected.items():
        if there.get(name, 0) < value:
            stands = there.get(name, "nothing")
            yield f"sequence '{name}' stands at {stands}, behind {value}: it would give values again"
