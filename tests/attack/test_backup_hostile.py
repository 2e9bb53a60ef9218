"""A hostile archive: names that lead elsewhere, bombs, sizes that are lies, a million objects; none is believed."""

from __future__ import annotations

import json
import os
import resource
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard
from tests.backup_bed import Bed
from tests.forks import in_a_child
from tests.small_archive import LAST, NOW, PROMISED, At, copy_of, month, names, small_bed, wal
from tests.wal_files import segment_name

from dbsec.backup import ArchiveHole, Backup, Tampered, catalog, sealed
from dbsec.backup.base import members
from dbsec.backup.base.overview import entries
from dbsec.backup.codec import Codec
from dbsec.backup.expiry_plan import plan
from dbsec.backup.key_notes import notes
from dbsec.backup.repository import MARKER, Repository, read_marker
from dbsec.backup.restoring.window import window
from dbsec.backup.sealed import Header, Kind
from dbsec.backup.verifying import Verified, verify
from dbsec.backup.wal import fetch
from dbsec.backup.wal.frontier import histories, reaches, timelines
from dbsec.clock import rfc3339
from dbsec.errors import DbsecError
from dbsec.store import StoreRefused
from dbsec.store.port import MOST_BYTES

MANY = int(os.environ.get("DBSEC_HOSTILE_OBJECTS", "20000"))  # a million by hand: 100 s


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    made = small_bed(tmp_path_factory.mktemp("hostile"))
    month(made.repository)
    return made


@pytest.fixture
def bed(filled: Bed, tmp_path: Path) -> Bed:
    return copy_of(filled, tmp_path)


def run(repository: Repository) -> Verified:
    return verify(repository, LAST, promised=PROMISED, clock=At(NOW))


STRANGE = (
    "wal/!", "wal/0", "wal/00000001/x", "wal/0000000Z/y", "wal/00000000/00000000/000000000000000000000001",
    "wal/00000001/00000000/0000000100000000FFFFFFFF", "wal/00000001/00000000/000000020000000000000001",
    "wal/history/zz.history", "wal/history/\x1b[31m.history", "wal/pieces/00000001/00000001000000000000000D/0-1",
    "wal/pieces/00000001/00000001000000000000FFFF/00000000-00002000", "wal/pieces/!/x", "base/!", "base/x/backup",
    "base/99999999T999999Z-00000000/data/00000000", "base/20261124T101500Z-ABCDEF01/backup", "notes/x\n", "zzz",
)  # fmt: skip


def test_strange_names_hide_nothing_and_are_told(bed: Bed) -> None:
    """Whoever may put objects may give any name; what is ours is seen as before."""
    repository = bed.again()
    before = (reaches(repository), timelines(repository), [one.id for one in catalog.backups(repository)])
    planned = plan(repository, LAST, promised=PROMISED, now=NOW)
    for name in STRANGE:
        path = bed.store_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"strange")
    repository = bed.again()
    seen = [one for one in timelines(repository) if one]
    assert (reaches(repository, timeline=1), seen, [one.id for one in catalog.backups(repository)]) == before
    assert histories(repository) == {}
    assert window(repository).reachable
    assert {one.id for one in entries(repository)} >= set(before[2])
    after = plan(repository, LAST, promised=PROMISED, now=NOW)
    assert set(after.retained.keep) >= set(planned.retained.keep)
    with pytest.raises(ArchiveHole):  # what comes later is doubt, and no end is proven
        fetch.fetch(repository, segment_name(13), bed.folder / "fetched", settle_s=0)
    done = run(repository)
    told = {one.target for one in done.findings}
    assert not done.doubtless
    assert len(told) >= len(STRANGE) - 1
    assert all(text.isprintable() for one in done.findings for text in (one.target, one.message))
    assert all(note.isprintable() for note in (*done.notes, *done.unknown))


def sealed_by_us(bed: Bed, name: str, body: bytes, *, plain_bytes: int, codec: Codec = Codec.ZSTD) -> bytes:
    """Seal a body that is no packed plaintext: whoever has the key of an epoch can."""
    epoch = bed.repository.keys.begin()
    header = Header(bed.repository.system, 1, Kind.DATA, name, epoch.id, codec, plain_bytes, "00" * 32, rfc3339(NOW))
    prelude, cipher = sealed.begin_stream(epoch.key, header.raw(), sealed.FRAME_BYTES, 0)
    frames = prelude.frame_count(len(body))
    cut = [body[at * sealed.FRAME_BYTES : (at + 1) * sealed.FRAME_BYTES] for at in range(frames)]
    return prelude.raw() + b"".join(cipher.encrypt(at, piece, last=at == frames - 1) for at, piece in enumerate(cut))


def bomb(size: int, *, tells: bool) -> bytes:
    """Pack zeros; the frame tells its size or does not."""
    packer = zstandard.ZstdCompressor(level=1, write_content_size=tells).compressobj(size=size if tells else -1)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()


NAME = "base/20261124T101500Z-00000001/data/00000000"
ZEROS = 1 << 30


@pytest.mark.parametrize("tells", [True, False], ids=["tells", "does not tell"])
@pytest.mark.parametrize("claimed", [1000, 64 << 20, ZEROS])
def test_a_decompression_bomb_is_refused_in_little_memory(bed: Bed, claimed: int, tells: bool) -> None:
    """A gigabyte of zeros in 33 kB, under a key of ours: neither way to read it takes the gigabyte."""
    path = bed.store_folder / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed_by_us(bed, NAME, bomb(ZEROS, tells=tells), plain_bytes=claimed))
    repository = bed.again()

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(Tampered):
            repository.get(NAME)
        given: list[int] = []
        with pytest.raises(Tampered):
            given.extend(map(len, repository.pieces(NAME)[1]))
        assert sum(given) <= claimed
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 200 << 10, f"{grown >> 10} MB"

    assert in_a_child(read) == 0
    assert NAME in {one.target for one in run(repository).findings if one.code == "BAK201"}


def window_of(log: int) -> bytes:
    """Return the start of a zstd frame that asks for a window of 2**log bytes."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + b"\x01\x00\x00"


def test_a_window_of_gigabytes_is_refused(bed: Bed) -> None:
    path = bed.store_folder / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed_by_us(bed, NAME, window_of(31), plain_bytes=0))
    for read in (bed.repository.get, lambda name: list(bed.repository.pieces(name)[1])):
        with pytest.raises(Tampered):
            read(NAME)


def sparse(path: Path, size: int, raw: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    os.truncate(path, size)


def test_an_object_that_none_of_ours_can_be_is_not_read(bed: Bed) -> None:
    """Four terabytes that are none: each reader refuses before it takes the memory."""
    name = names(bed.repository, "wal/0")[-1]
    raw = (bed.store_folder / name).read_bytes()
    sparse(bed.store_folder / name, 4 << 40, raw)
    sparse(bed.store_folder / "notes/one", MOST_BYTES + 1)
    repository = bed.again()
    tracemalloc.start()
    for act in (
        lambda: repository.get(name),
        lambda: repository.pieces(name),
        lambda: repository.get("notes/one"),
        lambda: list(notes(repository, "notes/")),
    ):
        with pytest.raises((Tampered, StoreRefused)):
            act()
    assert {one.target for one in run(repository).findings if one.code == "BAK201"} == {name, "notes/one"}
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    sparse(bed.store_folder / MARKER, MOST_BYTES + 1)
    with pytest.raises((Tampered, StoreRefused)):
        read_marker(repository.store)


@pytest.mark.parametrize(
    ("header_bytes", "frame_bytes"),
    [(0xFFFF, 1 << 20), (300, 0), (300, 0xFFFFFFFF), (300, 1 << 26), (0, 1 << 20)],
    ids=["long header", "no frame", "endless frame", "large frame", "no header"],
)
def test_a_prelude_that_lies_about_sizes_is_refused(bed: Bed, header_bytes: int, frame_bytes: int) -> None:
    name = names(bed.repository, "wal/0")[-1]
    path = bed.store_folder / name
    raw = bytearray(path.read_bytes())
    struct.pack_into(">HI", raw, 6, header_bytes, frame_bytes)
    path.write_bytes(raw)
    repository = bed.again()
    with pytest.raises(Tampered):
        repository.get(name)
    if header_bytes != 300:
        with pytest.raises(Tampered):
            repository.header(name)
    assert {one.code for one in run(repository).findings} == {"BAK201"}


NO_JSON = (
    b"", b"5", b"null", b"[]", b"{}", b'"x"', b"\xff", b"[" * 200_000, b'{"format":' * 50_000, b'{"format":"x"}',
    b'{"format":1,"at":5}', b'{"format":1e999}', b'{"format":1,"archives":5}', b'{"format":1,"archives":[[]]}',
    b'{"magic":"dbsec-backup","format":[]}',
)  # fmt: skip
PARSERS: dict[str, Callable[[bytes], object]] = {
    "description": lambda raw: Backup.parse("base/x/backup", raw),
    "list of files": lambda raw: list(members.parse_page("x", raw or b"5")),
    "header": lambda raw: sealed.read_header("x", raw),
}


@pytest.mark.parametrize("parser", PARSERS)
def test_what_is_no_record_is_refused_as_such(parser: str) -> None:
    for raw in NO_JSON:
        with pytest.raises(DbsecError):
            PARSERS[parser](raw)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "..", "", "a\0b", "base/../../../x"])
def test_a_list_of_files_leads_nowhere_else(path: str) -> None:
    line = json.dumps([path, "f", 0o600, 1, 0, "", 0, []]).encode()
    with pytest.raises(Tampered):
        list(members.parse_page("x", line))


def test_a_link_in_a_folder_is_not_followed(bed: Bed, tmp_path: Path) -> None:
    """Whoever writes the folder cannot let the reader read, or the writer write, elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"somebody else's")
    folder = bed.store_folder
    (folder / "notes").mkdir(exist_ok=True)
    (folder / "notes/link").symlink_to(outside / "x")
    (folder / "notes/folder").symlink_to(outside)
    os.mkfifo(folder / "notes/pipe")
    store = bed.repository.store
    for name in ("notes/link", "notes/folder/x", "notes/pipe"):
        with pytest.raises(DbsecError):
            store.get(name)
    with pytest.raises(DbsecError):
        store.put("notes/folder/y", b"1")
    with suppress(DbsecError):
        store.delete("notes/folder/x")
    assert sorted(one.name for one in outside.iterdir()) == ["x"]
    with pytest.raises(StoreRefused):
        list(store.list("notes/"))


def test_a_great_many_small_objects_cost_little_memory(bed: Bed) -> None:
    """Names that do not belong, in one folder: a listing streams, and a verify tells the first thousand of them."""
    folder = bed.store_folder / "notes" / "many"
    folder.mkdir(parents=True)
    for part in range(-(-MANY // 30_000)):  # a file has 65,000 links at most
        first = folder / f"-{part:03}"
        first.write_bytes(b"x")
        for number in range(min(30_000, MANY - part * 30_000) - 1):
            os.link(first, folder / f"-{part:03}-{number:06}")

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        repository = bed.again()
        assert sum(1 for _ in repository.list("notes/")) == MANY
        wal(repository, 13)
        done = run(repository)
        assert len(done.findings) == 1000
        assert done.untold == MANY - 1000
        assert plan(repository, LAST, promised=timedelta(days=7), now=NOW).retained.keep
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert grown < (64 << 20) + 300 * MANY, f"{grown >> 20} MB"

    assert in_a_child(read) == 0
