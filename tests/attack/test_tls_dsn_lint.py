"""Every driver does with a bad server what dsn-lint says it does."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import asyncpg
import psycopg
import pymysql
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from tests.mysql_stranger import mysql_stranger

from dbsec.clock import SYSTEM
from dbsec.tls.ca import Authority, KeyPair, self_signed
from dbsec.tls.dsn_lint import Bad, Driver, accepted, parse
from dbsec.tls.dsn_lint.dsn import Spelling, of_params
from dbsec.tls.dsn_lint.finding import fixed
from dbsec.tls.impostor import Impostor

AUTHORITY = Authority.create("the site's CA")
MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
CERTIFICATES: Mapping[Bad, Callable[[], KeyPair | None]] = {
    Bad.NO_TLS: lambda: None,
    Bad.SELF_SIGNED: lambda: self_signed(["localhost"]),
    Bad.UNKNOWN_CA: lambda: Authority.create("another").issue_server(["localhost"]),
    Bad.EXPIRED: lambda: AUTHORITY.issue_server(
        ["localhost"], start=SYSTEM.now() - timedelta(days=9), lifetime=timedelta(days=8)
    ),
    Bad.WRONG_HOST: lambda: AUTHORITY.issue_server(["elsewhere.invalid"]),
    Bad.ASKS_PASSWORD: lambda: AUTHORITY.issue_server(["localhost"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.crt"
    path.write_bytes(AUTHORITY.certificate)
    return path


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


def fooled(connect: Callable[[int], None]) -> frozenset[Bad]:
    """Let a client meet each bad server, and return those that it went on with."""
    taken = set()
    for bad, certificate in CERTIFICATES.items():
        # every driver has exceptions of its own; what counts is what the server saw
        with Impostor(certificate(), None, timeout_s=3) as impostor, suppress(Exception):
            connect(impostor.port)
        # its threads have ended: a client that falls back comes twice
        encounters = [impostor.met() for _ in range(impostor._met.qsize())]
        assert encounters
        if any(one.password if bad is Bad.ASKS_PASSWORD else one.trusted for one in encounters):
            taken.add(bad)
    return frozenset(taken)


def url(port: int, scheme: str, **params: object) -> str:
    query = "&".join(f"{name}={value}" for name, value in params.items())
    return f"{scheme}://app:made-up@localhost:{port}/app?{query}"


LIBPQ = [
    *({"sslmode": mode} for mode in MODES[:4]),
    *({"sslmode": mode, "sslrootcert": "ROOT"} for mode in MODES),
    {"sslmode": "verify-full", "sslrootcert": "ROOT", "require_auth": "scram-sha-256"},
    {"sslmode": "verify-full", "sslrootcert": "ROOT", "channel_binding": "require"},
    {"sslmode": "prefer", "require_auth": "scram-sha-256"},
    {},
]


def rooted(params: Mapping[str, str], root: Path) -> dict[str, str]:
    return {name: str(root) if value == "ROOT" else value for name, value in params.items()}


@pytest.mark.parametrize("params", LIBPQ, ids=lambda p: "-".join(p.values()) or "nothing")
def test_psycopg_does_as_predicted(params: dict[str, str], root: Path):
    params = rooted(params, root)

    def connect(port: int) -> None:
        psycopg.connect(url(port, "postgresql", hostaddr="127.0.0.1", connect_timeout=5, **params)).close()

    assert fooled(connect) == accepted(parse(url(1, "postgresql", **params)))


@pytest.mark.parametrize("mode", MODES)
def test_sqlalchemy_and_psql_do_as_libpq(mode: str, root: Path):
    psql = shutil.which("psql")
    dsn = accepted(parse(url(1, "postgresql+psycopg", sslmode=mode, sslrootcert=root)))

    def by_sqlalchemy(port: int) -> None:
        engine = sqlalchemy.create_engine(url(port, "postgresql+psycopg", sslmode=mode, sslrootcert=root))
        engine.connect().close()

    assert fooled(by_sqlalchemy) == dsn
    if psql and mode in ("prefer", "verify-ca", "verify-full"):
        command = [psql, "-w", "-c", "SELECT 1"]
        given = lambda port: url(port, "postgresql", sslmode=mode, sslrootcert=root)  # noqa: E731
        assert fooled(lambda port: subprocess.run([*command, given(port)], capture_output=True, check=False)) == dsn


ASYNCPG = [
    *({"sslmode": mode} for mode in MODES[:4]),  # without a root file it does not start in the others
    *({"sslmode": mode, "sslrootcert": "ROOT"} for mode in MODES),
    {},
]


@pytest.mark.parametrize("params", ASYNCPG, ids=lambda p: "-".join(p.values()) or "nothing")
def test_asyncpg_does_as_predicted(params: dict[str, str], root: Path):
    params = rooted(params, root)

    def connect(port: int) -> None:
        asyncio.run(asyncio.wait_for(asyncpg.connect(url(port, "postgresql", **params)), 5))

    assert fooled(connect) == accepted(parse(url(1, "postgresql", **params), driver=Driver.ASYNCPG))


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
def test_sqlalchemy_with_asyncpg_does_as_predicted(mode: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGSSLROOTCERT", str(root))

    async def connects(port: int) -> None:
        engine = create_async_engine(url(port, "postgresql+asyncpg", ssl=mode))
        async with engine.connect():
            pass

    seen = fooled(lambda port: asyncio.run(asyncio.wait_for(connects(port), 5)))
    # the variable is the process's, and not in the URL
    assert seen == accepted(parse(url(1, "postgresql+asyncpg", ssl=mode, sslrootcert=root)))


MYSQL = [
    {},
    {"ssl_disabled": True},
    {"ssl_ca": "ROOT"},
    {"ssl_ca": "ROOT", "ssl_verify_cert": True},
    {"ssl_ca": "ROOT", "ssl_verify_cert": True, "ssl_verify_identity": True},
    {"ssl_ca": "ROOT", "ssl_verify_identity": True},
]


@pytest.mark.parametrize("params", MYSQL, ids=lambda p: "-".join(p) or "nothing")
def test_pymysql_does_as_predicted(params: dict[str, object], root: Path):
    given = {name: str(root) if value == "ROOT" else value for name, value in params.items()}
    taken = set()
    for bad, certificate in CERTIFICATES.items():
        if bad is Bad.ASKS_PASSWORD:
            continue
        with mysql_stranger(certificate()) as (port, went_on), suppress(pymysql.Error, OSError):
            pymysql.connect(host="localhost", port=port, user="app", password="made-up", connect_timeout=5, **given)
        if any(went_on):
            taken.add(bad)
    texts = {name: str(value) for name, value in given.items()}
    dsn = of_params({"host": "localhost", **texts}, Driver.PYMYSQL, Spelling.CALL)
    assert taken == accepted(dsn) - {Bad.ASKS_PASSWORD}


@pytest.mark.parametrize("params", [{}, {"ssl_ca": "ROOT"}, {"ssl_ca": "ROOT", "ssl_check_hostname": "false"}], ids=len)
def test_sqlalchemy_with_pymysql_does_as_predicted(params: dict[str, str], root: Path):
    given = rooted(params, root)
    taken = set()
    for bad, certificate in CERTIFICATES.items():
        if bad is Bad.ASKS_PASSWORD:
            continue
        with mysql_stranger(certificate()) as (port, went_on):
            engine = sqlalchemy.create_engine(url(port, "mysql+pymysql", **given))
            with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
                engine.connect()
        if any(went_on):
            taken.add(bad)
    assert taken == accepted(parse(url(1, "mysql+pymysql", **given))) - {Bad.ASKS_PASSWORD}


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgresql+psycopg", "mysql+pymysql", "jdbc:postgresql", "jdbc:mysql"]
)
def test_what_it_proposes_accepts_no_server_that_it_can_refuse(scheme: str):
    dsn = parse(url(1, scheme))
    better = parse(dsn.written(fixed(dsn)).replace("***", "made-up"))
    assert accepted(better) <= {Bad.ASKS_PASSWORD}
    if dsn.driver is Driver.LIBPQ:
        assert accepted(better) == frozenset()
