"""The data folder of a server on this machine: the proof that it is that server's, and its control file.

Source: PostgreSQL, ``catalog/pg_control.h``; ``common/controldata_utils.c``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from dbsec.backup.base.listing_files import CONTROL
from dbsec.backup.errors import BackupError, WrongCluster
from dbsec.errors import GaveUp, UsageError, reason
from dbsec.retry import retry

OLDEST: Final = 150000  # pg_backup_start; 14 and older name it otherwise
_ASKED: Final = """
SELECT current_setting('data_directory'), current_setting('server_version_num')::int, current_setting('server_version'),
       current_setting('block_size')::int,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'segment_size'),
       current_setting('data_checksums') = 'on', pg_is_in_recovery(), system.system_identifier,
       system.catalog_version_no
FROM pg_control_system() AS system
"""
_CRC_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli, reflected


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; ``segment_blocks`` is how many pages a file of a relation has at most."""

    folder: Path
    version_num: int
    version: str
    block_bytes: int
    segment_blocks: int
    checksums: bool
    standby: bool
    system: int
    catalog_version: int

    @property
    def major(self) -> int:
        return self.version_num // 10000

    @property
    def version_folder(self) -> str:
        """The folder in each tablespace that is this server's."""
        return f"PG_{self.major}_{self.catalog_version}"


def ask(session: psycopg.Connection[Any]) -> Server:
    """Ask a server for what a copy of its folder needs. Errors: ``UsageError`` for an old one or for missing rights."""
    if session.info.server_version < OLDEST:
        raise UsageError("file ranges need PostgreSQL 15 or newer", hint="--engine protocol")
    try:
        row = session.execute(_ASKED).fetchone()
    except psycopg.errors.InsufficientPrivilege as exc:
        user = session.info.user
        raise UsageError(
            f"'{user}' may not ask where the data folder is: {reason(exc)}",
            hint=f"GRANT pg_read_all_settings TO {user}",
        ) from exc
    assert row is not None
    return Server(Path(row[0]), *row[1:])


def check_folder(session: psycopg.Connection[Any], server: Server) -> None:
    """Prove that the folder of that name here is the server's own, and not another host's or a clone's.

    A snapshot that this session exports appears as a file there. Errors: ``UsageError`` where the folder cannot be
    read, ``WrongCluster`` where it is another's.
    """
    try:
        (system,) = struct.unpack("=Q", (server.folder / CONTROL).read_bytes()[:8])
        (server.folder / "pg_snapshots").stat()
    except (OSError, struct.error) as exc:
        raise UsageError(
            f"the data folder '{server.folder}' cannot be read from here: {reason(exc)}",
            hint="run as the account of the server and on its machine, or take with --engine protocol",
        ) from exc
    if system != server.system:
        raise WrongCluster(f"'{server.folder}' is of the cluster {system}, and the server is {server.system}")
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        (exported,) = session.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        if not (server.folder / "pg_snapshots" / exported).is_file():
            raise WrongCluster(
                f"'{server.folder}' on this machine belongs to another server of the same cluster",
                hint="take on the server's own machine, or with --engine protocol",
            )


def read_control(folder: Path) -> bytes:
    """Read pg_control as the server has written it: one that was read while it changed is read again.

    Errors: ``BackupError`` where its own checksum stays wrong.
    """

    def whole() -> bytes:
        raw = (folder / CONTROL).read_bytes()
        if not control_holds(raw):
            raise ValueError("its checksum is wrong")
        return raw

    try:
        return retry(whole, on=(ValueError,), within_s=2.0, what=f"reading '{CONTROL}'", first_pause_s=0.01)
    except GaveUp as exc:
        raise BackupError(f"'{CONTROL}' is damaged: its checksum is wrong", hint="pg_controldata") from exc


def control_holds(raw: bytes) -> bool:
    """Tell whether a control file's checksum is right. It is the last field, and zeros fill the file behind it."""
    used = (len(raw.rstrip(b"\0")) + 3) // 4 * 4
    return used > 8 and struct.unpack_from("=I", raw, used - 4)[0] == _crc32c(raw[: used - 4])


def _crc32c(raw: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in raw:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
