"""MariaDB's matrix on a real server, by ``dbsec tls drill --server mariadb`` and by its library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql
import pytest
from tests.daemons import Daemon, Daemons, password

from dbsec.errors import ConfigError
from dbsec.evidence import Outcome
from dbsec.secret import Secret
from dbsec.tls import matrix
from dbsec.tls.ca import Authority
from dbsec.tls.matrix import MariaBench
from dbsec.tls.matrix.families.d_client_certificate import another_ca
from dbsec.tls.matrix.mariadb.bench import recover
from dbsec.tls.matrix.mariadb.login import Login, Trust, connect

AUTHORITY = Authority.create("the site's CA")
REVOKED = AUTHORITY.issue_client("mtls")
PASSWORD = password()
CASES = {case.name: case for case in matrix.mariadb_cases()}
FROM_START_TO_STOP = {name for name, case in CASES.items() if case.weaken is None}
USERS = {
    "app": "REQUIRE SSL",
    "mtls": "REQUIRE SUBJECT '/CN=mtls'",
    "boss": "REQUIRE SSL",
}
STRICT = """
ssl-cert={0}/server.crt
ssl-key={0}/server.key
ssl-ca={0}/root.crt
ssl-crl={0}/root.crl
tls-version=TLSv1.2,TLSv1.3
require-secure-transport=ON
skip-name-resolve
"""
# What takes a start to change: old versions are taken, and any client certificate of either CA, revoked or not.
LAX = """
ssl-cert={0}/server.crt
ssl-key={0}/server.key
ssl-ca={0}/both.crt
ssl-cipher=ALL:@SECLEVEL=0
tls-version=TLSv1.0,TLSv1.1,TLSv1.2,TLSv1.3
skip-name-resolve
"""


@dataclass(frozen=True)
class Bed:
    daemon: Daemon

    @contextmanager
    def root(self) -> Iterator[Any]:
        socket = str(self.daemon.folder / "s")
        with closing(pymysql.connect(unix_socket=socket, user="root", autocommit=True)) as connection:
            yield connection.cursor()

    def url(self, user: str, ca: Path) -> str:
        return f"mysql://{user}:{PASSWORD}@localhost:{self.daemon.port}/?ssl_ca={ca}"


def bed_of(daemons: Daemons, options: str) -> Bed:
    pair = AUTHORITY.issue_server(["localhost", "127.0.0.1"])
    given = {
        "server.crt": pair.certificate,
        "server.key": pair.key,
        "root.crt": AUTHORITY.certificate,
        "both.crt": AUTHORITY.certificate + another_ca().certificate,
        "root.crl": AUTHORITY.crl([REVOKED.x509.serial_number]),
    }
    made = Bed(daemons.mariadb(options.format, given))
    with made.root() as root:
        for user, demand in USERS.items():
            root.execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}' {demand}")
        root.execute("GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION")
    return made


def bench_of(bed: Bed, ca: Path) -> MariaBench:
    service, mtls, admin = (Login.parse(Secret(bed.url(user, ca))) for user in USERS)
    return MariaBench(service, AUTHORITY, mtls, admin, REVOKED)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return AUTHORITY.save(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def bed(daemons: Daemons) -> Bed:
    return bed_of(daemons, STRICT)


@pytest.fixture(scope="module")
def bench(bed: Bed, ca: Path) -> MariaBench:
    return bench_of(bed, ca)


@pytest.mark.parametrize("name", CASES)
def test_refused_for_its_own_reason_and_red_without_its_control(name: str, bench: MariaBench):
    seen = matrix.run(CASES[name], bench)
    assert seen.outcome is Outcome.PASS, (seen.summary, seen.facts)
    if name in FROM_START_TO_STOP:
        return
    without = matrix.mutate(CASES[name], bench)
    assert without.outcome is Outcome.PASS, (without.summary, without.facts)


def test_what_takes_a_start_goes_red_on_a_server_without_it(daemons: Daemons, ca: Path):
    lax = bench_of(bed_of(daemons, LAX), ca)
    outcomes = {name: matrix.run(CASES[name], lax).outcome for name in FROM_START_TO_STOP}
    red = FROM_START_TO_STOP - {"client-expired", "client-not-yet-valid"}  # no option lets these in
    assert {name for name, outcome in outcomes.items() if outcome is Outcome.FAIL} == red, outcomes
    matrix.mutate(CASES["plaintext"], lax)
    assert lax.admin is not None
    with closing(connect(lax.admin)) as admin, admin.cursor() as cursor:
        cursor.execute("SELECT @@require_secure_transport")
        assert cursor.fetchone() == (0,)  # as it was: a drill closes no door that a site has open


def test_a_man_in_the_middle_shows_the_password_of_a_client_that_only_prefers_tls(bench: MariaBench):
    seen = matrix.mutate(CASES["mitm-denies-tls"], bench)
    assert str(seen.facts["captured_password"]).startswith("made-up-")
    assert PASSWORD not in json.dumps(dict(seen.facts))


def test_what_a_killed_drill_leaves_is_put_back(bed: Bed, bench: MariaBench):
    with bed.root() as root:
        root.execute("CREATE USER dbsec_drill_open@'%'")
        root.execute("CREATE USER dbsec_drill_0000@'%'")
        root.execute("SET GLOBAL require_secure_transport = OFF")
        assert recover(bench)
        root.execute("SELECT @@require_secure_transport, (SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'dbsec%')")
        assert root.fetchone() == (1, 0)
    assert not recover(bench)


def test_a_bare_dsn_proves_little_and_says_so(bench: MariaBench):
    outcomes = {name: matrix.run(case, MariaBench(bench.service)).outcome for name, case in CASES.items()}
    proven = {name for name, outcome in outcomes.items() if outcome is Outcome.PASS}
    assert proven == {"mitm-denies-tls", "plaintext", "version-TLSv1", "version-TLSv1.1"}
    wrong = replace(bench.service, password=Secret("not this one"))
    assert matrix.run(CASES["plaintext"], MariaBench(wrong)).outcome is Outcome.ERROR


def test_a_url_says_what_the_client_checks(ca: Path):
    assert Login.parse(Secret("mysql://u:p%40@h:1/d")).trust is Trust.PREFER
    assert Login.parse(Secret(f"mariadb+pymysql://u@h/?ssl_ca={ca}")).trust is Trust.VERIFY
    for text in ("postgresql://u:s3cret@h/d", "mysql://h/", "mysql://u:s3cret@h:port/", "mysql://u@h/?ssl_ca=/none"):
        with pytest.raises(ConfigError) as caught:
            Login.parse(Secret(text))
        assert "s3cret" not in str(caught.value)


def test_the_command_attacks_and_mutates(bed: Bed, bench: MariaBench, ca: Path, tmp_path: Path):
    crt, _ = REVOKED.save(tmp_path, "revoked")
    environ = {**os.environ, **{user.upper(): bed.url(user, ca) for user in USERS}}
    argv = [sys.executable, "-m", "dbsec", "tls", "drill", "env:APP", "--server", "mariadb", "--ca", ca.parent]
    argv += ["--mtls", "env:MTLS", "--admin", "env:BOSS", "--revoked", crt, "--format", "json", "--mutate", "--apply"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    drills = json.loads(done.stdout)["result"]["drills"]
    assert {one["outcome"] for one in drills} == {"pass"}
    assert len(drills) == 2 * len(CASES) - len(FROM_START_TO_STOP)
    assert PASSWORD not in done.stdout + done.stderr
    with bed.root() as root:
        root.execute("SELECT @@require_secure_transport, (SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'dbsec%')")
        assert root.fetchone() == (1, 0)
