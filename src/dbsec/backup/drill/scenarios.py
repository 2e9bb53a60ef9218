"""What is rehearsed, and the control that each rehearsal proves."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from dbsec.evidence import Control


class Scenario(StrEnum):
    """The rehearsals; the last one writes a table of its own on the server, and deletes its rows."""

    CURRENT_KEY = "current-key"
    OLD_KEY = "old-key"
    INCREMENTAL = "incremental"
    STANDBY = "standby"
    BEFORE_DELETE = "before-delete"


_REFS: Final = ("NIST SP 800-53 CP-9(1)", "NIST SP 800-53 CP-4", "CIS PostgreSQL 16 8.1")
CONTROLS: Final = {
    Scenario.CURRENT_KEY: Control(
        "BAK-RESTORE",
        "The newest backup and its WAL restore every row, within RPO and RTO",
        "a backup that nobody has restored is found out on the day that it is needed",
        _REFS,
    ),
    Scenario.OLD_KEY: Control(
        "BAK-OLD-KEY",
        "What was sealed before the last key rotation still restores",
        "a rotation makes every older backup unreadable, and nobody notices before a restore",
        (*_REFS, "NIST SP 800-57 8.3"),
    ),
    Scenario.INCREMENTAL: Control(
        "BAK-INCREMENTAL",
        "A chain of incremental backups combines to every row",
        "one link that is lost or bent takes all that builds on it",
        _REFS,
    ),
    Scenario.STANDBY: Control(
        "BAK-STANDBY",
        "A backup that a standby gave restores every row of the primary",
        "the standby was behind, of another timeline, or damaged, and so is the backup",
        _REFS,
    ),
    Scenario.BEFORE_DELETE: Control(
        "BAK-PITR",
        "A restore ends just before an accident, and not after it",
        "the DELETE is restored too, or an hour of work is lost to be safe",
        _REFS,
    ),
}


class DoesNotApply(Exception):
    """There is nothing of the kind that a scenario rehearses; the text says what."""
