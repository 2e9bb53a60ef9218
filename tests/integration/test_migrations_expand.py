"""The SQL that rules offer instead of a rename or a change of type: both columns stay alike, whoever writes."""

from __future__ import annotations

import pytest

from dbsec.migrations.linter import all_rules, lint
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.script import Script
from dbsec.pg import connect

SETUP = """\
CREATE TABLE "order" (id bigint PRIMARY KEY, "user" text DEFAULT 'nobody', profile json, total numeric(12,2) NOT NULL);
"""
ROWS = """INSERT INTO "order" SELECT i, 'u' || i, '{"a": 1}', i FROM generate_series(1, 10) AS i"""
CASES = [
    ("rename-column", 'ALTER TABLE "order" RENAME COLUMN "user" TO "group"', '"user"', '"group"', "'ann'", "'bob'"),
    ("rename-column", 'ALTER TABLE "order" RENAME COLUMN profile TO facts', "profile", "facts", "'[1]'", "'[2]'"),
    (
        "incompatible-type-change",
        'ALTER TABLE "order" ALTER COLUMN total TYPE text',
        "total",
        "total_text",
        "7.50",
        "'8.25'",
    ),
    (
        "incompatible-type-change",
        'ALTER TABLE "order" ALTER COLUMN profile TYPE jsonb',
        "profile",
        "profile_jsonb",
        "'[1]'",
        "'[2]'",
    ),
]


@pytest.mark.pg(15, 18)
@pytest.mark.parametrize(("rule", "sql", "old", "new", "by_old", "by_new"), CASES, ids=lambda value: str(value)[:40])
def test_old_and_new_release_write_side_by_side(database, rule, sql, old, new, by_old, by_new):
    schema, _ = from_dump(SETUP, source="setup")
    found = lint([Script("release.sql", sql)], schema=schema).findings
    (fix,) = [finding.fix for finding in found if finding.name == all_rules()[rule].name]
    with connect(database.conninfo) as session:
        for statement in (SETUP, ROWS, fix):
            session.execute(statement.encode())
        backfill = next(line for line in fix.splitlines() if "backfill" in line).partition("left: ")[2]
        for expected in (10, 0):
            assert session.execute(backfill.encode()).rowcount == expected
        extra = "" if old == "total" else "total, "
        one = "" if old == "total" else "1, "
        for number, column, value in ((11, old, by_old), (12, new, by_new)):
            session.execute(f'INSERT INTO "order" (id, {extra}{column}) VALUES ({number}, {one}{value})'.encode())
        session.execute(f'UPDATE "order" SET {old} = {by_old} WHERE id = 1'.encode())
        session.execute(f'UPDATE "order" SET {new} = {by_new} WHERE id = 2'.encode())
        session.execute(b'UPDATE "order" SET id = id + 100')
        rows = session.execute(
            f'SELECT id - 100, {old}::text, {new}::text FROM "order" ORDER BY id'.encode()
        ).fetchall()
        assert [row for row in rows if row[1] != row[2]] == []
        written = {number: value.strip("'") for number, value in ((1, by_old), (2, by_new), (11, by_old), (12, by_new))}
        assert {number: text for number, text, _ in rows if number in written} == written
        contract = next(line for line in fix.splitlines() if "DROP COLUMN" in line).removeprefix("-- ")
        session.execute(contract.encode())
        assert session.execute(f'SELECT count({new}) FROM "order"'.encode()).fetchone() == (12,)
