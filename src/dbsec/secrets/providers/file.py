"""``file:/path/secrets.json``: every secret in one private file, replaced as one act.

Shape: JSON with ``dbsec`` "secrets", ``format`` 1 and ``secrets``: name -> ``{"version": 1, "fields": {…}}``, texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dbsec import files
from dbsec.errors import ConfigError, NewerFormat
from dbsec.secret import Secret, resolve
from dbsec.secrets.errors import SecretMissing, SecretRefused, SecretUnavailable
from dbsec.secrets.provider import Stored, Value, check_name

MAGIC: Final = "secrets"
FORMAT: Final = 1


class FileSecrets(Stored):
    """One file, read at each call. Locks: flock(2) on ``PATH.lock`` while one writes; readers need none."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<secrets of {self._path}>"

    def get(self, name: str) -> Value:
        """Return the newest version."""
        check_name(name)
        held = self._read().get(name)
        if held is None:
            raise SecretMissing(f"'{self._path}' has no secret '{name}'")
        return _value(name, held)

    def put(self, name: str, fields: Mapping[str, Secret], *, after: str) -> Value:
        """Write the file anew beside the old one and let it take its place; the file is made where there is none."""
        check_name(name)
        try:
            with files.locked(self._path.with_name(f"{self._path.name}.lock")):
                held = self._read() if self._path.exists() else {}
                stands = str(held[name]["version"]) if name in held else ""
                if stands != after:
                    raise SecretRefused(
                        f"'{name}' in '{self._path}' has version {stands or 'none'}, not {after or 'none'}",
                        hint="another has written it: get it again",
                    )
                plain = {field: value.reveal() for field, value in fields.items()}
                held[name] = {"version": int(stands or "0") + 1, "fields": plain}
                told = {"dbsec": MAGIC, "format": FORMAT, "secrets": held}
                files.write_atomic(self._path, json.dumps(told, indent=1, sort_keys=True) + "\n")
        except OSError as exc:
            raise SecretUnavailable(f"cannot write '{self._path}': {exc.strerror}") from exc
        return _value(name, held[name])

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            raise SecretUnavailable(f"there is no file '{self._path}'", hint=f"ls -l {self._path}")
        try:
            text = resolve(f"file:{self._path}", environ={}).reveal()
        except ConfigError as exc:
            raise SecretUnavailable(exc.message, hint=exc.hint) from exc
        return _secrets(self._path, text)


def _secrets(path: Path, text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        told = None  # and not from the error: that one holds the text
    if not isinstance(told, dict) or told.get("dbsec") != MAGIC or not isinstance(told.get("format"), int):
        raise SecretUnavailable(f"'{path}' is no file of secrets")
    if told["format"] > FORMAT:
        raise NewerFormat(f"'{path}'", found=told["format"], known=FORMAT)
    held = told.get("secrets")
    if not isinstance(held, dict) or not all(_whole(one) for one in held.values()):
        raise SecretUnavailable(f"'{path}' is damaged: a secret has a version and fields of text")
    return held


def _whole(one: object) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("version"), int):
        return False
    fields = one.get("fields")
    return isinstance(fields, dict) and all(isinstance(value, str) for value in fields.values())


def _value(name: str, held: Mapping[str, Any]) -> Value:
    return Value(name, str(held["version"]), {field: Secret(text) for field, text in held["fields"].items()})
