"""A secret does not print, and comes by reference only."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest

from dbsec.errors import ConfigError
from dbsec.secret import Secret, resolve

TEXT = "hunter2!x"


SHOWS = [str, repr, "{}".format, "{:>20}".format, "%s".__mod__, "%r".__mod__, lambda s: repr([s, {"a": s}])]


@pytest.mark.parametrize("show", SHOWS)
def test_no_way_of_printing_shows_it(show):
    assert TEXT not in show(Secret(TEXT))
    assert "<secret>" in show(Secret(TEXT))


def test_it_is_not_serialised():
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(Secret(TEXT))
    with pytest.raises(TypeError):
        copy.copy(Secret(TEXT))
    with pytest.raises(TypeError):
        json.dumps({"password": Secret(TEXT)})
    with pytest.raises(TypeError):
        vars(Secret(TEXT))


def test_it_does_not_show_in_a_log(caplog):
    logging.getLogger("x").warning("with %s", Secret(TEXT))
    assert TEXT not in caplog.text


def test_equality_and_reveal():
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert len({Secret(TEXT), Secret(TEXT)}) == 1
    assert Secret(TEXT).reveal() == TEXT


def test_references(tmp_path):
    path = tmp_path / "password"
    path.write_text(f"{TEXT}\n\n")
    path.chmod(0o600)
    assert resolve(f"file:{path}", environ={}).reveal() == f"{TEXT}\n"  # one newline belongs to the file
    assert resolve("env:APP_PASSWORD", environ={"APP_PASSWORD": TEXT}).reveal() == TEXT


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "password"
    path.write_text(TEXT)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode 0{mode:o}: others may read it") as refused:
        resolve(f"file:{path}", environ={})
    assert refused.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("reference", [TEXT, "vault:x", "", "env:MISSING", "file:/nowhere/at/all"])
def test_what_refers_to_nothing_is_refused_without_being_repeated(reference):
    with pytest.raises(ConfigError) as refused:
        resolve(reference, environ={})
    assert TEXT not in str(refused.value)


def test_bytes_that_are_no_text_are_refused_and_not_shown(tmp_path):
    path = tmp_path / "password"
    path.write_bytes(b"hunter2\xff")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        resolve(f"file:{path}", environ={})
    assert "hunter2" not in str(refused.value)
