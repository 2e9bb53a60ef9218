"""What a base backup that was taken holds, read without the code that restores."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import zstandard

from dbsec import process
from dbsec.backup import Backup, Repository
from dbsec.backup.catalog import Archive
from dbsec.backup.wal.names import object_name
from dbsec.testing.clusters import Cluster


def tar_of(repository: Repository, archive: Archive) -> bytes:
    """Return the tar of an archive."""
    joined = b"".join(repository.get(name) for name in archive.objects)
    return zstandard.ZstdDecompressor().decompressobj().decompress(joined) if archive.packed else joined


def unpack(repository: Repository, backup: Backup, folder: Path) -> Path:
    """Write a backup with its manifest into a folder; tablespaces are folders beside it, as the links then say."""
    data = folder / "data"
    for archive in sorted(backup.archives, key=lambda one: one.oid):
        into = folder / f"space-{archive.oid}" if archive.oid else data
        into.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(tar_of(repository, archive))) as tar:
            tar.extractall(into, filter="fully_trusted")
        if archive.oid:
            link = data / "pg_tblspc" / str(archive.oid)
            link.unlink(missing_ok=True)
            link.symlink_to(into)
    (data / "backup_manifest").write_bytes(b"".join(repository.get(name) for name in backup.manifest))
    return data


def check_files(cluster: Cluster, data: Path) -> str:
    """Let PostgreSQL judge files by the manifest; WAL is apart."""
    binaries = cluster.instance.binaries
    argv = [binaries.program("pg_verifybackup"), "--exit-on-error", "--no-parse-wal", data]
    return process.run(argv, cwd=data.parent, env=binaries.env)


def archive_wal(cluster: Cluster, repository: Repository) -> None:
    """Put what the server's pg_wal holds, but for the segment that it writes now."""
    files = sorted(p for p in (cluster.instance.data / "pg_wal").iterdir() if len(p.name) == 24)
    for path in files[:-1]:
        repository.put(object_name(path.name), path.read_bytes(), timeline=int(path.name[:8], 16))
