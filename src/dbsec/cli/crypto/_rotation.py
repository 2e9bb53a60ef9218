"""``dbsec crypto plan --rotate-lookup``: the steps to the next lookup key, and the migrations that take them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbsec.cli import output
from dbsec.cli.crypto._options import settings_of
from dbsec.cli.migrate import inputs
from dbsec.errors import ApplyError, UsageError

if TYPE_CHECKING:
    from dbsec.crypto import CryptoSettings, EncryptedColumn


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    column: str
    dsn: str | None
    name: str
    python: str
    check: str
    folder: Path | None
    config: Path | None


def tell(asked: Asked, *, as_json: bool) -> None:
    """Print the steps; where a folder is named, write the files of expand, backfill and contract.

    Errors: ``ConfigError`` for a column that is not declared; ``ModeRefused`` for one without a lookup key.
    """
    from dbsec.crypto import generations

    settings = settings_of(asked.config)
    table, _, column = asked.column.rpartition(".")
    old = settings.of(table, column)
    new = generations.next_generation(old, asked.name)
    steps = generations.steps(old, new, sharing=_sharing(settings, old))
    paths = _write(asked, old, new) if asked.folder is not None else []
    if as_json:
        result = {
            "column": asked.column,
            "from": {"column": generations.lookup_column(old), "generation": generations.generation_of(old)},
            "to": {"column": generations.lookup_column(new), "generation": generations.generation_of(new)},
            "steps": list(steps),
            "files": [str(path) for path in paths],
        }
        output.envelope("crypto plan", result=result)
        return
    for number, step in enumerate(steps, 1):
        print(f"{number}. {step}")
    print(f"\n{_declaration(new)}")
    for path in paths:
        print(path)
    if asked.folder is None:
        print("  next: the same with --dsn, --python and --folder db/migrations writes the files", file=sys.stderr)


def _sharing(settings: CryptoSettings, old: EncryptedColumn) -> list[str]:
    """Name the other columns of the context that are found under the same key."""
    from dbsec.crypto import ModeRefused, generations

    found = []
    for one in settings.declared:
        try:
            same = generations.generation_of(one) == generations.generation_of(old)
        except ModeRefused:
            continue
        if same and one.field.context == old.field.context and one.field != old.field:
            found.append(f"'{one.field}'")
    return found


def _declaration(new: EncryptedColumn) -> str:
    """Write what dbsec.toml says of the column once the old one is gone."""
    from dbsec.crypto import generations

    lines = ["# in [[crypto.columns]], after contract:"]
    if new.index is None:
        return "\n".join([*lines, f"column = {json.dumps(new.column)}", f"generation = {new.generation}"])
    _, how = new.index
    inside = f"column = {json.dumps(generations.lookup_column(new))}, bits = {how.bits}, generation = {how.generation}"
    return "\n".join([*lines, f"index = {{ {inside}, normal = {json.dumps(str(how.normal))} }}"])


def _write(asked: Asked, old: EncryptedColumn, new: EncryptedColumn) -> list[Path]:
    if asked.dsn is None or not asked.python:
        raise UsageError(
            "the schema tells what hangs on the column, and a function fills the new one",
            hint="--dsn env:NAME --python app.encryption:next_emails [--check app.encryption:next_emails_agree]",
        )
    inputs.need_parser()
    from dbsec.crypto import generations
    from dbsec.migrations import expand_contract
    from dbsec.migrations.expand_contract import definitions, files
    from dbsec.migrations.expand_contract.ask import Ask, Side, table_name
    from dbsec.migrations.expand_contract.kinds import rotate_lookup
    from dbsec.migrations.expand_contract.place import place_of
    from dbsec.migrations.schema.catalog import from_catalog

    assert asked.folder is not None
    with inputs.connected(asked.dsn) as connection:
        schema = from_catalog(connection)
        table = schema.table(table_name(old.table))
        if table is None:
            raise UsageError(f"there is no table '{old.table}'", hint="[[crypto.columns]] of dbsec.toml names it")
        place = place_of(schema, definitions.from_catalog(connection, table.name), table, major=schema.major or 17)
    sides = Side(generations.lookup_column(old)), Side(generations.lookup_column(new))
    ask = Ask(table.name, sides[:1], sides[1:], python=asked.python, check=asked.check)
    change = rotate_lookup.plan(place, ask, generations.reads(old))
    made = files.named(change, asked.folder)
    if wrong := expand_contract.problems(made, schema, major=place.major):
        raise ApplyError(f"nothing is written, for the linter refuses it: {wrong[0]}", hint="tell the makers of dbsec")
    files.write(made)
    for note in change.notes:
        print(f"dbsec: {note}", file=sys.stderr)
    return list(made)
