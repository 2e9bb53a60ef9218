"""The writer of expand, backfill and contract without a server: what it reads, refuses, prints and where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsec.backfill import Job
from dbsec.errors import UsageError
from dbsec.migrations import expand_contract
from dbsec.migrations.expand_contract import definitions, expressions, files, printing
from dbsec.migrations.expand_contract.ask import Ask, Side, side, table_name
from dbsec.migrations.expand_contract.place import Place, place_of
from dbsec.migrations.expand_contract.script import Act, Bounds, Change, written
from dbsec.migrations.expand_contract.templates import filled
from dbsec.migrations.names import Name
from dbsec.migrations.schema.dump import from_dump

DUMP = """
CREATE TABLE app.users (id bigint PRIMARY KEY, phone text DEFAULT 'x' UNIQUE, "Mixed ""Case" text, "select" int);
CREATE INDEX ON app.users (lower(phone) text_pattern_ops DESC) INCLUDE (id) WITH (fillfactor = 70) WHERE phone <> '';
ALTER TABLE app.users ADD CONSTRAINT c CHECK (phone <> '' OR "select" > 0);
ALTER TABLE ONLY app.users ALTER COLUMN "select" SET DEFAULT 3;
CREATE TABLE app.calls (id int PRIMARY KEY, phone text REFERENCES app.users (phone) ON DELETE CASCADE);
"""


def _place(text: str = DUMP, *, major: int = 17) -> Place:
    schema, unread = from_dump(text, source="schema.sql")
    assert unread == []
    table = schema.tables[Name("app", "users")]
    return place_of(schema, definitions.from_dump(text, table, source="schema.sql"), table, major=major)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("lower(btrim(phone))", ("phone",)),
        ("CASE WHEN a IS NULL THEN b ELSE 'a' END", ("a", "b")),
        ('"Mixed ""Case" || \'phone\'', ('Mixed "Case',)),
        ("a::numeric(10,2) + a", ("a",)),
        ("now()", ()),
    ],
)
def test_what_an_expression_reads(text: str, read: tuple[str, ...]) -> None:
    assert expressions.columns_of(text) == read


@pytest.mark.parametrize(
    "text", ["a, b", "a; SELECT 1", "(SELECT 1)", "t.a", "a FROM x", "1 AS x", "a -- c", "a /* c */", "a +", "*", ""]
)
def test_what_is_no_expression_of_a_row_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        expressions.columns_of(text)


def test_an_expression_over_other_names_keeps_its_text() -> None:
    text = "lower( btrim(phone) ) || 'phone ü' || \"select\"::text || phone"
    assert expressions.over(text, {"phone": "(a || b)"}) == (
        "lower( btrim((a || b)) ) || 'phone ü' || \"select\"::text || (a || b)"
    )
    assert expressions.of_row(text, "NEW") == (
        "lower( btrim(NEW.phone) ) || 'phone ü' || NEW.\"select\"::text || NEW.phone"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("phone", Side("phone")),
        ("total numeric(10,2) = a = b", Side("total", "numeric(10,2)", "a = b")),
        ('"Mixed Case"  timestamp with   time zone', Side("Mixed Case", "timestamp with time zone")),
        ("n = lower(x)", Side("n", "", "lower(x)")),
    ],
)
def test_what_a_column_says(text: str, wanted: Side) -> None:
    assert side(text) == wanted


@pytest.mark.parametrize(
    "text", ["x int PRIMARY KEY", "x, y", "", "x text DEFAULT 3", "x =", "x int = (SELECT 1)", "1x"]
)
def test_what_is_no_column_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        side(text)


def test_names_of_tables() -> None:
    assert table_name('app."Us ers"') == Name("app", "Us ers")
    for text in ("app.users; DROP TABLE x", "app.users WHERE true", "select", ""):
        with pytest.raises(UsageError):
            table_name(text)


def test_definitions_come_with_every_clause_and_their_names() -> None:
    found = _place().definitions
    (index,) = found.indexes
    assert printing.printed(printing.renamed(index, {"phone": "mobile"})) == (
        "CREATE INDEX users_lower_id_idx ON app.users ((lower(mobile)) text_pattern_ops DESC) INCLUDE (id) "
        "WITH (fillfactor = 70) WHERE mobile <> ''"
    )
    assert {one.conname for one in found.constraints} == {"users_pkey", "users_phone_key", "c"}
    assert found.defaults == {"phone": "'x'", "select": "3"}


def test_a_name_is_free_and_short_enough() -> None:
    place = _place()
    long = "x" * 80
    assert place.fresh("users_pkey") == "users_pkey_2"
    assert place.fresh(long) == "x" * 63
    assert place.fresh(long) == "x" * 61 + "_2"


def test_a_template_is_not_ended_by_a_word_of_it() -> None:
    text = filled("encrypt", function="f", plain_changed="$dbsec$", cipher_kept="true", forget="", refusals="")
    assert "AS $dbsec_$" in text
    assert text.endswith("END $dbsec_$;")


def test_a_script_says_why_and_sets_its_bounds_when_they_change() -> None:
    acts = [Act("A;", "one"), Act("B;"), Act("C;", "long", Bounds.LONG), Act("D;", "", Bounds.CONCURRENT)]
    assert written(acts, "About.", phase="expand") == (
        "-- dbsec: phase expand\n--\n-- About.\n\n"
        "-- one\nSET lock_timeout = '500ms';\nSET statement_timeout = '5s';\nA;\n\nB;\n\n"
        "-- long\nSET statement_timeout = '30min';\nC;\n\nSET lock_timeout = 0;\nD;\n"
    )


@pytest.mark.parametrize(
    ("major", "wanted"), [(17, "CHECK (mobile IS NOT NULL) NOT VALID"), (18, "NOT NULL mobile NOT VALID")]
)
def test_the_proof_of_not_null_is_the_versions_own(major: int, wanted: str) -> None:
    text = DUMP.replace("phone text DEFAULT", "phone text NOT NULL DEFAULT").partition("CREATE TABLE app.calls")[0]
    change = expand_contract.planned(
        "rename-column", _place(text, major=major), Ask(Name("app", "users"), (side("phone"),), (side("mobile"),))
    )
    assert wanted in change.contract
    assert "dbsec: phase contract" in change.contract
    assert "ALTER COLUMN mobile SET DEFAULT ('x')" in change.expand


def test_a_backfill_is_one_that_the_engine_reads(tmp_path: Path) -> None:
    text = DUMP.partition("CREATE TABLE app.calls")[0]
    ask = Ask(Name("app", "users"), (side("phone"),), (side('"Mobile \\ no"'),))
    made = files.named(expand_contract.planned("rename-column", _place(text), ask), tmp_path)
    files.write(made)
    (path,) = [path for path in made if path.suffix == ".toml"]
    job = Job.load(path)
    assert job.qualified == ("app", "users")
    assert job.set == '"Mobile \\ no" = phone'
    assert job.scope == "true"


def test_files_are_numbered_on_and_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "0041_older.sql").write_text("x")
    (tmp_path / "notes.md").write_text("x")
    change = Change("Users Ünd_mobile", "a", "b", "c", "d", "e", "f")
    made = files.named(change, tmp_path)
    assert sorted(path.name for path in made) == [
        "0042_expand_users_nd_mobile.down.sql",
        "0042_expand_users_nd_mobile.sql",
        "0043_backfill_users_nd_mobile.down.sql",
        "0043_backfill_users_nd_mobile.toml",
        "0044_contract_users_nd_mobile.down.sql",
        "0044_contract_users_nd_mobile.sql",
    ]
    (tmp_path / "0044_contract_users_nd_mobile.sql").write_text("mine")
    with pytest.raises(UsageError, match="cannot write"):
        files.write(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0041_older.sql",
        "0044_contract_users_nd_mobile.sql",
        "notes.md",
    ]
    assert (tmp_path / "0044_contract_users_nd_mobile.sql").read_text() == "mine"
    with pytest.raises(UsageError, match="no folder"):
        files.named(change, tmp_path / "nowhere")


def test_every_kind_is_found_and_another_is_refused() -> None:
    assert expand_contract.names() == [
        "add-not-null-column",
        "change-type",
        "encrypt-column",
        "merge-columns",
        "rename-column",
        "rotate-lookup",
        "split-columns",
    ]
    with pytest.raises(UsageError, match="no kind"):
        expand_contract.planned("rename-table", _place(), Ask(Name("app", "users")))


def test_a_deterministic_ciphertext_of_a_nullable_column_is_refused() -> None:
    """Written again beside NULL, it is what an erased value looks like: the trigger would empty it."""
    ask = Ask(Name("app", "users"), (side("phone"),), (side("phone_enc"),), python="a:b", lookup="phone_enc")
    with pytest.raises(UsageError, match="may be NULL"):
        expand_contract.planned("encrypt-column", _place(NULLABLE), ask)
    sound = NULLABLE.replace("phone text", "phone text NOT NULL")
    assert expand_contract.planned("encrypt-column", _place(sound), ask).contract


NULLABLE = "CREATE TABLE app.users (id bigint PRIMARY KEY, phone text);"


def test_a_rotated_lookup_key_has_a_contract_before_the_contract_where_it_is_unique(tmp_path: Path) -> None:
    plain = "CREATE TABLE app.users (id bigint PRIMARY KEY, tenant int, bidx bytea{});{}"
    ask = Ask(Name("app", "users"), (side("bidx"),), (side("bidx_g2"),), python="a:b", check="a:c")
    for unique, index, ending in (
        (" UNIQUE", "", "DROP CONSTRAINT IF EXISTS users_bidx_key;"),
        ("", "CREATE UNIQUE INDEX u ON app.users (tenant, bidx);", "DROP INDEX CONCURRENTLY IF EXISTS app.u;"),
    ):
        change = expand_contract.planned("rotate-lookup", _place(plain.format(unique, index)), ask)
        assert change.before is not None
        assert ending in change.before[0]
        assert "UNIQUE" in change.before[1]
        assert "UNIQUE" in change.expand
        names = [path.name for path in files.named(change, tmp_path) if "down" not in path.name]
        assert [name.split("_", 1)[0] for name in names] == ["001", "002", "003", "004"]
    change = expand_contract.planned("rotate-lookup", _place(plain.format("", "")), ask)
    assert change.before is None
    assert len(files.named(change, tmp_path)) == 6
    for wrong in ("bidx_g2 = md5(bidx)", "bidx", "tenant"):
        with pytest.raises(UsageError):
            expand_contract.planned(
                "rotate-lookup", _place(plain.format("", "")), Ask(ask.table, ask.old, (side(wrong),), python="a:b")
            )
    with pytest.raises(UsageError, match="no function"):
        expand_contract.planned("rotate-lookup", _place(plain.format("", "")), Ask(ask.table, ask.old, ask.new))
