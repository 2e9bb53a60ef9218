"""``vault://host:port/MOUNT``: OpenBao or HashiCorp Vault, KV version 2 for values, a database engine for credentials.

Source: openbao.org, "KV secrets engine, version 2" and "Database secrets engine".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dbsec.secret import Secret
from dbsec.secrets.errors import SecretMissing, SecretRefused, SecretUnavailable
from dbsec.secrets.provider import Lease, Value, check_name
from dbsec.vault import Body, Vault, VaultNotFound, VaultRefused, VaultUnavailable, part


class VaultSecrets:
    """One KV mount, and one database engine at ``database``."""

    def __init__(self, vault: Vault, mount: str, database: str) -> None:
        self._vault = vault
        self._mount = mount
        self._database = database

    def __repr__(self) -> str:
        return f"<secrets of {self._vault!r} at {self._mount}>"

    def get(self, name: str) -> Value:
        """Return the newest version; one that was deleted is missing."""
        with _told(check_name(name)):
            data = part(self._vault.read(f"{self._mount}/data/{name}"), "data")
        fields = {str(field): Secret(str(value)) for field, value in part(data, "data").items()}
        return Value(name, str(part(data, "metadata", "version")), fields)

    def put(self, name: str, fields: Mapping[str, Secret], *, after: str) -> Value:
        """Write the next version by check-and-set."""
        plain = {field: value.reveal() for field, value in fields.items()}
        with _told(check_name(name)):
            body: Body = {"data": plain, "options": {"cas": int(after or "0")}}
            data = part(self._vault.write(f"{self._mount}/data/{name}", body), "data")
        return Value(name, str(part(data, "version")), dict(fields))

    def lease(self, name: str) -> Lease:
        """Read ``creds/NAME``; where no such role is, or the policy forbids it, ``static-creds/NAME``."""
        with _told(check_name(name)):
            try:
                issued = self._vault.read(f"{self._database}/creds/{name}")
            except VaultRefused as exc:
                if not exc.denied and "unknown role" not in exc.answer:
                    raise
                return self._static(name)
        return Lease(
            name,
            str(part(issued, "lease_id")),
            str(part(issued, "data", "username")),
            Secret(str(part(issued, "data", "password"))),
            float(part(issued, "lease_duration")),
            bool(issued.get("renewable")),
        )

    def _static(self, name: str) -> Lease:
        try:
            data = part(self._vault.read(f"{self._database}/static-creds/{name}"), "data")
        except VaultRefused as exc:
            if "unknown role" in exc.answer:
                raise SecretMissing(
                    f"'{self._database}' has no role '{name}'", hint=f"bao list {self._database}/roles"
                ) from exc
            raise
        password = Secret(str(part(data, "password")))
        return Lease(name, "", str(part(data, "username")), password, float(part(data, "ttl")))

    def rotate(self, name: str) -> None:
        """Call ``rotate-role/NAME``."""
        with _told(check_name(name)):
            self._vault.write(f"{self._database}/rotate-role/{name}")

    def revoke(self, lease: Lease) -> None:
        """Revoke by the lease's id and wait for it; one that has ended is no error. A static role has none: refused."""
        if not lease.id:
            raise SecretRefused(f"'{lease.name}' is a static role: it has no lease", hint="rotate it instead")
        with _told(lease.name):
            self._vault.write("sys/leases/revoke", {"lease_id": lease.id, "sync": True})


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn the client's errors into those of a source of secrets."""
    try:
        yield
    except VaultUnavailable as exc:
        raise SecretUnavailable(f"'{name}' cannot be had now: {exc.message}", hint=exc.hint) from exc
    except VaultNotFound as exc:
        raise SecretMissing(f"there is no '{name}': {exc.message}", hint=exc.hint) from exc
    except VaultRefused as exc:
        hint = "the token's policy does not allow it: bao token capabilities" if exc.denied else exc.hint
        raise SecretRefused(f"'{name}' is refused: {exc.message}", hint=hint) from exc
