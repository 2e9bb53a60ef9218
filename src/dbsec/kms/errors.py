"""What a KMS may answer instead of a result.

::

    DbsecError
    `-- KmsError
        |-- KmsUnavailable      no answer: worth another try later
        |   `-- CircuitOpen     nobody asked, for the last calls all went unanswered
        `-- KmsRefused          an answer, and it is no: another try gives the same
"""

from __future__ import annotations

from dbsec.errors import DbsecError


class KmsError(DbsecError):
    """A key management service did not do what was asked."""


class KmsUnavailable(KmsError):
    """No answer: time-out, network, 5xx, sealed. The same call may succeed later."""


class CircuitOpen(KmsUnavailable):
    """The KMS was not asked, because the calls before this one went unanswered."""


class KmsRefused(KmsError):
    """The KMS said no: denied, disabled, gone, another AAD, or altered bytes.

    A KMS mostly does not tell these apart. ``cause_known`` is what it did tell the operator, never key bytes.
    """

    def __init__(self, message: str, *, cause_known: str = "", hint: str = "") -> None:
        super().__init__(f"{message}: {cause_known}" if cause_known else message, hint=hint)
        self.cause_known = cause_known
