"""Restoring without a server: targets, hostile archives, places of bytes, settings, and folders that broke off."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backup_bed import SYSTEM, Bed, make_bed

from dbsec.backup import Backup, BackupError, IncompleteBackup, KeyUnavailable, NotRecoverable, Tampered, catalog
from dbsec.backup.base.members import Member, Part, pages
from dbsec.backup.catalog import Archive, Layout, Tablespace
from dbsec.backup.restoring import Kind, Target, coverage, parse_target, plan, restore, settings_file, window
from dbsec.backup.restoring import rates as rating
from dbsec.backup.restoring import spaces as placing
from dbsec.backup.restoring.claim import MARKER
from dbsec.backup.restoring.errors import RestoreFailed
from dbsec.backup.restoring.plan import Plan
from dbsec.backup.wal.names import Segment, object_name, piece_name
from dbsec.errors import GaveUp, ProgramMissing, UsageError
from dbsec.pg.lsn import Lsn
from dbsec.progress import Silent

SEGMENT = 1 << 20
NEEDED = {"PG_VERSION": b"17\n", "backup_label": b"START WAL LOCATION\n", "global/pg_control": b"c" * 8192}
FILES = {**NEEDED, "base/5/1259": random.Random(1).randbytes(300_000), "base/5/empty": b"", "pg_wal/x": b"w" * 700}


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return make_bed(tmp_path, segment_bytes=SEGMENT)


# --- targets -----------------------------------------------------------------------------------------------------


def test_a_time_is_utc_unless_it_says_otherwise() -> None:
    assert parse_target({"time": "2026-01-02T03:04:05"}).value == "2026-01-02 03:04:05.000000+00:00"
    assert parse_target({"time": "2026-01-02T03:04:05.5+02:00"}).value == "2026-01-02 01:04:05.500000+00:00"
    assert parse_target({"time": "2026-01-02T03:04:05Z"}).moment == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_without_a_target_it_is_the_latest() -> None:
    assert parse_target({"time": None, "latest": False}) == Target(Kind.LATEST)


@pytest.mark.parametrize(
    ("told", "exclusive", "said"),
    [
        ({"time": "2026-01-01T00:00:00Z", "lsn": "0/1"}, False, "two targets"),
        ({"latest": True, "immediate": True}, False, "two targets"),
        ({"time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, False, "to come"),
        ({"time": "yesterday"}, False, "not a time"),
        ({"time": "2026-01-01"}, False, "not a time"),
        ({"lsn": "16"}, False, "not an LSN"),
        ({"xid": "2"}, False, "not a transaction"),
        ({"xid": "x"}, False, "not a transaction"),
        ({"name": "n" * 64}, False, "63 bytes"),
        ({"name": "two\nlines"}, False, "printable"),
        ({"name": "n"}, True, "cannot be exclusive"),
    ],
    ids=["two", "both ends", "future", "words", "day", "lsn", "frozen", "no xid", "long", "control", "exclusive"],
)
def test_what_is_no_target_is_refused(told: dict[str, str | bool], exclusive: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_target(told, exclusive=exclusive)


def test_the_target_stands_behind_those_that_are_empty() -> None:
    told = settings_file.recovery(parse_target({"lsn": "0/10"}, exclusive=True), timeline=3, restore_command="c")
    names = list(told)
    assert told["recovery_target_lsn"] == "0/10"
    assert told["recovery_target_inclusive"] == "off"
    assert told["recovery_target_timeline"] == "3"
    for other in ("recovery_target", "recovery_target_time", "recovery_target_xid", "recovery_target_name"):
        assert told[other] == ""
        assert names.index(other) < names.index("recovery_target_lsn")


# --- a backup of our own making ----------------------------------------------------------------------------------


def tar_of(files: dict[str, bytes], *, more: Iterable[tarfile.TarInfo] = ()) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted({str(Path(file).parent) for file in files} - {"."}):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return stream.getvalue()


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


class Maker:
    """Puts archives as a taker would."""

    def __init__(self, bed: Bed, id: str = "20260101T000000Z-00000001") -> None:
        self.bed, self.id, self.numbers = bed, id, iter(range(1000))
        self.epoch = bed.repository.keys.begin()

    def put(self, plain: bytes) -> str:
        name = catalog.data_name(self.id, next(self.numbers))
        self.bed.repository.put(name, plain, epoch=self.epoch)
        return name

    def tar(self, raw: bytes, *, cut: int = 50_000, plain_bytes: int | None = None, oid: int = 0) -> Archive:
        packed = zstandard.ZstdCompressor().compress(raw)
        objects = [self.put(packed[at : at + cut]) for at in range(0, len(packed), cut)]
        return Archive(oid, tuple(objects), len(raw) if plain_bytes is None else plain_bytes, "zstd")

    def slices(self, raw: bytes, *, cut: int = 50_000, change=lambda members: members) -> Archive:
        objects = [self.put(raw[at : at + cut]) for at in range(0, len(raw), cut)]
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            kinds = {tarfile.REGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l"}
            members = [
                Member(one.name, kinds[one.type], one.mode, one.size, 0, one.linkname, one.offset_data) for one in tar
            ]
        return Archive(0, tuple(objects), len(raw), "", self.members(change(members)))

    def ranges(self, files: dict[str, bytes], *, cut: int = 50_000, change=lambda members: members) -> Archive:
        """Each file in ranges, each object several of them, not in their order."""
        blob, members = b"", []
        for name, data in files.items():
            parts = []
            for at in range(0, len(data), 20_000):
                parts.append((len(blob), at, min(20_000, len(data) - at)))
                blob += data[at : at + 20_000]
            members.append((name, len(data), parts))
        objects, listed = [], []
        bounds = list(range(0, len(blob), cut))
        objects = [self.put(blob[at : at + cut]) for at in bounds]
        for name, size, parts in members:
            split = []
            for at, offset, length in parts:
                while length:
                    part = min(length, cut - at % cut)
                    split.append(Part(at // cut, at % cut, offset, part))
                    at, offset, length = at + part, offset + part, length - part
            listed.append(Member(name, "f", 0o600, size, 0, "", 0, tuple(reversed(split))))
        return Archive(0, tuple(objects), len(blob), "", self.members(change(listed)))

    def members(self, listed: list[Member]) -> tuple[str, ...]:
        return tuple(self.put(page) for page in pages(listed))

    def finish(self, layout: Layout, *archives: Archive, **told) -> Backup:
        backup = Backup(
            id=self.id, system=SYSTEM, layout=layout, parent="", engine="protocol", source="primary",
            server_version="17.5", timeline=1, start_lsn="0/100028", stop_lsn="0/100120",
            started="2026-01-01T00:00:00.000000Z", stopped="2026-01-01T00:00:01.000000Z", segment_bytes=SEGMENT,
            archives=archives, manifest=(), tablespaces=(), stored_bytes=1, page_checksums=True,
            plain_bytes=sum(archive.plain_bytes for archive in archives),
        )  # fmt: skip
        return catalog.put_backup(self.bed.repository, replace(backup, **told), epoch=self.epoch)


def planned(*chain: Backup) -> Plan:
    zero = Lsn(0)
    return Plan(Target(), chain, 1, zero, zero, 0, chain[-1].plain_bytes, 1, 1, None, ())


def restored(bed: Bed, backup: Backup, folder: Path, **told) -> Path:
    restore(bed.repository, planned(backup), folder, restore_command="false", progress=Silent(), **told)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("layout", ["tar", "slices", "ranges"])
def test_every_layout_gives_the_same_files(bed: Bed, tmp_path: Path, layout: str) -> None:
    maker = Maker(bed)
    made = maker.ranges(FILES) if layout == "ranges" else getattr(maker, layout)(tar_of(FILES))
    folder = restored(bed, maker.finish(Layout(layout), made), tmp_path / "copy")
    found = contents(folder)
    assert {name: found[name] for name in FILES} == FILES
    ours = {"recovery.signal", "postgresql.auto.conf", "postgresql.conf", "pg_hba.conf", "pg_ident.conf"}
    assert set(found) - set(FILES) == ours
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert (folder.stat().st_mode & 0o777, modes) == (0o700, {0o600})


HOSTILE = {
    "above": ({"../escape": b"x"}, []),
    "absolute": ({"/tmp/dbsec-escape": b"x"}, []),
    "within": ({"base/../../escape": b"x"}, []),
    "link": ({}, [link("base/away", "/etc")]),
    "link in pg_tblspc": ({}, [link("pg_tblspc/5/x", "/etc")]),
    "hard link": ({}, [link("base/hard", "PG_VERSION", tarfile.LNKTYPE)]),
    "device": ({}, [link("base/null", "", tarfile.CHRTYPE)]),
    "twice": ({"base/5": b"a file, and a folder"}, []),
}


@pytest.mark.parametrize("attack", list(HOSTILE))
def test_an_archive_leads_nowhere_else(bed: Bed, tmp_path: Path, attack: str) -> None:
    files, more = HOSTILE[attack]
    raw = _unchecked_tar({**FILES, **files}, more)
    maker = Maker(bed)
    backup = maker.finish(Layout.TAR, maker.tar(raw))
    with pytest.raises(Tampered):
        restored(bed, backup, tmp_path / "copy")
    assert not list(tmp_path.rglob("escape"))
    assert not Path("/tmp/dbsec-escape").exists()
    _does_not_start(tmp_path / "copy")


def _unchecked_tar(files: dict[str, bytes], more: list[tarfile.TarInfo]) -> bytes:
    return tar_of(files, more=more)


def _does_not_start(folder: Path) -> None:
    assert not (folder / "PG_VERSION").exists()
    assert not (folder / "global").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda all: [*all, replace(all[-1], path="../escape")], "names the path"),
        (lambda all: [*all, all[-1]], "another file|twice"),
        (lambda all: [replace(one, tar_offset=one.tar_offset + 10**9) for one in all], "behind the tar"),
        (
            lambda all: [replace(one, size=one.size + 400_000) if one.size == 8192 else one for one in all],
            "another file",
        ),
        (lambda all: [], "lists no file"),
    ],
    ids=["above", "twice", "behind", "overlap", "none"],
)
def test_a_list_of_slices_is_believed_in_nothing(bed: Bed, tmp_path: Path, change, said: str) -> None:
    maker = Maker(bed)
    backup = maker.finish(Layout.SLICES, maker.slices(tar_of(FILES), change=change))
    with pytest.raises(Tampered, match=said):
        restored(bed, backup, tmp_path / "copy")
    _does_not_start(tmp_path / "copy")


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, parts=one.parts[1:]),
        lambda one: replace(one, parts=(*one.parts, one.parts[0])),
        lambda one: replace(one, parts=tuple(replace(part, object=99) for part in one.parts)),
        lambda one: replace(one, parts=tuple(replace(part, at=part.at + 60_000) for part in one.parts)),
        lambda one: replace(one, size=one.size + 1),
        lambda one: replace(one, parts=(*one.parts[:-1], one.parts[-2])),
    ],
    ids=["hole", "twice", "no object", "behind", "longer", "one for another"],
)
def test_a_list_of_ranges_is_believed_in_nothing(bed: Bed, tmp_path: Path, change) -> None:
    maker = Maker(bed)
    made = maker.ranges(FILES, change=lambda all: [change(one) if one.size > 10**5 else one for one in all])
    backup = maker.finish(Layout.RANGES, made)
    with pytest.raises(Tampered):
        restored(bed, backup, tmp_path / "copy")
    _does_not_start(tmp_path / "copy")


def test_a_bomb_is_refused_before_it_fills_the_disk(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbsec.backup.restoring import tar_stream

    monkeypatch.setattr(tar_stream, "_SPARE_BYTES", 1 << 20)
    raw = tar_of({**NEEDED, "base/zeros": bytes(64 << 20)})
    maker = Maker(bed)
    backup = maker.finish(Layout.TAR, maker.tar(raw, plain_bytes=1 << 20))
    with pytest.raises(Tampered, match="unpacks to more"):
        restored(bed, backup, tmp_path / "copy")
    assert sum(path.stat().st_size for path in (tmp_path / "copy").rglob("*")) < 8 << 20
    _does_not_start(tmp_path / "copy")


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_stream_that_ends_early_is_refused(bed: Bed, tmp_path: Path, cut: float) -> None:
    maker = Maker(bed)
    whole = maker.tar(tar_of(FILES))
    short = replace(whole, objects=whole.objects[: max(1, int(len(whole.objects) * cut))])
    backup = maker.finish(Layout.TAR, short)
    with pytest.raises(Tampered):
        restored(bed, backup, tmp_path / "copy")
    _does_not_start(tmp_path / "copy")


@pytest.mark.parametrize("layout", ["tar", "slices"])
@pytest.mark.parametrize("harm", ["bit", "gone", "swapped", "cut"])
def test_a_harmed_object_is_named_and_nothing_starts(bed: Bed, tmp_path: Path, layout: str, harm: str) -> None:
    maker = Maker(bed)
    backup = maker.finish(Layout(layout), getattr(maker, layout)(tar_of(FILES)))
    name = backup.archives[0].objects[2]
    path = bed.store_folder / name
    if harm == "bit":
        raw = bytearray(path.read_bytes())
        raw[-100] ^= 1
        path.write_bytes(raw)
    elif harm == "gone":
        path.unlink()
    elif harm == "swapped":
        path.write_bytes((bed.store_folder / backup.archives[0].objects[1]).read_bytes())
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IncompleteBackup if harm == "gone" else Tampered, match=name):
        restored(bed, backup, tmp_path / "copy")
    _does_not_start(tmp_path / "copy")


def test_a_folder_that_broke_off_is_continued_only_when_told(bed: Bed, tmp_path: Path) -> None:
    maker = Maker(bed)
    backup = maker.finish(Layout.TAR, maker.tar(tar_of(FILES)))
    folder = tmp_path / "copy"
    path = bed.store_folder / backup.archives[0].objects[2]
    raw = path.read_bytes()
    path.unlink()
    with pytest.raises(IncompleteBackup):
        restored(bed, backup, folder)
    path.write_bytes(raw)
    assert (folder / MARKER).exists()
    with pytest.raises(UsageError, match=f"'{backup.id}' that was broken off") as caught:
        restored(bed, backup, folder)
    assert "--again" in caught.value.hint
    found = contents(restored(bed, backup, folder, again=True))
    assert {name: found[name] for name in FILES} == FILES
    assert not (folder / MARKER).exists()


def test_what_is_not_ours_is_never_emptied(bed: Bed, tmp_path: Path) -> None:
    maker = Maker(bed)
    backup = maker.finish(Layout.TAR, maker.tar(tar_of(FILES)))
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    for again in (False, True):
        with pytest.raises(UsageError, match="not empty"):
            restored(bed, backup, folder, again=again)
    done = restored(bed, backup, tmp_path / "done")
    (done / MARKER).touch()  # killed before its very last act
    for _ in range(2):
        with pytest.raises(UsageError, match=r"finished|not empty"):
            restored(bed, backup, done, again=True)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    assert (done / "PG_VERSION").exists()


def test_a_refusal_leaves_no_folder(bed: Bed, tmp_path: Path) -> None:
    maker = Maker(bed)
    archive = maker.tar(tar_of(FILES))
    huge = maker.finish(Layout.TAR, replace(archive, plain_bytes=1 << 60))
    with pytest.raises(RestoreFailed, match="MB free"):
        restored(bed, huge, tmp_path / "copy")
    with pytest.raises(ProgramMissing, match="pg_combinebackup"):
        restore(bed.again(), planned(huge, huge), tmp_path / "copy", restore_command="false", progress=Silent())
    assert not (tmp_path / "copy").exists()


def test_a_store_that_goes_away_is_asked_again_and_then_said(bed: Bed, tmp_path: Path) -> None:
    maker = Maker(bed)
    backup = maker.finish(Layout.TAR, maker.tar(tar_of(FILES)))
    away = tmp_path / "away"

    class Goes(Silent):
        def count(self, text: str, done: int, total: int) -> None:
            if done == 2 and not away.exists():
                bed.store_folder.rename(away)

    repository = bed.again(patience=timedelta(milliseconds=300))
    with pytest.raises(GaveUp, match="the store to give"):
        restore(repository, planned(backup), tmp_path / "copy", restore_command="f", progress=Goes(), workers=1)
    _does_not_start(tmp_path / "copy")


def test_an_archive_that_lacks_its_tablespace_is_refused(bed: Bed, tmp_path: Path) -> None:
    maker = Maker(bed)
    backup = maker.finish(Layout.TAR, maker.tar(tar_of(FILES)), tablespaces=(Tablespace(7, str(tmp_path / "space")),))
    with pytest.raises(Tampered, match="its archives"):
        restored(bed, backup, tmp_path / "copy")


# --- tablespaces and settings ------------------------------------------------------------------------------------


def test_a_tablespace_goes_nowhere_where_files_are(tmp_path: Path) -> None:
    old, taken, folder = tmp_path / "old", tmp_path / "taken", tmp_path / "copy"
    for path in (old, taken):
        path.mkdir()
        (path / "file").touch()
    spaces = [Tablespace(7, str(old)), Tablespace(8, str(tmp_path / "absent"))]
    for remap in (
        {},
        {str(old): str(taken)},
        {str(old): "relative"},
        {str(old): str(folder / "inside")},
        {str(old): str(tmp_path / "absent")},
        {str(old): str(tmp_path / "absent" / "below")},
        {str(old): str(tmp_path / "new"), "/unknown": "/new"},
    ):
        with pytest.raises(UsageError):
            placing.placed(spaces, remap, folder)
    found = placing.placed(spaces, {str(old): str(tmp_path / "new")}, folder)
    assert [space.new for space in found] == [tmp_path / "new", tmp_path / "absent"]


def test_the_map_of_tablespaces_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "tablespace_map").write_text("7 /old\n")
    placing.write_map(tmp_path, [placing.Space(7, "/old", Path("/new\\er"))])
    assert (tmp_path / "tablespace_map").read_text() == "7 /new\\\\er\n"


AUTO = """\
# Do not edit
work_mem = '8MB'
primary_conninfo = 'host=prod password=hunter2'
 Recovery_target_time = '2020-01-01'
restore_command='cp'
archive_mode = on
"""


def test_nothing_is_left_that_leads_to_the_original(tmp_path: Path) -> None:
    (tmp_path / "postgresql.auto.conf").write_text(AUTO)
    (tmp_path / "postgresql.conf").write_text("port = 5432\n data_directory = '/prod'\n")
    (tmp_path / "pg_hba.conf").touch()
    told = settings_file.isolation(17, cluster_name="c", listen="localhost", port=7000)
    notes = settings_file.write_settings(tmp_path, told)
    text = (tmp_path / "postgresql.auto.conf").read_text()
    assert "work_mem = '8MB'" in text
    assert "hunter2" not in text
    assert "2020" not in text
    assert text.count("archive_mode") == 1
    assert "primary_conninfo = ''\n" in text
    assert (tmp_path / "postgresql.conf").read_text() == "port = 5432\n#dbsec#  data_directory = '/prod'\n"
    assert [note.split()[0] for note in notes] == ["postgresql.conf", "pg_hba.conf"]


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=40))
@settings(max_examples=50)
def test_a_literal_stays_on_its_line(value: str) -> None:
    text = settings_file.literal(value)
    assert "\n" not in text
    inner = text[1:-1].replace("''", "").replace("\\\\", "")
    assert "'" not in inner


def test_rates_of_the_last_restore_make_the_estimate(tmp_path: Path) -> None:
    note = tmp_path / "state" / "rates.json"
    assert rating.read_rates(note).seconds(Layout.TAR, 100) is None
    rating.write_rates(note, Layout.TAR, 50.0)
    rating.write_rates(note, Layout.RANGES, 100.0)
    assert rating.read_rates(note).seconds(Layout.TAR, 100) == 2.0
    note.write_text("{")
    assert rating.read_rates(note).seconds(Layout.TAR, 100) is None


# --- the window and the plan -------------------------------------------------------------------------------------


def wal(bed: Bed, timeline: int, *numbers: int) -> None:
    for number in numbers:
        name = object_name(Segment(timeline, number, SEGMENT).name)
        bed.repository.put(name, bytes([timeline, number]) * 100, timeline=timeline)


def history(bed: Bed, timeline: int, text: str) -> None:
    bed.repository.put(object_name(f"{timeline:08X}.history"), text.encode())


def base(bed: Bed, number: int, **told) -> Backup:
    """Make a backup that begins and ends in the segment ``number``."""
    stopped = f"2026-01-01T00:{number:02d}:00.000000Z"
    lsns = {"start_lsn": str(Lsn(number * SEGMENT + 0x28)), "stop_lsn": str(Lsn(number * SEGMENT + 0x120))}
    maker = Maker(bed, f"20260101T00{number:02d}00Z-{number:08x}")
    return maker.finish(Layout.TAR, maker.tar(tar_of(NEEDED)), stopped=stopped, **{**lsns, **told})


def lsn(segment: int, offset: int = 0x200) -> Target:
    return Target(Kind.LSN, str(Lsn(segment * SEGMENT + offset)))


def test_the_newest_backup_before_the_target_is_chosen(bed: Bed) -> None:
    one, two = base(bed, 1), base(bed, 5)
    wal(bed, 1, *range(1, 9))
    repository = bed.repository
    assert plan(repository, Target()).backup.id == two.id
    assert plan(repository, lsn(4)).backup.id == one.id
    assert plan(repository, lsn(5)).backup.id == two.id
    assert plan(repository, Target(), backup=one.id).backup.id == one.id
    assert plan(repository, Target(Kind.TIME, "2026-01-01T00:04:59+00:00")).backup.id == one.id
    assert plan(repository, Target(Kind.TIME, "2026-01-01T00:05:00+00:00")).backup.id == two.id
    assert plan(repository, Target(Kind.IMMEDIATE)).wal_end == two.stop
    assert "newest backup was chosen" in plan(repository, Target(Kind.NAME, "n")).notes[0]
    whole = plan(repository, lsn(7))
    assert (whole.wal_start, whole.wal_end, whole.keys >= 1) == (two.start, lsn(7).lsn, True)


def test_what_lies_outside_the_window_is_refused_with_the_window(bed: Bed) -> None:
    one = base(bed, 2)
    wal(bed, 1, *range(1, 6))
    for target in (
        lsn(1),
        lsn(6),
        Target(Kind.TIME, "2026-01-01T00:01:00+00:00"),
        Target(Kind.TIME, (datetime.now(UTC) + timedelta(minutes=1)).isoformat()),
    ):
        with pytest.raises(NotRecoverable, match=f"from {one.stop_lsn}.*'{one.id}' to 0/600000"):
            plan(bed.repository, target)
    with pytest.raises(NotRecoverable, match="no timeline 7"):
        plan(bed.repository, Target(timeline=7))
    with pytest.raises(NotRecoverable, match="no backup 'x'"):
        plan(bed.repository, Target(), backup="x")


def test_a_hole_is_never_skipped(bed: Bed) -> None:
    base(bed, 1)
    wal(bed, 1, 1, 2, 3, 5, 6)
    for target in (Target(), lsn(5), Target(Kind.NAME, "n"), Target(Kind.XID, "700")):
        with pytest.raises(NotRecoverable, match="WAL is missing from 0/400000 to 0/500000"):
            plan(bed.repository, target)
    assert plan(bed.repository, lsn(3)).wal_end == lsn(3).lsn
    assert plan(bed.repository, Target(Kind.IMMEDIATE)).chain
    later = base(bed, 5)
    assert plan(bed.repository, Target()).backup.id == later.id


@pytest.mark.parametrize("there", [(2, 3), (3,), ()], ids=["first missing", "later only", "none"])
def test_a_backup_without_its_own_wal_is_none(bed: Bed, there: tuple[int, ...]) -> None:
    backup = base(bed, 1)
    wal(bed, 1, *there)
    for target in (Target(), Target(Kind.IMMEDIATE), Target(Kind.NAME, "n"), lsn(2)):
        with pytest.raises(NotRecoverable):
            plan(bed.repository, target)
        with pytest.raises(NotRecoverable):
            plan(bed.repository, target, backup=backup.id)


def test_pieces_count_at_the_end(bed: Bed) -> None:
    base(bed, 1)
    wal(bed, 1, 1, 2)
    bed.repository.put(piece_name(Segment(1, 3, SEGMENT), 0, 0x300), b"p" * 0x300, timeline=1)
    assert plan(bed.repository, lsn(3)).backup
    with pytest.raises(NotRecoverable):
        plan(bed.repository, lsn(3, 0x300))


def test_timelines_are_followed(bed: Bed) -> None:
    """1 was left within segment 3; its old primary wrote on, and timeline 2 holds what counts."""
    one = base(bed, 1)
    wal(bed, 1, 1, 2, 4, 5)
    wal(bed, 2, 3, 4, 5, 6)
    history(bed, 2, "1\t0/340000\tno recovery target specified\n")
    behind = base(bed, 4)  # of timeline 1, taken after it was left
    newest = plan(bed.repository, Target())
    assert (newest.backup.id, newest.timeline, newest.wal_end) == (one.id, 2, Lsn(7 * SEGMENT))
    assert window(bed.repository).apart == (behind,)
    with pytest.raises(NotRecoverable, match="does not lead to timeline 2"):
        plan(bed.repository, Target(), backup=behind.id)
    old = plan(bed.repository, Target(timeline=1))
    assert (old.backup.id, old.timeline, old.wal_end) == (behind.id, 1, Lsn(6 * SEGMENT))
    (bed.store_folder / object_name(Segment(2, 3, SEGMENT).name)).unlink()
    with pytest.raises(NotRecoverable, match="missing from 0/300000"):
        plan(bed.repository, Target())


def test_what_was_never_finished_is_none_and_said(bed: Bed) -> None:
    maker = Maker(bed)
    maker.tar(tar_of(NEEDED))
    wal(bed, 1, 1, 2)
    with pytest.raises(NotRecoverable, match=r"no finished backup.*1 were begun and never finished"):
        plan(bed.repository, Target())
    with pytest.raises(NotRecoverable, match="never finished"):
        plan(bed.repository, Target(), backup=maker.id)


def test_a_damaged_description_hides_no_other_backup(bed: Bed) -> None:
    one, two = base(bed, 1), base(bed, 3)
    wal(bed, 1, *range(1, 6))
    path = bed.store_folder / catalog.description_name(two.id)
    path.write_bytes(path.read_bytes()[:-1])
    chosen = plan(bed.repository, Target())
    assert chosen.backup.id == one.id
    assert any(two.id in note and "left out" in note for note in chosen.notes)
    with pytest.raises(NotRecoverable, match="cannot be used"):
        plan(bed.repository, Target(), backup=two.id)


def test_keys_are_asked_for_before_anything_is_written(bed: Bed) -> None:
    backup = base(bed, 1)
    wal(bed, 1, 1, 2)
    epoch = bed.again().header(backup.archives[0].objects[0]).epoch
    path = bed.store_folder / f"keys/epochs/{epoch}.json"
    path.unlink()
    with pytest.raises((KeyUnavailable, NotRecoverable), match=f"{epoch}"):
        plan(bed.again(), Target())


def test_keys_of_wal_are_asked_for_too(bed: Bed) -> None:
    base(bed, 1)
    wal(bed, 1, 1, 2)
    epoch = bed.repository.keys.begin()  # later: WAL takes up an epoch that was begun a short time ago
    name = object_name(Segment(1, 3, SEGMENT).name)
    bed.repository.put(name, b"sealed another day", timeline=1, epoch=epoch)
    (bed.store_folder / f"keys/epochs/{epoch.id}.json").unlink()
    with pytest.raises(KeyUnavailable, match=epoch.id):
        plan(bed.again(), Target())
    assert plan(bed.again(), lsn(2)).keys >= 1


def test_a_missing_parent_is_refused(bed: Bed) -> None:
    base(bed, 1, parent="20250101T000000Z-00000000")
    wal(bed, 1, 1, 2)
    with pytest.raises(BackupError, match="no finished backup '20250101"):
        plan(bed.again(), Target())


def test_a_path_leads_through_its_ancestors() -> None:
    known = {2: [(1, Lsn(10))], 3: [(1, Lsn(10)), (2, Lsn(20))]}
    legs = coverage.path_to(3, known)
    assert [(leg.timeline, leg.start.value, leg.end and leg.end.value) for leg in legs] == [
        (1, 0, 10),
        (2, 10, 20),
        (3, 20, None),
    ]
