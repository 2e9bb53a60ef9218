"""DSNs out of files of each kind, and the command on them; no password is ever shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dbsec.cli.commands.tls import COMMAND
from dbsec.errors import ConfigError
from dbsec.tls.dsn_lint import Bad, Driver, Dsn, Unread, accepted, judge, parse, read

SECRET = "hunter2hunter2"
FILES = {
    ".env": f"DATABASE_URL=postgresql://app:{SECRET}@db.lab/app?sslmode=require\n# postgresql://no:no@comment/x\n",
    "pg.env": f"export PGHOST=db.lab\nPGSSLMODE=verify-full\nPGPASSWORD={SECRET}\nPGSSLROOTCERT=/ca.crt\n",
    "settings.py": f'''
"""Connects to postgresql://docs/only?sslmode=disable."""
import asyncpg, psycopg, pymysql
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "HOST": "db.lab", "PASSWORD": "{SECRET}",
    "OPTIONS": {{"sslmode": "verify-ca"}}}}}}
engine = create_engine("postgresql+asyncpg://app:{SECRET}@db.lab/app")
psycopg.connect("host=db.lab dbname=app password={SECRET} sslmode=disable")
psycopg.connect(host=HOST, sslmode="verify-full", password="{SECRET}")
pymysql.connect(host="db.lab", password="{SECRET}", ssl_ca="/ca.crt")
''',
    "broken.py": f'url = "postgresql://app:{SECRET}@db.lab/app\n',
    "app.properties": f"url=jdbc:postgresql://db.lab/app?user=app&password={SECRET}&ssl=true\n",
    "compose.yaml": f'  url: "mysql://app:{SECRET}@db.lab/app"\n',
    "pg_service.conf": f"[app]\nhost=db.lab\npassword={SECRET}\n[other]\nhost=db.lab\nsslmode=verify-full\n",
}
EXPECTED = {
    ".env": [(1, "allow-any-certificate"), (1, "allow-password-in-clear")],
    "pg.env": [(1, "allow-password-in-clear")],
    "settings.py": [
        (4, "allow-another-host"), (4, "allow-password-in-clear"), (6, "allow-server-in-clear"),
        (7, "allow-password-in-clear"), (7, "allow-server-in-clear"), (8, "allow-password-in-clear"),
        (9, "allow-any-certificate"),
    ],
    "broken.py": [(1, "allow-password-in-clear"), (1, "allow-server-in-clear")],
    "app.properties": [(1, "allow-password-in-clear")],
    "compose.yaml": [(1, "allow-server-in-clear")],
    "pg_service.conf": [
        (1, "allow-password-in-clear"), (1, "allow-server-in-clear"), (4, "allow-password-in-clear"),
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file(folder: Path, name: str):
    found = [one for one in read([folder / name]) if isinstance(one, Dsn)]
    seen = sorted((int(f.where["line"]), f.name) for dsn in found for f in judge(dsn))
    assert seen == EXPECTED[name]
    assert SECRET not in repr([(dsn, judge(dsn), dsn.written()) for dsn in found])


@pytest.mark.parametrize("form", ["text", "json", "sarif", "github"])
def test_the_command_reads_a_folder_and_shows_no_password(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    ran = CliRunner().invoke(COMMAND, ["dsn-lint", ".", "--format", form])
    assert ran.exit_code == 1, ran.output
    assert SECRET not in ran.output
    if form == "json":
        assert len(json.loads(ran.stdout)["findings"]) == sum(map(len, EXPECTED.values()))


def test_a_careful_dsn_passes_and_a_pooler_loses_channel_binding():
    careful = "postgresql://app@db.lab/app?sslmode=verify-full&sslrootcert=/ca.crt&require_auth=scram-sha-256"
    assert judge(parse(careful)) == []
    (first, *_) = judge(parse("postgresql://app@db.lab/app"))
    assert "channel_binding=require" in first.fix
    (first, *_) = judge(parse("postgresql://app@db.lab:6432/app"))
    assert "channel_binding" not in first.fix
    assert judge(parse("host=/run/postgresql dbname=app")) == []


def test_what_cannot_be_read_is_told(tmp_path: Path):
    (tmp_path / "large.env").write_bytes(b"x" * (5 << 20))
    (tmp_path / "binary.env").write_bytes(b"\0postgresql://a@b/c\0")
    (tmp_path / "latin.env").write_bytes("café=postgresql://app@db.lab/app\n".encode("latin-1"))
    (tmp_path / "loop").symlink_to(tmp_path)
    found = list(read([tmp_path]))
    assert [one.reason for one in found if isinstance(one, Unread)] == ["larger than 4 MiB"]
    assert [one.host for one in found if isinstance(one, Dsn)] == ["db.lab"]
    with pytest.raises(ConfigError, match="is not there"):
        list(read([tmp_path / "missing"]))


@pytest.mark.parametrize(
    "text", ["", "nonsense", f"ftp://x:{SECRET}@y", f"host=a password='{SECRET}", "postgresql://[::1"]
)
def test_what_is_no_dsn_is_an_error_without_the_text(text: str):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert SECRET not in str(caught.value)


_words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
_values = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters="'\\"), min_size=1, max_size=12)


@given(_words, _words, st.sampled_from(["disable", "require", "verify-full"]), _values)
def test_written_and_read_again_it_is_the_same(host: str, user: str, mode: str, root: str):
    for spelt in (
        f"host={host} user={user} sslmode={mode} sslrootcert='{root}'",
        parse(f"postgresql://{user}@{host}/db").written(),
    ):
        dsn = parse(spelt)
        again = parse(dsn.written())
        assert (dict(again.params), accepted(again)) == (dict(dsn.params), accepted(dsn))


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("jdbc:postgresql://h/d", set(Bad)),
        ("jdbc:postgresql://h/d?sslmode=verify-ca", {Bad.WRONG_HOST, Bad.ASKS_PASSWORD}),
        ("jdbc:mysql://h/d", set(Bad)),
        ("jdbc:mysql://h/d?sslMode=VERIFY_IDENTITY", {Bad.ASKS_PASSWORD}),
        ("jdbc:mariadb://h/d?sslMode=verify-full", {Bad.ASKS_PASSWORD}),
        ("jdbc:mariadb://h/d?sslMode=trust", set(Bad) - {Bad.NO_TLS}),
    ],
)
def test_what_java_drivers_document(text: str, bad: set[Bad]):
    assert accepted(parse(text)) == bad
    assert parse(text).driver in (Driver.PGJDBC, Driver.CONNECTOR_J, Driver.MARIADB_J)
