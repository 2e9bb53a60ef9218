"""The reference service as a process of the lab: started, told to reconnect, looked at, stopped."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dbsec import process, retry
from dbsec.errors import ApplyError, GaveUp, LabError, ProgramError
from dbsec.lab import ports
from dbsec.lab.deployment import deployment_folder
from dbsec.lab.site import Site, must_live
from dbsec.pg import Conninfo
from dbsec.process import Account, ProcessId
from dbsec.secret import Secret

NAME = "service"


@dataclass(frozen=True, slots=True)
class Service:
    """One running release. Its DSN lies in a private file that it reads again on SIGHUP."""

    site: Site
    name: str
    release: str
    process: ProcessId
    port: int
    dsn_file: Path
    account: str
    told: Mapping[str, str]

    @classmethod
    def start(
        cls,
        site: Site,
        dsn: Conninfo,
        *,
        release: str = "blue",
        rate_per_s: int = 2000,
        beside: Service | None = None,
        credentials: Mapping[str, Secret] | None = None,
        settings: Mapping[str, str] | None = None,
        flags: str = "{}",
    ) -> Service:
        """Start a release and wait until it answers. Errors: ``LabError`` with the end of its log.

        ``beside`` another release it takes that one's sessions and cursors. ``credentials`` map a variable to what it
        refers to, ``settings`` to its value; ``flags`` is JSON.
        """
        name = f"{NAME}-{release}"
        (port,) = ports.free(1)
        who = _python_account(site)
        dsn_file = _private(site, f"{name}.dsn", dsn.text(), who)
        key_file = beside._key_file if beside else _private(site, f"{NAME}.session", secrets.token_urlsafe(48), who)
        flags_file = _private(site, f"{name}.flags", flags, who)
        told = dict(settings or {})
        for variable, value in (credentials or {}).items():
            told[variable] = f"file:{_private(site, f'{name}.{variable.lower()}', value.reveal(), who)}"
        argv: list[str | Path] = [sys.executable, "-P", "-m", "uvicorn", "app.main:app"]
        argv += ["--app-dir", deployment_folder(), "--host", ports.LOOPBACK, "--port", str(port)]
        argv += ["--no-access-log", "--log-level", "warning"]
        argv += ["--timeout-keep-alive", "60"]  # a stall of the service must not drop its callers' connections
        env = {
            "APP_DSN": f"file:{dsn_file}",
            "APP_SESSION_KEY": f"file:{key_file}",
            "APP_FLAGS": str(flags_file),
            "APP_RELEASE": release,
            "APP_RATE_PER_S": str(rate_per_s),
            "APP_POOL_MAX": "12",
            "PYTHONDONTWRITEBYTECODE": "1",
            **told,
        }
        pid = site.start(name, argv, ports={"http": port}, env=env, account=who)
        service = cls(site, name, release, pid, port, dsn_file, who.name, told)
        service._wait_until_healthy()
        return service

    def again(self, dsn: Conninfo, *, release: str) -> Service:
        """Start one more that is told what this one is told, flags and all, but for its database. Errors: ``start``."""
        flags = self._flags_file.read_text()
        return Service.start(self.site, dsn, release=release, beside=self, settings=self.told, flags=flags)

    @property
    def base_url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.port}"

    def health(self) -> dict[str, Any]:
        """Read /healthz. Errors: ``httpx.HTTPError``."""
        reply = httpx.get(f"{self.base_url}/healthz", timeout=5, trust_env=False)
        reply.raise_for_status()
        return dict(reply.json())

    def reconnect(self, dsn: Conninfo, *, within_s: float = 20) -> None:
        """Give the service another DSN and wait until no connection of the old one is left.

        Requests in flight end on the old pool, so none fails. Errors: ``ApplyError`` where the new DSN does not
        work; the service then goes on with the old one.
        """
        self._change(self.dsn_file, dsn.text(), "its login", within_s)

    def switch(self, *, within_s: float = 20, **flags: bool) -> None:
        """Set the release's flags, and wait until they are in force for every request. Errors: as ``reconnect``."""
        self._change(self._flags_file, json.dumps(flags), "its flags", within_s)

    def _change(self, file: Path, text: str, what: str, within_s: float) -> None:
        before, old = self.health(), file.read_text()
        _private(self.site, file.name, text, _python_account(self.site))
        os.kill(self.process.pid, signal.SIGHUP)

        def switched() -> bool:
            now = self.health()
            if now["reconnect_attempts"] == before["reconnect_attempts"]:
                return False  # the signal is still on its way; what stands there is of an earlier attempt
            if str(now.get("reconnect", "")).startswith("failed"):
                raise ApplyError(f"{self.name} keeps {what}: {now['reconnect']}", hint=f"see {self._log}")
            return bool(now["generation"] > before["generation"] and now["draining"] == 0)

        try:
            retry.wait_until(switched, within_s=within_s, what=f"{self.name} to change {what}")
        except (ApplyError, GaveUp, httpx.HTTPError):
            _private(self.site, file.name, old, _python_account(self.site))
            raise

    def stop(self) -> None:
        """Let requests in flight end, and stop it."""
        process.stop(self.process)
        self.site.state.forget(self.name)

    @property
    def _key_file(self) -> Path:
        return self.dsn_file.with_name(f"{NAME}.session")

    @property
    def _flags_file(self) -> Path:
        return self.dsn_file.with_name(f"{self.name}.flags")

    @property
    def _log(self) -> Path:
        return self.site.folder / "logs" / f"{self.name}.log"

    def _wait_until_healthy(self) -> None:
        def healthy() -> None:
            must_live(self.process, self.name, self._log)
            self.health()

        try:
            retry.retry(healthy, on=(httpx.HTTPError,), within_s=30, what=f"{self.name} to answer")
        except GaveUp as exc:
            raise LabError(f"{exc}: {process.last_lines(self._log)}", hint=f"see {self._log}") from exc


def _python_account(site: Site) -> Account:
    """Return the servers' account where it may run this Python, else ours: a Python below /root is closed to it."""
    try:
        process.run([sys.executable, "-c", "import dbsec"], cwd=site.folder, account=site.account)
    except ProgramError:
        return Account.current()
    return site.account


def _private(site: Site, name: str, text: str, who: Account) -> Path:
    path = site.secret(name, Secret(text))
    if not who.is_current:
        os.chown(path, who.uid, who.gid)
    elif site.owner:
        os.chown(path, os.geteuid(), os.getegid())
    return path
