"""A value that does not print itself, and the ``file:`` and ``env:`` references that bring one."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from dbsec.errors import ConfigError


class Secret:
    """Text that shows as ``<secret>`` everywhere; ``reveal()`` is the word to grep for."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled: pass its reference (file: or env:) instead")


def resolve(reference: str, *, environ: Mapping[str, str]) -> Secret:
    """Read what ``file:PATH`` or ``env:NAME`` refers to; the file's last newline is dropped.

    Errors: ``ConfigError`` for another scheme, a missing name, or a file that group or others may read.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        if rest not in environ:
            raise ConfigError(f"environment variable '{rest}' is not set", hint=f"export {rest}=...")
        return Secret(environ[rest])
    if scheme == "file":
        return Secret(_private_text(Path(rest)))
    raise ConfigError(
        "a credential is given by reference, never by value",
        hint="write file:/path/to/it or env:NAME_OF_VARIABLE",
    )


def _private_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read secret file '{path}': {exc}") from exc
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"secret file '{path}' has mode {stat.S_IMODE(mode):04o}: others may read it",
            hint=f"chmod 600 {path}",
        )
    return text.removesuffix("\n")
