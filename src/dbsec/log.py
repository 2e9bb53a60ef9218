"""Logs that cannot hold a secret: every record passes a redactor before it is formatted for output."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TextIO

MASK = "<redacted>"

# What looks like a credential in the texts that libpq, HTTP clients and URLs produce.
_PATTERNS = (
    re.compile(
        r"(?i)(\b(?:password|passwd|pgpassword|secret|token|secret_key|secret_id)\b[\"']?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&]+)"
    ),
    re.compile(r"(?i)(\bauthorization\b[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)\s+)([^\s\"',]+)"),
    re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@]*:)([^\s@/]+)(?=@)"),
    re.compile(r"(?i)(\b(?:scram-sha-256\$\d+:|password\s+))('[^']*'|\S+)"),
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
        record.msg = self.redact(record.getMessage())
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.redact(record.exc_text)
        return True


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
