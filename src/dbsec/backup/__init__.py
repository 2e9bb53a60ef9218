"""Encrypted backups and WAL: sealed objects in a store, restores that never end short, drills that prove them."""

from __future__ import annotations

from dbsec.backup.catalog import Backup, backups, get_backup
from dbsec.backup.errors import (
    ArchiveHole,
    BackupError,
    ContentConflict,
    IncompleteBackup,
    KeyUnavailable,
    NoRepository,
    NotRecoverable,
    Tampered,
    WrongCluster,
)
from dbsec.backup.opening import Cluster, init_repository, open_repository
from dbsec.backup.repository import Repository
from dbsec.backup.settings import BackupSettings

__all__ = [
    "ArchiveHole",
    "Backup",
    "BackupError",
    "BackupSettings",
    "Cluster",
    "ContentConflict",
    "IncompleteBackup",
    "KeyUnavailable",
    "NoRepository",
    "NotRecoverable",
    "Repository",
    "Tampered",
    "WrongCluster",
    "backups",
    "get_backup",
    "init_repository",
    "open_repository",
]
