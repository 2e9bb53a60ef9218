"""What a failure of obstore means: its classes tell little, so status and code are read from what it says."""

from __future__ import annotations

import re
from typing import Final

from obstore import exceptions

from dbsec.errors import reason
from dbsec.store.errors import (
    ObjectExists,
    ObjectMissing,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)

_STATUS: Final = re.compile(r"status code: (\d{3})|\bstatus: (\d{3}),")
_CODE: Final = re.compile(r"<Code>(\w{1,80})</Code>")
_SAID: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
_CERTIFICATE: Final = re.compile(r"InvalidCertificate\(\s*(\w+)")
_CAUSE: Final = re.compile(r'(?:message|error): "([^"]{1,200})"')
_TIMED_OUT: Final = re.compile(r"kind: Timeout|TimedOut|timed out")
_NOT_FOUND: Final = (exceptions.NotFoundError, FileNotFoundError)
_EXISTS: Final = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
_REFUSALS: Final = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.NotSupportedError,
    exceptions.InvalidPathError,
)
_NOW_NOT: Final = (408, 425, 429)
_FULL: Final = (507,)
_FULL_CODES: Final = ("InsufficientStorage", "QuotaExceeded", "EntityQuotaExceeded", "XMinioStorageFull")
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound")
_RACE: Final = "ConditionalRequestConflict"


def error_of(exc: Exception, name: str, store: str, *, listing: bool = False) -> StoreError:
    """Return the error that a failure is; a missing bucket is refused, for it must not pass for an empty one."""
    text = str(exc)
    status, code = _number(text), _first(_CODE, text)
    what = f"'{name}' in {store}: {_said(exc, text, status, code)}"
    if code == _RACE:  # another put of this name is under way: neither has won yet
        return StoreUnavailable(what)
    if isinstance(exc, _EXISTS) or (code == "PreconditionFailed" and status == 412):
        return ObjectExists(name)
    if code in _NO_BUCKET or (listing and (isinstance(exc, _NOT_FOUND) or status == 404)):
        return StoreRefused(what, hint="does the bucket exist?")
    if isinstance(exc, _NOT_FOUND) or status == 404:
        return ObjectMissing(name)
    if status in _FULL or code in _FULL_CODES:
        return StoreFull(what)
    if certificate := _first(_CERTIFICATE, text):
        return StoreRefused(f"{what} ({certificate})", hint="?ca=FILE of the store's certificate authority")
    if isinstance(exc, _REFUSALS) or (400 <= status < 500 and status not in _NOW_NOT):
        return StoreRefused(what, hint=_hint(status))
    return StoreUnavailable(what)


def _said(exc: Exception, text: str, status: int, code: str) -> str:
    """Say it in a line: requests and their addresses, of which obstore tells much, are left out."""
    if code:
        return f"{code}: {_first(_SAID, text)}".rstrip(": ")
    if _first(_CERTIFICATE, text):
        return "its certificate is not trusted"
    if _TIMED_OUT.search(text):
        return "no answer in time"
    cause = _first(_CAUSE, text)
    if cause:
        return cause[:1].lower() + cause[1:]
    if status:
        return f"it answers {status}"
    return reason(exc).rpartition(" - ")[2][:300] or type(exc).__name__


def _hint(status: int) -> str:
    return "the key of the store, and its rights on this prefix" if status in (401, 403) else ""


def _number(text: str) -> int:
    found = _STATUS.search(text)
    return int(found[1] or found[2]) if found else 0


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
