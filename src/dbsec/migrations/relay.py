"""The operations of scripts as bytes: one process has read them, another one needs the schema that they leave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Union

from msgspec import msgpack

from dbsec.migrations.operations import Operation
from dbsec.migrations.schema.apply import SHAPING


def pack(scripts: Iterable[Iterable[Operation]]) -> bytes:
    """Encode what changes a schema, script by script; empty where an operation cannot be encoded (half a character,
    a tree too deep)."""
    told = [[operation for operation in script if type(operation) in SHAPING] for script in scripts]
    try:
        return msgpack.encode(told)
    except (TypeError, ValueError, RecursionError):
        return b""


def unpack(told: bytes) -> list[list[Operation]]:
    """Decode what ``pack`` has encoded. Errors: msgspec's, for a tree too deep."""
    kinds: Any = Union[tuple(SHAPING)]  # noqa: UP007 of a list
    found: list[list[Operation]] = msgpack.decode(told, type=list[list[kinds]])
    return found
