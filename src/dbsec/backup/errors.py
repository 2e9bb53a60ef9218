"""What backups refuse, each with its reason: an archive that lies is worse than none."""

from __future__ import annotations

from dbsec.errors import DbsecError


class BackupError(DbsecError):
    """The root of what goes wrong with backups and WAL."""


class Tampered(BackupError):
    """An object that is not what was sealed under its name: altered, truncated, swapped, or under another key."""

    exit_code = 1

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"'{name}' is not what was sealed: {why}", hint="dbsec backup verify")
        self.name = name
        self.why = why


class ContentConflict(BackupError):
    """The name is taken by other content: two servers archive into one prefix, or one has gone back in time."""

    exit_code = 1

    def __init__(self, name: str) -> None:
        super().__init__(
            f"'{name}' is in the store with other content: does a clone or an old primary archive there too?",
            hint="give each server a prefix of its own; nothing was overwritten",
        )
        self.name = name


class WrongCluster(BackupError):
    """A repository, an object or a server of another system identifier."""

    exit_code = 2


class NoRepository(BackupError):
    """No repository is at this URL."""

    exit_code = 2


class KeyUnavailable(BackupError):
    """No KMS that can be reached opens the key of an epoch; ``refused`` where one was reached and said no."""

    def __init__(self, message: str, *, refused: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refused = refused


class ArchiveHole(BackupError):
    """WAL that is missing while later WAL is there: a restore must not end here as if it were whole."""

    exit_code = 1


class IncompleteBackup(BackupError):
    """A backup without its description: it was never finished, and is none."""

    exit_code = 1


class DamagedPages(BackupError):
    """Pages of the running cluster that fail their checksums: no backup is made of them."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="restore these files from an older backup; pg_amcheck tells what else is hurt")


class NotRecoverable(BackupError):
    """A recovery target that base backup, WAL and keys do not reach; the message says what they reach."""

    exit_code = 2


class StillNeeded(BackupError):
    """Keys that a kept backup or the WAL after it needs: to destroy their KEK would end these."""

    exit_code = 1
