"""The tree of errors: each says what is wrong and where, and ``hint`` is the next command to run.

::

    DbsecError
    +-- UsageError              a bad argument or a path that is not there            (exit 2)
    |   `-- ConfigError         a file that does not say what it must
    +-- NewerFormat             a file written by a newer dbsec                       (exit 2)
    +-- ConnectError            a server that cannot be reached or refuses us         (exit 3)
    +-- ProgramError            a program that failed, with the end of what it said   (exit 3)
    |   `-- ProgramMissing      a program or wheel that is not installed
    +-- GaveUp                  a wait or a retry that ended without success          (exit 3)
    +-- JournalError            a journal that is damaged, in use, or of another job  (exit 3)
    +-- LabError                the lab cannot come up or is not up                   (exit 3)
    +-- ApplyError              a change that did not hold, and was rolled back       (exit 3)
    `-- EvidenceError           evidence that cannot be read                          (exit 3)
        `-- EvidenceTampered    a line changed, dropped, reordered or cut             (exit 1)
"""

from __future__ import annotations

from typing import ClassVar


def reason(exc: BaseException) -> str:
    """Return the first line of what an exception says, or its class where it says nothing."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


class DbsecError(Exception):
    """The root: ``message`` is lower case without a full stop, ``hint`` is a command or an act, or empty."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DbsecError):
    """A bad argument, or a path that is not there."""

    exit_code = 2


class ConfigError(UsageError):
    """A file that does not say what it must; the message names file and key."""


class NewerFormat(DbsecError):
    """A file or object with a version above the one that this dbsec writes."""

    exit_code = 2

    def __init__(self, what: str, *, found: int, known: int) -> None:
        super().__init__(
            f"{what} was written by a newer dbsec (format {found}, this one knows {known})",
            hint="pip install --upgrade dbsec",
        )
        self.found = found
        self.known = known


class ConnectError(DbsecError):
    """A server that cannot be reached or that refuses us; ``sqlstate`` is set where the server spoke."""

    def __init__(self, message: str, *, sqlstate: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


class ProgramError(DbsecError):
    """A program that ended with an error; ``tail`` is the end of what it printed.

    ``code`` is its exit code, the number of the signal below zero, None where it did not run to an end.
    """

    def __init__(self, message: str, *, tail: str = "", hint: str = "", code: int | None = None) -> None:
        super().__init__(f"{message}: {tail}" if tail else message, hint=hint)
        self.tail = tail
        self.code = code


class ProgramMissing(ProgramError):
    """A program or wheel that is not installed; the hint brings it."""


class GaveUp(DbsecError):
    """A wait or a retry that ended without success; the cause is the last failure."""


class JournalError(DbsecError):
    """A journal that is damaged, that another process writes, or that belongs to another job."""


class LabError(DbsecError):
    """The lab cannot come up, or is not up."""


class ApplyError(DbsecError):
    """A change to a server that did not hold; what was there before is in force again."""


class EvidenceError(DbsecError):
    """Evidence that cannot be read."""


class EvidenceTampered(EvidenceError):
    """Evidence whose chain, count or signature does not hold; ``line`` is the first bad one (1 is the first)."""

    exit_code = 1

    def __init__(self, message: str, *, line: int) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
