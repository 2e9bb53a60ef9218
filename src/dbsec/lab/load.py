"""The load on the reference service: a plan in a private file, a process that carries it out, and its samples.

Run as ``python -m dbsec.lab.load PLAN.json``; ``dbsec.lab.traffic`` is what then happens.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from dbsec import files, process, retry
from dbsec.errors import LabError
from dbsec.lab import routes
from dbsec.lab.dataset import Dataset, Tenant
from dbsec.process import ProcessId
from dbsec.secret import Secret

# Measured on 2 cores shared with PostgreSQL and the service: some 9 % of a core for the load, 15 % for the service.
DEFAULT_RATE_PER_S = 40.0
# Longer than the load waits for what is still in flight when it is told to end.
_STOP_S = 8.0
ROUTES = "load-routes.json"


class Op(StrEnum):
    """What a request does; logins are on top of the mix."""

    LOGIN = "login"
    LIST_ORDERS = "list-orders"
    READ_USER = "read-user"
    FIND_PHONE = "find-phone"
    CREATE_ORDER = "create-order"
    CREATE_USER = "create-user"


MIX: Mapping[Op, int] = {
    Op.LIST_ORDERS: 55,
    Op.READ_USER: 20,
    Op.FIND_PHONE: 10,
    Op.CREATE_ORDER: 10,
    Op.CREATE_USER: 5,
}


class Arrivals(StrEnum):
    """How requests come: by a clock, or independently of each other as those of many people do."""

    FIXED = "fixed"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. Bigger tenants, which come first, send more: 1 : 1/2 : 1/3 ...

    ``timeout_s`` is for a whole request; above ``max_in_flight`` a request is not sent, and counts as failed. After
    ``limit_s``, or when the process that started it is gone, the load ends by itself.
    """

    base_url: str
    tenants: tuple[Tenant, ...]
    seed: int
    rate_per_s: float = DEFAULT_RATE_PER_S
    arrivals: Arrivals = Arrivals.POISSON
    mix: Mapping[Op, int] = field(default_factory=lambda: MIX)
    timeout_s: float = 10.0
    max_in_flight: int = 500
    limit_s: float = 3600.0

    @classmethod
    def of(cls, dataset: Dataset, base_url: str, **changes: Any) -> Plan:
        """Plan the usual load on a service that serves this data."""
        return cls(base_url, dataset.tenants, dataset.seed, **changes)

    def to_json(self) -> str:
        """Write it, keys in clear: for a private file only."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**plain, "tenants": [_tenant_to_json(tenant) for tenant in self.tenants]})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what ``to_json`` wrote."""
        plain = json.loads(text)
        mix = {Op(name): weight for name, weight in plain.pop("mix").items()}
        tenants = tuple(_tenant_from_json(tenant) for tenant in plain.pop("tenants"))
        return cls(**{**plain, "arrivals": Arrivals(plain["arrivals"])}, tenants=tenants, mix=mix)


def _tenant_to_json(tenant: Tenant) -> dict[str, object]:
    key = tenant.api_key.reveal()
    return {"id": str(tenant.id), "slug": tenant.slug, "key": key, "user_ids": tenant.user_ids, "phones": tenant.phones}


def _tenant_from_json(plain: Mapping[str, Any]) -> Tenant:
    users, phones = tuple(plain["user_ids"]), tuple(plain["phones"])
    return Tenant(plain["id"], plain["slug"], Secret(plain["key"]), users, phones)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was due, how long its caller waited from then on, and what was wrong with it, if anything.

    ``latency_ms`` is None for one that was not sent. ``late_ms`` is the part of it that the load itself took before
    sending. ``status`` is 0 without an answer; ``to`` is the base URL that it was sent to.
    """

    at: datetime
    op: Op
    status: int
    latency_ms: float | None
    late_ms: float
    error: str
    to: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.error)

    def to_json(self) -> str:
        """Shape: an object of the fields; ``at`` as RFC 3339."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**plain, "at": self.at.isoformat()})

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read what ``to_json`` wrote."""
        plain = json.loads(line)
        return cls(**{**plain, "at": datetime.fromisoformat(plain["at"]), "op": Op(plain["op"])})


@dataclass(frozen=True, slots=True)
class Load:
    """A load that runs, or has run, as a process of its own."""

    process: ProcessId
    out: Path
    log: Path

    @classmethod
    def start(cls, plan: Plan, folder: Path, *, env: Mapping[str, str] | None = None) -> Load:
        """Begin to send; ``folder`` gets the plan (0600), the samples as lines of JSON, and a log."""
        path, out, log = (folder / name for name in ("load-plan.json", "load-samples.jsonl", "load.log"))
        files.write_atomic(path, plan.to_json())
        routes.write(folder / ROUTES, {plan.base_url: 1})
        out.unlink(missing_ok=True)
        argv: list[str | Path] = [sys.executable, "-P", "-m", "dbsec.lab.load", path]
        return cls(process.spawn(argv, cwd=folder, log=log, env=env), out, log)

    def route(self, shares: Mapping[str, float]) -> None:
        """Send this share of the requests to each base URL from now on; what is in flight ends where it is.

        Errors: ``GaveUp`` where the load does not look.
        """
        path = self.out.with_name(ROUTES)
        routes.write(path, shares)
        retry.wait_until(lambda: routes.in_force(path), within_s=10, what="the load to take another way")

    def stop(self) -> None:
        """End it; what is in flight is waited for. Errors: ``LabError`` where it had ended by itself before."""
        if not process.stop(self.process, ladder=((signal.SIGTERM, _STOP_S),)):
            raise LabError(f"the load had ended by itself: {process.last_lines(self.log)}", hint=f"less {self.log}")

    def samples(self) -> list[Sample]:
        """Read what has been written so far, which is at most 0.2 s old; a line that is being written is left out."""
        try:
            text = self.out.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        whole = text[: text.rfind("\n") + 1]
        return [Sample.from_json(line) for line in whole.splitlines()]


if __name__ == "__main__":
    from dbsec.lab import traffic

    traffic.main(Path(sys.argv[1]))
