"""A fork for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def in_a_child(act: Callable[[], object]) -> int:
    """Run ``act`` in a fork and return 0, or 1 where it raised; nothing of pytest runs there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException as exc:
            sys.stderr.write(f"in the child: {exc!r}\n")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
