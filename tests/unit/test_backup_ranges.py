"""Ranges of files: which files a backup takes, how they are cut, which pages are bad."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backup_bed import SYSTEM, make_bed

from dbsec import clock
from dbsec.backup.base import local_folder, page_checksum, range_storing
from dbsec.backup.base.listing_files import Found, Listing, links, list_data, list_space
from dbsec.backup.base.manifest_text import ManifestFile, manifest_text
from dbsec.backup.base.members import parse_page
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.range_folders import list_folders
from dbsec.backup.base.range_reading import PageCheck, Piece, cut, read_pieces
from dbsec.pg.lsn import Lsn
from dbsec.progress import Silent

BLOCK = 8192


def listed(root: Path) -> Listing:
    return list_data(root, segment_blocks=131072)


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def test_what_only_runs_or_is_made_anew_is_left_out(tmp_path: Path) -> None:
    kept = ["PG_VERSION", "base/5/1259", "base/5/1259_fsm", "base/5/pg_filenode.map", "global/1262", "pg_xact/0000"]
    gone = [
        *("postmaster.pid", "standby.signal", "backup_label", "global/pg_control", "base/5/pg_internal.init.77"),
        *("pg_wal/000000010000000000000001", "pg_replslot/s/state", "pg_stat_tmp/x", "pg_subtrans/0000"),
        *("base/pgsql_tmp/pgsql_tmp7.0", "base/5/t3_16400", "base/5/t3_16400_fsm", "base/5/t3_16400.1"),
    ]
    make(tmp_path, *kept, *gone)
    found = listed(tmp_path)
    assert sorted(file.path for file in found.files) == sorted(kept)
    folders = {one.path for one in found.others}
    assert {"pg_wal", "pg_replslot", "pg_stat_tmp", "pg_subtrans", "base/5"} <= folders
    assert "base/pgsql_tmp" not in folders
    assert "pg_replslot/s" not in folders
    # a file of that name elsewhere is an ordinary one
    make(tmp_path, "pg_logical/standby.signal")
    assert "pg_logical/standby.signal" in {file.path for file in listed(tmp_path).files}


def test_of_an_unlogged_relation_only_its_init_fork_stays(tmp_path: Path) -> None:
    make(tmp_path, "base/5/16400", "base/5/16400.1", "base/5/16400_fsm", "base/5/16400_init", "base/5/16401")
    assert [file.path for file in listed(tmp_path).files] == ["base/5/16400_init", "base/5/16401"]
    version = "PG_17_202406281"
    make(tmp_path / "space", f"{version}/5/16500", f"{version}/5/16500_init", "PG_15_1/5/16600")
    found = list_space(tmp_path / "space", version, segment_blocks=131072)
    assert [file.path for file in found.files] == [f"{version}/5/16500_init"]
    assert [one.path for one in found.others] == [version, f"{version}/5"]


def test_links_are_those_of_tablespaces_and_wal_may_lie_elsewhere(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    make(data, "PG_VERSION", "pg_tblspc/16999/PG_17_1/5/1")
    make(elsewhere, "000000010000000000000001", "archive_status/x.ready")
    (data / "pg_tblspc" / "16384").symlink_to("/space")
    (data / "pg_wal").symlink_to(elsewhere)
    (data / "server.crt").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    found = listed(data)
    assert links(found.others) == {16384: "/space"}
    assert found.odd == ["pipe", "server.crt"]
    assert {"pg_wal", "pg_wal/archive_status"} <= {one.path for one in found.others}
    assert [file.path for file in found.files] == ["PG_VERSION", "pg_tblspc/16999/PG_17_1/5/1"]


def test_files_are_cut_and_joined(tmp_path: Path) -> None:
    def file(path: str, size: int, first: int | None) -> Found:
        return Found(path, size, 0o600, 0, first)

    files = [file("conf", 3, None), file("big", 25, 0), file("none", 0, 0), file("two", 6, 0)]
    made = [[(p.file.path, p.offset, p.size) for p in batch] for batch in cut(files, 10)]
    assert made == [[("big", 0, 10)], [("big", 10, 10)], [("big", 20, 5)], [("two", 0, 6), ("conf", 0, 3)]]
    assert list(cut([], 10)) == []


def test_a_file_that_shrinks_or_vanishes_gives_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaaa")
    (tmp_path / "c").write_bytes(b"cc")
    pieces = [Piece(Found(name, 10, 0o600, 0), 0, 10) for name in "abc"]
    buffer = memoryview(bytearray(30))
    assert [(one.at, one.size) for one in read_pieces(tmp_path, pieces, buffer)] == [(0, 4), (4, 0), (4, 2)]
    assert bytes(buffer[:6]) == b"aaaacc"


def plain_checksum(page: bytes, block: int) -> int:
    """The algorithm word by word; that its constants are PostgreSQL's is proven on pages of real servers."""
    page = page[:8] + b"\0\0" + page[10:]
    sums = page_checksum._OFFSETS.tolist()
    for row in [*(struct.unpack_from("=32I", page, at) for at in range(0, len(page), 128)), *[(0,) * 32] * 2]:
        for lane, word in enumerate(row):
            mixed = sums[lane] ^ word
            sums[lane] = (mixed * 16777619 & 0xFFFFFFFF) ^ mixed >> 17
    folded = block
    for one in sums:
        folded ^= one
    return folded % 65535 + 1


def page_of(block: int, *, lsn: int = 1) -> bytes:
    raw = bytearray(os.urandom(BLOCK))
    struct.pack_into("=IIHHHHHH", raw, 0, lsn >> 32, lsn & 0xFFFFFFFF, 0, 0, 24, 8000, 8192, BLOCK | 4)
    struct.pack_into("=H", raw, 8, plain_checksum(bytes(raw), block))
    return bytes(raw)


def test_pages_are_told_apart(tmp_path: Path) -> None:
    first = 131072 - 150  # over the edge of a batch, and over that of a file
    pages = [page_of(first + i, lsn=5 << 32 | 7) for i in range(300)]
    numbers = page_checksum.block_numbers(first, 300)

    def bad(changed: dict[int, bytes]) -> list[int]:
        raw = b"".join(changed.get(i, page) for i, page in enumerate(pages))
        return [one.index for one in page_checksum.bad_pages(memoryview(raw), numbers)]

    flipped = bytearray(pages[299])
    flipped[BLOCK - 1] ^= 0x80
    assert bad({}) == []
    assert bad({0: pages[1], 299: bytes(flipped)}) == [0, 299]
    assert bad({7: bytes(BLOCK)}) == []
    assert bad({7: bytes(BLOCK - 1) + b"\1"}) == [7]
    nothing = memoryview(pages[1])
    (found,) = page_checksum.bad_pages(nothing, page_checksum.block_numbers(0, 1))
    assert found.lsn == 5 << 32 | 7


def test_a_torn_page_is_read_again_and_a_damaged_one_stays(tmp_path: Path) -> None:
    whole = [page_of(i, lsn=0x99) for i in range(4)]
    (tmp_path / "1").write_bytes(b"".join(whole[:3]) + whole[3][:100])  # grows
    (tmp_path / "2").write_bytes(whole[0] + whole[0])
    files = [Found("1", 3 * BLOCK + 100, 0o600, 0, 0), Found("2", 2 * BLOCK, 0o600, 0, 0)]
    (batch,) = cut(files, 1 << 20)
    buffer = memoryview(bytearray(1 << 20))
    done = read_pieces(tmp_path, batch, buffer)
    buffer[BLOCK + 50 : BLOCK + 90] = bytes(40)  # as a write in the middle of our read would leave it
    found = PageCheck(tmp_path, BLOCK)(done, buffer)
    assert [(one.path, one.block, one.lsn) for one in found] == [("2", 1, 0x99)]
    assert bytes(buffer[BLOCK : 2 * BLOCK]) == whole[1]


def test_a_torn_control_file_is_not_taken(tmp_path: Path) -> None:
    body = os.urandom(280)
    raw = (body + struct.pack("=I", local_folder._crc32c(body))).ljust(BLOCK, b"\0")
    assert local_folder._crc32c(b"123456789") == 0xE3069283
    assert local_folder.control_holds(raw)
    assert not local_folder.control_holds(b"\1" + raw[1:] if raw[0] != 1 else b"\2" + raw[1:])
    assert not local_folder.control_holds(bytes(BLOCK))


@pytest.mark.parametrize("major", [16, 17])
def test_a_manifest_checks_itself(major: int) -> None:
    files = [ManifestFile("base/1/2", 8192, 0), ManifestFile('odd "né"', 0, 1)]
    text = manifest_text(files, major=major, system=7, timeline=1, start="0/1", stop="0/2")
    told = json.loads(text)
    assert [(one["Path"], one["Size"]) for one in told["Files"]] == [("base/1/2", 8192), ('odd "né"', 0)]
    assert told.get("System-Identifier") == (7 if major >= 17 else None)
    body = text[: text.rindex(b'"Manifest-Checksum"')]
    assert told["Manifest-Checksum"] == hashlib.sha256(body).hexdigest()


def test_files_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    make(root, "PG_VERSION", "global/pg_control", "empty", "gone", "holed", "shrunk")
    (root / "empty").write_bytes(b"")
    for name in ("holed", "shrunk", "gone"):
        (root / name).write_bytes(os.urandom(30))
    holed = (root / "holed").read_bytes()
    server = local_folder.Server(root, 170000, "17.0", BLOCK, 131072, False, False, SYSTEM, 1)
    folders = list_folders(server)
    (root / "gone").unlink()
    os.truncate(root / "shrunk", 13)

    def read(root: Path, pieces, buffer: memoryview):
        # truncated and extended again between two reads: what comes behind the gap is in the WAL
        cut = [(p.file.path, p.offset) == ("holed", 10) for p in pieces]
        return [
            replace(one, size=3) if it else one for one, it in zip(read_pieces(root, pieces, buffer), cut, strict=True)
        ]

    monkeypatch.setattr(range_storing, "OBJECT_BYTES", 10)
    monkeypatch.setattr(range_storing, "read_pieces", read)
    bed = make_bed(tmp_path)
    epoch = bed.repository.keys.begin()
    told = (1, server, TakeOptions(), Silent(), clock.SYSTEM)
    storer = range_storing.Storer(bed.repository, "20261124T101500Z-00000000", epoch, *told)
    assert storer.store(folders) == []
    stored = storer.finish(range_storing.Last(b"control", b"label", b""), Lsn(1), Lsn(2), 1)
    (archive,) = stored.archives
    found = {m.path: m for name in archive.members for m in parse_page(name, bed.repository.get(name))}
    sizes = {path: one.size for path, one in found.items() if one.type == "f"}
    label = {"global/pg_control": 7, "backup_label": 5}
    assert sizes == {"PG_VERSION": 10, "empty": 0, "holed": 13, "shrunk": 13, **label}
    objects = [bed.repository.get(name) for name in archive.objects]
    joined = b"".join(objects[part.object][part.at : part.at + part.size] for part in found["holed"].parts)
    assert joined == holed[:13]
    assert all(part.object == len(objects) - 1 for part in found["global/pg_control"].parts)
    assert len(json.loads(b"".join(map(bed.repository.get, stored.manifest)))["Files"]) == 6
