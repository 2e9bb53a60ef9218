"""What a source of secrets may answer instead of one.

::

    DbsecError
    `-- SecretError
        |-- SecretUnavailable   no answer, or none now: the same call may succeed later
        |-- SecretMissing       nothing has this name
        `-- SecretRefused       an answer, and it is no
"""

from __future__ import annotations

from dbsec.errors import DbsecError


class SecretError(DbsecError):
    """A secret that did not come; the message names it and its source, never a value."""


class SecretUnavailable(SecretError):
    """No answer, or none now."""


class SecretMissing(SecretError):
    """Nothing has this name."""


class SecretRefused(SecretError):
    """The credential may not read this name."""
