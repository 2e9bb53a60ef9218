"""Draw the pictures of docs/encryption_in_transit.md: ``python scripts/tls_pictures.py [DIR]``.

A throwaway PostgreSQL 17 is hardened, attacked by ``dbsec tls drill --svg``, and thrown away.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from psycopg import sql

from dbsec.lab import account, ports
from dbsec.pg import Conninfo, connect
from dbsec.progress import Silent
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster, Clusters
from dbsec.tls import Authority, DataFolder, Posture, apply, hba, plan

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images"
PASSWORD = Secret(secrets.token_hex(16))
ROLES = (
    "CREATE ROLE app_readwrite",
    "CREATE ROLE app_gateway LOGIN PASSWORD {password} IN ROLE app_readwrite",
    "CREATE ROLE app_migrator LOGIN PASSWORD {password}",
)


def harden(cluster: Cluster, authority: Authority) -> None:
    """Bring a new server to the posture of the reference deployment."""
    folder = DataFolder(cluster.instance.data)
    with connect(cluster.admin) as admin:
        for statement in ROLES:
            admin.execute(sql.SQL(statement).format(password=sql.Literal(PASSWORD.reveal())))
        lines = hba(admin="postgres", scram=["app_readwrite"], mtls=["app_migrator"], replication=[])
        ca = authority.certificate
        posture = Posture(authority.issue_server(["localhost", "127.0.0.1"]), ca, ca, lines, crl=authority.crl([]))
        apply(cluster.admin, folder, plan(admin, folder, posture))


def attack(cluster: Cluster, private: Path, target: Path) -> int:
    """Run the drill with pictures; returns its exit code."""
    ca = private / "ca.crt"

    def login(user: str, **more: str) -> Conninfo:
        own = {"sslmode": "verify-full", "sslrootcert": ca, "require_auth": "scram-sha-256", **more}
        return Conninfo.local(cluster.instance.port, user=user, dbname="postgres", password=PASSWORD, **own)

    logins = {
        "SERVICE": login("app_gateway", channel_binding="require"),
        "MTLS": login("app_migrator"),
        "ADMIN": cluster.admin.but(sslmode="verify-full", sslrootcert=ca),
    }
    argv = [sys.executable, "-m", "dbsec", "tls", "drill", "env:SERVICE", "--mtls", "env:MTLS", "--admin", "env:ADMIN"]
    argv += ["--ca", str(private), "--data-dir", str(cluster.instance.data), "--log", str(cluster.log)]
    environ = {**os.environ, **{name: conninfo.text() for name, conninfo in logins.items()}}
    return subprocess.run([*argv, "--svg", str(target)], env=environ, check=False).returncode


def main() -> int:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    authority = Authority.create("the site's CA")
    with tempfile.TemporaryDirectory(prefix="dbsec-") as name:
        root, private = Path(name), Path(name) / "ca"
        root.chmod(0o755)  # the server's account comes through here
        private.mkdir(mode=0o700)
        authority.save(private)
        who = account.server_account(Silent())
        clusters = Clusters(root, 17, account=who, free_port=lambda: ports.free(1)[0])
        try:
            cluster = clusters.create()
            harden(cluster, authority)
            return attack(cluster, private, target)
        finally:
            clusters.close()


if __name__ == "__main__":
    raise SystemExit(main())
