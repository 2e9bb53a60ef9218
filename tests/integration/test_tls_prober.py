"""The prober against real servers, and beside OpenSSL's own client as the oracle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.conftest import missing

from dbsec.clock import SYSTEM
from dbsec.pg import connect
from dbsec.testing.clusters import Cluster
from dbsec.tls.ca import Authority
from dbsec.tls.prober import Probe, Protocol, judge, policy, probe
from dbsec.tls.prober.greeting import Plaintext, Target
from dbsec.tls.prober.suites import Version

pytestmark = [pytest.mark.pg(15, 17, 18)]
AUTHORITY = Authority.create("the site's CA")
PAIR = AUTHORITY.issue_server(["localhost", "127.0.0.1"])
OPEN = "host all all 127.0.0.1/32 scram-sha-256\n"
CLOSED = "hostssl all all 127.0.0.1/32 scram-sha-256\nhost all all all reject\n"
BAD, GOOD = "ALL:COMPLEMENTOFALL:@SECLEVEL=0", "ECDHE+AESGCM:ECDHE+CHACHA20"
OLD_VERSIONS = (Version.TLS_1_0, Version.TLS_1_1, Version.TLS_1_2)


def configure(cluster: Cluster, hba: str, **settings: str) -> None:
    """Give the server another configuration, and wait until it is what a new session sees."""
    cluster.instance.write("pg_hba.conf", hba)
    cluster.instance.configure(settings)
    cluster.instance.stop()
    cluster.instance.start()


@pytest.fixture(scope="module")
def weak(cluster_factory: Callable[..., Cluster]) -> Cluster:
    cluster = cluster_factory()
    cluster.instance.write("server.crt", PAIR.certificate)
    cluster.instance.write("server.key", PAIR.key)
    configure(cluster, OPEN, ssl="on", ssl_ciphers=BAD, ssl_min_protocol_version="TLSv1")
    return cluster


@pytest.fixture(scope="module")
def hard(cluster_factory: Callable[..., Cluster]) -> Cluster:
    cluster = cluster_factory()
    for name, text in (("server.crt", PAIR.certificate), ("server.key", PAIR.key), ("root.crt", AUTHORITY.certificate)):
        cluster.instance.write(name, text)
    configure(cluster, CLOSED, ssl="on", ssl_ca_file="root.crt", ssl_ciphers=GOOD, ssl_min_protocol_version="TLSv1.2")
    return cluster


def seen_on(cluster: Cluster, protocol: Protocol = Protocol.AUTO) -> Probe:
    return probe(Target("127.0.0.1", cluster.instance.port, protocol), ca=AUTHORITY.certificate)


def by_openssl(port: int, version: Version) -> set[str]:
    """Ask OpenSSL's own client for one suite after the other; returns IANA's names of those that were taken."""
    program = shutil.which("openssl") or missing("openssl is not installed")
    told = subprocess.run([program, "ciphers", "-V", "-stdname", BAD], capture_output=True, text=True, check=True)
    names = {parts[4]: parts[2] for parts in map(str.split, told.stdout.splitlines()) if parts[5] != "TLSv1.3"}
    flag = {Version.TLS_1_0: "-tls1", Version.TLS_1_1: "-tls1_1", Version.TLS_1_2: "-tls1_2"}[version]

    def taken(cipher: str) -> bool:
        argv = [program, "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{port}", flag]
        argv += ["-cipher", f"{cipher}:@SECLEVEL=0"]
        ran = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return ran.returncode == 0 and f"Cipher is {cipher}" in ran.stdout

    with ThreadPoolExecutor(4) as pool:
        return {names[name] for name, found in zip(names, pool.map(taken, names), strict=True) if found}


@pytest.mark.pg(15)  # Debian's OpenSSL still speaks TLS 1.0; that of the wheel for 17 does not
def test_a_weak_server_shows_all_that_openssl_finds(weak: Cluster):
    seen = seen_on(weak)
    for version in OLD_VERSIONS:
        found = {suite.name for suite in seen.suites[version.label]}
        expected = by_openssl(weak.instance.port, version)
        assert expected
        assert found == expected, version
    faults = {fault for suites in seen.suites.values() for suite in suites for fault in suite.faults}
    assert {"null", "anonymous", "cbc"} <= faults
    assert seen.refused.keys() == {"SSLv3"}
    assert seen.plaintext is Plaintext.ACCEPTED


@pytest.mark.pg(15)
def test_a_weak_server_fails_and_a_hard_one_passes(weak: Cluster, hard: Cluster):
    codes = {one.name for one in judge(seen_on(weak), policy("intermediate"), now=SYSTEM.now())}
    assert {"allow-plaintext", "allow-version", "allow-suite"} <= codes
    seen = seen_on(hard)
    assert judge(seen, policy("intermediate"), now=SYSTEM.now()) == []
    assert next(one.name for one in judge(seen, policy("modern"), now=SYSTEM.now())) == "allow-version"
    assert (seen.plaintext, seen.plaintext_words[:5]) == (Plaintext.REFUSED, "28000")


def test_what_a_hard_server_shows(hard: Cluster, pg_major: int):
    seen = seen_on(hard)
    assert seen.target.protocol is Protocol.POSTGRES
    assert set(seen.suites) == {"TLSv1.2", "TLSv1.3"}
    assert seen.trust is not None
    assert (seen.trust.verify_code, seen.asks_certificate, seen.refuses_fallback) == (0, True, True)
    assert seen.chain[0].fingerprint == PAIR.fingerprint
    assert seen.chain[0].names == ("localhost", "127.0.0.1")
    assert (seen.direct, seen.alpn) == (pg_major >= 17, pg_major >= 17)
    assert seen.groups[0] == ("x25519" if pg_major >= 18 else "secp256r1")


def test_a_server_of_tls_1_3_alone_still_shows_its_certificate(hard: Cluster):
    with connect(hard.admin.but(sslmode="require")) as admin:
        admin.execute("ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.3'")
        hard.instance.reload()
        try:
            seen = seen_on(hard)
        finally:
            admin.execute("ALTER SYSTEM RESET ssl_min_protocol_version")
            hard.instance.reload()
    assert set(seen.suites) == {"TLSv1.3"}
    assert seen.chain[0].fingerprint == PAIR.fingerprint
    assert judge(seen, policy("modern"), now=SYSTEM.now()) == []


@pytest.mark.pg(17)
def test_tls_at_once_finds_the_same(hard: Cluster):
    asked, straight = seen_on(hard), seen_on(hard, Protocol.POSTGRES_DIRECT)
    assert straight.suites == asked.suites
    assert (straight.direct, straight.alpn, straight.chain) == (True, True, asked.chain)


@pytest.mark.pg(17)
def test_another_ca_and_another_name_are_told_by_their_code(hard: Cluster):
    target = Target("127.0.0.1", hard.instance.port)
    trust = probe(target, ca=Authority.create("another CA").certificate).trust
    assert trust is not None
    assert trust.verify_code in (19, 20)
    pair = AUTHORITY.issue_server(["elsewhere.invalid"])
    hard.instance.write("server.key", pair.key)
    hard.instance.write("server.crt", pair.certificate)
    hard.instance.reload()
    try:
        trust = probe(target, ca=AUTHORITY.certificate).trust
    finally:
        hard.instance.write("server.key", PAIR.key)
        hard.instance.write("server.crt", PAIR.certificate)
        hard.instance.reload()
    assert trust is not None
    assert trust.verify_code == 64


@pytest.mark.pg(17)
@pytest.mark.parametrize("form", ["text", "json", "sarif"])
def test_the_command_tells_it_in_each_form(weak: Cluster, hard: Cluster, form: str):
    for cluster, code in ((weak, 1), (hard, 0)):
        place = f"127.0.0.1:{cluster.instance.port}"
        argv = [sys.executable, "-m", "dbsec", "tls", "probe", place, "--format", form]
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        if form == "text":
            assert "TLS_AES_256_GCM_SHA384" in ran.stdout
            assert ("error TLS101 allow-plaintext" in ran.stdout) == bool(code)
        else:
            told = json.loads(ran.stdout)
            found = told["findings"] if form == "json" else told["runs"][0]["results"]
            assert bool(found) == bool(code)
