"""Scripts as statements: lines, transactions, DO blocks, and text that is no SQL."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.parse import parse, parse_text
from dbsec.migrations.script import Script, Unread, Wrap
from dbsec.migrations.statement import Origin, Statement


def read(text: str, *, wrap: Wrap = Wrap.NONE, **more: object) -> tuple[list[Statement], list[Unread]]:
    return parse(Script("m.sql", text, wrap=wrap, **more))  # type: ignore[arg-type]


def places(text: str, lines: tuple[int, ...] = ()) -> list[tuple[int, str]]:
    return [(one.line, one.text) for one in read(text, lines=lines)[0]]


def blocks(text: str, *, wrap: Wrap = Wrap.NONE) -> list[tuple[str, int]]:
    return [(one.kind.removesuffix("Stmt"), one.block) for one in read(text, wrap=wrap)[0]]


# --- places


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bad", ["", "selec 1;"])
def test_a_statement_is_at_its_first_word_and_ends_before_its_semicolon(newline: str, bad: str) -> None:
    text = "-- größe\n/* two\nlines */ DROP TABLE\n  \"é\" ; -- x\n\n;;  select 'ß;' -- end\n".replace("\n", newline)
    found = places(text.replace(";;", f";{bad};"))
    assert found == [(3, f'DROP TABLE{newline}  "é"'), (6, "select 'ß;'")]


def test_a_byte_order_mark_before_the_first_word_is_no_word() -> None:
    assert places("\ufeffselect 1; select 2") == [(1, "select 1"), (1, "select 2")]


def test_lines_are_those_of_the_file_where_the_script_maps_them() -> None:
    assert places("select 1;\nselect 2;\n", lines=(7, 9)) == [(7, "select 1"), (9, "select 2")]


@pytest.mark.parametrize("bad", ["", "selec;"])
def test_locations_of_the_tree_count_bytes_from_start(bad: str) -> None:
    statements, _ = read(f"select 'ä';{bad} -- ö\nALTER TABLE t ADD CONSTRAINT \"ü\" CHECK (a > 0) NOT VALID;")
    statement = statements[-1]
    at = statement.node["cmds"][0]["AlterTableCmd"]["def"]["Constraint"]["location"] - statement.start
    assert statement.text.encode()[at:].decode().startswith('CONSTRAINT "ü" CHECK')


def test_what_postgresql_refuses_is_told_at_its_place_and_the_rest_is_read() -> None:
    statements, unread = read(
        "select 1;\nselect\n  'é' fro m n;\nselect 2;\nCREATE RULE r AS ON INSERT TO t DO (a; b);"
    )
    assert [one.text for one in statements] == ["select 1", "select 2"]
    assert unread == [
        Unread("m.sql", 3, 'syntax error at or near "m"'),
        Unread("m.sql", 5, 'syntax error at or near "a"'),
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("select 1;\n select 'a", 2, "unterminated quoted string"),
        ("select 1;\n /* a", 2, "unterminated /* comment"),
        ("select 1;\n do $a$ begin", 2, "unterminated dollar-quoted string"),
        ("select 1;\nselect \0 2", 2, "a NUL byte"),
        ("select 1;\nselect " + "(" * 20_000, 2, "memory exhausted"),
        ("select 1;\nselect " + "1+" * 5_000 + "1", 2, "nested too deeply"),
        ("select 1;\nselect \ud800", 2, "'utf-8' codec"),
        ("select 1;\nselect 1 '" + "x" * 900 + "'", 2, "syntax error"),
        ("select 1;\n" + "/*" * 3_000, 2, "nested too deeply"),
    ],
)
def test_broken_text_ends_in_a_reason_and_takes_nothing_before_it_along(text: str, line: int, said: str) -> None:
    statements, unread = read(text)
    assert [one.text for one in statements] == ["select 1"]
    assert [(one.line, one.reason.startswith(said)) for one in unread] == [(line, True)]
    assert len(unread[0].reason) <= 201


def test_a_body_in_sql_is_one_statement_where_the_parser_does_not_take_the_whole() -> None:
    function = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END"
    assert places(f"selec 1; {function}; select 3") == [(1, function), (1, "select 3")]


def test_a_file_that_is_no_sql_gives_a_hundred_reasons_and_a_count() -> None:
    _, unread = read("selec 1;\n" * 150)
    assert len(unread) == 101
    assert unread[-1].reason == "50 more statements cannot be read"


def test_a_large_file_is_cut_before_it_is_parsed() -> None:
    rows = "INSERT INTO t VALUES " + "(1, 'é')," * 30_000 + "(2);\n"
    statements, unread = read("SELECT 1;\n" * 100 + rows + "INSERT INTO t VALUES ('" + "é" * 1_000_000 + "'); SELECT 2")
    assert (len(statements), unread) == (103, [])
    assert [one.line for one in statements[-3:]] == [101, 102, 102]
    assert statements[-1].text == "SELECT 2"
    assert "ival" not in repr(statements[100].node)  # the values of so many rows would take gigabytes


# --- transactions


def test_autocommit_is_block_0_and_each_begin_a_new_one() -> None:
    text = (
        "VACUUM; BEGIN; DROP TABLE a; BEGIN; COMMIT; VACUUM; START TRANSACTION; ROLLBACK AND CHAIN; SHOW x; END; SHOW x"
    )
    assert blocks(text) == [
        ("Vacuum", 0), ("Transaction", 1), ("Drop", 1), ("Transaction", 1), ("Transaction", 1), ("Vacuum", 0),
        ("Transaction", 2), ("Transaction", 2), ("VariableShow", 3), ("Transaction", 3), ("VariableShow", 0),
    ]  # fmt: skip


def test_a_wrapped_file_is_one_block_until_it_commits() -> None:
    text = (
        "DROP TABLE a; SAVEPOINT s; ROLLBACK TO s; COMMIT; VACUUM; BEGIN; DROP TABLE b; PREPARE TRANSACTION 'x'; VACUUM"
    )
    assert [number for _, number in blocks(text, wrap=Wrap.FILE)] == [1, 1, 1, 1, 0, 2, 2, 2, 0]


def test_sections_are_transactions_of_their_own() -> None:
    sections = ((1, Wrap.FILE), (3, Wrap.NONE), (5, Wrap.FILE))
    statements, _ = read("\nDROP TABLE a;\n\nVACUUM;\nDROP TABLE b;\nDROP TABLE c;", wrap=Wrap.FILE, sections=sections)
    assert [one.block for one in statements] == [1, 0, 2, 2]


def test_a_do_block_in_autocommit_is_a_block_and_commit_in_it_begins_another() -> None:
    text = "DO $$BEGIN DROP TABLE a; COMMIT; DROP TABLE b; END$$; VACUUM; DO $$BEGIN DROP TABLE c; END$$"
    expected = [("Do", 1), ("Drop", 1), ("Drop", 2), ("Vacuum", 0), ("Do", 3), ("Drop", 3)]
    assert blocks(text) == expected
    assert [number for _, number in blocks(text, wrap=Wrap.FILE)] == [1] * 6


# --- DO and EXECUTE


def inner(body: str, head: str = "DO $$") -> list[tuple[int, Origin, str]]:
    statements, unread = read(f"-- é\n{head}{body}$$;")
    assert unread == []
    return [(one.line, one.origin, one.text) for one in statements[1:]]


def dynamic(body: str) -> bool:
    return bool(read(f"DO $$BEGIN {body} END$$")[0][0].node.get("dbsec_dynamic"))


def test_every_branch_of_a_do_block_is_walked() -> None:
    body = """
DECLARE r record; i public.thing[]; e public.thing%rowtype; BEGIN
  IF true THEN DROP TABLE t1; ELSIF false THEN DROP TABLE t2; ELSE DROP TABLE t3; END IF;
  CASE 1 WHEN 1 THEN DROP TABLE t4; ELSE DROP TABLE t5; END CASE;
  LOOP DROP TABLE t6; EXIT; END LOOP;
  WHILE true LOOP DROP TABLE t7; END LOOP;
  FOR i IN 1..2 LOOP DROP TABLE t8; END LOOP;
  FOR r IN
    SELECT 9 LOOP DROP TABLE t9; END LOOP;
  e.x := 1;
  BEGIN
    ALTER TABLE t10
      ADD COLUMN x int;
  EXCEPTION WHEN others THEN
    DROP TABLE t11;
  END;
  PERFORM 12;
END"""
    found = inner(body, "DO LANGUAGE plpgsql\n$$")
    assert [(line, text.split()[-1]) for line, _, text in found if text.startswith("DROP")] == [
        (5, "t1"), (5, "t2"), (5, "t3"), (6, "t4"), (6, "t5"), (7, "t6"), (8, "t7"), (9, "t8"), (11, "t9"), (17, "t11"),
    ]  # fmt: skip
    assert [(line, text) for line, _, text in found if not text.startswith("DROP")] == [
        (11, "SELECT 9"), (14, "ALTER TABLE t10\n      ADD COLUMN x int"), (19, "SELECT 12"),
    ]  # fmt: skip
    assert {origin for _, origin, _ in found} == {Origin.DO}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("EXECUTE 'DROP TABLE a';", ["DROP TABLE a"]),
        ("EXECUTE 'DROP TABLE ' || 'a' || '_b' USING 1;", ["DROP TABLE a_b"]),
        ("EXECUTE format('DROP TABLE %I', 'User');", ['DROP TABLE "User"']),
        ("EXECUTE format('DROP TABLE %I.%I', 'app', 'order');", ['DROP TABLE app."order"']),
        ("EXECUTE format('DROP TABLE %2$I, %1$I', 'a', 'b');", ["DROP TABLE b, a"]),
        ("EXECUTE format('COMMENT ON TABLE %s IS %L', 'a', 'it''s');", ["COMMENT ON TABLE a IS 'it''s'"]),
        ("EXECUTE 'DROP TABLE ' || quote_ident(current_schema) || '.x';", ["DROP TABLE dbsec_unknown.x"]),
        ("EXECUTE 'CREATE INDEX i_' || now()::text || ' ON t (a)';", ["CREATE INDEX i_dbsec_unknown ON t (a)"]),
        ("EXECUTE concat('DROP ', 'TABLE ', upper('a'));", ["DROP TABLE A"]),
        ("EXECUTE 'DROP TABLE a; DROP TABLE b';", ["DROP TABLE a", "DROP TABLE b"]),
        ("EXECUTE 'DO $x$BEGIN DROP TABLE a; END$x$';", ["DO $x$BEGIN DROP TABLE a; END$x$", "DROP TABLE a"]),
        ("EXECUTE CASE WHEN true THEN 'DROP TABLE a' ELSE 'DROP TABLE b' END;", ["DROP TABLE a", "DROP TABLE b"]),
    ],
)
def test_execute_of_text_that_is_known_becomes_statements(body: str, expected: list[str]) -> None:
    found = [one for one in read(f"DO $$BEGIN {body} END$$")[0][1:] if one.origin is not Origin.DIRECT]
    assert [one.text for one in found] == expected
    assert not any(one.node.get("dbsec_dynamic") for one in found)


def test_variables_hold_what_the_ways_to_execute_give_them() -> None:
    body = """DECLARE k CONSTANT text := 'a'; names text[] := ARRAY['b', 'c']; n text; q text; BEGIN
  EXECUTE 'DROP TABLE ' || k;
  FOREACH n IN ARRAY names LOOP EXECUTE format('DROP TABLE %I', n); END LOOP;
  IF true THEN q := 'DROP TABLE d'; ELSE q := 'DROP TABLE e'; END IF;
  EXECUTE q;
  SELECT 'DROP TABLE f' INTO q;
  EXECUTE q;
END"""
    statements, _ = read(f"DO $${body}$$")
    dropped = [(one.line, one.text) for one in statements if one.kind == "DropStmt"]
    assert dropped == [(line, f"DROP TABLE {name}") for line, name in zip((2, 3, 3, 5, 5), "abcde", strict=True)]
    assert statements[0].node["dbsec_dynamic"] is True


def test_a_literal_of_several_lines_keeps_its_lines() -> None:
    body = """
BEGIN
  EXECUTE
    'DROP TABLE a;
     DROP TABLE b';
  EXECUTE $q$
    DROP TABLE c$q$;
  EXECUTE format(
    'DROP TABLE %I', 'd');
END"""
    lines = zip((5, 6, 8, 10), "abcd", strict=True)
    assert [(line, text) for line, _, text in inner(body)] == [(line, f"DROP TABLE {name}") for line, name in lines]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("EXECUTE 'DROP TABLE a';", False),
        ("EXECUTE (SELECT x FROM y);", True),
        ("EXECUTE current_setting('x');", True),
        ("EXECUTE 'ALTER TABLE ' || now() || ' ADD ' || now();", True),
        ("NULL;", False),
    ],
)
def test_a_do_block_whose_text_only_the_server_knows_is_marked(body: str, expected: bool) -> None:
    assert dynamic(body) is expected


def test_what_is_no_plpgsql_is_told() -> None:
    _, unread = read("DO $$BEGIN\n selec 1; END$$; DO LANGUAGE sql $$SELECT 1$$; DO $$BEGIN EXECUTE 'selec'; END$$")
    assert [one.reason for one in unread] == [
        'syntax error at or near "selec"',
        'language "sql" does not support inline code execution',
        'syntax error at or near "selec"',
    ]
    assert read("DO LANGUAGE plpython3u 'pass'")[0][0].node["dbsec_dynamic"] is True


def test_the_body_of_a_function_does_not_run() -> None:
    statements = parse_text("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$BEGIN DROP TABLE a; END$$")
    assert [one.kind for one in statements] == ["CreateFunctionStmt"]


# --- anything at all

_WORDS = [
    *("--", "/*", "*/", "'", '"', "$$", "$a$", ";", "\n", "\r\n", "\0", "\\", "(", ")", "E'\\", ":x", "é"),
    *("\ufeff", "\ud800", "\u2028", "begin atomic", "case", "end", "BEGIN", "COMMIT", "SELECT 1"),
    "ALTER TABLE app.users ADD COLUMN é text DEFAULT 'ä;'",
    "DO $$BEGIN EXECUTE 'DROP TABLE ' || x; END$$",
    "DO $$DECLARE a text[] := ARRAY['b']; BEGIN NULL; END$$",
    "DO $$BEGIN IF a THEN EXECUTE format('%I %s %2$L', b); END IF; END$$",
]
TEXTS = st.lists(st.sampled_from(_WORDS) | st.text(max_size=5), max_size=12).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(Wrap), st.data())
def test_any_text_ends_in_statements_or_reasons(text: str, wrap: Wrap, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    for one in (text, text[:cut], text[cut:]):
        statements, _ = read(one, wrap=wrap)
        lines = one.count("\n") + 1
        assert all(1 <= statement.line <= lines for statement in statements)
        assert all(statement.text == statement.text.strip() for statement in statements)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_the_cut_pieces_are_in_order_and_hold_all_words(text: str) -> None:
    end = 0
    for start, stop in lexer.cut(text):
        assert end <= start < stop <= len(text)
        end = stop
