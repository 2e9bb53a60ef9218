"""The look at the disk of a real server, folders that this machine really encrypts, and LUKS slots in a file."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import missing
from tests.forks import in_a_child

from dbsec import files, process
from dbsec.backup.at_rest import (
    AtRestError,
    Key,
    Luks,
    NotLuks,
    SlotInDanger,
    Verdict,
    WrongPassphrase,
    check,
    from_folder,
    from_server,
    offers,
    plan_rotation,
    proof,
    rotate,
    volume,
)
from dbsec.backup.at_rest.checking import Checked
from dbsec.backup.at_rest.luks import Cost, need_cryptsetup
from dbsec.backup.at_rest.machine import Machine
from dbsec.errors import DbsecError, ProgramError, ProgramMissing, UsageError
from dbsec.journal import Edge
from dbsec.pg import connect
from dbsec.testing import faults
from dbsec.testing.clusters import Cluster

CHEAP = Cost(1000)
OLD, NEW, OTHER = (Key(word) for word in (b"old passphrase", b"new\npassphrase\n", bytes(range(256))))


@pytest.fixture(scope="module", autouse=True)
def _cryptsetup() -> None:
    try:
        need_cryptsetup()
    except ProgramMissing as exc:
        missing(f"{exc}: make setup-extra")


# --- LUKS slots -----------------------------------------------------------------------------------------------------


def make_volume(folder: Path) -> Luks:
    """Make a volume in a file, with the old key, and a folder for the copies of its header."""
    luks = Luks(folder / "volume.img")
    with luks.device.open("xb") as stream:
        stream.truncate(20 << 20)
    small = ("--luks2-keyslots-size", "2064384")  # eight slots, and a copy of the header costs little
    luks._run("luksFormat", "--batch-mode", "--type", "luks2", *small, *CHEAP.options(), keys=[OLD])
    (folder / "headers").mkdir(mode=0o700)
    return luks


def _is_rotated(folder: Path) -> None:
    luks, headers = Luks(folder / "volume.img"), folder / "headers"
    assert (luks.opens(OLD), luks.opens(NEW)) == (False, True)
    (copy,) = [one for one in headers.iterdir() if not one.name.startswith(".")]
    assert copy.suffix == ".header"
    assert (Luks(copy).opens(OLD), Luks(copy).opens(NEW)) == (False, True)


def test_a_rotation_survives_kill_9_at_every_step(tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir()
    edges: list[tuple[str, Edge]] = []
    made = make_volume(whole)
    rotate(made, OLD, NEW, whole / "headers", cost=CHEAP, observer=lambda step, edge: edges.append((step, edge)))
    _is_rotated(whole)
    assert len({step for step, _ in edges}) == 5
    for number, edge in enumerate(edges):
        (folder := tmp_path / str(number)).mkdir()
        luks, headers = make_volume(folder), folder / "headers"
        died = in_a_child(partial(rotate, luks, OLD, NEW, headers, cost=CHEAP, observer=faults.kill_at(*edge)))
        assert died == -signal.SIGKILL, edge
        assert luks.opens(OLD) or luks.opens(NEW), f"{edge} left a volume that no key opens"
        rotate(luks, OLD, NEW, headers, cost=CHEAP)
        _is_rotated(folder)
        shutil.rmtree(folder)


def test_cryptsetup_itself_may_be_killed(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    for delay_ms in (1, 3, 6, 10, 15, 25):
        run = process.spawn(
            [sys.executable, "-c", _ADD, luks.device, str(delay_ms)], cwd=tmp_path, log=tmp_path / "killed.log"
        )
        process.stop(run, ladder=[(signal.SIGCONT, 20.0)])
        assert luks.opens(OLD)
    done = rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP)
    assert done.removed
    _is_rotated(tmp_path)


# luksAddKey, killed with all its threads after some milliseconds; it had read its keys from memory files
_ADD = """
import os, subprocess, sys, time
def lent(raw):
    fd = os.memfd_create("k", 0)
    os.write(fd, raw)
    return fd
old, new = lent(b"old passphrase"), lent(os.urandom(16))
argv = ["cryptsetup", "luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
argv += ["--key-file", f"/proc/self/fd/{old}", sys.argv[1], f"/proc/self/fd/{new}"]
child = subprocess.Popen(argv, pass_fds=(old, new))
time.sleep(int(sys.argv[2]) / 1000)
child.kill()
child.wait()
"""


def test_the_old_key_works_before_and_is_refused_after(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    luks.add(OLD, OLD, cost=CHEAP)  # the same passphrase in a second slot, which luksRemoveKey would leave
    luks.add(OLD, OTHER, cost=CHEAP)
    found = plan_rotation(luks, OLD, NEW)
    assert (found.old_slots, found.new_slots, found.others) == ((0, 1), (), (2,))
    stale = tmp_path / "headers" / "from-last-year.header"
    luks.back_up_header(stale)
    done = rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP)
    assert (done.removed, done.others, luks.slots()) == ((0, 1), (2,), (2, 3))
    assert luks.opened_by(NEW) == (3,)
    assert done.stale == (stale,), "a copy of the header opens for the old key for ever"
    with pytest.raises(ProgramError) as refused:
        luks._run("open", "--test-passphrase", keys=[OLD])
    assert refused.value.code == 2
    stale.unlink()
    again = rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP)
    assert (again.removed, again.stale) == ((), ())


def test_the_last_slot_that_is_proven_stays(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    headers = tmp_path / "headers"
    with pytest.raises(WrongPassphrase):
        plan_rotation(luks, OTHER, NEW)
    with pytest.raises(UsageError, match="is the old one"):
        plan_rotation(luks, OLD, Key(b"old passphrase"))
    with pytest.raises(NotLuks):
        plan_rotation(Luks(Path(__file__)), OLD, NEW)
    _cut_short(luks, headers)
    with pytest.raises(SlotInDanger, match="stays"):
        rotate(luks, OLD, OTHER, headers, cost=CHEAP)
    assert luks.opens(OLD)
    assert rotate(luks, OLD, NEW, headers, cost=CHEAP).removed == (0,)


def test_somebody_else_who_takes_the_new_slot_away_does_not_cost_the_last_one(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)

    def takes_away(step: str, edge: Edge) -> None:
        if (step, edge) == ("destroy the old slots", Edge.BEFORE):
            luks.kill(*luks.opened_by(NEW))

    with pytest.raises(SlotInDanger, match="only one that is proven"):
        rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP, observer=takes_away)
    assert luks.opens(OLD)


def test_a_device_that_is_away_refuses_no_key(tmp_path: Path) -> None:
    luks = Luks(tmp_path / "absent.img")
    with pytest.raises(ProgramError) as away:
        luks.opens(OLD, slot=0)
    assert away.value.code == 4


def _cut_short(luks: Luks, headers: Path) -> None:
    """Add NEW and die: a run that resumes must not be given another key."""

    def stop(step: str, edge: Edge) -> None:
        if (step, edge) == ("destroy the old slots", Edge.BEFORE):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate(luks, OLD, NEW, headers, cost=CHEAP, observer=stop)


def test_a_header_is_copied_where_others_cannot_go(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    for folder, why in ((tmp_path / "absent", "no folder"), (tmp_path, "beside the volume")):
        tmp_path.chmod(0o700)
        with pytest.raises(UsageError, match=why):
            rotate(luks, OLD, NEW, folder, cost=CHEAP)
    (tmp_path / "headers").chmod(0o750)
    with pytest.raises(UsageError, match="open to others"):
        rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP)
    assert luks.slots() == (0,)


def test_no_key_is_in_an_argument_a_file_or_an_error(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    seen: list[str] = []
    run = process.run

    def spied(argv: list[str | Path], **told: object) -> str:
        seen.append(" ".join(map(str, argv)))
        return run(argv, **told)  # type: ignore[arg-type]

    process.run = spied  # type: ignore[assignment]
    try:
        rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP)
        with pytest.raises(WrongPassphrase) as refused:
            plan_rotation(luks, OLD, OTHER)
    finally:
        process.run = run
    assert len(seen) > 10
    told = f"{seen} {refused.value} {OLD!r} {OLD}"
    assert "passphrase" not in told.replace("--test-passphrase", "")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"passphrase\n" not in path.read_bytes()


def test_luks1_is_rotated_too(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    luks._run("luksFormat", "--batch-mode", "--type", "luks1", "--pbkdf-force-iterations", "1000", keys=[OLD])
    assert luks.slots() == (0,)
    assert luks.tokens() == {}
    assert rotate(luks, OLD, NEW, tmp_path / "headers", cost=CHEAP).removed == (0,)
    _is_rotated(tmp_path)


def test_the_command_rotates_by_references(tmp_path: Path) -> None:
    luks = make_volume(tmp_path)
    files.write_atomic(tmp_path / "old", "old passphrase\n")
    files.write_atomic(tmp_path / "new", bytes(range(256)))
    command = [sys.executable, "-P", "-m", "dbsec", "at-rest", "rotate-luks-key", luks.device]
    command += ["--old", f"file:{tmp_path}/old", "--new", f"key-file:{tmp_path}/new", "--headers", tmp_path / "headers"]
    plan = json.loads(process.run([*command, "--format", "json"], cwd=tmp_path))["result"]
    assert (plan["applied"], plan["old_slots"], luks.opens(OTHER)) == (False, [0], False)
    assert "nothing was changed" in process.run(command, cwd=tmp_path)
    apply = [*command, "--iterations", "1000", "--evidence", tmp_path / "evidence.jsonl", "--apply"]
    assert "the old key is refused" in process.run(apply, cwd=tmp_path)
    (line,) = [json.loads(one) for one in (tmp_path / "evidence.jsonl").read_text().splitlines() if "BAK-LUKS" in one]
    assert (line["outcome"], line["facts"]["removed"]) == ("pass", [0])
    assert (luks.opens(OLD), luks.opens(OTHER)) == (False, True)
    (tmp_path / "new").chmod(0o644)
    with pytest.raises(ProgramError, match="may be read by others") as refused:
        process.run(command, cwd=tmp_path)
    assert refused.value.code == 2


# --- the look at a server -------------------------------------------------------------------------------------------


def _named(found: Checked) -> dict[str, Verdict]:
    return {place.name: place.seen.verdict for place in found.places}


@pytest.fixture(scope="module")
def running(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Cluster]:
    """A server with a tablespace and an archive in folders that are not its own."""
    made = cluster_factory(
        archive_mode="on", archive_command=f"cp %p {server_root}/%f.no", temp_tablespaces="elsewhere",
        shared_preload_libraries="pg_stat_statements", logging_collector="on", log_directory="/dev/shm",
    )  # fmt: skip
    space = server_root / f"space-{made.instance.port}"
    space.mkdir(mode=0o700)
    shutil.chown(space, made.account.uid, made.account.gid)
    with connect(made.admin) as session:
        session.execute(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")  # type: ignore[arg-type]
    yield made
    made.instance.destroy()
    shutil.rmtree(space)


def test_a_server_tells_where_its_rows_lie(running: Cluster) -> None:
    with connect(running.admin) as session:
        told = check(from_server(session))
    by_folder = check(from_folder(running.instance.data))
    here = volume.look(running.instance.data, Machine()).verdict
    names = _named(told)
    assert names["data directory"] is names["temporary tablespace elsewhere"] is names["WAL archive"] is here
    assert names["log"] is Verdict.MEMORY, "it lies in /dev/shm"
    assert {"core dumps", "swap"} <= set(names)
    assert len(_named(by_folder)) == len(names)
    assert {one.code for one in told.findings} >= {"BAK205"}
    for found in (told, by_folder):
        assert (found.verdict is Verdict.CLEAR) == (here is Verdict.CLEAR)
    text = json.dumps(told.to_json())
    assert "not from root" in text


def test_a_server_that_is_not_here_is_not_judged_by_a_folder_of_ours(
    running: Cluster, cluster: Cluster, tmp_path: Path
) -> None:
    """The answers of another server, whose data_directory is a path that we have too: a standby of it, for one."""
    folder = running.instance.data
    stranger = process.spawn(["sleep", "60"], cwd=folder, log=tmp_path / "log")  # it has the folder, and no backend
    pid, text = folder / "postmaster.pid", (folder / "postmaster.pid").read_text()
    try:
        with connect(running.admin) as session:
            for other in ((cluster.instance.data / "postmaster.pid").read_text(), f"{stranger.pid}\n", "no number\n"):
                files.write_atomic(pid, other, owner=_owner(running))
                with pytest.raises(AtRestError, match="not seen from here"):
                    from_server(session)
            files.write_atomic(pid, text, owner=_owner(running))
            assert from_server(session).server is not None
    finally:
        files.write_atomic(pid, text, owner=_owner(running))
        process.stop(stranger)
    with pytest.raises(UsageError, match="no data folder"):
        from_folder(tmp_path)


def _owner(cluster: Cluster) -> tuple[int, int]:
    return cluster.account.uid, cluster.account.gid


def test_the_command_checks_and_says_what_it_could_not(running: Cluster, tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "dsn", running.admin.text())
    command = [sys.executable, "-P", "-m", "dbsec", "at-rest", "check"]
    for where in (["--dsn", f"file:{tmp_path}/dsn"], ["--data-dir", running.instance.data]):
        code, said = _ended([*command, *where, "--format", "json"], tmp_path)
        told = json.loads(said)
        assert told["command"] == "at-rest check"
        assert code == {"not encrypted": 1, "cannot be told": 3}.get(told["result"]["verdict"], 0)
        assert bool(told["findings"]) == bool(code) or told["findings"][0]["severity"] == "warning"
    assert _ended(command, tmp_path)[0] == 2


def _ended(argv: list[str | Path], cwd: Path) -> tuple[int, str]:
    """Run a command whose exit code is its verdict; what it prints comes first."""
    said = process.run(["sh", "-c", '"$@" 2>/dev/null; echo "$?"', "sh", *argv], cwd=cwd)
    printed, _, code = said.rstrip().rpartition("\n")
    return int(code), printed


def test_settings_are_read_from_the_files_of_a_server_that_is_down(running: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "conf.d").mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    etc = tmp_path / "etc.conf"
    etc.write_text(
        f"log_directory = 'a''b' # c\nlogging_collector on\ninclude_dir '{data}/conf.d'\ninclude 'etc.conf'\n"
    )
    (data / "conf.d/1.conf").write_text("log_directory='first'\nshared_buffers = 1\ninclude_if_exists = 'absent'\n")
    (data / "postgresql.auto.conf").write_text("archive_command = 'cp %p /x/%f'\n")
    assert from_folder(data).settings is None, "no postgresql.conf, and nothing says where it is"
    (data / "postmaster.opts").write_text(f'/usr/lib/postgres "-D" "{data}" "-c" "config_file={etc}"\n')
    read = from_folder(data)
    assert (read.setting("log_directory"), read.setting("logging_collector")) == ("first", "on")
    assert (read.setting("archive_command"), read.setting("shared_buffers")) == ("cp %p /x/%f", "")


# --- folders that are encrypted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("means", ["dm-crypt", "fscrypt", "gocryptfs"])
def test_links_and_mounts_that_leave_an_encrypted_folder_are_seen(means: str, tmp_path: Path) -> None:
    proof.make_key(tmp_path / "key")
    offer = next(one for one in offers.probe() if one.name == means)
    if offer.why_not:
        pytest.skip(f"{means}: {offer.why_not}")  # CI's machines differ: what is to be had is proven
    with offers.strongest(tmp_path, tmp_path / "key", only=means) as up:
        data = up.raised.inside / "data"
        data.mkdir()
        (data / "PG_VERSION").write_text("17\n")
        (data / "postgresql.conf").write_text("logging_collector = on\nlog_directory = 'log'\n")
        (data / "log").mkdir()
        inside = _named(check(from_folder(data)))
        assert inside["data directory"] is inside["log"] is Verdict.ENCRYPTED
        (tmp_path / "wal").mkdir()
        (data / "pg_wal").symlink_to(tmp_path / "wal")
        (data / "base").mkdir()
        (data / "base/5").symlink_to("../../../nowhere")
        (data / "postgresql.conf").write_text(f"logging_collector = on\nlog_directory = '{tmp_path}'\n")
        found = check(from_folder(data))
        outside = volume.look(tmp_path, Machine()).verdict
        assert outside is not Verdict.ENCRYPTED
        names = _named(found)
        assert names["WAL"] is names["log"] is outside
        assert names["link base/5"] is Verdict.UNKNOWN
        assert names["data directory"] is Verdict.ENCRYPTED
    assert not (tmp_path / means).exists()


def test_a_mount_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()  # no file: each means that the machine has fails at it
    before = Path("/proc/self/mountinfo").read_text().count(str(tmp_path))
    with pytest.raises(DbsecError, match="encrypts no folder"):
        offers.raise_strongest(tmp_path, tmp_path / "key")
    assert Path("/proc/self/mountinfo").read_text().count(str(tmp_path)) == before
    assert [one.name for one in tmp_path.iterdir()] == ["key"]
