"""Logs that cannot hold a secret: every record passes a redactor before it is formatted for output."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TextIO

MASK = "<redacted>"

# What looks like a credential in the texts that libpq, servers, HTTP clients and URLs produce. None begins with a
# repetition: a long line of base64 would be searched from each of its characters.
_QUOTED = r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*\""""
_PATTERNS = (
    re.compile(
        r"(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key)[\w-]{0,40}[\"']?\s*[=:]\s*)"
        rf"({_QUOTED}|[^\s,;&}}]+)"
    ),
    re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+)([^\s\"',]+)"),
    re.compile(r"((?<=://)[^\s:/@]*:)([^\s@/]+)(?=@)"),
    re.compile(rf"(?i)(\bpassword\s+)(e?(?:{_QUOTED})|\$(\w*)\$.*?\$\3\$)"),
    re.compile(r"(?i)(scram-sha-256\$\d+:)(\S+)"),
    re.compile(r"\b(md5)([0-9a-f]{32})\b"),
)


class Redactor(logging.Filter):
    """Masks known secrets by value and likely ones by shape, in message, arguments and traceback."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        super().__init__()
        self._known: set[str] = set()
        for value in known:
            self.learn(value)

    def learn(self, value: str) -> None:
        """Mask this value from now on; values under 4 characters would blank out the log and are not taken."""
        if len(value) >= 4:
            self._known.add(value)

    def redact(self, text: str) -> str:
        """Return ``text`` with every known or likely secret masked."""
        for value in sorted(self._known, key=len, reverse=True):
            text = text.replace(value, MASK)
        for pattern in _PATTERNS:
            text = pattern.sub(lambda match: match[1] + MASK, text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = self.redact(_message(record))
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.redact(record.exc_text)
        if record.stack_info:
            record.stack_info = self.redact(record.stack_info)
        return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 a wrong call of the log must not stop the work that it tells of
        return f"{record.msg} (does not fit its arguments)"


def to_stream(stream: TextIO, *, level: int = logging.WARNING, known: Iterable[str] = ()) -> Redactor:
    """Send every log of this process to ``stream``, redacted; returns the redactor, which can learn more values."""
    redactor = Redactor(known)
    target = logging.StreamHandler(stream)
    target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    target.addFilter(redactor)
    root = logging.getLogger()
    root.handlers[:] = [target]
    root.setLevel(level)
    return redactor
