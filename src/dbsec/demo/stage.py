"""What the chapters share: the lab, the service under load, the logins that are in force now, and the recorder."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from dbsec.demo.chapter import Audience
from dbsec.evidence import Recorder
from dbsec.lab.dataset import Dataset
from dbsec.lab.lab import Lab
from dbsec.lab.load import Load
from dbsec.lab.service import Service
from dbsec.pg import Conninfo, connect
from dbsec.progress import Progress
from dbsec.secret import Secret

if TYPE_CHECKING:
    from dbsec.demo.backups import Backups
    from dbsec.demo.tenant_keys import TenantKeys

DATABASE = "app"


@dataclass(slots=True)
class Stage:
    """``logins`` maps who to how that one reaches the database at this moment; hardening replaces entries.

    Known names: ``admin`` (superuser), ``service``, ``migrator`` (whoever does DDL), ``standby`` (replication).
    ``visitors`` are sessions that the baseline keeps open as a careless client would. ``deploy`` brings a migration
    file to the database as the team does it at this moment, and raises where that way refuses it. ``canaries`` are a
    phone and an e-mail address that are looked for on every disk, before and after they were encrypted. ``keys`` are
    there from then on, and ``backups`` once there is a repository.
    """

    lab: Lab
    deployment: Path
    recorder: Recorder
    audience: Audience
    progress: Progress
    logins: dict[str, Conninfo]
    service: Service | None = None
    dataset: Dataset | None = None
    load: Load | None = None
    deploy: Callable[[str, str], None] | None = None
    canaries: dict[str, Secret] = field(default_factory=dict)
    keys: TenantKeys | None = None
    backups: Backups | None = None
    visitors: list[psycopg.Connection[Any]] = field(default_factory=list)
    _passwords: dict[str, Secret] = field(default_factory=dict)

    def login(self, who: str) -> Conninfo:
        """Return how ``who`` logs in now."""
        return self.logins[who]

    @contextlib.contextmanager
    def admin(self) -> Iterator[psycopg.Connection[Any]]:
        """Open the superuser's session on the application's database."""
        with connect(self.login("admin")) as connection:
            yield connection

    def password(self, role: str) -> Secret:
        """Return a role's password of this run, made at first use."""
        return self._passwords.setdefault(role, Secret(secrets.token_urlsafe(24)))

    def reconnect_service(self, dsn: Conninfo) -> None:
        """Change the service's login without a failed request, and remember it; without a service, only that."""
        if self.service is not None:
            self.service.reconnect(dsn)
        self.logins["service"] = dsn

    @property
    def server_log(self) -> Path:
        """The primary's log: what the auditor reads."""
        return self.lab.primary.log

    def close(self) -> None:
        """End the sessions that the baseline left open."""
        for visitor in self.visitors:
            visitor.close()
