"""What the disk's encryption refuses."""

from __future__ import annotations

from dbsec.backup.errors import BackupError


class AtRestError(BackupError):
    """The root of what goes wrong with encryption below the file system."""


class CannotEncrypt(AtRestError):
    """A means that this machine does not have, or that did not come up; the message says why."""


class WrongPassphrase(AtRestError):
    """A key that opens no slot of the volume. Source: cryptsetup(8), exit code 2."""

    exit_code = 2


class NotLuks(AtRestError):
    """A file or device without a LUKS header."""

    exit_code = 2


class SlotInDanger(AtRestError):
    """A slot that must not go: without it nothing proven opens the volume any more."""

    exit_code = 1
