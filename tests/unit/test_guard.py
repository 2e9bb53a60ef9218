"""The guard as text: made from one policy, the same each time, and valid SQL; and what a policy may say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pglast
import pytest

from dbsec.errors import ConfigError
from dbsec.migrations.guard import GUARDS, Mode, Policy, render, render_down
from dbsec.migrations.guard import script as written
from dbsec.migrations.guard.parts import TRIGGERS, functions
from dbsec.migrations.guard.proofs import GIVEN, VETOES
from dbsec.migrations.guard.rows import rows

ROOT = Path(__file__).resolve().parents[2]
FULL = {
    "mode": "observe",
    "modes": {"drop": "enforce"},
    "max_table_size": "1GB",
    "tables": {'app."Odd \'name"': {"max_size": 5, "reason": "it's\\odd"}, "app.hot": {"hot": True}},
    "protected": {"table": ["app.b", "app.a"], "table column": ["app.a.x"]},
    "search_paths": ["app ,public"],
    "tenant_schemas": ["t"],
}


def test_the_files_of_db_are_made_from_the_policy() -> None:
    spec = importlib.util.spec_from_file_location("guardrails", ROOT / "scripts" / "guardrails.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.drift() == [], "make guardrails"
    made = script.made()
    assert len(made) == 2
    assert all(len(line) <= 120 for text in made.values() for line in text.splitlines())


def test_the_script_is_the_same_each_time_and_what_the_parser_takes() -> None:
    policy = Policy.of(FULL, where="test")
    assert render(policy) == render(Policy.model_validate_json(policy.model_dump_json()))
    for text in (render(policy), render(Policy()), render_down()):
        statements = [type(raw.stmt).__name__ for raw in pglast.parse_sql(text)]
        assert [statements[0], statements[-1]] == ["TransactionStmt", "TransactionStmt"]
        assert statements.count("TransactionStmt") == 2
        assert "\\" not in text.replace("\\odd", "").replace("\\_", "").split("CREATE SCHEMA")[0], "no words of psql's"


def test_the_script_says_what_the_policy_says() -> None:
    text = render(Policy.of(FULL, where="test"))
    assert "--   rewrite              observe  DBG01" in text
    assert "--   drop                 enforce  DBG03" in text
    assert "('max_table_bytes', '1073741824')" in text
    assert """('app."Odd ''name"', 5,  E'it''s\\\\odd', true)""" in text
    assert "('app.hot', 0, '', true)" in text
    assert text.index("'app.a'") < text.index("'app.b'"), "sorted, whatever the order of the file"
    assert "('search_path', 'app, public', true)" in text


def test_every_function_has_a_path_of_its_own_but_the_one_that_reads_the_sessions() -> None:
    found = functions(map(written.part, written.PARTS))
    assert {name for name, one in found.items() if not one.settings} == {"note_path"}
    assert not found["note_path"].definer
    used = {trigger.function for trigger in TRIGGERS}
    assert {name for name, one in found.items() if one.definer} == used - {"note_path"}
    for name in used - {"note_path"}:
        assert f"{name}() failed" in found[name].body, "a guard's own failure must not fail DDL"
    made = "".join(map(written.part, written.PARTS)).count("CREATE FUNCTION")
    assert made == len(found), "a function that the plan does not see"


def test_nothing_writes_before_a_command() -> None:
    """A write there breaks DROP INDEX CONCURRENTLY."""
    found = functions(map(written.part, written.PARTS))
    writing = {
        name for name, one in found.items() if any(f"{word} " in one.body for word in ("INSERT", "UPDATE", "DELETE"))
    }
    assert writing == {"override", "end_override"}


def test_every_guard_is_proven() -> None:
    assert {one.guard for one in (*VETOES, *GIVEN)} >= {guard.name for guard in GUARDS}
    assert len({guard.sqlstate for guard in GUARDS}) == len(GUARDS)
    assert {row[0] for table in rows(Policy()) if table.name == "guards" for row in table.rows} == {
        guard.name for guard in GUARDS
    }


def test_a_mode_is_the_guards_own_or_the_one_for_all() -> None:
    policy = Policy.of(FULL, where="test")
    assert (policy.mode_of("drop"), policy.mode_of("rewrite")) == (Mode.ENFORCE, Mode.OBSERVE)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"mod": "off"}, "'migrations.guard.mod': extra inputs are not permitted"),
        ({"mode": "on"}, "'migrations.guard.mode': input should be 'observe', 'enforce' or 'off'"),
        ({"modes": {"drops": "off"}}, "'migrations.guard.modes': there is no guard 'drops': choose of definer, drop"),
        ({"max_table_size": "much"}, "'migrations.guard.max_table_size': is no size: write 100MB"),
        ({"max_table_size": -1}, "greater than or equal to 0"),
        ({"lock_timeout": 500}, "'migrations.guard.lock_timeout': is no span of time above 0"),
        ({"lock_timeout": "0s"}, "is no span of time above 0"),
        ({"tables": {"users": {"hot": True}}}, "is no name of a table: write schema.table"),
        ({"tables": {"app.users": {}}}, "'app.users' needs either max_size or hot = true"),
        ({"tables": {"app.users": {"hot": True, "max_size": 1}}}, "needs either max_size or hot"),
        ({"protected": {"tabel": ["app.users"]}}, "nothing of type 'tabel' can be protected: choose of table,"),
        ({"protected": {"table": ["Users"]}}, "'Users' is no name of a table"),
        ({"search_paths": [""]}, "'migrations.guard.search_paths.0': is no search_path"),
    ],
)
def test_a_wrong_policy_says_where_and_what(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Policy.of(table, where="dbsec.toml")
    assert str(refused.value).startswith("dbsec.toml: 'migrations.guard.")
    assert said in str(refused.value)


def test_a_policy_is_a_part_of_dbsec_toml(tmp_path: Path) -> None:
    file = tmp_path / "dbsec.toml"
    file.write_text('[migrations]\nfolder = "x"\n[migrations.guard]\nmode = "off"\n')
    assert Policy.load(file).mode is Mode.OFF
    assert Policy.load(None) == Policy()
    file.write_text("[migrations]\nguard = 1\n")
    with pytest.raises(ConfigError, match=r"migrations\.guard"):
        Policy.load(file)
