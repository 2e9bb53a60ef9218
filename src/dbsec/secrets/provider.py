"""The port: what a source of secrets does. A stored value is read and replaced; a credential is issued and ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from dbsec.errors import UsageError
from dbsec.secret import Secret

_NAME: Final = re.compile(r"(?!\.)[\w.-]+(?:/(?!\.)[\w.-]+)*", re.ASCII)
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Value:
    """One version of a stored secret, whole: its fields were written as one act, so no user has another's password.

    ``version`` differs from that of any value which stood there before.
    """

    name: str
    version: str
    fields: Mapping[str, Secret]


@dataclass(frozen=True, slots=True)
class Lease:
    """A credential of a database. ``lives_s`` are seconds from its issue, None without an end.

    ``id`` is what revokes it; "" for a static role, whose password the server replaces by itself.
    """

    name: str
    id: str
    username: str
    password: Secret
    lives_s: float | None
    renewable: bool = False


class Provider(Protocol):
    """A source. Errors of every call: ``SecretMissing``, ``SecretRefused``, ``SecretUnavailable``; ``UsageError`` for a
    name that ``check_name`` refuses and for what the kind of source does not do.
    """

    def get(self, name: str) -> Value:
        """Return what is stored now."""

    def put(self, name: str, fields: Mapping[str, Secret], *, after: str) -> Value:
        """Store a version whole, if the one that stands there is ``after`` ("" for none), else ``SecretRefused``."""

    def lease(self, name: str) -> Lease:
        """Have a credential issued for the role of this name, or return that of a static role."""

    def rotate(self, name: str) -> None:
        """Have the password of a static role replaced now; the old one is dead when this returns."""

    def revoke(self, lease: Lease) -> None:
        """End an issued credential before its time; it is dead when this returns, and again is no error."""


class Stored:
    """What a source that only stores says to the rest of the port."""

    kind = ""

    def lease(self, name: str) -> Lease:
        """Refuse."""
        self._refuse("issues no credentials")

    def rotate(self, name: str) -> None:
        """Refuse."""
        self._refuse("replaces no password by itself")

    def revoke(self, lease: Lease) -> None:
        """Refuse."""
        self._refuse("ends no credentials")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"a '{self.kind}:' source {what}", hint="a 'vault:' source with a database engine does")


def check_name(name: str) -> str:
    """Return the name. Errors: ``UsageError`` for one that could lead elsewhere."""
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise UsageError(
            "that is no name of a secret", hint="words of [A-Za-z0-9_.-], none with a dot first, '/' between"
        )
    return name
