"""Keeps key material out of logs: botocore writes bodies of requests and answers there when it logs at DEBUG."""

from __future__ import annotations

import logging

_LOGGERS = ("botocore.endpoint", "botocore.parsers")
_MATERIAL = ("Plaintext", "SecretString", "SecretBinary")


class _NoMaterial(logging.Filter):
    """Lets pass what names no field that holds a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(name in text for name in _MATERIAL)


_FILTER = _NoMaterial()


def keep_plaintext_out_of_logs() -> None:
    """Filter botocore's two loggers that show bodies, in this whole process; twice is as once."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
