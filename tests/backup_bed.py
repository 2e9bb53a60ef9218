"""A repository in a folder under a KEK in a file, and a server whose backups go there: what tests of backups share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbsec.backup import BackupSettings, Cluster, Repository, init_repository, open_repository
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.testing import clusters

SEGMENT = 16 << 20
SYSTEM = 7_300_000_000_000_000_001


@dataclass
class Bed:
    """``settings`` and ``environ`` open the repository again, as another host would."""

    folder: Path
    settings: BackupSettings
    environ: dict[str, str]
    repository: Repository

    def again(self, **changes: Any) -> Repository:
        """Open the repository by other settings, with nothing in memory from before."""
        return open_repository(self.settings.model_copy(update=changes), environ=self.environ)

    @property
    def store_folder(self) -> Path:
        return self.folder / "store"


def kek_uri(path: Path) -> str:
    """Return the uri of a KEK in a file; its passphrase is the variable KEK."""
    return f"file-kek:{path}?passphrase=env:KEK"


def make_kek(path: Path, environ: dict[str, str]) -> str:
    """Make a KEK, whose scrypt costs little, and return its uri."""
    FileKekAdmin(path, lambda: Secret(environ["KEK"]), cost=Cost(2**14)).create()
    return kek_uri(path)


def make_bed(folder: Path, *, system: int = SYSTEM, segment_bytes: int = SEGMENT, **told: Any) -> Bed:
    """Make an empty repository below a folder."""
    environ = {"KEK": secrets.token_urlsafe(24)}
    (folder / "store").mkdir(mode=0o700)
    settings = BackupSettings(
        **{"store": f"file://{folder}/store", "kms": make_kek(folder / "kek.json", environ), "patience": "2s", **told}
    )
    made = init_repository(settings, Cluster(system, segment_bytes), environ=environ)
    return Bed(folder, settings, environ, made)


def cluster_of(admin: Conninfo) -> Cluster:
    """Ask a server whose it is."""
    with connect(admin) as session:
        system, segment_bytes = session.execute(
            "SELECT system_identifier, (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size')"
            " FROM pg_control_system()"
        ).fetchone() or (0, 0)
    return Cluster(int(system), int(segment_bytes))


def bed_of(cluster: clusters.Cluster, folder: Path, **told: Any) -> Bed:
    """Make an empty repository for a server."""
    asked = cluster_of(cluster.admin)
    return make_bed(folder, system=asked.system, segment_bytes=asked.segment_bytes, **told)


MakeBed = Callable[..., Bed]

__all__ = ["SEGMENT", "SYSTEM", "Bed", "bed_of", "cluster_of", "kek_uri", "make_bed", "make_kek"]
