"""The service as its tenants' programs know it: by HTTP, logged in with their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from dbsec.crypto.drill import Answer
from dbsec.demo.stage import Stage
from dbsec.errors import LabError


@dataclass
class Callers:
    """Asks the release that serves at that moment. Errors: ``httpx.HTTPError`` where it does not answer."""

    stage: Stage
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, tenant: str, *, phone: str, email: str) -> int:
        """Create a user and return its id. Errors: ``LabError``."""
        reply = self._ask(tenant, "POST", "/v1/users", json={"name": "dbsec drill", "phone": phone, "email": email})
        if reply.status_code != httpx.codes.CREATED:
            raise LabError(f"the service makes no user: {reply.status_code}")
        return int(reply.json()["id"])

    def read(self, tenant: str, user: int) -> Answer:
        """Read a user by id."""
        reply = self._ask(tenant, "GET", f"/v1/users/{user}")
        person = {name: str(value) for name, value in reply.json().items()} if reply.is_success else {}
        return Answer(reply.status_code, reply.text, person)

    def find(self, tenant: str, **by: str) -> Answer | list[int]:
        """Look users up by ``phone`` or ``email``: their ids, or the answer that is an error."""
        reply = self._ask(tenant, "GET", "/v1/users", params=by)
        if not reply.is_success:
            return Answer(reply.status_code, reply.text, {})
        return [int(item["id"]) for item in reply.json()["items"]]

    def _ask(
        self,
        tenant: str,
        method: str,
        path: str,
        *,
        json: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        service = self.stage.service
        if service is None:
            raise LabError("no service runs")
        headers = {"Authorization": f"Bearer {self._token(service.base_url, tenant)}"}
        with httpx.Client(base_url=service.base_url, timeout=15, trust_env=False, headers=headers) as client:
            return client.request(method, path, json=json, params=params)

    def _token(self, url: str, tenant: str) -> str:
        if (url, tenant) not in self._tokens:
            known = self.stage.dataset.tenants if self.stage.dataset else ()
            found = next(one for one in known if str(one.id) == tenant)
            login = {"tenant": found.slug, "api_key": found.api_key.reveal()}
            reply = httpx.post(f"{url}/v1/login", json=login, timeout=15, trust_env=False)
            self._tokens[url, tenant] = str(reply.raise_for_status().json()["token"])
        return self._tokens[url, tenant]
