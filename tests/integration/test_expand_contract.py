"""Generated expand, backfill and contract on real servers, with an old and a new release that write meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec import backfill
from dbsec.errors import UsageError
from dbsec.migrations import expand_contract
from dbsec.migrations.expand_contract import definitions, files
from dbsec.migrations.expand_contract.ask import Ask, side, table_name
from dbsec.migrations.expand_contract.place import place_of
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.pg import Conninfo, connect, own

ROWS = 120
PEOPLE = f"""
CREATE SCHEMA shop;
CREATE TABLE shop.area (code text PRIMARY KEY);
INSERT INTO shop.area VALUES ('north'), ('south');
CREATE TABLE shop.people (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name   text NOT NULL,
  phone  text NOT NULL CONSTRAINT people_phone_key UNIQUE CONSTRAINT people_phone_check CHECK (phone <> ''),
  count  int NOT NULL DEFAULT 7 CHECK (count > 0),
  area   text DEFAULT 'north' REFERENCES shop.area (code) ON DELETE SET NULL,
  note   text
);
CREATE INDEX people_phone_idx ON shop.people (lower(phone) text_pattern_ops DESC) WHERE phone IS NOT NULL;
CREATE INDEX people_area_idx ON shop.people (area, id);
INSERT INTO shop.people (name, phone, count, area)
SELECT 'Ada ' || n, '+' || n, n, CASE n % 3 WHEN 0 THEN 'north' WHEN 1 THEN 'south' END FROM generate_series(1, {ROWS}) n;
"""


@dataclass(frozen=True)
class Steps:
    """The files of one change, and a way to run each."""

    conninfo: Conninfo
    paths: Sequence[Path]

    def text(self, phase: str, *, down: bool = False) -> str:
        (found,) = [p for p in self.paths if f"_{phase}_" in p.name and p.name.endswith(".down.sql") == down]
        return found.read_text()

    def run(self, phase: str, *, down: bool = False, until: str = "") -> None:
        """Run statement by statement, as psql would, before the first one that begins with ``until``."""
        with connect(self.conninfo) as session:
            for statement in parse_text(self.text(phase, down=down)):
                if until and statement.text.startswith(until):
                    return
                session.execute(statement.text.encode())

    def backfill(self, *, batch_rows: int | None = None) -> backfill.Outcome:
        (path,) = [p for p in self.paths if p.suffix == ".toml"]
        job = backfill.Job.load(path)
        assert batch_rows is None or job.batch_rows >= batch_rows
        return backfill.run(lambda: connect(self.conninfo), job)


Write = Callable[..., Steps]


@pytest.fixture
def shop(database: Any) -> Conninfo:
    conninfo: Conninfo = database.conninfo
    with connect(conninfo) as session:
        session.execute(PEOPLE.encode())
        own.install(session)
    return conninfo


@pytest.fixture
def write(shop: Conninfo, tmp_path: Path) -> Write:
    def write(kind: str, old: Sequence[str], new: Sequence[str], *, table: str = "shop.people", **more: str) -> Steps:
        with connect(shop) as session:
            schema = from_catalog(session)
            found = schema.table(table_name(table))
            assert found is not None
            exact = definitions.from_catalog(session, found.name)
        place = place_of(schema, exact, found, major=schema.major or 0)
        ask = Ask(found.name, tuple(map(side, old)), tuple(map(side, new)), **more)
        made = files.named(expand_contract.planned(kind, place, ask), tmp_path)
        assert expand_contract.problems(made, schema, major=place.major) == []
        files.write(made)
        return Steps(shop, list(made))

    return write


def _rows(conninfo: Conninfo, query: str, *params: object) -> list[Any]:
    with connect(conninfo) as session:
        return session.execute(query.encode(), params).fetchall()


def _shape(conninfo: Conninfo) -> list[Any]:
    """What the table is to its users; the order of columns and the numbers of dropped ones are not."""
    return _rows(
        conninfo,
        """
        SELECT 'column', attname, format_type(atttypid, atttypmod), attnotnull::text,
               (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum)
          FROM pg_attribute WHERE attrelid = 'shop.people'::regclass AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT 'index', relname, pg_get_indexdef(indexrelid), indisvalid::text, NULL
          FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = 'shop.people'::regclass
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid), convalidated::text, NULL
          FROM pg_constraint WHERE conrelid = 'shop.people'::regclass
        UNION ALL SELECT 'trigger', tgname, NULL, NULL, NULL
          FROM pg_trigger WHERE tgrelid = 'shop.people'::regclass AND NOT tgisinternal
        UNION ALL SELECT 'function', proname, NULL, NULL, NULL FROM pg_proc WHERE pronamespace = 'shop'::regnamespace
        ORDER BY 1, 2""",
    )


# --- each kind, from end to end --------------------------------------------------------------------------------------

SPLIT = ["name = first || ' ' || last"], ["first text = split_part(name, ' ', 1)", "last text = split_part(name, ' ', 2)"]
MERGED = ["name = split_part(who, '|', 1)", "note = nullif(split_part(who, '|', 2), '')"]
KINDS: dict[str, tuple[str, Sequence[str], Sequence[str], dict[str, str]]] = {
    "rename": ("rename-column", ["phone"], ["mobile"], {}),
    "rename with a default and a foreign key": ("rename-column", ["area"], ["region"], {}),
    "int to bigint": ("change-type", ["count"], ["count_v2 bigint"], {}),
    "text to varchar": ("change-type", ["phone"], ["phone_v2 varchar(20)"], {}),
    "split": ("split-columns", *SPLIT, {}),
    "merge": ("merge-columns", MERGED, ["who text = name || '|' || coalesce(note, '')"], {}),
    "add, computed": ("add-not-null-column", [], ["initial text = left(name, 1)"], {}),
    "add, with a default": ("add-not-null-column", [], ["token uuid"], {"default": "gen_random_uuid()"}),
}
OLD_RELEASE = (
    "INSERT INTO shop.people (name, phone) VALUES ('Eve Old', %s)",
    "INSERT INTO shop.people (name, phone, count, area, note) VALUES ('Eve All', %s, 3, 'south', 'x')",
    "INSERT INTO shop.people (name, phone, area) VALUES ('Eve Null', %s, NULL)",
    "INSERT INTO shop.people OVERRIDING USER VALUE VALUES (0, 'Eve Bare', %s, 4, 'north', NULL)",
    "UPDATE shop.people SET name = 'Eve New', note = 'y', count = count + 1 WHERE id = 5 AND phone <> %s",
)


def _old_release(conninfo: Conninfo, mark: str) -> None:
    """Run every shape of statement that the old release has."""
    with connect(conninfo) as session:
        for number, statement in enumerate(OLD_RELEASE):
            session.execute(statement.encode(), [f"+old{mark}{number}"])


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("case", KINDS)
def test_a_change_goes_all_the_way_and_back_from_the_middle(shop: Conninfo, write: Write, case: str) -> None:
    kind, old, new, more = KINDS[case]
    before = _shape(shop)
    steps = write(kind, old, new, **more)
    for attempt in ("first", "again"):
        steps.run("expand")
        _old_release(shop, attempt)
        steps.backfill()
        steps.run("contract", until="BEGIN")
        steps.run("contract", down=True)
        _old_release(shop, f"{attempt}back")
        steps.run("backfill", down=True)
        steps.run("expand", down=True)
        assert _shape(shop) == before
        with connect(shop) as session:
            backfill.forget(session, next(p.stem for p in steps.paths if p.suffix == ".toml"))
    steps.run("expand")
    steps.run("expand")  # again as often as you like
    steps.backfill()
    steps.run("contract")
    _check_final(shop, case)


FINAL: dict[str, tuple[tuple[str, ...], str]] = {
    "rename": (
        (
            "CREATE INDEX people_mobile_idx ON shop.people USING btree (lower(mobile) text_pattern_ops DESC) "
            "WHERE (mobile IS NOT NULL)",
            "UNIQUE (mobile)",
            "CHECK ((mobile <> ''::text))",
        ),
        "SELECT count(*) FROM shop.people WHERE mobile = '+' || id",
    ),
    "rename with a default and a foreign key": (
        (
            "CREATE INDEX people_region_idx ON shop.people USING btree (region, id)",
            "FOREIGN KEY (region) REFERENCES shop.area(code) ON DELETE SET NULL",
            "'north'::text",
        ),
        "SELECT count(*) FROM shop.people WHERE region IS NOT DISTINCT FROM "
        "CASE id % 3 WHEN 0 THEN 'north' WHEN 1 THEN 'south' END AND id <= 120",
    ),
    "int to bigint": (("bigint", "CHECK ((count_v2 > 0))"), "SELECT count(*) FROM shop.people WHERE count_v2 = id"),
    "text to varchar": (
        ("character varying(20)", "UNIQUE (phone_v2)"),
        "SELECT count(*) FROM shop.people WHERE phone_v2 = '+' || id",
    ),
    "split": (("text",), "SELECT count(*) FROM shop.people WHERE first = 'Ada' AND last = id::text"),
    "merge": (("text",), "SELECT count(*) FROM shop.people WHERE who = 'Ada ' || id || '|'"),
    "add, computed": (("text",), "SELECT count(*) FROM shop.people WHERE initial = 'A'"),
    "add, with a default": (
        ("gen_random_uuid()",),
        "SELECT count(DISTINCT token) FROM shop.people WHERE id <= 120 AND id <> 5",
    ),
}


def _check_final(shop: Conninfo, case: str) -> None:
    """The new column has what stood on the old one, the old one and our own tools are gone, every value is there."""
    shape, (wanted, query) = _shape(shop), FINAL[case]
    told = [str(cell) for row in shape for cell in row[1:]]
    for one in wanted:
        assert one in told, (one, shape)
    assert not [row for row in shape if row[0] in ("trigger", "function") or "agrees" in row[1] or row[3] == "false" and row[0] != "column"]
    assert _rows(shop, query) == [(ROWS - 1,)]  # all but the one that the old release has changed
