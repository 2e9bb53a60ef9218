"""WAL into the repository and out of it: what is refused, what is the end, and what must never look like the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backup_bed import SYSTEM, Bed, make_bed, make_kek
from tests.wal_files import SMALL, segment_bytes_of, segment_name

from dbsec.backup import ArchiveHole, ContentConflict, KeyUnavailable, NoRepository, Repository, Tampered, WrongCluster
from dbsec.backup.wal.ends import EndOfArchive
from dbsec.backup.wal.fetch import fetch, read
from dbsec.backup.wal.names import HISTORY, Segment, object_name, piece_name
from dbsec.backup.wal.pages import WrongSegment, check_segment, first_page
from dbsec.backup.wal.push import push, push_file
from dbsec.errors import DbsecError, GaveUp, UsageError
from dbsec.store import ObjectExists, StoreRefused, StoreUnavailable

ONE, TWO, THREE, FOUR = (segment_name(number) for number in range(1, 5))
HISTORY_2 = b"1\t0/300000\tno recovery target specified\n"  # timeline 1 was left at the start of its third segment


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return make_bed(tmp_path, segment_bytes=SMALL)


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    (tmp_path / "pg_wal").mkdir()
    return tmp_path / "pg_wal"


def _put(bed: Bed, *names: str) -> None:
    for name in names:
        push(bed.repository, name, segment_bytes_of(name))


def _read(bed: Bed, name: str) -> bytes:
    return read(bed.again(), name, settle_s=0)


# --- push --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".partial", ".00000028.backup"])
def test_a_file_is_put_where_its_name_says(bed: Bed, pg_wal: Path, suffix: str) -> None:
    path = pg_wal / f"{ONE}{suffix}"
    path.write_bytes(b"START WAL LOCATION" if suffix.endswith("backup") else segment_bytes_of(ONE))
    assert push_file(bed.repository, path).fresh
    assert not push_file(bed.again(), path).fresh
    assert bed.again().get(object_name(path.name)) == path.read_bytes()
    assert bed.repository.header(object_name(path.name)).timeline == 1


@pytest.mark.parametrize("name", [ONE, "00000002.history", f"{ONE}.00000028.backup"])
def test_other_content_under_a_name_is_a_conflict(bed: Bed, name: str) -> None:
    push(bed.repository, name, segment_bytes_of(ONE))
    with pytest.raises(ContentConflict):
        push(bed.again(), name, segment_bytes_of(ONE, b"another primary's"))
    assert bed.again().get(object_name(name)) == segment_bytes_of(ONE)


def test_a_second_promotion_leaves_its_partial_beside_the_first(bed: Bed) -> None:
    """A conflict would stop the archiver of the new primary for ever, for a file that no server asks for."""
    name = f"{ONE}.partial"
    first, second = (segment_bytes_of(ONE, fill) for fill in (b"first", b"second"))
    for raw in (first, second, second, first):
        push(bed.repository, name, raw)
    assert {entry.name for entry in bed.repository.list(HISTORY)} == {f"{HISTORY}{name}", f"{HISTORY}{name}@2"}
    assert bed.again().get(f"{HISTORY}{name}@2") == second


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (segment_bytes_of(TWO), WrongSegment),
        (segment_bytes_of(ONE, system=SYSTEM + 1), WrongCluster),
        (segment_bytes_of(ONE, size=2 * SMALL), WrongSegment),
        (segment_bytes_of(ONE)[:-1], WrongSegment),
        (segment_bytes_of(ONE, timeline=2), WrongSegment),
        (bytes(SMALL), WrongSegment),
        (b"", WrongSegment),
    ],
    ids=["another-segment", "another-cluster", "another-size", "cut", "a-later-timeline", "zeros", "empty"],
)
def test_a_file_that_is_not_what_its_name_says_is_not_put(
    bed: Bed, pg_wal: Path, raw: bytes, error: type[DbsecError]
) -> None:
    for name in (ONE, f"{ONE}.partial"):
        (pg_wal / name).write_bytes(raw)
        with pytest.raises(error):
            push_file(bed.repository, pg_wal / name)
    assert list(bed.repository.list("wal/")) == []


def test_the_first_segment_of_a_timeline_begins_on_the_one_before(bed: Bed) -> None:
    name = segment_name(3, timeline=2)
    push(bed.repository, name, segment_bytes_of(name, timeline=1))
    assert _read(bed, name) == segment_bytes_of(name, timeline=1)


def test_either_byte_order_is_read() -> None:
    for order in "<>":
        raw = segment_bytes_of(ONE, order=order)
        check_segment(ONE, raw, system=SYSTEM, segment_bytes=SMALL)


@given(st.binary(max_size=100))
def test_no_bytes_break_the_reader_of_a_page(raw: bytes) -> None:
    found = first_page(raw)
    assert found is None or len(raw) >= 36


@pytest.mark.parametrize("name", ["x", "../" + ONE, ONE.lower().replace("0", "a"), f"{ONE}.done", f"{ONE}\n"])
def test_a_name_that_no_server_archives_is_refused(bed: Bed, pg_wal: Path, name: str) -> None:
    with pytest.raises(UsageError):
        push(bed.repository, name, segment_bytes_of(ONE))
    with pytest.raises(UsageError):
        _read(bed, name)


def test_a_link_and_a_pipe_are_no_segments(bed: Bed, pg_wal: Path) -> None:
    (pg_wal / TWO).write_bytes(segment_bytes_of(ONE))
    (pg_wal / ONE).symlink_to(pg_wal / TWO)
    (pg_wal / THREE).mkdir()
    for name in (ONE, THREE, FOUR):
        with pytest.raises(UsageError):
            push_file(bed.repository, pg_wal / name)


# --- fetch -------------------------------------------------------------------------------------------------------


def test_what_was_put_is_fetched_whole(bed: Bed, tmp_path: Path) -> None:
    _put(bed, ONE)
    fetch(bed.again(), ONE, tmp_path / "RECOVERYXLOG")
    assert (tmp_path / "RECOVERYXLOG").read_bytes() == segment_bytes_of(ONE)
    assert (tmp_path / "RECOVERYXLOG").stat().st_mode & 0o777 == 0o600


def test_the_end_is_after_the_last_and_nowhere_else(bed: Bed, tmp_path: Path) -> None:
    _put(bed, ONE, TWO)
    with pytest.raises(EndOfArchive):
        fetch(bed.again(), THREE, tmp_path / "x", settle_s=0)
    with pytest.raises(EndOfArchive):
        _read(bed, "00000002.history")
    (bed.store_folder / object_name(ONE)).unlink()
    with pytest.raises(ArchiveHole, match=TWO):
        fetch(bed.again(), ONE, tmp_path / "x", settle_s=0)
    assert not (tmp_path / "x").exists()


def _later_piece(bed: Bed) -> None:
    segment = Segment.parse(THREE, SMALL)
    bed.repository.put(piece_name(segment, 0, 8192), bytes(8192))


def _own_piece_after_a_gap(bed: Bed) -> None:
    segment = Segment.parse(TWO, SMALL)
    bed.repository.put(piece_name(segment, 8192, 16384), bytes(8192))


def _a_child_that_began_later(bed: Bed) -> None:
    push(bed.repository, "00000002.history", HISTORY_2)


def _a_backup_of_later(bed: Bed) -> None:
    push(bed.repository, f"{THREE}.00000028.backup", b"START WAL LOCATION")


@pytest.mark.parametrize(
    "witness", [_later_piece, _own_piece_after_a_gap, _a_child_that_began_later, _a_backup_of_later]
)
def test_what_shows_that_there_was_more_makes_a_hole(bed: Bed, witness: Callable[[Bed], None]) -> None:
    _put(bed, ONE)
    with pytest.raises(EndOfArchive):
        _read(bed, TWO)
    witness(bed)
    with pytest.raises(ArchiveHole):
        _read(bed, TWO)


def test_a_timeline_may_end_after_the_point_where_it_was_left(bed: Bed) -> None:
    _put(bed, ONE, TWO)
    push(bed.repository, "00000002.history", HISTORY_2)
    with pytest.raises(EndOfArchive):
        _read(bed, THREE)


def test_a_history_that_is_gone_is_a_hole_where_its_timeline_was_born_here(bed: Bed) -> None:
    """Without it a server would recover along the old timeline, and open short."""
    born = segment_name(3, timeline=2)
    _put(bed, born)
    with pytest.raises(EndOfArchive):
        _read(bed, "00000002.history")  # the archive began on timeline 2
    _put(bed, ONE, TWO)
    with pytest.raises(ArchiveHole, match="timeline 2 has WAL"):
        _read(bed, "00000002.history")
    (bed.store_folder / object_name(born)).unlink()
    push(bed.repository, "00000003.history", HISTORY_2 + b"2\t0/400000\tx\n")
    with pytest.raises(ArchiveHole, match="timeline 3 descends from it"):
        _read(bed, "00000002.history")


def test_pieces_make_up_a_segment_that_never_became_full(bed: Bed) -> None:
    raw = segment_bytes_of(TWO)
    segment = Segment.parse(TWO, SMALL)
    _put(bed, ONE)
    for start, end in ((0, 8192), (4096, 20000), (20000, 24576)):
        bed.repository.put(piece_name(segment, start, end), raw[start:end])
    assert _read(bed, TWO) == raw[:24576] + bytes(SMALL - 24576)
    _put(bed, THREE)
    with pytest.raises(ArchiveHole, match=THREE):
        _read(bed, TWO)
    _put(bed, TWO)
    assert _read(bed, TWO) == raw


def test_pieces_that_end_before_the_switch_are_a_hole(bed: Bed) -> None:
    segment = Segment.parse(TWO, SMALL)
    bed.repository.put(piece_name(segment, 0, 8192), segment_bytes_of(TWO)[:8192])
    push(bed.repository, "00000002.history", b"1\t0/202000\tx\n")
    assert _read(bed, TWO)[:8192] == segment_bytes_of(TWO)[:8192]
    push(bed.repository, "00000003.history", b"1\t0/202001\tx\n")
    with pytest.raises(ArchiveHole, match="timeline 3"):
        _read(bed, TWO)


def test_damage_is_no_end(bed: Bed) -> None:
    _put(bed, ONE, TWO)
    place = bed.store_folder / object_name(ONE)
    raw = bytearray(place.read_bytes())
    raw[-20] ^= 1
    for damaged in (bytes(raw), place.read_bytes()[:-30], (bed.store_folder / object_name(TWO)).read_bytes(), b""):
        place.write_bytes(damaged)
        with pytest.raises(Tampered):
            _read(bed, ONE)


def test_a_segment_sealed_with_other_content_is_no_segment(bed: Bed) -> None:
    """Whoever has the keys may have put nonsense: the server would take it for the end."""
    bed.repository.put(object_name(ONE), segment_bytes_of(TWO))
    with pytest.raises(Tampered, match="holds the segment at"):
        _read(bed, ONE)


def test_the_wrong_kek_is_no_end(bed: Bed, tmp_path: Path) -> None:
    _put(bed, ONE)
    with pytest.raises(KeyUnavailable):
        read(bed.again(kms=make_kek(tmp_path / "other.json", bed.environ)), ONE, settle_s=0)


def test_a_disk_that_is_not_mounted_is_no_end(bed: Bed) -> None:
    """The folder below a mount point is there, and empty: a listing of it proves nothing."""
    _put(bed, ONE)
    opened = bed.again(patience=timedelta(milliseconds=50))
    bed.store_folder.rename(bed.folder / "unmounted")
    with pytest.raises(GaveUp):
        read(opened, TWO, settle_s=0, segment_bytes=SMALL)
    bed.store_folder.mkdir()
    for name in (ONE, TWO, "00000002.history"):
        with pytest.raises(NoRepository):
            read(opened, name, settle_s=0, segment_bytes=SMALL)


@pytest.mark.parametrize("refusal", [StoreRefused("no"), StoreUnavailable("away"), ObjectExists("x"), OSError("x")])
def test_a_listing_that_fails_is_no_end(bed: Bed, refusal: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = bed.again()

    def fail(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(opened.store, "list", fail)
    for name in (ONE, "00000002.history"):
        with pytest.raises(type(refusal)):
            read(opened, name, settle_s=0)


def test_a_segment_that_is_being_archived_is_waited_for(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers may put the second first."""
    _put(bed, TWO)
    asked = []
    prove = Repository.list

    def lists(self: Repository, prefix: str, after: str = "") -> object:
        asked.append(prefix)
        if len(asked) == 5:
            _put(bed, ONE)
        return prove(self, prefix, after)

    monkeypatch.setattr(Repository, "list", lists)
    assert read(bed.again(), ONE, settle_s=5) == segment_bytes_of(ONE)


def test_a_fetch_that_fails_leaves_what_was_there(bed: Bed, tmp_path: Path) -> None:
    _put(bed, ONE)
    with pytest.raises(OSError, match="No such file"):
        fetch(bed.again(), ONE, tmp_path / "no" / "folder")
    os.truncate(bed.store_folder / object_name(ONE), 100)
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(Tampered):
        fetch(bed.again(), ONE, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"before"
