"""Exit codes, and how an error is said: 0 clean, 1 findings, 2 usage (typer's own too), 3 could not tell."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from dbsec.errors import DbsecError

CLEAN = 0
FINDINGS = 1
COULD_NOT_TELL = 3
INTERRUPTED = 130


def say(error: DbsecError) -> None:
    """Print an error and its hint to stderr."""
    print(f"dbsec: {error}", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)


def at_once(code: int, kept: object) -> None:
    """Let the process end with ``code`` without freeing ``kept``: for a million small objects that takes longer than
    to make a verdict of them."""
    gc.freeze()  # nor looking for cycles in it
    atexit.register(_leave, code, kept)


def _leave(code: int, _kept: object) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # the interpreter tells it
    os._exit(code)
