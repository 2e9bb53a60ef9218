"""The matrix on real servers: every case green where the control is, and red where it was taken away."""

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

from dbsec.evidence import Outcome
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.tls import matrix
from dbsec.tls.ca import Authority
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.matrix import Bench, Case, Server
from dbsec.tls.posture import Posture, hba
from dbsec.tls.server_config import apply
from dbsec.tls.server_plan import plan

pytestmark = [pytest.mark.pg(15, 17, 18)]
PASSWORD = Secret("a password of the tests")
ROLES = (
    "CREATE ROLE app_readwrite",
    "CREATE ROLE app_gateway LOGIN PASSWORD {password} IN ROLE app_readwrite",
    "CREATE ROLE app_migrator LOGIN PASSWORD {password}",
)
CASES = {case.name: case for case in matrix.cases()}


@pytest.fixture(scope="module")
def bench(cluster_factory: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Harden a server as the reference deployment is."""
    cluster, authority = cluster_factory(), Authority.create("the site's CA")
    port, folder = cluster.instance.port, DataFolder(cluster.instance.data)
    with connect(cluster.admin) as admin:
        for statement in ROLES:
            admin.execute(sql.SQL(statement).format(password=sql.Literal(PASSWORD.reveal())))
        wanted = Posture(
            authority.issue_server(["localhost", "127.0.0.1"]),
            authority.certificate,
            authority.certificate,
            hba(admin="postgres", scram=["app_readwrite"], mtls=["app_migrator"], replication=[]),
            crl=authority.crl([]),
        )
        apply(cluster.admin, folder, plan(admin, folder, wanted))
    ca = tmp_path_factory.mktemp("ca") / "ca.crt"
    ca.write_bytes(authority.certificate)
    careful = {"sslmode": "verify-full", "sslrootcert": ca, "require_auth": "scram-sha-256"}

    def login(user: str, **more: str) -> Conninfo:
        return Conninfo.local(port, user=user, dbname="postgres", password=PASSWORD, **careful, **more)

    return Bench(
        login("app_gateway", channel_binding="require"),
        authority,
        login("app_migrator"),
        cluster.admin.but(sslmode="verify-full", sslrootcert=ca),
        Server(folder, cluster.instance.log),
    )


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_refused_for_its_own_reason(case: Case, bench: Bench):
    seen = matrix.run(case, bench)
    assert seen.outcome is Outcome.PASS, (seen.summary, seen.facts)
    assert seen.facts["expected"]


def speaks_old_tls(bench: Bench) -> bool:
    """Tell whether the server's OpenSSL has the versions at all; those of the wheels do not."""
    with bench.changed(settings={"ssl_min_protocol_version": "TLSv1", "ssl_ciphers": "ALL:@SECLEVEL=0"}) as weak:
        return matrix.run(CASES["version-TLSv1.1"], weak).outcome is Outcome.FAIL


def test_red_without_its_control(case: Case, bench: Bench):
    assert case.weaken is not None, "a case that cannot go red proves nothing"
    seen = matrix.mutate(case, bench)
    if case.name.startswith("version-") and not speaks_old_tls(bench):
        assert seen.outcome is not Outcome.PASS
        return
    assert seen.outcome is Outcome.PASS, (seen.summary, seen.facts)


def test_a_man_in_the_middle_shows_the_password_that_prefer_gives_him(bench: Bench):
    seen = matrix.mutate(CASES["mitm-denies-tls"], bench)
    assert str(seen.facts["captured_password"]).startswith("made-up-")
    assert PASSWORD.reveal() not in json.dumps(dict(seen.facts))


def test_what_a_bare_dsn_cannot_prove_is_skipped_by_name(bench: Bench):
    bare = Bench(bench.service)
    outcomes = {name: matrix.run(one, bare) for name, one in CASES.items()}
    proven = {name for name, seen in outcomes.items() if seen.outcome is Outcome.PASS}
    assert proven == {"mitm-denies-tls", "plaintext", "version-TLSv1", "version-TLSv1.1"}
    assert {seen.outcome for name, seen in outcomes.items() if name not in proven} == {Outcome.SKIP}
    assert outcomes["client-expired"].summary.startswith("needs the key of the CA (--ca)")


def test_a_login_that_never_works_proves_nothing(bench: Bench):
    broken = replace(bench, service=bench.service.but(dbname="nowhere"))
    assert matrix.run(CASES["plaintext"], broken).outcome is Outcome.ERROR


class Killed(BaseException):
    """Stands for a kill that lets no clean-up run."""


def test_what_a_killed_drill_leaves_is_put_back_by_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    assert bench.server is not None
    assert bench.admin is not None
    folder = bench.server.folder
    before = folder.read("pg_hba.conf")
    with monkeypatch.context() as patch:
        patch.setattr("dbsec.tls.matrix.bench._put_back", lambda *_: None)
        with pytest.raises(Killed), bench.changed(hba="host all all all scram-sha-256\n", settings={"ssl_ca_file": ""}):
            raise Killed
    assert folder.read("pg_hba.conf") != before
    assert matrix.recover(bench)
    assert folder.read("pg_hba.conf") == before
    assert bench.setting("ssl_ca_file") == "root.crt"
    assert not matrix.recover(bench)


def test_no_role_is_left(bench: Bench):
    assert bench.admin is not None
    with connect(bench.admin) as admin:
        admin.execute("CREATE ROLE dbsec_drill_leftover")
        assert matrix.run(CASES["md5-role"], bench).outcome is Outcome.PASS
        left = admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'dbsec\\_drill\\_%'").fetchall()
    assert left == []


def test_a_list_of_another_ca_or_past_its_time_is_not_planned(bench: Bench):
    from datetime import timedelta

    from dbsec.clock import SYSTEM
    from dbsec.errors import ConfigError

    assert bench.server is not None
    assert bench.authority is not None
    assert bench.admin is not None
    authority = bench.authority
    stale = authority.crl([], start=SYSTEM.now() - timedelta(days=8))
    lists = {"not signed": Authority.create("another").crl([]), "out of date": stale, "not in PEM": b"nonsense"}
    for told, crl in lists.items():
        wanted = Posture(
            authority.issue_server(["localhost"]), authority.certificate, authority.certificate, (), crl=crl
        )
        with connect(bench.admin) as admin, pytest.raises(ConfigError, match=told):
            plan(admin, bench.server.folder, wanted)


@pytest.mark.pg(17)
def test_the_command_attacks_mutates_and_keeps_evidence(bench: Bench, tmp_path: Path):
    assert bench.server is not None
    assert bench.authority is not None
    assert bench.admin is not None
    assert bench.mtls is not None
    (tmp_path / "ca").mkdir()
    bench.authority.save(tmp_path / "ca")
    logins = {"SERVICE": bench.service, "ADMIN": bench.admin, "MTLS": bench.mtls}
    environ = {**os.environ, "DBSEC_HOME": str(tmp_path / "home"), **{name: d.text() for name, d in logins.items()}}
    argv = [sys.executable, "-m", "dbsec", "tls", "drill", "env:SERVICE", "--ca", tmp_path / "ca", "--mtls", "env:MTLS"]
    argv += ["--admin", "env:ADMIN", "--data-dir", bench.server.folder.path, "--log", bench.server.log]

    def ran(*more: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*argv, *more], env=environ, capture_output=True, text=True, check=False)

    evidence = tmp_path / "evidence.jsonl"
    told = ran("--evidence", evidence, "--svg", tmp_path / "pictures")
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"{len(CASES)} pass" in told.stdout
    assert PASSWORD.reveal() not in evidence.read_text() + told.stdout + told.stderr
    pictures = {path.name: path.read_text() for path in (tmp_path / "pictures").iterdir()}
    names = ("client_certificate", "drill", "password", "plaintext", "server_certificate")
    assert sorted(pictures) == [f"tls_{name}.svg" for name in names]
    assert "made-up-for-this" in pictures["tls_plaintext.svg"]
    private = (PASSWORD.reveal(), str(tmp_path), f"port {bench.service.port}")
    assert not [
        name for name, drawn in pictures.items() if any(word in drawn.replace("&#160;", " ") for word in private)
    ]
    planned = ran("--mutate")
    assert (planned.returncode, "add --apply" in planned.stdout) == (0, True)
    mutated = json.loads(ran("--mutate", "--apply", "--format", "json").stdout)["result"]["drills"]
    assert len(mutated) == 2 * len(CASES)
    assert {one["outcome"] for one in mutated if "TLSv1" not in one["drill"]} == {"pass"}
    refused = ran("--evidence", evidence)
    assert (refused.returncode, "not overwritten" in refused.stderr) == (2, True)
