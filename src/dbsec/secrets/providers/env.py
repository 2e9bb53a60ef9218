"""``env:``: a secret is a variable of the environment, fixed when the process began."""

from __future__ import annotations

from collections.abc import Mapping

from dbsec.errors import UsageError
from dbsec.secret import Secret
from dbsec.secrets.errors import SecretMissing
from dbsec.secrets.provider import Stored, Value, check_name


class EnvSecrets(Stored):
    """Variables by their names; each has the one field ``value``."""

    kind = "env"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __repr__(self) -> str:
        return "<secrets of the environment>"

    def get(self, name: str) -> Value:
        """Return a variable."""
        if check_name(name) not in self._environ:
            raise SecretMissing(f"environment variable '{name}' is not set", hint=f"export {name}=...")
        return Value(name, "1", {"value": Secret(self._environ[name])})

    def put(self, name: str, fields: Mapping[str, Secret], *, after: str) -> Value:
        """Refuse: the environment of a running process cannot be replaced from outside."""
        raise UsageError("an 'env:' source is only read", hint="a 'file:' or 'vault:' source can be written")
