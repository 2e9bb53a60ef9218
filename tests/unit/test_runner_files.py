"""A folder of migrations: what is read, and each way in which it can be wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbsec.errors import ApplyError, ConfigError, UsageError
from dbsec.migrations.reading import marks
from dbsec.migrations.runner import files, refusing, standing, stepping, words
from dbsec.migrations.runner.files import FileKind
from dbsec.migrations.runner.ledger import Entry, State
from dbsec.migrations.runner.obstacle import Block
from dbsec.migrations.runner.standing import Standing
from dbsec.migrations.script import Phase, Script

EXPAND = "-- dbsec: phase expand\nSELECT 1;\n"
FILL = '# dbsec: phase backfill\nformat = 1\ntable = "app.t"\nkey = "id"\nset = "a = b"\n'


def _write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / name.replace("__", ".").lstrip("_")).write_text(text)


def test_a_folder_is_read_in_order_with_its_ways_back_and_checks(tmp_path: Path) -> None:
    _write(
        tmp_path, _001_a__sql=EXPAND, _001_a__down__sql="SELECT 1;", _002_b__toml=FILL, _002_b__check__sql="SELECT true"
    )
    _write(tmp_path, guardrails__sql="SELECT 1")
    first, second = files.find(tmp_path)
    assert (first.number, first.name, first.phase, first.kind) == (1, "a", Phase.EXPAND, FileKind.SQL)
    assert first.down == tmp_path / "001_a.down.sql"
    assert first.check is None
    assert (second.kind, second.phase, second.check) == (
        FileKind.BACKFILL,
        Phase.BACKFILL,
        tmp_path / "002_b.check.sql",
    )
    assert second.label == "002_b"
    assert files.ignored(tmp_path) == ["guardrails.sql"]


def test_the_migrations_of_this_repository_are_read() -> None:
    found = files.find(Path(__file__).parents[2] / "db" / "migrations")
    assert [(one.number, one.phase) for one in found] == list(zip((1, 2, 3), Phase, strict=True))


def test_line_ends_do_not_change_a_checksum_and_a_letter_does(tmp_path: Path) -> None:
    unix, windows, other = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    unix.write_bytes(b"SELECT 1;\nSELECT 2;\n")
    windows.write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")
    other.write_bytes(b"SELECT 1;\nSELECT 3;\n")
    assert files.digest(unix) == files.digest(windows) != files.digest(other)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"_001_a__sql": "SELECT 1;"}, "does not say its phase"),
        ({"_001_a__sql": "-- dbsec: phase expnd\nSELECT 1;"}, "phase 'expnd' is not"),
        ({"_001_a__sql": "-- dbsec: phase expand\n-- dbsec: phase contract\nSELECT 1;"}, "a second phase"),
        ({"_001_a__sql": EXPAND, "_001_b__sql": EXPAND}, "number 1 is there twice: '001_a.sql' and '001_b.sql'"),
        ({"_001_a__sql": EXPAND, "_0001_b__sql": EXPAND}, "number 1 is there twice"),
        ({"_001_a__sql": EXPAND, "_003_b__sql": EXPAND}, "number 002 is missing"),
        ({"_001_a__sql": EXPAND, "_002_b__down__sql": "SELECT 1"}, "is the way back of nothing"),
        ({"_001_a__sql": EXPAND, "_001_b__check__sql": "SELECT 1"}, "is the check of nothing"),
        ({"_001_a__toml": FILL.replace("backfill", "expand", 1)}, "fills rows and says phase expand"),
        ({"_001_a__toml": FILL.replace("# dbsec: phase backfill", "")}, "does not say its phase"),
        ({"_001_a__sql": EXPAND, "_2_b__sql": EXPAND}, "begins as a migration and is none"),
        ({"_001_a__up__sql": EXPAND}, "begins as a migration and is none"),
        (
            {"_001_a__sql": "-- dbsec: phase expand\n-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;"},
            "file of dbmate",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, texts: dict[str, str], says: str) -> None:
    _write(tmp_path, **texts)
    with pytest.raises(ConfigError, match=says) as told:
        files.find(tmp_path)
    assert told.value.hint


def test_a_number_that_was_applied_may_miss_its_file(tmp_path: Path) -> None:
    _write(tmp_path, _001_a__sql=EXPAND, _003_c__sql=EXPAND)
    assert [one.number for one in files.find(tmp_path, known=[1, 2])] == [1, 3]


def test_numbers_that_are_times_need_not_follow_each_other(tmp_path: Path) -> None:
    _write(tmp_path, _20261123101500_a__sql=EXPAND, _20261124091500_b__sql=EXPAND)
    assert len(files.find(tmp_path)) == 2


def test_a_link_is_refused_for_what_it_says_could_change_unseen(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text(EXPAND)
    (tmp_path / "001_a.sql").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(ConfigError, match="symbolic link"):
        files.find(tmp_path)


def test_a_file_that_is_not_utf8_is_refused_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "001_a.sql").write_bytes(b"-- dbsec: phase expand\n-- caf\xe9\nSELECT 1;\n")
    with pytest.raises(ConfigError, match="not UTF-8: byte 0xe9 at offset 29"):
        files.find(tmp_path)


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_migrations_is_wrong_usage(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "none"
    if make:
        folder.mkdir()
        (folder / "readme.sql").write_text("SELECT 1")
    with pytest.raises(UsageError, match="holds no migration" if make else "there is no folder"):
        files.find(folder)


@pytest.mark.parametrize(
    "text", ["\\set x 1\nSELECT :x;\n", "COPY t FROM stdin;\n1\n\\.\n", "SELECT 1 FRM t;\n", "DISCARD ALL;"]
)
def test_what_only_psql_understands_is_never_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "001_a.sql"
    path.write_text(f"-- dbsec: phase expand\n{text}")
    with pytest.raises(UsageError, match=r"001_a\.sql"):
        stepping.turns_of(files.script_of(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SAVEPOINT a;", "1: there is no transaction here"),
        ("BEGIN;", "1: BEGIN without COMMIT"),
        ("BEGIN; SELECT 1;\nBEGIN; COMMIT;", "2: BEGIN in a transaction that is open already"),
        ("BEGIN; SELECT 1; COMMIT AND CHAIN;\nSELECT 2;", "2: BEGIN without COMMIT"),
        ("SET client_encoding TO LATIN1;", "1: a file is sent as UTF-8"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1;", "1: a cursor WITH HOLD"),
        ("DO $$BEGIN SET search_path = a; END$$; DELETE FROM t;", "1: SET lasts past its DO"),
        ("SELECT 1 INTO TEMP ids;", "1: 'ids' is temporary"),
        ("CREATE TEMP VIEW ids AS SELECT 1;", "1: 'ids' is temporary"),
        ("CREATE TEMP SEQUENCE ids;", "1: 'ids' is temporary"),
        ("CREATE TABLE pg_temp.ids (id int);", "1: 'ids' is temporary"),
        ("CREATE FUNCTION pg_temp.ids() RETURNS int LANGUAGE sql AS 'SELECT 1';", "1: 'ids' is temporary"),
        ("BEGIN;\nCREATE TEMP TABLE ids (id int);\nCOMMIT; DELETE FROM t USING IDS;", "2: 'ids' is temporary"),
        ("DO $$BEGIN CREATE TEMP TABLE ids (id int); END$$; SELECT f(id) FROM ids;", "1: 'ids' is temporary"),
    ],
)
def test_what_a_resumed_run_would_lack_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"f:{says}") as refused:
        stepping.turns_of(Script("f", text))
    assert refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN; SELECT 1; SAVEPOINT a; ROLLBACK TO a; COMMIT AND CHAIN; SELECT 2; ROLLBACK;",
        "COMMIT PREPARED 'x';",
        "SET NAMES 'utf-8'; SET client_encoding = 'UTF8'; RESET client_encoding;",
        "COPY t FROM '/x'; COPY t TO PROGRAM 'x';",
        "BEGIN; SET search_path = a; SET LOCAL search_path = b; COMMIT; DELETE FROM t;",
        "DO $$BEGIN SET lock_timeout = '1s'; END$$; DELETE FROM t; DO $$BEGIN SET search_path = a; END$$;",
        "BEGIN; CREATE TEMP TABLE ids (id int) ON COMMIT DROP; COMMIT; SELECT 1 FROM ids;",
        "BEGIN; CREATE TEMP TABLE ids (id int); DROP TABLE ids; COMMIT; SELECT 1 FROM ids;",
        "BEGIN; SELECT 1 INTO TEMP ids; DELETE FROM t USING ids; COMMIT; SELECT 1 FROM ids_of_t;",
    ],
)
def test_what_the_next_session_has_too_is_run(text: str) -> None:
    assert stepping.turns_of(Script("f", text))


@pytest.mark.parametrize("event", ["begun", "failed"])
def test_a_block_that_did_not_come_to_its_end_needs_a_mark_of_its_own(event: str) -> None:
    text = "-- dbsec: phase expand\n{}SELECT 1;\n{}DO $$BEGIN COMMIT; END$$;\n"
    mark = "-- dbsec: idempotent\n"

    def refused(text: str, changed: str = "") -> bool:
        script = Script("f", text, comments=marks.comments_of(text))
        turns = [(turn.name, turn.statements) for turn in stepping.turns_of(script)]
        try:
            refusing.check_partly_done(script, turns, {turns[0][0]: "done", f"{turns[1][0]}{changed}": event})
        except ApplyError:
            return True
        return False

    assert refused(text.format("", ""))
    assert refused(text.format("", ""), changed="0")  # it was edited since: what it did is there all the same
    assert refused(text.format(mark, ""))  # a mark counts for what follows it
    assert not refused(text.format("", mark))


# --- the journal's names


def test_line_ends_do_not_change_the_name_of_a_statement() -> None:
    unix, windows = (stepping.turns_of(Script("f", TEXT.replace("\n", end))) for end in ("\n", "\r\n"))
    assert [turn.name for turn in unix] == [turn.name for turn in windows]


TEXT = """-- dbsec: phase expand
SET lock_timeout = '1s'; ALTER TABLE t ADD COLUMN a text;
BEGIN;
ALTER TABLE t ADD COLUMN b text;
ALTER TABLE t ADD COLUMN c text; -- ü
COMMIT;
DO $$ BEGIN PERFORM 1; END $$;
CREATE INDEX CONCURRENTLY i ON t (a);
"""


def test_a_block_is_one_turn_and_every_other_statement_its_own() -> None:
    turns = stepping.turns_of(Script("f", TEXT))
    assert [len(turn.statements) for turn in turns] == [1, 1, 4, 1, 1]
    assert [turn.name[:4] for turn in turns] == ["001-", "002-", "003-", "004-", "005-"]


def test_what_is_done_is_blanked_and_the_rest_keeps_its_line() -> None:
    turns = stepping.turns_of(Script("f", TEXT))
    left = stepping.not_done(turns, {turns[1].name: "done", turns[2].name: "done", turns[3].name: "begun"}, "f")
    rest = stepping.turns_of(stepping.remaining(Script("f", TEXT), turns, left))
    assert [(t.statements[0].line, t.statements[0].text) for t in rest] == [
        (2, "SET lock_timeout = '1s'"),
        (7, "DO $$ BEGIN PERFORM 1; END $$"),
        (8, "CREATE INDEX CONCURRENTLY i ON t (a)"),
    ]


@pytest.mark.parametrize("before", ["-- {0};\n", "/* {0}; */ ", "-- ü {0}\n;;\n"])
def test_a_comment_with_the_same_words_is_not_taken_for_the_statement(before: str) -> None:
    paid = "UPDATE t SET a = a + 1 WHERE id = 1"
    script = Script("f", f"{before.format(paid)}{paid};\n{before.format('SELECT 2')}SELECT 2;\nSELECT 3;\n")
    turns = stepping.turns_of(script)
    rest = stepping.turns_of(stepping.remaining(script, turns, turns[1:]))
    assert [turn.statements[0].text for turn in rest] == ["SELECT 2", "SELECT 3"]
    assert [turn.statements[0].line for turn in rest] == [turn.statements[0].line for turn in turns[1:]]


def test_a_statement_that_was_run_may_not_read_otherwise_and_one_that_was_not_may() -> None:
    before = stepping.turns_of(Script("f", TEXT))
    ended = {before[1].name: "done", before[4].name: "failed"}
    mended = stepping.turns_of(Script("f", TEXT.replace("ON t (a)", "ON t (b)")))
    assert len(stepping.not_done(mended, ended, "f")) == 4
    edited = stepping.turns_of(Script("f", TEXT.replace("COLUMN a text", "COLUMN a bytea")))
    with pytest.raises(ApplyError, match="statement 2 was run, and reads otherwise now"):
        stepping.not_done(edited, ended, "f")


def test_a_statement_is_shown_without_its_values() -> None:
    (turn,) = stepping.turns_of(Script("f", "ALTER ROLE r\n PASSWORD 'hunter2'"))
    assert words.shown(turn.statements[0]) == "ALTER ROLE r PASSWORD"


# --- folder and ledger


NOW = datetime(2026, 11, 23, tzinfo=UTC)


def _entry(number: int, state: State, checksum: str = "x", phase: Phase = Phase.EXPAND) -> Entry:
    return Entry(number, "a", FileKind.SQL, phase, checksum, state, 1, NOW, NOW, "ann", "0.1.0")


def _standing(folder: Path, *entries: Entry) -> Standing:
    return standing.of(folder, {entry.number: entry for entry in entries})


def test_an_edited_file_a_late_one_and_a_deleted_one_are_told(tmp_path: Path) -> None:
    _write(tmp_path, _001_a__sql=EXPAND, _002_a__sql=EXPAND, _004_a__sql=EXPAND)
    good = files.digest(tmp_path / "001_a.sql")
    now = _standing(tmp_path, _entry(1, State.APPLIED), _entry(3, State.APPLIED), _entry(4, State.APPLIED, good))
    told = [(one.block, one.number) for one in now.misfits()]
    assert told == [(Block.EDITED, 1), (Block.DELETED, 3), (Block.OUT_OF_ORDER, 2)]
    assert Block.OUT_OF_ORDER not in [one.block for one in now.misfits(out_of_order=True)]
    assert [one.number for one in now.pending] == [2]
    assert all(one.hint for one in now.misfits())


def test_what_was_reverted_waits_again_and_may_be_edited(tmp_path: Path) -> None:
    _write(tmp_path, _001_a__sql=EXPAND)
    now = _standing(tmp_path, _entry(1, State.REVERTED))
    assert not list(now.misfits())
    assert [one.number for one in now.pending] == [1]


def test_a_contract_ends_the_backfills_since_the_contract_before(tmp_path: Path) -> None:
    phases = ["expand", "backfill", "contract", "contract", "expand", "backfill", "expand", "contract"]
    for number, phase in enumerate(phases, 1):
        (tmp_path / f"{number:03}_a.sql").write_text(f"-- dbsec: phase {phase}\nSELECT 1;")
    now = _standing(tmp_path)
    series = {n: [one.number for one in now.series(now.migrations[n])] for n in (3, 4, 8)}
    assert series == {3: [2], 4: [2], 8: [6]}


def test_a_run_ends_at_a_number_or_before_a_later_phase(tmp_path: Path) -> None:
    for number, phase in enumerate(["expand", "backfill", "contract", "expand"], 1):
        (tmp_path / f"{number:03}_a.sql").write_text(f"-- dbsec: phase {phase}\nSELECT 1;")
    pending = _standing(tmp_path).pending
    assert [one.number for one in standing.before(pending, to=2, phase=None)] == [1, 2]
    assert [one.number for one in standing.before(pending, to=None, phase=Phase.EXPAND)] == [1]
    assert [one.number for one in standing.before(pending, to=None, phase=Phase.CONTRACT)] == [1, 2, 3, 4]
