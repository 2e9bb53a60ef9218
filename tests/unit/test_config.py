"""``dbsec.toml``: what is misspelt is an error and never a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsec.config import Config, SloSettings, load
from dbsec.errors import ConfigError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dbsec.toml"
    path.write_text(text)
    return path


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    assert load(None) == load(_file(tmp_path, "")) == Config()


def test_own_tables_are_read_and_those_of_pillars_kept(tmp_path: Path) -> None:
    found = load(_file(tmp_path, "[slo]\np99_ms = 250\n[rotation]\ncertificates = '90d'\n[tls]\nany = 1\n"))
    assert found.slo == SloSettings(availability=0.999, p99_ms=250)
    assert (found.rotation, found.pillars) == ({"certificates": "90d"}, {"tls": {"any": 1}})


@pytest.mark.parametrize(
    ("text", "name", "hint"),
    [
        ("[slos]\np99_ms = 1\n", "slos", "did you mean [slo]?"),
        ("[migration]\n", "migration", "did you mean [migrations]?"),
        ("[pillars.tls]\n", "pillars", "choose of slo, objectives, rotation, migrations"),
        ("p99_ms = 1\n", "p99_ms", "choose of slo"),
    ],
)
def test_an_unknown_table_is_refused(tmp_path: Path, text: str, name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"dbsec.toml: '{name}' is no table of dbsec") as refused:
        load(_file(tmp_path, text))
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[slo]\np99 = 1\n", "'slo.p99'"),
        ("[slo]\navailability = 2\n", "'slo.availability'"),
        ("[objectives]\nrpo_s = 0\n", "'objectives.rpo_s'"),
        ("tls = 1\n", "'pillars.tls'"),
        ("[slo\n", "is not TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(_file(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.toml")
