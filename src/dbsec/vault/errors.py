"""What OpenBao or Vault may answer instead of a result.

::

    DbsecError
    `-- VaultError
        |-- VaultUnavailable    no answer, or not now: network, time-out, 5xx, sealed, standby, too many requests
        |-- VaultNotFound       404: nothing is at this path
        `-- VaultRefused        an answer, and it is no
"""

from __future__ import annotations

from dbsec.errors import DbsecError


class VaultError(DbsecError):
    """The server did not do what was asked; the message names path and answer, never a token or a body."""


class VaultUnavailable(VaultError):
    """No answer, or none now. The same call may succeed later."""


class VaultNotFound(VaultError):
    """Nothing is at this path."""


class VaultRefused(VaultError):
    """An answer, and it is no. ``status`` is the HTTP code, ``answer`` the server's own words."""

    def __init__(self, message: str, *, status: int, answer: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.answer = answer

    @property
    def denied(self) -> bool:
        """Tell whether the token was not accepted or its policy forbids the path; few servers say which."""
        return self.status in (401, 403)
