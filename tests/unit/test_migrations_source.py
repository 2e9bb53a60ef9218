"""Folders as scripts: each tool's order and transactions, what of a file runs, and paths that cannot be read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbsec.errors import UsageError
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.reading.psql import sql_of
from dbsec.migrations.reading.source import read
from dbsec.migrations.script import Phase, Script, Unread, Wrap


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


def names(folder: Path, *paths: Path, **more: object) -> list[str]:
    scripts, unread = read([str(path) for path in paths or (folder,)], **more)  # type: ignore[arg-type]
    assert unread == []
    return [Path(script.path).relative_to(folder).as_posix() for script in scripts]


def one(folder: Path, name: str, text: str) -> Script:
    scripts, unread = read([str(write(folder, {name: text}) / name)])
    assert unread == []
    assert [len(script.text) for script in scripts] == [len(text)]
    assert scripts[0].text.count("\n") == text.count("\n")
    return scripts[0]


def statements(script: Script) -> list[tuple[int, str, int]]:
    found, unread = parse(script)
    assert unread == []
    return [(statement.line, statement.text, statement.block) for statement in found]


# --- which files, in which order


def test_files_run_by_the_numbers_in_their_names_and_ways_back_do_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        dict.fromkeys(["10_b.sql", "2_a.sql", "2_a.down.sql", "3.toml", "sub/1.sql", "x.txt", ".git/a.sql"], ""),
    )
    assert names(tmp_path) == ["2_a.sql", "10_b.sql", "sub/1.sql"]


def test_flyway_goes_by_version_across_folders_and_repeatable_ones_last(tmp_path: Path) -> None:
    given = ["R__views.sql", "a/V10__x.sql", "b/V2__x.sql", "b/V2.1__y.sql", "V1_9__x.sql", "U2__x.sql", "B1__base.sql"]
    write(tmp_path, dict.fromkeys(given, ""))
    assert names(tmp_path) == ["V1_9__x.sql", "b/V2__x.sql", "b/V2.1__y.sql", "a/V10__x.sql", "R__views.sql"]


def test_prisma_goes_by_the_folders(tmp_path: Path) -> None:
    given = ["20240102000000_b/migration.sql", "20231231000000_a/migration.sql", "migration_lock.toml"]
    write(tmp_path, dict.fromkeys(given, ""))
    assert names(tmp_path) == ["20231231000000_a/migration.sql", "20240102000000_b/migration.sql"]


def test_files_by_name_go_in_order_where_they_are_numbered_else_as_given(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["V10__a.sql", "V2__b.sql", "b.sql", "a.sql", "1_x.down.sql", "1_x.sql"], ""))
    assert names(tmp_path, tmp_path / "V10__a.sql", tmp_path / "V2__b.sql") == ["V2__b.sql", "V10__a.sql"]
    assert names(tmp_path, tmp_path / "b.sql", tmp_path / "a.sql") == ["b.sql", "a.sql"]
    assert names(tmp_path, tmp_path / "1_x.down.sql", tmp_path / "1_x.sql") == ["1_x.sql"]
    assert names(tmp_path, tmp_path / "1_x.down.sql") == ["1_x.down.sql"]


# --- what of a file runs, in which transaction


def test_plain_sql_commits_by_statement_and_wrap_overrides_it(tmp_path: Path) -> None:
    assert one(tmp_path, "a.sql", "SELECT 1").wrap is Wrap.NONE
    scripts, _ = read([str(tmp_path)], wrap=Wrap.FILE)
    assert scripts[0].wrap is Wrap.FILE


@pytest.mark.parametrize(
    ("text", "wrap"),
    [
        ("SELECT 1;", Wrap.FILE),
        ("CREATE INDEX CONCURRENTLY i ON t (a);", Wrap.NONE),
        ("SELECT 1; CREATE UNIQUE INDEX CONCURRENTLY i ON t (a);", Wrap.FILE),
        ("-- why\nVACUUM t; DROP INDEX CONCURRENTLY i", Wrap.NONE),
    ],
)
def test_flyway_leaves_the_transaction_where_nothing_in_the_file_takes_one(
    tmp_path: Path, text: str, wrap: Wrap
) -> None:
    script = one(tmp_path, "V1__a.sql", text)
    assert (script.tool, script.wrap) == ("flyway", wrap)


def test_flyway_reads_the_configuration_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"V1__a.sql.conf": "executeInTransaction=false\n"})
    assert one(tmp_path, "V1__a.sql", "SELECT 1;").wrap is Wrap.NONE


@pytest.mark.parametrize("name", ["20240102000000_b/migration.sql", "000001_b.up.sql"])
def test_a_file_sent_as_one_message_is_a_transaction_where_it_has_several_statements(tmp_path: Path, name: str) -> None:
    assert one(tmp_path, name, "SELECT 1; -- x\n").wrap is Wrap.NONE
    assert one(tmp_path, name, "SELECT 1; SELECT 2").wrap is Wrap.FILE


def test_dbmate_runs_the_part_up(tmp_path: Path) -> None:
    text = "-- migrate:up\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n"
    script = one(tmp_path, "1.sql", text)
    assert (script.tool, script.wrap, statements(script)) == ("dbmate", Wrap.FILE, [(2, "CREATE TABLE a ()", 1)])
    assert one(tmp_path, "1.sql", text.replace("up", "up transaction:false")).wrap is Wrap.NONE


@pytest.mark.parametrize("tool", ["goose", "migrate"])
def test_goose_runs_the_part_up(tmp_path: Path, tool: str) -> None:
    text = (
        "-- dbsec: phase expand\n-- +goose Up\nCREATE TABLE a ();\n-- +goose StatementBegin\nDROP TABLE b;\n"
        "-- +goose StatementEnd\n-- +goose Down\nDROP TABLE a;\n"
    ).replace("goose", tool)
    script = one(tmp_path, "1.sql", text)
    assert (script.tool, script.wrap, script.phase) == ("goose", Wrap.FILE, Phase.EXPAND)
    assert statements(script) == [(3, "CREATE TABLE a ()", 1), (5, "DROP TABLE b", 1)]
    alone = "-- +goose NO TRANSACTION\n" + text if tool == "goose" else text.replace("Up", "Up notransaction")
    assert one(tmp_path, "1.sql", alone).wrap is Wrap.NONE


def test_liquibase_runs_each_changeset_in_a_transaction_of_its_own(tmp_path: Path) -> None:
    text = """--liquibase formatted sql

--changeset ann:1
CREATE TABLE a ();
CREATE TABLE b ();
--rollback DROP TABLE a;
--changeset ann:2 runInTransaction:false
CREATE INDEX CONCURRENTLY i ON t (x);
--changeset ann:3 dbms:oracle
BEGIN NULL; END;
--changeset ann:4 dbms:postgresql,h2 endDelimiter:/
SELECT 4
/
SELECT 5/
"""
    script = one(tmp_path, "x.sql", text)
    assert script.tool == "liquibase"
    assert statements(script) == [
        (4, "CREATE TABLE a ()", 1),
        (5, "CREATE TABLE b ()", 1),
        (8, "CREATE INDEX CONCURRENTLY i ON t (x)", 0),
        (12, "SELECT 4", 3),
        (14, "SELECT 5", 3),
    ]


def test_liquibase_without_a_changeset_is_read_as_it_is(tmp_path: Path) -> None:
    assert statements(one(tmp_path, "x.sql", "-- liquibase formatted sql\nSELECT 1;")) == [(2, "SELECT 1", 1)]


def test_what_only_psql_understands_is_blanked_and_every_place_kept(tmp_path: Path) -> None:
    text = r"""\set ON_ERROR_STOP on
-- \c x
SELECT :'a', :"b", c::int, '{"a":"b"}', '\', d[1:n] FROM tbl_:suffix WHERE x = :x;
DO $$BEGIN x := 1; \q :y END$$;
\connect -reuse-previous=on "dbname='x;'"
SELECT 1 \gset
COPY t (a) FROM stdin WITH (FORMAT text);
it's; DROP TABLE a;
\.
SELECT E'\'' \; SELECT 2;
\if :x \\ SELECT 3;
CREATE TABLE ${flyway:defaultSchema}.t ();
COPY t FROM stdin;
; DROP TABLE b;
"""
    scripts, _ = read([str(write(tmp_path, {"a.sql": text}))])
    assert len(scripts[0].text) == len(text)
    found, unread = parse(scripts[0])
    assert [(one.line, one.text) for one in found] == [
        (3, """SELECT  'a',  "b", c::int, '{"a":"b"}', '\\', d[1:n] FROM tbl__suffix WHERE x =  x"""),
        (4, "DO $$BEGIN x := 1; \\q :y END$$"),
        (6, "SELECT 1"),
        (7, "COPY t (a) FROM stdin WITH (FORMAT text)"),
        (10, "SELECT E'\\''"),
        (10, "SELECT 2"),
        (11, "SELECT 3"),
        (12, "CREATE TABLE __flyway_defaultSchema_.t ()"),
        (13, "COPY t FROM stdin"),
    ]
    assert [one.line for one in unread] == [4]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["\\", "\n", ":x", "'", '"', "$$", "copy a from stdin;", "\\.", ";", "--", "${x}", "[", "é", "\\\\"]
        )
    ).map("".join)
)
def test_blanking_keeps_length_and_lines_of_any_text(text: str) -> None:
    blank = sql_of(text)
    assert [len(line) for line in blank.split("\n")] == [len(line) for line in text.split("\n")]


# --- what comments say


def test_the_phase_and_the_comments_for_suppressions_are_kept(tmp_path: Path) -> None:
    text = (
        "/* why\n dbsec: phase contract */\nSELECT '-- dbsec: allow x'; -- dbsec: allow MIG101 a\n-- squawk-ignore y\n"
    )
    script = one(tmp_path, "a.sql", text)
    assert script.phase is Phase.CONTRACT
    assert script.comments == (
        (1, "why\n dbsec: phase contract"),
        (3, "dbsec: allow MIG101 a"),
        (4, "squawk-ignore y"),
    )


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\n-- dbsec: phase shrink", 2, "phase 'shrink' is not expand, backfill or contract"),
        ("-- dbsec: phase", 1, "phase '' is not expand, backfill or contract"),
        ("-- dbsec: phase expand\n-- dbsec: phase contract", 2, "a second phase, 'contract', after 'expand'"),
    ],
)
def test_a_phase_that_is_not_known_is_told_and_the_file_still_read(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    scripts, unread = read([str(write(tmp_path, {"a.sql": text}))])
    assert len(scripts) == 1
    assert [(one.line, one.reason) for one in unread] == [(line, reason)]


# --- stdin, and paths that cannot be read


def test_stdin_is_read_like_a_file() -> None:
    scripts, _ = read(["-"], stdin="-- migrate:up\nSELECT 1")
    assert [(script.path, script.tool) for script in scripts] == [("-", "dbmate")]


@pytest.mark.parametrize(
    ("content", "line", "reason", "hint"),
    [
        (b"SELECT 1;\nSELECT 'caf\xe9';", 2, "byte 0xe9 at offset 21 is not UTF-8", "iconv -f LATIN1 -t UTF-8"),
        (b"\xff\xfeS\x00", 1, "is UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_told_with_its_mend_and_the_others_are_read(
    tmp_path: Path, content: bytes, line: int, reason: str, hint: str
) -> None:
    write(tmp_path, {"1.sql": "SELECT 1", "3.sql": "\ufeffSELECT 3"})
    (tmp_path / "2.sql").write_bytes(content)
    scripts, unread = read([str(tmp_path)])
    assert [script.text for script in scripts] == ["SELECT 1", " SELECT 3"]
    assert [(one.path, one.line, one.reason) for one in unread] == [(str(tmp_path / "2.sql"), line, reason)]
    assert unread[0].hint.startswith(hint)


def test_an_empty_file_is_no_error(tmp_path: Path) -> None:
    assert statements(one(tmp_path, "a.sql", "")) == []


def test_links_that_lead_nowhere_or_back_are_told(tmp_path: Path) -> None:
    write(tmp_path, {"a/1.sql": ""})
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "2.sql").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "a" / "3.sql")
    scripts, unread = read([str(tmp_path)])
    assert [Path(script.path).name for script in scripts] == ["1.sql"]
    assert {one.reason for one in unread} == {
        "a link leads back to a folder above it",
        "a link to a file that is not there",
    }


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"1.sql": "", "2.sql": "", "sub/3.sql": ""})
    (tmp_path / "2.sql").chmod(0)
    (tmp_path / "sub").chmod(0)
    if os.access(tmp_path / "2.sql", os.R_OK):
        pytest.skip("this account reads everything (root)")
    try:
        scripts, unread = read([str(tmp_path)])
    finally:
        (tmp_path / "sub").chmod(0o700)
    assert [Path(script.path).name for script in scripts] == ["1.sql"]
    assert [one.reason for one in unread] == ["no permission to read it"] * 2


def test_a_file_of_more_than_64_mib_is_left(tmp_path: Path) -> None:
    with (tmp_path / "a.sql").open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    assert read([str(tmp_path)]) == (
        [],
        [Unread(str(tmp_path / "a.sql"), 0, "larger than 64 MiB", hint=f"split -C 32M {tmp_path / 'a.sql'}")],
    )


@pytest.mark.parametrize("name", ["none", "empty", "only.toml", "a\0b"])
def test_nothing_to_read_is_a_wrong_argument(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"empty/readme.md": "", "only.toml": ""})
    with pytest.raises(UsageError) as caught:
        read([str(tmp_path / name)])
    assert caught.value.hint


# --- what git says is deployed


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path, {"db/1 ä.sql": "SELECT 1", "db/2.sql": "SELECT 2", "db/3.sql": "SELECT 3"})
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "x"],
        ["mv", "db/3.sql", "db/5.sql"],
    ):
        subprocess.run(["git", "-c", "core.autocrlf=false", *command], cwd=tmp_path, check=True)
    return write(tmp_path, {"db/2.sql": "SELECT 2, 2", "db/4.sql": "SELECT 4"})


def test_what_git_has_unchanged_is_deployed(repository: Path) -> None:
    scripts, _ = read([str(repository / "db"), "-"], stdin="SELECT 6", changed_since="HEAD")
    deployed = {Path(script.path).name: script.deployed for script in scripts}
    assert deployed == {"1 ä.sql": True, "2.sql": False, "4.sql": False, "5.sql": False, "-": False}


@pytest.mark.parametrize("revision", ["none", "--help", ""])
def test_a_revision_that_git_does_not_know_is_a_wrong_argument(repository: Path, revision: str) -> None:
    with pytest.raises(UsageError, match="git does not know the revision"):
        read([str(repository / "db")], changed_since=revision)


def test_a_folder_without_git_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no git repository"):
        read([str(write(tmp_path, {"1.sql": ""}))], changed_since="HEAD")
