"""OpenBao for the tests: real servers below one folder, stopped by pid; what a killed run left is swept."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from tests import pausing

from dbsec import files, process
from dbsec.clock import SYSTEM, Clock
from dbsec.lab import lab, openbao, ports
from dbsec.lab.site import Site
from dbsec.lab.state import State
from dbsec.process import Account, ProcessId
from dbsec.secret import Secret
from dbsec.tls.ca import Authority
from dbsec.vault import AppRole, Auth, Settings, TokenAuth, Vault

_NO_ENVIRON: dict[str, str] = {}
_NUMBERS = itertools.count()
_SELF = ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)


@dataclass(frozen=True)
class OpenBao:
    """A running server with TLS, an audit file, transit, approle and userpass. ``token_file`` is the admin's."""

    site: Site

    @property
    def address(self) -> str:
        return str(self.site.state.facts["openbao"]["address"])

    @property
    def ca(self) -> Path:
        return self.site.ca_path

    @property
    def token_file(self) -> Path:
        return Path(self.site.state.facts["openbao"]["token"])

    @property
    def process(self) -> ProcessId:
        return self.site.state.servers[openbao.NAME].process

    @property
    def audit_log(self) -> Path:
        return self.site.folder / "logs/openbao-audit.log"

    def admin(self) -> Vault:
        """Return a client that may do everything."""
        return self.client(self.token_file)

    def client(self, auth: Path | Auth, *, timeout_s: float = 5, clock: Clock = SYSTEM) -> Vault:
        """Return a client with the token in a file, or with another way to one."""
        way = TokenAuth(f"file:{auth}", _NO_ENVIRON) if isinstance(auth, Path) else auth
        return Vault(Settings(self.address, ca=self.ca, timeout_s=timeout_s), way, clock=clock)

    def policy(self, rules: str) -> str:
        """Keep a policy and return its name."""
        name = f"p-{secrets.token_hex(4)}"
        self.admin().write(f"sys/policies/acl/{name}", {"policy": rules})
        return name

    def token(self, rules: str, *, ttl: str = "1h", **settings: object) -> Path:
        """Make a token with this policy alone and return its file; ``settings`` are those of auth/token/create."""
        body = {"policies": [self.policy(rules)], "ttl": ttl, "no_parent": True, "no_default_policy": False, **settings}
        made = self.admin().write("auth/token/create", body)
        return self.keep(made["auth"]["client_token"])

    def approle(self, rules: str, **settings: object) -> AppRole:
        """Make a role with this policy alone; ``settings`` are those of auth/approle/role."""
        name = f"r-{secrets.token_hex(4)}"
        admin = self.admin()
        role = f"auth/approle/role/{name}"
        admin.write(role, {"token_policies": [self.policy(rules)], **settings})
        secret_id = self.keep(admin.write(f"{role}/secret-id")["data"]["secret_id"])
        return AppRole(admin.read(f"{role}/role-id")["data"]["role_id"], f"file:{secret_id}", _NO_ENVIRON)

    def audited(self, path: str) -> int:
        """Count the answers that the audit file tells of requests to a path."""
        lines = [json.loads(line) for line in self.audit_log.read_text().splitlines()]
        return sum(1 for line in lines if line["type"] == "response" and line["request"]["path"] == path)

    def keep(self, secret: str) -> Path:
        """Write a credential to a private file of its own."""
        return self.site.secret(f"test-{secrets.token_hex(4)}", Secret(secret))

    def uri(self, key: str, *, token_file: Path | None = None, mount: str = "transit", **more: str) -> str:
        """Return the ``vault-transit://`` uri of a key; the admin's token where none is given."""
        chosen = {"ca": str(self.ca), "token": f"file:{token_file or self.token_file}", **more}
        return f"vault-transit://{self.address.removeprefix('https://')}/{mount}/{key}?{urlencode(chosen, safe='/:')}"

    def pause(self) -> None:
        """Let it answer nothing: the kernel accepts connections, and no reply comes."""
        pausing.pause(self.process.pid)

    def resume(self) -> None:
        pausing.resume(self.process.pid)

    def stop(self) -> None:
        """End it: connections are refused."""
        process.stop(self.process)

    def start_again(self) -> None:
        """Start it on its own data; with ``raft`` storage nothing is lost."""
        openbao.start_again(self.site)


class Servers:
    """Makes servers below one folder and stops them all."""

    def __init__(self, root: Path, account: Account) -> None:
        self._root = root
        self._account = account
        self._made: list[OpenBao] = []
        self._sweep()

    def create(self, storage: Literal["raft", "inmem"] = "inmem") -> OpenBao:
        """Start a server; ``raft`` takes some seconds longer and survives a restart."""
        site = self._site(self._root / f"bao-{_SELF.pid}-{_SELF.started}-{next(_NUMBERS)}")
        api, cluster = ports.free(2)
        made = OpenBao(site)
        self._made.append(made)
        openbao.start(site, port=api, cluster_port=cluster, storage=storage)
        return made

    def running(self) -> list[ProcessId]:
        """Return the servers that are up: what the reaper must spare."""
        records = [record for made in self._made for record in made.site.state.servers.values()]
        return [record.process for record in records if record.process.alive]

    def close(self) -> None:
        for made in self._made:
            if made.site.state.servers and made.process.alive:
                made.resume()
            lab.down(made.site.folder)

    def _site(self, folder: Path) -> Site:
        mode = 0o700 if self._account.is_current else 0o711
        programs = self._root / "programs"
        files.make_folder(folder, mode=mode)
        files.make_folder(programs, mode=0o755)
        authority = Authority.create("CA of a test's OpenBao", days=2)
        site = Site(folder, programs, self._account, authority, State(folder, secrets.token_hex(16)))
        site.state.tell(account=self._account.name)
        files.make_folder(folder / "secrets", mode=mode)
        for name in ("logs", "tmp"):
            site.subfolder(name)
        files.write_atomic(site.ca_path, authority.certificate, mode=0o644)
        return site

    def _sweep(self) -> None:
        """Stop and delete what a killed run left: the folder's name tells whose it was."""
        for folder in self._root.glob("bao-*-*-*"):
            _, pid, started, _ = folder.name.split("-")
            if not ProcessId(int(pid), int(started)).alive:
                lab.down(folder)
