"""Reading the server's log: who, from where, when and what; and what is not to be believed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.roles.audit_log import LINE_PREFIX, LogLine, find, parse, read

AT = "2026-11-23 12:21:31.704 UTC"
HEAD = f'{AT} [15038] 6b042fcb.3abe 127.0.0.1 00000 user="app_migrator" db="app" app="cli@7" '


def test_a_statement_says_who_from_where_and_when() -> None:
    assert parse(HEAD + "LOG:  statement: DROP TABLE app.orders\n") == LogLine(
        at=datetime(2026, 11, 23, 12, 21, 31, 704000, UTC),
        pid=15038,
        session="6b042fcb.3abe",
        host="127.0.0.1",
        sqlstate="00000",
        user="app_migrator",
        database="app",
        application="cli@7",
        severity="LOG",
        message="statement: DROP TABLE app.orders",
    )


def test_a_background_process_has_no_session() -> None:
    line = parse(f"{AT} [77] LOG:  checkpoint starting: time")
    assert line is not None
    assert (line.pid, line.session, line.user, line.message) == (77, "", "", "checkpoint starting: time")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "cp: cannot stat 'x'",
        HEAD,
        f'{AT} [15038] 6b042fcb.3abe 127.0.0.1 28P01 user="evil',
        HEAD.replace("3abe", "3abf") + "LOG:  statement: DROP TABLE x",  # the session of another process
        HEAD.replace("UTC", "CET") + "LOG:  statement: DROP TABLE x",
        HEAD.replace("app_migrator", "") + "LOG:  statement: DROP TABLE x",
    ],
)
def test_what_is_no_entry_is_none(line: str) -> None:
    assert parse(line) is None


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=63))
def test_an_application_cannot_name_another_user(name: str) -> None:
    line = parse(HEAD.replace("cli@7", name) + "LOG:  statement: DROP TABLE app.orders")
    assert line is not None
    assert (line.user, line.host, line.session) == ("app_migrator", "127.0.0.1", "6b042fcb.3abe")
    assert "DROP TABLE app.orders" in line.message


def _log(tmp_path: Path, *lines: str) -> Path:
    log = tmp_path / "server.log"
    log.write_text("".join(line + "\n" for line in lines))
    return log


def test_further_lines_belong_to_their_entry(tmp_path: Path) -> None:
    log = _log(
        tmp_path, HEAD + "LOG:  statement: SELECT 1", f"\t, 2 -- {HEAD}LOG:  x", HEAD + "LOG:  next", "from a program"
    )
    first, second = read(log)
    assert first.message.startswith("statement: SELECT 1\n, 2 -- 2026")
    assert second.message == "next"


def test_a_forged_entry_is_doubtful_and_the_next_is_not(tmp_path: Path) -> None:
    torn = f'{AT} [15037] 6b042fcb.3abd 10.0.0.9 28P01 user="x'
    forged = HEAD + 'LOG:  statement: DROP TABLE app.orders" app="[unknown]" FATAL:  password authentication failed'
    log = _log(tmp_path, torn, forged, '\tfor user "x"', HEAD + "LOG:  statement: SELECT 1")
    assert [(line.doubtful, line.message[:18]) for line in read(log)] == [
        (True, "statement: DROP TA"),
        (False, "statement: SELECT "),
    ]


def test_find_takes_time_user_text_and_offset(tmp_path: Path) -> None:
    early, late = HEAD.replace("12:21", "11:21"), HEAD.replace("app_migrator", "app_gateway")
    log = _log(
        tmp_path, early + "LOG:  statement: DROP TABLE a", HEAD + "LOG:  statement: DROP TABLE b", late + "LOG:  c"
    )
    assert len(find(log)) == 3
    assert [x.message for x in find(log, since=datetime(2026, 11, 23, 12, tzinfo=UTC), contains="DROP")] == [
        "statement: DROP TABLE b"
    ]
    assert [x.message for x in find(log, user="app_gateway")] == ["c"]
    offset = len(early + "LOG:  statement: DROP TABLE a\n")
    assert [x.message for x in find(log, offset=offset)] == ["statement: DROP TABLE b", "c"]


def test_what_goes_to_the_evidence_are_words() -> None:
    line = parse(HEAD + "LOG:  statement: DROP TABLE a")
    assert line is not None
    assert line.to_json() == {
        "user": "app_migrator",
        "from": "127.0.0.1",
        "application": "cli@7",
        "database": "app",
        "at": "2026-11-23T12:21:31.704+00:00",
        "session": "6b042fcb.3abe",
        "sqlstate": "00000",
        "message": "statement: DROP TABLE a",
    }


def test_the_prefix_puts_what_a_client_chooses_last() -> None:
    chosen = [LINE_PREFIX.index(escape) for escape in ("%u", "%d", "%a")]
    assert chosen == sorted(chosen)
    assert all(LINE_PREFIX.index(escape) < chosen[0] for escape in ("%m", "%p", "%c", "%h", "%e"))
