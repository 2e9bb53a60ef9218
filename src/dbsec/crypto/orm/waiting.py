"""Waiting for a KMS under an async engine: in a thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Dialect
from sqlalchemy.util.concurrency import await_only, in_greenlet

T = TypeVar("T")


def apart(dialect: Dialect, act: Callable[[], T]) -> T:
    """Call ``act``; on an async engine in a thread, unless nobody could wait for it (a result read row by row)."""
    if dialect.is_async and in_greenlet():
        return await_only(asyncio.to_thread(act))
    return act()
