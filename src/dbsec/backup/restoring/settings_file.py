"""The settings of a restored server: its target, where WAL comes from, and nothing that leads it to its original."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dbsec import files
from dbsec.backup.restoring.target import SETTINGS, Target

AUTO: Final = "postgresql.auto.conf"
MAIN: Final = "postgresql.conf"
# taken out wherever ALTER SYSTEM or pg_basebackup -R has left them: the first of these holds a password in clear
_STRIPPED: Final = re.compile(
    r"\s*(primary_|recovery_|restore_command|archive_|promote_trigger_file|ssl_passphrase)", re.I
)
_ELSEWHERE: Final = re.compile(r"\s*(data_directory|external_pid_file)\s*(=|\s)", re.I)
_HBA: Final = """\
# made by dbsec backup restore: the original's pg_hba.conf is not in its data folder
local all all peer
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""


def isolation(major: int, *, cluster_name: str, listen: str, port: int | None) -> dict[str, str]:
    """Return what keeps a copy apart from its original, whatever its own files say.

    It must not archive over it, stream from it, wait for its standbys, or take what is published to its subscriptions.
    """
    told = {
        "archive_mode": "off",
        "archive_command": "",
        "archive_library": "",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "synchronous_standby_names": "",
        "max_logical_replication_workers": "0",
        "cluster_name": cluster_name,
        "listen_addresses": listen,
    }
    if major >= 17:
        told |= {"sync_replication_slots": "off", "synchronized_standby_slots": ""}
    return told if port is None else {**told, "port": str(port)}


def recovery(target: Target, *, timeline: int, restore_command: str) -> dict[str, str]:
    """Return the settings of a recovery, in the order in which they must stand.

    Each that is empty takes back one before it, so the one that holds must come last. Source: PostgreSQL,
    ``access/transam/xlogrecovery.c``, assign_recovery_target.
    """
    told = {
        "restore_command": restore_command,
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        "recovery_target_timeline": str(timeline),
        "recovery_target_action": target.action,
        **dict.fromkeys(SETTINGS.values(), ""),
    }
    for name, value in target.settings().items():
        told.pop(name, None)
        told[name] = value
    return told


def write_settings(folder: Path, settings: Mapping[str, str]) -> list[str]:
    """Write them over what ``postgresql.auto.conf`` had, and return what is to be known of the other files."""
    auto = folder / AUTO
    before = auto.read_text(errors="surrogateescape") if auto.exists() else ""
    kept = [line for line in before.splitlines() if not _STRIPPED.match(line)]
    lines = [*kept, "# written by dbsec backup restore", *(f"{name} = {literal(v)}" for name, v in settings.items())]
    files.write_atomic(auto, ("\n".join(lines) + "\n").encode(errors="surrogateescape"))
    return [*_main(folder), *_hba(folder)]


def literal(value: str) -> str:
    """Quote a value for a configuration file. Source: PostgreSQL, guc-file.l (GUC_scanstr): a backslash escapes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def _main(folder: Path) -> list[str]:
    """Make sure that there is a configuration, and that it leads to no other data folder."""
    path = folder / MAIN
    if not path.exists():
        files.write_atomic(path, "# made by dbsec backup restore: the original's is not in its data folder\n")
        return [f"the backup holds no {MAIN}: the copy has PostgreSQL's defaults"]
    text = path.read_bytes().decode(errors="surrogateescape")
    lines = text.splitlines()
    led = [number for number, line in enumerate(lines) if _ELSEWHERE.match(line)]
    if not led:
        return []
    for number in led:
        lines[number] = f"#dbsec# {lines[number]}"
    files.write_atomic(path, os.fsencode("\n".join(lines) + "\n"))
    return [f"{MAIN} led to another folder (line {led[0] + 1}): taken out"]


def _hba(folder: Path) -> list[str]:
    if (folder / "pg_hba.conf").exists():
        return ["pg_hba.conf is the original's: whoever could log in there can log in here"]
    files.write_atomic(folder / "pg_hba.conf", _HBA)
    files.write_atomic(folder / "pg_ident.conf", "")
    return ["the backup holds no pg_hba.conf: only this machine is let in"]
