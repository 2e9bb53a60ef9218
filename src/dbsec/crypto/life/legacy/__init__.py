"""What other libraries have encrypted: one file a format, found by its name; its ``FORMAT`` makes a reader.

A reader takes what a column holds and returns the plaintext as bytes. Errors: ``ValueError``, whatever is wrong; its
text is told to nobody. Old keys come as ``Secret``; nothing here writes an old format.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dbsec import discovery
from dbsec.errors import ConfigError, UsageError
from dbsec.secret import Secret

Reader = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Format:
    """``about`` is one line for a person; ``paddings`` are what ``padding`` may say, the first one if it says nothing.

    ``authentic``: a wrong key is noticed, so that several may be tried.
    """

    about: str
    open: Callable[[Sequence[Secret], str], Reader]
    authentic: bool = True
    paddings: tuple[str, ...] = ()


def known() -> dict[str, Format]:
    """Return the formats by name."""
    return {
        name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}").FORMAT
        for name in discovery.names_in(sys.modules[__name__])
    }


def reader(name: str, keys: Sequence[Secret], padding: str = "") -> Reader:
    """Make the reader of a format. Errors: ``UsageError``; ``ConfigError`` for a key that is none, without its text."""
    formats = known()
    if name not in formats:
        raise UsageError(f"'{name}' is no format that can be read", hint=f"known are {', '.join(formats)}")
    found = formats[name]
    if not keys:
        raise UsageError(f"'{name}' needs its old key", hint="--old-key file:/path/to/it")
    if len(keys) > 1 and not found.authentic:
        raise UsageError(
            f"'{name}' does not notice a wrong key: several cannot be tried",
            hint="bring all rows under one key with that library first",
        )
    if padding and padding not in found.paddings:
        raise UsageError(
            f"'{name}' has no padding '{padding}'", hint=f"known are {', '.join(found.paddings) or 'none'}"
        )
    try:
        return found.open(keys, padding or next(iter(found.paddings), ""))
    except ValueError:
        raise ConfigError(f"the old key is none of '{name}'") from None  # the cause may quote it


def text_of(value: Any) -> str:
    """Return a column's text, also where it is stored as bytes. Errors: ``ValueError``."""
    if isinstance(value, str):
        return value
    return bytes(value).decode("ascii")


def first(readers: Sequence[Reader]) -> Reader:
    """Return what tries readers of an authentic format in turn."""

    def read(value: Any) -> bytes:
        for one in readers[:-1]:
            try:
                return one(value)
            except ValueError:
                continue
        return readers[-1](value)

    return read
