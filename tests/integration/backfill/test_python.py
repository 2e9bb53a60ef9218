"""A python function as the effect of a backfill: it sees what was asked for; what it says wrongly is not written."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime

import pytest
from psycopg.types.json import Jsonb

from dbsec.backfill import State
from dbsec.errors import ApplyError, UsageError

pytestmark = pytest.mark.pg(17)
MAIN = pytest.mark.pg(15, 17, 18)


def counted(rows):
    return [{"id": row["id"], "n": row["n"] + 1} for row in rows]


@MAIN
def test_each_row_is_given_to_the_function_and_written_once(scene):
    scene.table(1000)
    seen: list[int] = []

    def function(rows):
        seen.extend(row["id"] for row in rows)
        assert all(set(row) == {"id", "n"} for row in rows)
        return counted(rows)

    done = scene.run(scene.python(function), workers=2)
    assert scene.times() == {1: 1000}
    assert sorted(seen) == [g * 3 for g in range(1, 1001)]
    assert (done.state, done.status.changed) == (State.DONE, 1000)


def test_a_function_is_named_by_its_module_and_may_leave_rows_out(scene, tmp_path, monkeypatch):
    (tmp_path / "effects_of_test.py").write_text(
        "def even(rows):\n    return [{'id': r['id'], 'n': 1} for r in rows if r['id'] % 2 == 0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scene.table(100)
    done = scene.run(scene.python("effects_of_test:even", where="n = 0"))
    assert scene.times() == {0: 50, 1: 50}
    assert (done.status.visited, done.status.changed) == (100, 50)
    with pytest.raises(UsageError, match="cannot import 'effects_of_test:odd'"):
        scene.run(scene.python("effects_of_test:odd", name="other"))


@MAIN
def test_a_row_that_is_written_meanwhile_is_asked_for_again(scene):
    """No row is locked while the function thinks; what the service wrote then is what it is asked about at last."""
    scene.table(10)
    scene.db.execute("UPDATE app.t SET v = 'old'")
    asked: list[dict[int, str]] = []

    def function(rows):
        asked.append({row["id"]: row["v"] for row in rows})
        if len(asked) == 1:
            with scene.another() as service:
                service.execute("SET lock_timeout = '2s'")
                service.execute("UPDATE app.t SET v = 'new' WHERE id IN (6, 9)")
                service.execute("DELETE FROM app.t WHERE id = 12")
        return [{"id": row["id"], "v": row["v"].upper(), "n": 1} for row in rows]

    done = scene.run(scene.python(function, columns=("v",), batch_rows=50))
    assert [len(rows) for rows in asked] == [10, 2]
    assert asked[1] == {6: "new", 9: "new"}
    found = dict(scene.db.execute("SELECT id, v FROM app.t").fetchall())
    assert (found[3], found[6], found[9], len(found)) == ("OLD", "NEW", "NEW", 9)
    assert (done.status.changed, scene.times()) == (9, {1: 9})


@pytest.mark.parametrize("where", ["v IS NULL", None])
def test_a_row_that_needs_it_no_longer_is_left_alone(where, scene):
    scene.table(10)

    def function(rows):
        if len(rows) == 10:
            with scene.another() as service:
                service.execute("UPDATE app.t SET v = 'by the service' WHERE id = 6")
        return [{"id": row["id"], "v": "by the backfill"} for row in rows if row["v"] is None]

    scene.run(scene.python(function, where=where, columns=("v",)))
    assert scene.db.execute("SELECT v, count(*) FROM app.t GROUP BY v ORDER BY v").fetchall() == [
        ("by the backfill", 9),
        ("by the service", 1),
    ]


def test_values_of_every_shape(scene):
    scene.db.execute("CREATE TYPE app.colour AS ENUM ('red', 'green')")
    scene.db.execute(
        "CREATE TABLE app.t (a int, b app.colour, bytes bytea, at timestamptz, list int[], words text[], j jsonb,"
        " c char(4), short varchar(3), colour app.colour, amount numeric(8, 2), PRIMARY KEY (a, b))"
    )
    scene.db.execute("INSERT INTO app.t (a, b) SELECT g, 'green' FROM generate_series(1, 3) g")
    at = datetime(2026, 11, 23, tzinfo=UTC)
    values = {
        **{"bytes": b"\x00\xff", "at": at, "list": [1, None], "words": ["a,b", '"'], "j": Jsonb({"a": [1]})},
        **{"c": "ab", "short": "abc", "colour": "red", "amount": 12},
    }
    empty = dict.fromkeys(values)

    def function(rows):
        given = {1: values, 2: empty, 3: {**values, "list": [1, 2, 3]}}
        return [{"a": row["a"], "b": row["b"], **given[row["a"]]} for row in rows]

    scene.run(scene.python(function, key=("a", "b"), columns=()))
    found = scene.db.execute("SELECT bytes, at, list, words, j, c, short, colour::text, amount FROM app.t ORDER BY a")
    one, two, three = found.fetchall()
    assert one == (b"\x00\xff", at, [1, None], ["a,b", '"'], {"a": [1]}, "ab  ", "abc", "red", 12)
    assert set(two) == {None}
    assert three[2] == [1, 2, 3]


SECRET = "4111 1111 1111 1111"
WRONG = {
    "raises": (lambda rows: int(SECRET), "ValueError at .*test_python.py:"),
    "no key": (lambda rows: [{"n": 1}], "without its key"),
    "no row": (lambda rows: [SECRET], "without its key"),
    "another key": (lambda rows: [{"id": -1, "n": 1}], "a key that it was not given"),
    "a key twice": (lambda rows: [{"id": rows[0]["id"], "n": 1}] * 2, "or one twice"),
    "no such column": (lambda rows: [{"id": rows[0]["id"], "m": 1}], "'m', which is no column"),
    "a generated one": (lambda rows: [{"id": rows[0]["id"], "twice": 1}], "'twice', which is generated"),
    "other columns": (
        lambda rows: [{"id": rows[0]["id"], "n": 1}, {"id": rows[1]["id"], "v": ""}],
        "the same new columns",
    ),
    "a value of another type": (lambda rows: [{"id": rows[0]["id"], "n": SECRET}], "22P02"),
    "a value too long": (lambda rows: [{"id": rows[0]["id"], "v": SECRET}], "StringDataRightTruncation"),
    "no value at all": (lambda rows: [{"id": rows[0]["id"], "v": object()}], "ProgrammingError"),
    "a value that a CHECK refuses": (lambda rows: [{"id": rows[0]["id"], "n": -4111}], "23514, constraint 'positive'"),
    "a value that is there": (
        lambda rows: [{"id": row["id"], "n": 4111} for row in rows],
        "23505, constraint 'one_each'",
    ),
}


def test_what_is_wrong_is_told_without_a_value_and_rolls_the_batch_back(scene):
    scene.table(20)
    scene.db.execute(
        "ALTER TABLE app.t ADD twice int GENERATED ALWAYS AS (n * 2) STORED, ALTER v TYPE varchar(9),"
        " ADD CONSTRAINT positive CHECK (n >= 0)"
    )
    scene.db.execute("CREATE UNIQUE INDEX one_each ON app.t (n) WHERE n > 1")
    for wrong, (function, said) in WRONG.items():
        with pytest.raises(ApplyError, match=said) as failed:
            scene.run(scene.python(function, name=wrong))
        assert "4111" not in f"{failed.value} {failed.value.hint}"
        assert SECRET not in "".join(traceback.format_exception(failed.value))
        assert f"backfill '{wrong}', range 1" in failed.value.message
        assert "20 keys" in failed.value.message or "a batch of 50 rows" in failed.value.message
        assert scene.times() == {0: 20}, wrong


def test_the_function_runs_while_no_row_is_locked(scene):
    scene.table(10)

    def function(rows):
        with scene.another() as service:
            service.execute("SET lock_timeout = '2s'")
            service.execute("SELECT FROM app.t FOR UPDATE")
        return counted(rows)

    scene.run(scene.python(function))
    assert scene.times() == {1: 10}


def test_a_timeout_of_the_role_does_not_end_a_function_that_takes_its_time(scene):
    scene.table(10)
    scene.db.execute(f"ALTER DATABASE {scene.conninfo.dbname} SET transaction_timeout = '300ms'")

    def function(rows):
        with scene.another() as other:
            other.execute("SET transaction_timeout = 0; SELECT pg_sleep(0.5)")
        return counted(rows)

    done = scene.run(scene.python(function))
    assert (scene.times(), done.reconnects) == ({1: 10}, 0)
