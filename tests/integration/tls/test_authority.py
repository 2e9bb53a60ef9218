"""``dbsec tls ca`` as a process, with a real server that serves what it issues and refuses what it revokes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.openbao import OpenBao

from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.tls.ca import CLIENT, SERVER
from dbsec.tls.issuers import checks, open_issuer, placing
from dbsec.tls.stranger import refusal

PASSWORD = Secret("a password of the tests")
HBA = "hostssl all app_migrator all scram-sha-256 clientcert=verify-full\nhostssl all postgres all scram-sha-256\n"


def ca(*argv: str | Path, code: int = 0) -> dict[str, str]:
    """Run a command and return its result; an error's text where one is expected."""
    ran = subprocess.run(
        [sys.executable, "-m", "dbsec", "tls", "ca", *argv, "--format", "json"],
        env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert "PRIVATE" not in ran.stdout + ran.stderr
    return json.loads(ran.stdout)["result"] if code == 0 else {"error": ran.stderr}


@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_issued_served_renewed_revoked(cluster_factory: Callable[..., Cluster], tmp_path: Path, key: str):
    folder, out = tmp_path / "ca", tmp_path / "out"
    ca("create", folder, "--key", key)
    ca("issue", "server", "localhost", "127.0.0.1", "--issuer", folder, "--out", out)
    client = ca("issue", "client", "app_migrator", "--issuer", f"file:{folder}", "--out", out)
    assert (out / "server.key").stat().st_mode & 0o777 == 0o600
    assert "not overwritten" in ca("issue", "server", "x", "--issuer", folder, "--out", out, code=2)["error"]

    cluster = cluster_factory()
    instance = cluster.instance

    def serve(**settings: str) -> None:
        for name in ("server.key", "server.crt"):
            instance.write(name, (out / name).read_bytes())
        instance.write("root.crt", (folder / "ca.crt").read_bytes())
        if settings:
            instance.configure(settings)
        instance.reload()

    with connect(cluster.admin) as admin:
        admin.execute(f"CREATE ROLE app_migrator LOGIN PASSWORD '{PASSWORD.reveal()}'")
    instance.write("pg_hba.conf", HBA)
    serve(ssl="on", ssl_ca_file="root.crt")
    login = Conninfo.local(
        instance.port, user="app_migrator", dbname="postgres", password=PASSWORD, sslmode="verify-full",
        sslrootcert=folder / "ca.crt", sslcert=out / "app_migrator.crt", sslkey=out / "app_migrator.key",
    )  # fmt: skip
    assert refusal(login) is None

    place = f"127.0.0.1:{instance.port}"
    lost = ca("issue", "server", "localhost", "--issuer", folder, "--out", tmp_path / "b", "--replaces", place, code=2)
    assert "lose the name '127.0.0.1'" in lost["error"]
    assert not (tmp_path / "b").exists()
    before = placing.read(out, "server").fingerprint
    renewed = ca("renew", out / "server.crt", "--issuer", folder)
    assert renewed["fingerprint"] != before
    assert checks.names(placing.read(out, "server").x509) == ("localhost", "127.0.0.1")
    serve()
    assert refusal(login) is None

    ca("revoke", client["serial"], "--issuer", folder)
    listed = ca("crl", "--issuer", folder, "--out", tmp_path / "root.crl")
    assert listed["revoked"] == 1
    instance.write("root.crl", (tmp_path / "root.crl").read_bytes())
    serve(ssl_crl_file="root.crl")
    assert "certificate revoked" in (refusal(login) or "")
    ca("renew", out / "app_migrator.crt", "--issuer", folder)
    assert refusal(login) is None


def test_a_certificate_of_elsewhere_is_checked_before_it_is_placed(tmp_path: Path):
    for name in ("ca", "other"):
        ca("create", tmp_path / name)
    ca("issue", "server", "db.lab", "--issuer", tmp_path / "ca", "--out", tmp_path / "made")
    pair = [tmp_path / "made/server.crt", tmp_path / "made/server.key"]
    other = tmp_path / "other/ca.crt"
    refused = ca("adopt", "server", *pair, "--ca", other, "--out", tmp_path / "placed", code=2)
    assert "not issued by this CA" in refused["error"]
    ca("adopt", "server", *pair, "--ca", tmp_path / "ca/ca.crt", "--out", tmp_path / "placed")
    assert (tmp_path / "placed/server.crt").read_bytes() == pair[0].read_bytes()


def test_the_pki_engine_issues_and_revokes(openbao: OpenBao, tmp_path: Path):
    admin = openbao.admin()
    mount = f"pki-{tmp_path.name}"
    admin.write(f"sys/mounts/{mount}", {"type": "pki", "config": {"max_lease_ttl": "8760h"}})
    root = {"common_name": "lab CA", "ttl": "8760h", "key_type": "ec", "key_bits": 256}
    trusted = admin.write(f"{mount}/root/generate/internal", root)["data"]["certificate"]
    ec = {"key_type": "ec", "key_bits": 256}
    names = {"allowed_domains": ["lab"], "allow_subdomains": True, "allow_ip_sans": True, "require_cn": False}
    admin.write(f"{mount}/roles/server", {**ec, **names, "server_flag": True, "client_flag": False})
    anyone = {"allow_any_name": True, "enforce_hostnames": False}
    admin.write(f"{mount}/roles/client", {**ec, **anyone, "server_flag": False, "client_flag": True})

    def address(role: str) -> str:
        return openbao.uri(role, mount=mount).replace("vault-transit:", "vault-pki:")

    server = ca(
        "issue", "server", "db.lab", "127.0.0.1", "--issuer", address("server"), "--out", tmp_path, "--lifetime", "1d"
    )
    ca("issue", "client", "app_migrator", "--issuer", address("client"), "--out", tmp_path, "--lifetime", "1h")
    pair = placing.read(tmp_path, "server")
    assert checks.names(pair.x509) == ("db.lab", "127.0.0.1")
    from dbsec.clock import SYSTEM

    checks.check(pair, trusted.encode(), use=SERVER, now=SYSTEM.now())
    checks.check(placing.read(tmp_path, "app_migrator"), trusted.encode(), use=CLIENT, now=SYSTEM.now())
    refused = ca("issue", "server", "elsewhere.com", "--issuer", address("server"), "--out", tmp_path / "b", code=3)
    assert "elsewhere.com" in refused["error"]
    ca("revoke", server["serial"], "--issuer", address("server"))
    assert ca("crl", "--issuer", address("server"), "--out", tmp_path / "crl")["revoked"] == 1
    assert "VaultPki" in repr(open_issuer(address("server"), environ={}))
