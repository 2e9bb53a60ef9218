"""What SQLAlchemy must hand on as it is: its own wrapping would print the parameters, plaintexts among them."""

from __future__ import annotations

from sqlalchemy.exc import DontWrapMixin

from dbsec.crypto.errors import Unbound
from dbsec.errors import DbsecError, UsageError


class UnboundParameter(Unbound, DontWrapMixin):
    """A plaintext on its way to the server: no hook saw the row that it belongs to, and it was stopped."""


class Unsearchable(UsageError, DontWrapMixin):
    """A use of an encrypted column that the server can only answer wrongly."""


def as_it_is(exc: DbsecError) -> DbsecError:
    """Return an error that SQLAlchemy does not wrap; its class and all it says stay."""
    if not isinstance(exc, DontWrapMixin):
        kind = type(exc)
        exc.__class__ = _UNWRAPPED.get(kind) or _UNWRAPPED.setdefault(kind, _unwrapped(kind))
    return exc


_UNWRAPPED: dict[type[DbsecError], type[DbsecError]] = {}


def _unwrapped(kind: type[DbsecError]) -> type[DbsecError]:
    return type(kind.__name__, (kind, DontWrapMixin), {"__module__": kind.__module__, "__doc__": kind.__doc__})
