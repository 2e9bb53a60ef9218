"""A connection string comes back as it was, and its secrets do not print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from dbsec.errors import ConfigError
from dbsec.pg import Conninfo
from dbsec.secret import Secret

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(user=texts, dbname=texts, password=texts)
def test_round_trip(user, dbname, password):
    given_ = Conninfo({"host": "localhost", "user": user, "dbname": dbname}, Secret(password))
    assert Conninfo.parse(given_.text()) == given_
    assert conninfo_to_dict(given_.text())["password"] == password


@pytest.mark.parametrize(
    "text",
    [
        "host=db.example port=5433 user=app_gateway dbname=app password='p w''d\\'s' sslmode=verify-full",
        "postgresql://app_gateway:p%20w%27d%27s@db.example:5433/app?sslmode=verify-full",
    ],
)
def test_both_forms_are_read(text):
    parsed = Conninfo.parse(text.replace("''", "\\'"))
    assert (parsed.host, parsed.port, parsed.user, parsed.dbname) == ("db.example", 5433, "app_gateway", "app")
    assert parsed.password == Secret("p w'd's")
    assert parsed.params["sslmode"] == "verify-full"


def test_nothing_shows_a_secret():
    text = "host=x password=hunter2 sslpassword=hunter2 sslmode=require"
    for shown in (repr(Conninfo.parse(text)), str(Conninfo.parse(text)), repr([Conninfo.parse(text)])):
        assert "hunter2" not in shown
        assert "sslmode=require" in shown


@pytest.mark.parametrize(
    "text", ["host='unclosed password=hunter2", "no_such_word=hunter2", "postgresql://a:hunter2@[::1"]
)
def test_what_libpq_does_not_read_is_refused_without_being_repeated(text):
    with pytest.raises(ConfigError) as refused:
        Conninfo.parse(text)
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"


def test_but_changes_a_copy():
    one = Conninfo.local(5432, user="postgres", dbname="app", password=Secret("a"), sslmode="require")
    other = one.but(user="app_gateway", sslmode=None, connect_timeout=3, password=Secret("b"))
    assert (one.user, one.params["sslmode"], one.password) == ("postgres", "require", Secret("a"))
    assert (other.user, "sslmode" in other.params, other.params["connect_timeout"]) == ("app_gateway", False, "3")
    assert other.password == Secret("b")
    assert one.but(user="x").password == Secret("a")


def test_local_asks_no_name_service():
    local = Conninfo.local(5432, user="postgres", dbname="app")
    assert (local.host, local.address) == ("localhost", "127.0.0.1")
    assert Conninfo({"host": "db"}).address == "db"


def test_defaults_are_libpqs():
    assert (Conninfo().host, Conninfo().port, Conninfo({"user": "a"}).dbname) == ("localhost", 5432, "a")


def test_a_passfile_line_escapes_what_separates():
    line = Conninfo({"host": "h", "port": "1", "user": "a:b\\c"}, Secret("p:w\\d")).passfile_line()
    assert line == "h:1:*:a\\:b\\\\c:p\\:w\\\\d\n"
