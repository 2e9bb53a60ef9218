"""The matrix through a real PgBouncer, TLS on both sides: what it refuses by its own means, and what it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql
from tests.daemons import Daemons

from dbsec.errors import DbsecError
from dbsec.evidence import Outcome
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.tls import matrix
from dbsec.tls.ca import Authority
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.matrix import Bench, Pooler
from dbsec.tls.posture import Posture, hba
from dbsec.tls.server_config import apply
from dbsec.tls.server_plan import plan

pytestmark = [pytest.mark.pg(17)]
PASSWORD = Secret("a password of the tests")
CASES = {case.name: case for case in matrix.pgbouncer_cases()}
CANNOT = {"mitm-strips-binding", "client-revoked"}
NEVER_IN = {"client-expired", "client-not-yet-valid"}
INI = """\
[databases]
postgres = host=localhost port={server} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pid
auth_type = scram-sha-256
auth_file = {folder}/users.txt
admin_users = app_gateway
pool_mode = transaction
server_login_retry = 0
client_tls_sslmode = verify-full
client_tls_ca_file = {folder}/ca.crt
client_tls_cert_file = {folder}/server.crt
client_tls_key_file = {folder}/server.key
server_tls_sslmode = verify-full
server_tls_ca_file = {folder}/ca.crt
server_tls_cert_file = {folder}/client.crt
server_tls_key_file = {folder}/client.key
"""


@pytest.fixture(scope="module")
def bench(cluster_factory: Callable[..., Cluster], daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Put PgBouncer before a hardened server: it comes to the server by a client certificate of its own."""
    cluster, authority = cluster_factory(), Authority.create("the site's CA")
    pair, own = authority.issue_server(["localhost", "127.0.0.1"]), authority.issue_client("app_gateway")
    with connect(cluster.admin) as admin:
        admin.execute("CREATE ROLE app_backend")
        statement = sql.SQL("CREATE ROLE app_gateway LOGIN PASSWORD {} IN ROLE app_backend")
        admin.execute(statement.format(sql.Literal(PASSWORD.reveal())))
        lines = hba(admin="postgres", scram=[], mtls=["app_backend"], replication=[])
        posture = Posture(pair, authority.certificate, authority.certificate, lines)
        folder = DataFolder(cluster.instance.data)
        apply(cluster.admin, folder, plan(admin, folder, posture))
    port = cluster.instance.port
    given = {
        "users.txt": f'"app_gateway" "{PASSWORD.reveal()}"\n',
        "ca.crt": authority.certificate,
        "server.crt": pair.certificate,
        "server.key": pair.key,
        "client.crt": own.certificate,
        "client.key": own.key,
    }
    running = daemons.pgbouncer(lambda folder, own: INI.format(folder=folder, port=own, server=port), given)
    private = tmp_path_factory.mktemp("clients")
    (private / "ca.crt").write_bytes(authority.certificate)
    crt, key = own.save(private, "client")
    careful = {"sslmode": "verify-full", "sslrootcert": private / "ca.crt", "require_auth": "scram-sha-256"}
    bare = Conninfo.local(running.port, user="app_gateway", dbname="postgres", password=PASSWORD, **careful)
    service = bare.but(sslcert=crt, sslkey=key)
    return Bench(
        service, authority, bare, pooler=Pooler(running.folder / "pgbouncer.ini", service.but(require_auth=None))
    )


@pytest.mark.parametrize("name", sorted(CASES.keys() - CANNOT - {"client-another-name"}))
def test_refused_for_its_own_reason_and_red_without_its_control(name: str, bench: Bench):
    seen = matrix.run(CASES[name], bench)
    assert seen.outcome is Outcome.PASS, (seen.summary, seen.facts)
    if name in NEVER_IN:
        assert CASES[name].weaken is None
        return
    without = matrix.mutate(CASES[name], bench)
    assert without.outcome is Outcome.PASS, (without.summary, without.facts)


def test_the_server_behind_refuses_a_pooler_without_its_certificate(bench: Bench):
    assert bench.pooler is not None
    bare = bench.pooler.changed({"server_tls_cert_file": "", "server_tls_key_file": ""})
    with bare, pytest.raises(DbsecError, match="client certificate"):
        connect(bench.service)
    connect(bench.service).close()


def test_a_certificate_of_another_role_is_let_in_under_scram_and_refused_where_the_name_counts(bench: Bench):
    case = CASES["client-another-name"]
    let_in = matrix.run(case, bench)
    assert let_in.outcome is Outcome.FAIL
    assert bench.pooler is not None
    assert bench.mtls is not None
    by_name = replace(bench, mtls=bench.mtls.but(require_auth=None))  # no password is asked for
    with bench.pooler.changed({"auth_type": "cert"}):
        seen = matrix.run(case, by_name)
        without = matrix.mutate(case, by_name)
    assert without.outcome is Outcome.PASS, (without.summary, without.facts)
    assert seen.outcome is Outcome.PASS, (seen.summary, seen.facts)


def test_what_it_cannot_do_is_said_by_name(bench: Bench):
    told = {name: matrix.run(CASES[name], bench) for name in CANNOT}
    assert {one.outcome for one in told.values()} == {Outcome.SKIP}
    assert "does not read" in told["client-revoked"].summary


class Killed(BaseException):
    """Stands for a kill that lets no clean-up run."""


def test_what_a_killed_drill_leaves_is_put_back_by_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    assert bench.pooler is not None
    before = bench.pooler.ini.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Pooler, "_put_back", lambda *_, **__: None)
        outer, inner = (bench.pooler.changed({"client_tls_sslmode": mode}) for mode in ("require", "allow"))
        with pytest.raises(Killed), outer, inner:
            raise Killed
    assert bench.pooler.ini.read_bytes() != before
    assert matrix.run(CASES["plaintext"], bench).outcome is Outcome.FAIL
    assert matrix.recover(bench)
    assert bench.pooler.ini.read_bytes() == before
    assert not matrix.recover(bench)
    assert matrix.run(CASES["plaintext"], bench).outcome is Outcome.PASS


def test_the_command_names_the_gap(bench: Bench, tmp_path: Path):
    assert bench.pooler is not None
    assert bench.authority is not None
    assert bench.mtls is not None
    bench.authority.save(tmp_path)
    logins = {"SERVICE": bench.service, "CONSOLE": bench.pooler.console, "MTLS": bench.mtls}
    environ = {**os.environ, **{name: login.text() for name, login in logins.items()}}
    argv = [sys.executable, "-m", "dbsec", "tls", "drill", "env:SERVICE", "--ca", tmp_path, "--mtls", "env:MTLS"]
    argv += ["--server", "pgbouncer", "--ini", bench.pooler.ini, "--console", "env:CONSOLE", "--format", "json"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    outcomes = {one["drill"]: one["outcome"] for one in json.loads(done.stdout)["result"]["drills"]}
    assert done.returncode == 1, done.stdout + done.stderr
    assert {name for name, outcome in outcomes.items() if outcome == "fail"} == {CASES["client-another-name"].title}
    assert sorted(outcomes.values()).count("skip") == len(CANNOT)
    assert PASSWORD.reveal() not in done.stdout + done.stderr
