"""The URI that names a KEK: split once, credentials in it by reference only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from dbsec.errors import ConfigError
from dbsec.secret import Secret, resolve

TENANT = "{tenant}"
_SCHEME = re.compile(r"([a-z][a-z0-9-]*):(?s:(.*))\Z")
_TENANT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class KmsUri:
    """``scheme:path?query`` or ``scheme://host/path?query``; path as written, query decoded."""

    scheme: str
    host: str
    path: str
    query: Mapping[str, str] = field(repr=False)  # a value instead of a reference may stand here

    def only(self, *names: str) -> None:
        """Refuse, by name, a parameter that the scheme does not know."""
        if unknown := sorted(set(self.query) - set(names)):
            raise ConfigError(
                f"'{self.scheme}:' knows no parameter '{unknown[0]}'",
                hint=f"it takes {', '.join(names)}" if names else "",
            )

    def required(self, name: str) -> str:
        """Return a parameter that has to be there."""
        if not self.query.get(name):
            raise ConfigError(f"a '{self.scheme}:' uri needs the parameter '{name}'", hint=f"add ?{name}=...")
        return self.query[name]

    def secret(self, name: str, *, environ: Mapping[str, str]) -> Secret:
        """Resolve the reference (``file:`` or ``env:``) in a parameter that has to be there."""
        return resolve(self.required(name), environ=environ)


def split(uri: str) -> KmsUri:
    """Take a URI apart. Errors: ``ConfigError``, which does not quote what may hold a credential."""
    found = _SCHEME.match(uri)
    if found is None:
        raise ConfigError("a KMS uri begins with its scheme", hint="write file-kek:/path/to/kek.json?passphrase=file:…")
    scheme, rest = found.groups()
    if "#" in rest or not rest.isprintable() or " " in rest or _BAD_PERCENT.search(rest):
        raise ConfigError(f"the '{scheme}:' uri holds '#', a blank or a stray '%'", hint="percent-encode it")
    rest, _, query = rest.partition("?")
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    if "@" in host or TENANT in host:
        raise ConfigError(f"the host of the '{scheme}:' uri holds a user or '{TENANT}'", hint="give credentials by ?…=")
    return KmsUri(scheme, host, path, _query(scheme, query))


def _query(scheme: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, text.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"the '{scheme}:' uri has a parameter without a value")
        if name in found:
            raise ConfigError(f"the '{scheme}:' uri has '{name}' twice")
        found[name] = unquote(value, errors="strict")
    return found


def of_tenant(template: str, tenant: str) -> str:
    """Put a tenant into a template. Errors: ``ConfigError`` for a name that could lead elsewhere."""
    if not _TENANT_NAME.match(tenant) or not tenant.strip("."):
        raise ConfigError(f"'{tenant[:64]}' is no name of a tenant", hint="it matches [A-Za-z0-9_.-]{1,64}")
    return template.replace(TENANT, tenant)
