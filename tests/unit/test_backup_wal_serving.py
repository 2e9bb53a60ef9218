"""The resident archiver and its client: whatever goes wrong between them, PostgreSQL is told the right code."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest
from tests.backup_bed import Bed, make_bed
from tests.wal_files import SMALL, segment_bytes_of, segment_name

from dbsec.backup.wal import client, commands
from dbsec.backup.wal.names import object_name
from dbsec.backup.wal.serving import FETCH, PUSH, serve
from dbsec.errors import UsageError
from dbsec.process import Account
from dbsec.retry import wait_until
from dbsec.store import ObjectStore

ONE, TWO, THREE, FOUR = (segment_name(number) for number in range(1, 5))
Ended = subprocess.CompletedProcess[str]


@dataclass
class Place:
    """A data folder with WAL, a repository, and a folder for socket and client whose name a shell must not read."""

    bed: Bed
    data: Path
    folder: Path
    python: Path

    @property
    def socket(self) -> Path:
        return self.folder / "wal.sock"

    @property
    def impostor(self) -> Path:
        return self.folder / "impostor.sock"

    @property
    def pg_wal(self) -> Path:
        return self.data / "pg_wal"

    def wal(self, *names: str, ready: bool = False) -> None:
        for name in names:
            (self.pg_wal / name).write_bytes(segment_bytes_of(name))
            if ready:
                (self.pg_wal / "archive_status" / f"{name}.ready").touch()

    def ask(self, *words: str | Path, **how: object) -> Ended:
        """Run the client as PostgreSQL does: in the data folder."""
        argv = [self.python, "-I", "-S", self.folder / commands.CLIENT, *words]
        return subprocess.run(argv, cwd=self.data, capture_output=True, text=True, errors="replace", check=False, **how)  # type: ignore[call-overload, no-any-return]

    def push(self, name: str) -> Ended:
        return self.ask(self.socket, "push", f"pg_wal/{name}")

    def fetch(self, name: str) -> Ended:
        return self.ask(self.socket, "fetch", name, "pg_wal/RECOVERYXLOG")

    def sh(self, command: str, name: str) -> Ended:
        """Run a command's text as PostgreSQL does."""
        told = command.replace("%%", "\0").replace("%p", f"pg_wal/{name}").replace("%f", name).replace("\0", "%")
        return subprocess.run(["sh", "-c", told], cwd=self.data, capture_output=True, text=True, check=False)

    def has(self, name: str) -> bool:
        return (self.bed.store_folder / object_name(name)).exists()


def _place(folder: Path) -> Place:
    (folder / "data/pg_wal/archive_status").mkdir(parents=True)
    (folder / "it's 100%f $HOME").mkdir()
    bed = make_bed(folder, segment_bytes=SMALL)
    made = Place(bed, folder / "data", folder / "it's 100%f $HOME", commands.find_python())
    commands.install_client(made.folder)
    return made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return _place(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for what leaves nothing behind; ``impostor`` is a socket beside the served one."""
    place = _place(tmp_path_factory.mktemp("shared"))
    place.wal(ONE)
    with serve(place.bed.again(), place.socket, settle_s=0):
        yield place


@pytest.fixture
def served(place: Place) -> Iterator[Place]:
    with serve(place.bed.again(), place.socket, settle_s=0):
        yield place


def test_what_is_pushed_is_fetched_and_the_end_is_told(served: Place) -> None:
    served.wal(ONE, TWO)
    assert [served.push(name).returncode for name in (ONE, TWO, ONE)] == [0, 0, 0]
    for name in (ONE, TWO, ONE):
        assert served.fetch(name).returncode == 0
        assert (served.pg_wal / "RECOVERYXLOG").read_bytes() == segment_bytes_of(name)
    ends = [served.fetch(name) for name in (THREE, "00000002.history")]
    assert [(end.returncode, end.stderr) for end in ends] == [(1, "")] * 2
    assert sorted(path.name for path in served.pg_wal.iterdir()) == sorted([ONE, TWO, "RECOVERYXLOG", "archive_status"])
    assert (served.pg_wal / "RECOVERYXLOG").stat().st_mode & 0o777 == 0o600


def test_the_texts_of_the_commands_work_in_a_shell(served: Place) -> None:
    told = {"client": served.folder / commands.CLIENT, "python": served.python}
    archive, restore = (make(served.socket, **told) for make in (commands.archive_command, commands.restore_command))  # type: ignore[operator]
    served.wal(ONE, TWO)
    assert served.sh(archive, ONE).returncode == 0
    (served.pg_wal / ONE).unlink()
    assert served.sh(restore, ONE).returncode == 0
    assert (served.pg_wal / ONE).read_bytes() == segment_bytes_of(ONE)
    assert served.sh(restore, TWO).returncode == 1
    # a client that does nothing, one that is not there, one that does not parse: no success, and no end
    installed = served.folder / commands.CLIENT
    for broken in (b"", None, b"(", b"import no_such_module"):
        installed.unlink(missing_ok=True)
        if broken is not None:
            installed.write_bytes(broken)
        assert served.sh(archive, TWO).returncode == 1
        assert served.sh(restore, TWO).returncode == 255
    assert not served.has(TWO)
    nowhere = {"client": installed, "python": Path("/nowhere/python3")}
    assert served.sh(commands.archive_command(served.socket, **nowhere), TWO).returncode == 1  # type: ignore[arg-type]
    assert served.sh(commands.restore_command(served.socket, **nowhere), TWO).returncode == 255  # type: ignore[arg-type]


def test_the_client_is_read_by_the_oldest_python_that_is_promised() -> None:
    source = Path(client.__file__).read_text()
    ast.parse(source, feature_version=(3, 9))
    imported = {line.split()[1] for line in source.splitlines() if line.strip().startswith(("import ", "from "))}
    assert imported == {"sys", "posix", "_socket", "socket"}


def test_a_path_that_no_setting_can_hold_is_refused() -> None:
    with pytest.raises(UsageError):
        commands.archive_command(Path("/a\nb"), client=Path("/c"), python=Path("/p"))


def test_a_conflict_and_a_wrong_file_are_told(served: Place) -> None:
    served.wal(ONE)
    assert served.push(ONE).returncode == 0
    (served.pg_wal / ONE).write_bytes(segment_bytes_of(ONE, b"of a clone"))
    refused = served.push(ONE)
    assert (refused.returncode, "with other content" in refused.stderr) == (1, True)
    (served.pg_wal / TWO).write_bytes(segment_bytes_of(ONE))
    refused = served.push(TWO)
    assert (refused.returncode, "holds the segment at" in refused.stderr) == (1, True)
    assert not served.has(TWO)


def test_damage_a_hole_and_a_store_that_is_away_are_255(served: Place) -> None:
    served.wal(ONE, TWO)
    assert [served.push(name).returncode for name in (ONE, TWO)] == [0, 0]
    (served.bed.store_folder / object_name(TWO)).write_bytes(b"x" * 5000)
    (served.bed.store_folder / object_name(ONE)).unlink()
    ends = {name: served.fetch(name) for name in (ONE, TWO)}
    assert {name: end.returncode for name, end in ends.items()} == {ONE: 255, TWO: 255}
    assert "hole" in ends[ONE].stderr
    assert "not what was sealed" in ends[TWO].stderr
    assert not (served.pg_wal / "RECOVERYXLOG").exists()


# --- whatever answers, or does not ---------------------------------------------------------------------------------


@contextmanager
def _impostor(path: Path, act: Callable[[socket.socket], None]) -> Iterator[None]:
    """Answer one client by ``act``."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def answer() -> None:
            wire, _ = listener.accept()
            with wire:
                act(wire)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def _says(answer: bytes) -> Callable[[socket.socket], None]:
    def act(wire: socket.socket) -> None:
        while wire.recv(4096):
            pass
        wire.sendall(answer)

    return act


def _hangs(wire: socket.socket) -> None:
    while wire.recv(4096):
        pass
    wire.settimeout(20)
    wire.recv(1)


NO_ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "nothing": _says(b""),
    "no line feed": _says(b"dbsec/1 end"),
    "half a word": _says(b"dbsec/1 en\n"),
    "two lines": _says(b"dbsec/1 end\nx\n"),
    "another version": _says(b"dbsec/2 end\n"),
    "no version": _says(b"end\n"),
    "no size": _says(b"dbsec/1 ok\n"),
    "an empty size": _says(b"dbsec/1 ok \n"),
    "a size that is none": _says(b"dbsec/1 ok 5x\n"),
    "garbage": _says(b"\0\xff" * 9000),
    "a reason in no UTF-8": _says(b"dbsec/1 no way\xff\n"),
    "a hang-up": lambda wire: wire.close(),
}


def test_an_answer_that_is_none_is_never_the_end(shared: Place) -> None:
    for case, act in NO_ANSWERS.items():
        for verb, code in (("push", f"pg_wal/{ONE}"), 1), (("fetch", TWO, "pg_wal/x"), 255):
            with _impostor(shared.impostor, act):
                ended = shared.ask(shared.impostor, *verb)
            assert (ended.returncode, ended.stderr[:7], "Traceback" in ended.stderr) == (code, "dbsec: ", False), case
    assert sorted(path.name for path in shared.pg_wal.iterdir()) == [ONE, "archive_status"]


def test_a_size_that_was_not_written_is_no_success(shared: Place) -> None:
    with _impostor(shared.impostor, _says(b"dbsec/1 ok 1048576\n")):
        assert shared.ask(shared.impostor, "fetch", ONE, "pg_wal/x").returncode == 255
    assert not (shared.pg_wal / "x").exists()


def test_a_server_that_hangs_is_given_up(shared: Place) -> None:
    for words, code in (("push", f"pg_wal/{ONE}"), 1), (("fetch", TWO, "pg_wal/x"), 255):
        with _impostor(shared.impostor, _hangs):
            assert shared.ask("--timeout=0.1", shared.impostor, *words).returncode == code


MISTAKES: tuple[tuple[str, ...], ...] = (
    (),
    ("{}",),
    ("{}", "fetch"),
    ("{}", "fetch", ONE),
    ("{}", "fetch", ONE, "a", "b"),
    ("{}", "steal", ONE, "a"),
    ("--nonsense", "{}", "fetch", ONE, "a"),
    ("--timeout=x", "{}", "fetch", ONE, "a"),
    ("{}", "fetch", ONE, "no/folder/x"),
    ("{}-not", "fetch", ONE, "a"),
    ("{}" + "x" * 200, "fetch", ONE, "a"),
    ("{}", "fetch", "nonsense", "a"),
    ("{}", "fetch", "\udcff\n", "a"),
)


def test_a_mistake_is_never_the_end(shared: Place) -> None:
    for words in MISTAKES:
        for proof in ((), ("--proof",)):
            ended = shared.ask(*proof, *(word.replace("{}", str(shared.socket)) for word in words))
            assert (ended.returncode, "Traceback" in ended.stderr) == (255, False), words


def test_streams_that_are_closed_change_no_code(served: Place) -> None:
    served.wal(ONE)
    client = f'"{served.python}" -I -S "{served.folder}/{commands.CLIENT}" "{served.socket}"'.replace("$", "\\$")
    shut = "0<&- 1>&- 2>&-"
    asked = {f"push pg_wal/{ONE}": 0, f"push pg_wal/{TWO}": 1, f"fetch {ONE} x": 0, f"fetch {TWO} x": 1, "fetch": 255}
    for words, code in asked.items():
        assert subprocess.run(["sh", "-c", f"{client} {words} {shut}"], cwd=served.data, check=False).returncode == code


def test_a_signal_is_never_the_end(shared: Place) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        heard = threading.Event()

        def hang(wire: socket.socket, heard: threading.Event = heard) -> None:
            heard.set()
            _hangs(wire)

        with _impostor(shared.impostor, hang):
            argv = [shared.python, "-I", "-S", shared.folder / commands.CLIENT, shared.impostor, "fetch", ONE, "x"]
            with subprocess.Popen(argv, cwd=shared.pg_wal, stderr=subprocess.DEVNULL) as child:
                assert heard.wait(20)
                child.send_signal(number)
                assert child.wait(20) in (255, -number)
        (shared.pg_wal / "x.part").unlink(missing_ok=True)


def test_what_a_killed_fetch_left_is_not_written_to(served: Place) -> None:
    served.wal(ONE)
    served.push(ONE)
    left = served.pg_wal / "RECOVERYXLOG.part"
    left.write_bytes(b"left")
    with left.open("rb") as still_open:
        assert served.fetch(ONE).returncode == 0
        assert still_open.read() == b"left"


# --- the socket --------------------------------------------------------------------------------------------------


def test_one_process_serves_a_socket_and_a_dead_one_does_not(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.socket))
    with serve(place.bed.repository, place.socket):
        assert place.socket.stat().st_mode & 0o777 == 0o600
        with pytest.raises(UsageError, match="another process"), serve(place.bed.repository, place.socket):
            pass
        place.wal(ONE)
        assert place.push(ONE).returncode == 0
    assert not place.socket.exists()
    with pytest.raises(UsageError, match="107"), serve(place.bed.repository, place.folder / ("x" * 100)):
        pass


def test_a_server_of_a_restore_takes_nothing(place: Place) -> None:
    place.wal(ONE)
    with serve(place.bed.again(), place.socket, verbs=(FETCH,)):
        refused = place.push(ONE)
    assert (refused.returncode, "does not push" in refused.stderr) == (1, True)
    assert not place.has(ONE)


def test_a_request_that_is_none_is_answered_and_forgotten(shared: Place) -> None:
    for raw in (b"", b"dbsec/1\0push\0x\0y\0end", b"\0" * 20, b"x" * 9000, b"dbsec/1\0fetch"):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(shared.socket))
            # one that is too long is not read to its end, and may be cut off instead
            with suppress(BrokenPipeError, ConnectionResetError) if len(raw) > 8192 else nullcontext():
                wire.sendall(raw)
                wire.shutdown(socket.SHUT_WR)
                assert wire.recv(4096).startswith(b"dbsec/1 no ")
    assert shared.ask(shared.socket, "fetch", TWO, "x").returncode == 1


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@root
def test_another_account_is_refused_by_either_side(place: Place) -> None:
    nobody = Account.named("nobody")
    for folder in takewhile(lambda path: not path.stat().st_mode & stat.S_IXOTH, place.folder.parents):
        folder.chmod(0o755)  # pytest closes its own, of which there is one level more below xdist
    place.folder.chmod(0o755)
    place.wal(ONE)
    as_nobody = {"user": nobody.uid, "group": nobody.gid, "extra_groups": ()}
    with serve(place.bed.again(), place.socket):
        refused = place.ask(place.socket, "fetch", ONE, "/dev/null/x", **as_nobody)
        assert (refused.returncode, "Permission denied" in refused.stderr) == (255, True)
        place.socket.chmod(0o666)
        place.data.chmod(0o777)
        refused = place.ask(place.socket, "fetch", ONE, "x", **as_nobody)
        assert (refused.returncode, "may not ask here" in refused.stderr) == (255, True)
    with serve(place.bed.again(), place.socket, owner=(nobody.uid, nobody.gid)):
        assert place.ask(place.socket, "fetch", ONE, "x", **as_nobody).returncode == 1
    place.folder.chmod(0o777)
    squat = "from socket import *; import sys; s=socket(AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(1); s.accept()"
    argv = [place.python, "-Iuc", squat, place.socket]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, **as_nobody) as squatter:  # type: ignore[call-overload]
        squatter.stdout.readline()
        refused = place.push(ONE)
    assert (refused.returncode, "which is not the archiver's" in refused.stderr) == (1, True)


# --- look-ahead --------------------------------------------------------------------------------------------------


def test_what_waits_is_put_before_it_is_asked_for(served: Place) -> None:
    served.wal(ONE, TWO, THREE, ready=True)
    (served.pg_wal / "archive_status" / f"{FOUR}.ready").touch()  # and its file is gone
    served.push(ONE)
    wait_until(lambda: served.has(TWO) and served.has(THREE), within_s=10, what="the look-ahead")
    sealed = (served.bed.store_folder / object_name(TWO)).stat().st_ino
    assert [served.push(name).returncode for name in (TWO, THREE, FOUR)] == [0, 0, 1]
    assert (served.bed.store_folder / object_name(TWO)).stat().st_ino == sealed


def test_a_file_that_changed_since_the_look_ahead_is_not_taken_for_it(served: Place) -> None:
    served.wal(ONE, TWO, ready=True)
    served.push(ONE)
    wait_until(lambda: served.has(TWO), within_s=10, what="the look-ahead")
    (served.pg_wal / TWO).write_bytes(segment_bytes_of(TWO, b"another"))
    assert "with other content" in served.push(TWO).stderr


def test_what_failed_ahead_is_tried_again(served: Place) -> None:
    served.wal(ONE, TWO, ready=True)
    (served.pg_wal / TWO).write_bytes(b"not yet")
    served.push(ONE)
    served.wal(TWO)
    assert served.push(TWO).returncode == 0


def test_no_look_ahead_leaves_the_rest_alone(place: Place) -> None:
    place.wal(ONE, TWO, ready=True)
    with serve(place.bed.again(), place.socket, verbs=(PUSH,), ahead=0):
        assert place.push(ONE).returncode == 0
    assert not place.has(TWO)


# --- a store that takes its time -----------------------------------------------------------------------------------


class _Slow:
    """A store behind a line that stands still until it is told to go on."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.asked, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def put(self, name: str, data: bytes) -> None:
        if name.startswith("wal/"):
            self.asked.set()
            assert self.go.wait(20)
        self._store.put(name, data)


def test_what_a_slow_store_takes_late_is_acknowledged_the_next_time(place: Place) -> None:
    repository = place.bed.again()
    slow = repository.store = _Slow(repository.store)  # type: ignore[assignment]
    place.wal(ONE)
    with serve(repository, place.socket):
        assert place.ask("--timeout=0.1", place.socket, "push", f"pg_wal/{ONE}").returncode == 1
        slow.go.set()
        wait_until(lambda: place.has(ONE), within_s=10, what="the store")
        assert place.push(ONE).returncode == 0


def test_who_was_let_in_is_answered_before_the_end(place: Place) -> None:
    repository = place.bed.again()
    slow = repository.store = _Slow(repository.store)  # type: ignore[assignment]
    place.wal(ONE)
    argv = [place.python, "-I", "-S", place.folder / commands.CLIENT, place.socket, "push", f"pg_wal/{ONE}"]
    serving = ExitStack()
    serving.enter_context(serve(repository, place.socket))
    with subprocess.Popen(argv, cwd=place.data) as asking:
        assert slow.asked.wait(20)
        end = threading.Thread(target=serving.close)
        end.start()
        wait_until(lambda: place.push(ONE).returncode == 1, within_s=10, what="a closed door")
        slow.go.set()
        assert asking.wait(20) == 0
        end.join()
    assert not place.socket.exists()
    assert place.has(ONE)


# --- the process -------------------------------------------------------------------------------------------------


def test_the_command_serves_until_sigterm_and_ends_what_it_has_begun(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "dbsec.toml"
    config.write_text(f'[backup]\nstore = "{place.bed.settings.store}"\nkms = "{place.bed.settings.kms}"\n')
    argv = [sys.executable, "-m", "dbsec", "backup", "wal", "archiver", "--socket", place.socket, "--config", config]
    place.wal(ONE, TWO)
    with subprocess.Popen(argv, env={**os.environ, **place.bed.environ}, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.readline().startswith("serving")
        child.send_signal(signal.SIGHUP)
        assert place.push(ONE).returncode == 0
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    assert not place.socket.exists()
    refused = place.push(TWO)
    assert (refused.returncode, "no archiver answers" in refused.stderr) == (1, True)
    # without it: the slow way, with the same codes
    python = f'{sys.executable} -m dbsec "$@"'
    slow = tmp_path / "slow dbsec"
    slow.write_text(f"#!/bin/sh\nexport KEK={place.bed.environ['KEK']}\nexec {python}\n")
    slow.chmod(0o755)
    archive, restore = commands.slow_archive_command(slow, config), commands.slow_restore_command(slow, config)
    assert place.sh(archive, TWO).returncode == 0
    shutil.move(place.pg_wal / TWO, tmp_path / TWO)
    assert [place.sh(restore, name).returncode for name in (TWO, THREE)] == [0, 1]
    (place.bed.store_folder / object_name(ONE)).write_bytes(b"x")
    assert [place.sh(restore, name).returncode for name in (ONE, "x")] == [255, 255]


def test_the_command_installs_the_client_and_prints_settings_that_work(served: Place, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "dbsec", "backup", "wal", "client", tmp_path, "--socket", served.socket]
    told = json.loads(subprocess.run([*argv, "--format", "json"], capture_output=True, check=True).stdout)["result"]
    assert Path(told["client"]).stat().st_mode & 0o777 == 0o755
    served.wal(ONE)
    assert served.sh(told["archive_command"], ONE).returncode == 0
    assert [served.sh(told["restore_command"], name).returncode for name in (ONE, TWO)] == [0, 1]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert text.splitlines()[0] == "archive_command = " + commands.literal(told["archive_command"])
    for words in ((tmp_path / "no", "--socket", "x"), (tmp_path, "--socket", "x", "--account", "no-such-account")):
        assert subprocess.run([*argv[:6], *words], capture_output=True, check=False).returncode == 2


BLOCKED = "import sys; sys.modules[sys.argv.pop(1)] = None; from dbsec.__main__ import main; main()"


def test_the_slow_fetch_never_ends_as_the_end(tmp_path: Path) -> None:
    cases = {
        (): ("[backup]\nstore = 5\n", "not toml", '[backup]\nstore = "file:///nowhere"\nkms = "file-kek:/nowhere"\n'),
        ("--nonsense",): ("",),
        ("--config", "/nowhere"): ("",),
    }
    for words, configs in cases.items():
        for config in configs:
            (tmp_path / "dbsec.toml").write_text(config)
            argv = [sys.executable, "-m", "dbsec", "backup", "wal", "fetch", ONE, "x", *words]
            assert subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode == 255, config


@pytest.mark.parametrize("missing", ["zstandard", "typer", "dbsec.backup", "dbsec.cli.backup_wal"])
def test_an_extra_that_is_missing_is_not_the_end(tmp_path: Path, missing: str) -> None:
    for verb, code in ((("fetch", ONE, "x"), 255), (("push", ONE), (1, 2, 3))):
        argv = [sys.executable, "-c", BLOCKED, missing, "backup", "wal", *verb]
        ended = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == code if isinstance(code, int) else ended.returncode in code


def test_two_archivers_at_once_put_one_segment(place: Place) -> None:
    place.wal(ONE)
    place.wal(TWO)
    other = place.socket.with_name("other.sock")
    with serve(place.bed.again(), place.socket), serve(place.bed.again(), other):
        asked = [(socket, name) for name in (ONE, TWO) for socket in (place.socket, other)]
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda one: place.ask(one[0], "push", f"pg_wal/{one[1]}"), asked))
    assert [one.returncode for one in done] == [0] * 4
    assert place.has(ONE)
    assert place.has(TWO)
