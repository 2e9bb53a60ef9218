"""The folders of a cluster that a backup by ranges reads: the data folder, and those of its tablespaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dbsec.backup.base.listing_files import SPACES, Listing, links, list_data, list_space
from dbsec.backup.base.local_folder import Server
from dbsec.backup.catalog import Tablespace


@dataclass(frozen=True, slots=True)
class Folder:
    """One of them; ``oid`` 0 is the data folder. ``below`` is where the manifest sees its files."""

    oid: int
    root: Path
    listing: Listing

    @property
    def below(self) -> str:
        return f"{SPACES}/{self.oid}/" if self.oid else ""


@dataclass(frozen=True, slots=True)
class Folders:
    """All of them, the data folder first."""

    all: tuple[Folder, ...]
    tablespaces: tuple[Tablespace, ...]

    @property
    def odd(self) -> list[str]:
        """Paths of no kind that a backup holds."""
        return [folder.below + path for folder in self.all for path in folder.listing.odd]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for folder in self.all for file in folder.listing.files)


def list_folders(server: Server) -> Folders:
    """List what is there now, once PostgreSQL knows that a backup is taken. Errors: ``BackupError``."""
    data = list_data(server.folder, segment_blocks=server.segment_blocks)
    found = [Folder(0, server.folder, data)]
    spaces = [Tablespace(oid, path) for oid, path in sorted(links(data.others).items())]
    for space in spaces:
        root = Path(space.path)
        listing = list_space(root, server.version_folder, segment_blocks=server.segment_blocks)
        found.append(Folder(space.oid, root, listing))
    return Folders(tuple(found), tuple(spaces))
