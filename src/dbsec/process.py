"""The one place that starts and stops processes: a clean environment, another account, death by pid and start time."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ProgramError, ProgramMissing

_TAIL = 1500
_Output = tuple[str | bytes | None, str | bytes | None]  # bytes where a time-out cut it off


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs a child: a name from the password database with its uid and gid."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> Account:
        """Look an account up; ``KeyError`` where there is none."""
        entry = pwd.getpwnam(name)
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @classmethod
    def current(cls) -> Account:
        """Return the account of this process; one that the password database does not know is named ``uid:NNN``."""
        uid = os.geteuid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(f"uid:{uid}", uid, os.getegid())
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def is_current(self) -> bool:
        return self.uid == os.geteuid()


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid that cannot be mistaken for a later process: ``started`` is in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Read the start time of a live process; None where it is gone or a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return all that a child inherits: nothing of ours, so no secret of ours."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(extra or {}),
    }


def _start(
    argv: Sequence[str | Path],
    cwd: Path,
    account: Account | None,
    env: Mapping[str, str] | None,
    *,
    hint: str = "",
    **streams: Any,
) -> subprocess.Popen[str]:
    """Start a child in its own session, with nothing of ours but what ``streams`` names."""
    who = account or Account.current()
    other = not who.is_current
    try:
        return subprocess.Popen(
            [str(a) for a in argv],
            cwd=cwd,
            env=clean_environment(cwd, env),
            text=True,
            errors="replace",
            start_new_session=True,
            user=who.uid if other else None,
            group=who.gid if other else None,
            extra_groups=[] if other else None,
            **streams,
        )
    except OSError as exc:
        raise _not_started(exc, str(argv[0]), cwd, who, hint) from exc


def _not_started(exc: OSError, program: str, cwd: Path, who: Account, hint: str) -> ProgramError:
    absent = isinstance(exc, FileNotFoundError | NotADirectoryError)
    if absent and str(exc.filename) == str(cwd):
        return ProgramError(
            f"folder '{cwd}', in which '{program}' is to run, is not there", hint=hint or f"ls -ld {cwd}"
        )
    hint = hint or f"ls -l {program}"
    if absent:
        return ProgramMissing(f"program '{program}' is not there", hint=hint)
    if isinstance(exc, PermissionError):
        return ProgramError(f"account '{who.name}' may not run '{program}' in '{cwd}'", hint=hint)
    return ProgramError(f"'{program}' cannot be started: {exc.strerror}", hint=hint)


def _end_of(
    child: subprocess.Popen[str], name: str, timeout_s: float, stdin: str | None = None, hint: str = ""
) -> _Output:
    """Wait for the end of a child; where it is late, or we are interrupted, it dies with all that it started."""
    with child:
        try:
            return child.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            said = _said(_killed(child))
            raise ProgramError(f"'{name}' did not end within {timeout_s:g} s", tail=said, hint=hint) from exc
        except BaseException:
            _kill_group(child)
            raise


def _killed(child: subprocess.Popen[str]) -> _Output:
    _kill_group(child)
    try:
        return child.communicate(timeout=1)
    except subprocess.TimeoutExpired as exc:  # one that has left the session holds the pipes open
        return exc.output, exc.stderr


def _kill_group(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _said(output: _Output) -> str:
    out, err = (text.decode(errors="replace") if isinstance(text, bytes) else text or "" for text in output)
    return (err.strip() or out.strip())[-_TAIL:]


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    inherit: Sequence[int] = (),
    timeout_s: float = 120,
    hint: str = "",
) -> str:
    """Run a program to its end and return what it printed to stdout.

    The child gets ``clean_environment(cwd)`` and ``env``, and keeps the file descriptors ``inherit``; secrets go
    through these, ``stdin`` or a private file, never argv.
    Errors: ``ProgramMissing``; ``ProgramError`` with the end of its stderr for another exit code than 0, or a time-out,
    at which what it had started in its session is killed too.
    """
    pipe = subprocess.PIPE
    source = subprocess.DEVNULL if stdin is None else pipe
    streams = {"stdin": source, "stdout": pipe, "stderr": pipe, "pass_fds": tuple(inherit)}
    child = _start(argv, cwd, account, env, hint=hint, **streams)
    name = Path(argv[0]).name
    output = _end_of(child, name, timeout_s, stdin, hint)
    if code := child.returncode:
        raise ProgramError(f"'{name}' ended with {code}", tail=_said(output), hint=hint, code=code)
    return str(output[0])


def run_detaching(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> int:
    """Run a program that leaves a daemon behind, and return its exit code.

    Its output goes nowhere: a pipe would be held open by the daemon, and the caller would wait for ever. Errors: as
    of ``run``.
    """
    none = subprocess.DEVNULL
    child = _start(argv, cwd, account, env, stdin=none, stdout=none, stderr=none)
    _end_of(child, Path(argv[0]).name, timeout_s)
    return child.returncode


def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
) -> ProcessId:
    """Start a server in its own session, its output appended to ``log`` (made 0600); returns at once.

    ``inherit`` are file descriptors that the child keeps. Errors: ``ProgramMissing``, ``ProgramError``.
    """
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    none, both = subprocess.DEVNULL, subprocess.STDOUT
    try:
        child = _start(argv, cwd, account, env, stdin=none, stdout=fd, stderr=both, pass_fds=tuple(inherit))
    finally:
        os.close(fd)
    child.returncode = 0  # whoever stops it does so by ProcessId, in this process or a later one
    return ProcessId.of(child.pid) or ProcessId(child.pid, 0)


def stop(
    process: ProcessId,
    *,
    ladder: Sequence[tuple[int, float]] = ((signal.SIGTERM, 10.0),),
    clock: Clock = SYSTEM,
) -> bool:
    """Stop a process that was started here or by an earlier run; returns False where it was already gone.

    ``ladder`` is signals with the seconds that each is given; SIGKILL comes last. A pid that now belongs to another
    process is left alone. Errors: ``ProgramError`` where not even SIGKILL ends it.
    """
    if not process.alive:
        _reap(process.pid)
        return False
    for sig, wait_s in (*ladder, (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sig)
        deadline = clock.monotonic() + wait_s
        while clock.monotonic() < deadline:
            if not process.alive:
                _reap(process.pid)
                return True
            clock.sleep(0.01)
    raise ProgramError(f"process {process.pid} does not end, not even by SIGKILL")


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let a clean-up end: interrupts from the terminal and ends from outside are ignored while the block runs.

    Does nothing outside the main thread, which is the only one that signals reach.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, act in before.items():
            signal.signal(number, act)


def last_lines(log: Path, *, limit: int = _TAIL) -> str:
    """Return the end of a server's log for an error message; empty where there is none."""
    try:
        return log.read_text(encoding="utf-8", errors="replace")[-limit:].strip()
    except OSError:
        return ""
