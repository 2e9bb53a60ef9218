"""roles.toml: what it refuses, and where it says so."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from dbsec.errors import ConfigError, NewerFormat
from dbsec.roles.desired import REFUSED, Model
from dbsec.roles.script import render_sql

ROOT = Path(__file__).resolve().parents[2]
TOML = ROOT / "db" / "roles.toml"
SMALL: dict[str, Any] = {
    "format": 1,
    "database": {"name": "app"},
    "schemas": {"app": {"owner": "own"}, "public": {}},
    "roles": {
        "own": {"kind": "owner", "purpose": "owns"},
        "grp": {"kind": "group", "purpose": "has rights"},
        "who": {"kind": "login", "purpose": "connects", "member_of": [{"role": "grp"}]},
    },
    "grants": [{"on": "tables", "schema": "app", "names": ["*"], "privileges": ["SELECT"], "to": ["grp"]}],
    "default_privileges": [
        {"for": "own", "schema": "app", "on": "tables", "privileges": ["SELECT"], "to": ["grp"]},
    ],
}


def _with(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(SMALL)
    at: Any = raw
    *way, last = path.split("/")
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    at[int(last) if isinstance(at, list) else last] = value
    return raw


def test_the_small_one_is_good() -> None:
    assert Model.of(SMALL).roles["who"].can_login


WRONG = {
    "a key that is not known": ("roles/own/color", "red", "roles.own.color': extra inputs"),
    "all privileges": ("grants/0/privileges", ["ALL"], "grants.0.tables.privileges.0': input should be 'SELECT'"),
    "a superuser": ("roles/who/attributes", ["superuser"], "roles.who.attributes.0': input should be 'createdb'"),
    "an unknown group": ("roles/who/member_of", [{"role": "grb"}], "roles.who.member_of': role 'grb' is not in"),
    "an unknown grantee": ("grants/0/to", ["nobody"], "grants.0.to': role 'nobody' is not in"),
    "a login that owns": ("schemas/app/owner", "who", "schemas.app.owner': role 'who' is a login; only an owner owns"),
    "a group with settings": ("roles/grp/settings", {"work_mem": "1MB"}, "roles.grp': 'settings' counts at login only"),
    "a group with a limit": ("roles/grp/connection_limit", 3, "roles.grp': 'connection_limit' counts at login only"),
    "a limit of none": ("roles/who/connection_limit", 0, "roles.who.connection_limit': input should be greater"),
    "a list for a setting": (
        "roles/who/settings",
        {"search_path": "app"},
        "roles.who.settings': 'search_path' is a list",
    ),
    "a setting with a blank": ("roles/who/settings", {"a b": "1"}, "roles.who.settings.a b.[key]'"),
    "a grant to the owner": ("grants/0/to", ["own"], "grants.0.to': 'own' owns it and needs no grant"),
    "a default for the owner": ("default_privileges/0/to", ["own"], "default_privileges.0.to': 'own' owns it"),
    "a default of a group": ("default_privileges/0/for", "grp", "default_privileges.0.for': role 'grp' is a group"),
    "a default that does not fit": (
        "default_privileges/0/privileges",
        ["EXECUTE"],
        "EXECUTE is not a privilege on tables",
    ),
    "a schema without owner": ("grants/0/schema", "public", "grants.0.schema': 'public' is not a schema with an owner"),
    "a default in no schema": ("default_privileges/0/schema", "x", "default_privileges.0.schema': 'x' is not a schema"),
    "a circle": ("roles/grp/member_of", [{"role": "who"}], "roles.grp.member_of': 'grp' is a member of itself"),
    "an unknown kind": ("grants/0/on", "views", "grants.0': input tag 'views'"),
    "a name of 64": ("database/name", "a" * 64, "database.name': string should match pattern"),
    "a name with a quote": ("database/name", 'a"b', "database.name': string should match pattern"),
    "no purpose": ("roles/own/purpose", "", "roles.own.purpose': string should have at least 1 character"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_file_and_key(case: str) -> None:
    path, value, said = WRONG[case]
    with pytest.raises(ConfigError) as refused:
        Model.of(_with(path, value), where="db/roles.toml")
    assert refused.value.message.startswith("'db/roles.toml', key '")
    assert said in refused.value.message


@pytest.mark.parametrize("role", REFUSED)
def test_a_predefined_role_that_is_superuser_by_another_name_is_never_granted(role: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(REFUSED[role])):
        Model.of(_with("roles/who/member_of", [{"role": role}]))


def test_other_predefined_roles_may_be() -> None:
    Model.of(_with("roles/who/member_of", [{"role": "pg_monitor"}]))


def test_a_newer_file_asks_for_a_newer_dbsec(tmp_path: Path) -> None:
    file = tmp_path / "roles.toml"
    file.write_text(TOML.read_text().replace("format = 1", "format = 2"))
    with pytest.raises(NewerFormat, match="format 2"):
        Model.load(file)


@pytest.mark.parametrize(
    ("text", "said"), [("= 1", "is not TOML"), ("format = 1", "key 'database'"), (None, "cannot read")]
)
def test_a_file_that_cannot_be_read_says_which(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "roles.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        Model.load(file)
    assert str(file) in refused.value.message


def test_the_model_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Model.of(SMALL).database.name = "other"


# --- the reference model -----------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_architecture() -> None:
    roles = Model.load(TOML).roles
    assert {name: role.kind for name, role in roles.items()} == {
        "app_owner": "owner",
        "dbsec_owner": "owner",
        "app_readwrite": "group",
        "app_readonly": "group",
        "dbsec_ctx": "group",
        "app_gateway": "login",
        "app_migrator": "login",
        "app_backup": "login",
        "app_rotator": "login",
        "app_bi": "login",
        "app_breakglass": "login",
    }


def test_every_login_is_bounded_and_only_breakglass_is_shut() -> None:
    model = Model.load(TOML)
    logins = {name: role for name, role in model.roles.items() if role.kind == "login"}
    assert all(role.connection_limit for role in logins.values())
    assert [name for name, role in logins.items() if not role.can_login] == ["app_breakglass"]


def test_nobody_but_the_owner_may_more_than_rows() -> None:
    for rule in (*Model.load(TOML).grants, *Model.load(TOML).default_privileges):
        assert not {"TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN", "CREATE"} & set(rule.privileges)


def test_roles_sql_is_made_from_roles_toml() -> None:
    made = render_sql(Model.load(TOML))
    assert (ROOT / "db" / "roles.sql").read_text() == made, (
        "roles.toml has changed: write render_sql(Model.load(…)) to roles.sql"
    )


def test_no_password_stands_in_the_deployment() -> None:
    for file in (TOML, ROOT / "db" / "roles.sql"):
        assert not re.search(r"(?i)password\s*=|PASSWORD '|SCRAM-SHA-256\$", file.read_text())
