"""Exit codes, and how an error is said: 0 clean, 1 findings, 2 usage (typer's own too), 3 could not tell.

What PostgreSQL runs has others. It takes each code up to 125 of ``restore_command`` for the end of the archive, and
opens a short database; above it, it restarts its archiver after an ``archive_command``.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence

from dbsec.errors import DbsecError

CLEAN = 0
FINDINGS = 1
COULD_NOT_TELL = 3
INTERRUPTED = 130
DONE = 92  # of what PostgreSQL runs: acknowledged or written; also those of dbsec.backup.wal.client
END = 93  # the archive ends here, proven
NOT_THE_END = 255


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


def postgres_verb(argv: Sequence[str]) -> str:
    """Return ``push`` or ``fetch`` where this is ``dbsec backup wal push`` or ``fetch``, else nothing."""
    words = [word for word in argv if not word.startswith("-")]
    asked = words[:2] == ["backup", "wal"] and words[2:3] in (["push"], ["fetch"]) and "--help" not in argv
    return words[2] if asked else ""


def run_for_postgres(run: Callable[[], None], verb: str, *, proof: bool) -> None:
    """Run, and end the process with a code that PostgreSQL cannot take for something else, whatever happens.

    ``proof`` lets 92 and 93 out as they are: a command that never came to run ends with 0 or 1 as well.
    """
    code: object = NOT_THE_END
    try:
        run()
    except SystemExit as exc:
        code = exc.code
    finally:  # at once: at an ordinary end of the interpreter what fails to be flushed makes the code 120
        os._exit(_for_postgres(code, verb, proof=proof))


def _for_postgres(code: object, verb: str, *, proof: bool) -> int:
    if code == DONE:
        return DONE if proof else CLEAN
    if verb == "push":
        return code if isinstance(code, int) and 0 < code < 126 else 1
    if code == END:
        return END if proof else 1
    return NOT_THE_END
