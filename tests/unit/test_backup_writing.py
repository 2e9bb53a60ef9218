"""What is written of a base backup: objects cut in order and bounded in memory, and the files that a tar holds."""

from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backup_bed import Bed, make_bed

from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.tar import TarIndex, parse_header
from dbsec.backup.base.writing import ObjectWriter, Sealer
from dbsec.backup.codec import Codec
from dbsec.backup.errors import BackupError
from dbsec.errors import UsageError
from dbsec.retry import wait_until
from dbsec.store import StoreFull
from dbsec.store.file import FileStore

ID = "20261124T000000Z-00000000"


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return make_bed(tmp_path)


def sealer_of(bed: Bed, workers: int = 2) -> Sealer:
    return Sealer(bed.repository, ID, bed.repository.keys.begin(), timeline=1, workers=workers)


def test_objects_hold_the_flow_in_order(bed: Bed) -> None:
    flow = bytes(range(256)) * 40
    seen: list[tuple[int, int]] = []
    with sealer_of(bed) as sealer:
        told = lambda piece, at: seen.append((at, len(piece)))  # noqa: E731
        writer = ObjectWriter(sealer, sealer.data_name, codec=Codec.ZSTD, cut=1000, seen=told)
        for at in range(0, len(flow), 333):
            writer.write(memoryview(flow)[at : at + 333])
        writer.write(memoryview(flow))  # longer than several objects
        names = writer.close()
    assert b"".join(bed.again().get(name) for name in names) == flow * 2
    assert list(names) == sorted(names)
    assert seen == [(at, min(1000, 2 * len(flow) - at)) for at in range(0, 2 * len(flow), 1000)]
    assert sealer.stored_bytes == sum((bed.store_folder / name).stat().st_size for name in names)


class _Gate(FileStore):
    """A store that takes nothing until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open = threading.Event()

    def put(self, name: str, data: bytes) -> None:
        self.open.wait(20)
        super().put(name, data)


def test_a_slow_store_holds_the_flow_up(bed: Bed) -> None:
    bed.repository.store = gate = _Gate(bed.store_folder)
    gone_in: list[int] = []
    with sealer_of(bed) as sealer:
        writer = ObjectWriter(sealer, sealer.data_name, codec=Codec.NONE, cut=100)

        def flow() -> None:
            for number in range(50):
                writer.write(memoryview(bytes(100)))
                gone_in.append(number)

        thread = threading.Thread(target=flow)
        thread.start()
        wait_until(lambda: len(gone_in) == 4, within_s=10, what="two that are put, two that wait")
        thread.join(0.2)
        assert thread.is_alive()
        assert len(gone_in) == 4
        gate.open.set()
        thread.join(20)
        assert len(writer.close()) == 50


class _Full(FileStore):
    def put(self, name: str, data: bytes) -> None:
        if name.endswith("00000001"):
            raise StoreFull("no room")
        super().put(name, data)


def put_many(bed: Bed, count: int, workers: int) -> None:
    with sealer_of(bed, workers) as sealer:
        for _ in range(count):
            sealer.put(sealer.data_name(), b"x", codec=Codec.NONE)


def test_the_first_failure_is_raised_where_the_flow_is(bed: Bed) -> None:
    bed.repository.store = _Full(bed.store_folder)
    with pytest.raises(StoreFull):
        put_many(bed, 20, workers=1)
    assert len(list(bed.repository.list(f"base/{ID}/"))) == 1


def test_a_failure_of_the_last_object_is_raised_at_the_end(bed: Bed) -> None:
    bed.repository.store = _Full(bed.store_folder)
    with pytest.raises(StoreFull):
        put_many(bed, 2, workers=2)


def tar_of(sizes: list[int]) -> bytes:
    """Return a tar as PostgreSQL writes it: folders, files and a link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("base/")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder)
        link = tarfile.TarInfo("pg_tblspc/16384/")
        link.type, link.linkname = tarfile.SYMTYPE, "/space"
        tar.addfile(link)
        for number, size in enumerate(sizes):
            info = tarfile.TarInfo(f"base/{number}")
            info.size, info.mode, info.mtime = size, 0o600, 1_800_000_000
            tar.addfile(info, io.BytesIO(bytes([number % 251]) * size))
    return made.getvalue()


@given(st.lists(st.integers(0, 3000), max_size=12), st.integers(1, 9))
def test_a_tar_is_read_however_it_is_cut(sizes: list[int], blocks: int) -> None:
    raw = tar_of(sizes)
    index, cut = TarIndex(), blocks * 512
    found = [m for at in range(0, len(raw), cut) for m in index.members_in(memoryview(raw)[at : at + cut], at)]
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert [(m.path, m.size, m.tar_offset, m.link) for m in found] == [
            (i.name.rstrip("/"), i.size, i.offset_data, i.linkname) for i in tar.getmembers()
        ]
    assert [m.type for m in found[:2]] == ["d", "l"]


def test_a_file_above_8_gb_has_its_size_in_base_256() -> None:
    info = tarfile.TarInfo("log")
    info.size = 9 << 33
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[257:265] = b"ustar\x0000"
    header[148:156] = f"{sum(header) - sum(header[148:156]) + 256:06o}\0 ".encode()
    assert parse_header(bytes(header), 512).size == 9 << 33


@pytest.mark.parametrize("at", [0, 124, 156, 257], ids=["name", "size", "type", "magic"])
def test_a_header_that_was_hurt_is_refused(at: int) -> None:
    header = bytearray(tar_of([10])[1024:1536])
    header[at] ^= 2
    with pytest.raises(BackupError, match="no header"):
        parse_header(bytes(header), 512)


@pytest.mark.parametrize("label", ["a\nSTART TIMELINE: 9", "tab\t", "x" * 201], ids=["line", "tab", "long"])
def test_a_label_is_one_line(label: str) -> None:
    with pytest.raises(UsageError):
        TakeOptions(label=label)
