"""What AWS may answer instead of a result.

::

    DbsecError
    `-- AwsError
        |-- AwsUnavailable      no answer, or not now: network, time-out, 5xx, throttled
        `-- AwsRefused          an answer, and it is no; ``code`` is AWS's name of it
"""

from __future__ import annotations

from dbsec.errors import DbsecError


class AwsError(DbsecError):
    """AWS did not do what was asked; the message never holds a credential or a body."""


class AwsUnavailable(AwsError):
    """No answer, or none now. The same call may succeed later."""


class AwsRefused(AwsError):
    """An answer, and it is no. ``code`` as in ``AccessDeniedException``, ``answer`` AWS's own words."""

    def __init__(self, message: str, *, code: str, answer: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.answer = answer
