"""Settings that tie a clone to itself: its own socket, port and files, whatever its original's say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from dbsec import files
from dbsec.backup.restoring.settings_file import AUTO, literal
from dbsec.pg.instance import Instance

# Whoever may enter the socket's folder (0700) may read the data folder too; over TCP the original's passwords hold.
_HBA: Final = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def set_apart(instance: Instance, sockets: Path, settings: Mapping[str, str]) -> None:
    """Write over the original's settings what ties it to its host: addresses, files, collectors, jobs."""
    hba = instance.write("dbsec-drill-hba.conf", _HBA)
    told = {
        "port": str(instance.port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "unix_socket_group": "",
        "hba_file": str(hba),
        "external_pid_file": "",
        "ssl": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "huge_pages": "try",
        "autovacuum": "off",
        "hot_standby": "on",
        "default_transaction_read_only": "off",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "cron.launch_active_jobs": "off",  # pg_cron's jobs would reach the world twice
        **settings,
    }
    auto = instance.data / AUTO
    append(auto, [f"{name} = {literal(text)}" for name, text in told.items()])
    if instance.account is not None and not instance.account.is_current:
        os.chown(auto, instance.account.uid, instance.account.gid, follow_symlinks=False)


def append(file: Path, lines: Iterable[str]) -> None:
    """Add lines to the end of a file of settings, where the last one of a name holds."""
    before = file.read_text(errors="surrogateescape")
    text = "\n".join([before.rstrip("\n"), *lines]) + "\n"
    files.write_atomic(file, text.encode(errors="surrogateescape"))
