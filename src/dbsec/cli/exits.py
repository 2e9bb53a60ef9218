"""Exit codes, and how an error is said: 0 clean, 1 findings, 2 usage (typer's own too), 3 could not tell."""

from __future__ import annotations

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
