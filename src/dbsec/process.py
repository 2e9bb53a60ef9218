"""The one place that starts and stops processes: a clean environment, another account, death by pid and start time."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ProgramError, ProgramMissing

_TAIL = 1500


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
        """Return the account of this process."""
        entry = pwd.getpwuid(os.geteuid())
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


def _identity(account: Account | None) -> tuple[int | None, int | None, list[int] | None]:
    if account is None or account.is_current:
        return None, None, None
    return account.uid, account.gid, []


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout_s: float = 120,
    hint: str = "",
) -> str:
    """Run a program to its end and return what it printed to stdout.

    The child gets ``clean_environment(cwd)`` and ``env``; secrets go through ``stdin`` or a private file, never argv.
    Errors: ``ProgramMissing``; ``ProgramError`` with the end of its stderr for another exit code than 0, or a time-out.
    """
    uid, gid, groups = _identity(account)
    name = Path(argv[0]).name
    try:
        done = subprocess.run(
            [str(a) for a in argv],
            cwd=cwd,
            env=clean_environment(cwd, env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
            check=False,
        )
    except FileNotFoundError as exc:
        raise _not_there(exc, argv, cwd, hint) from exc
    except PermissionError as exc:
        who = account.name if account else Account.current().name
        raise ProgramError(f"account '{who}' may not run '{argv[0]}' in '{cwd}'", hint=hint) from exc
    except subprocess.TimeoutExpired as exc:
        raise ProgramError(f"'{name}' did not end within {timeout_s:g} s", hint=hint) from exc
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-_TAIL:]
        raise ProgramError(f"'{name}' ended with {done.returncode}", tail=said, hint=hint, code=done.returncode)
    return done.stdout


def _not_there(exc: OSError, argv: Sequence[str | Path], cwd: Path, hint: str = "") -> ProgramError:
    if str(exc.filename) == str(cwd):
        return ProgramError(f"folder '{cwd}', in which '{argv[0]}' is to run, is not there", hint=hint)
    return ProgramMissing(f"program '{argv[0]}' is not there", hint=hint)


def run_detaching(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> int:
    """Run a program that leaves a daemon behind, and return its exit code.

    Its output goes nowhere: a pipe would be held open by the daemon, and the caller would wait for ever.
    """
    uid, gid, groups = _identity(account)
    try:
        return subprocess.run(
            [str(a) for a in argv],
            cwd=cwd,
            env=clean_environment(cwd, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
            check=False,
        ).returncode
    except FileNotFoundError as exc:
        raise _not_there(exc, argv, cwd) from exc
    except subprocess.TimeoutExpired as exc:
        raise ProgramError(f"'{Path(argv[0]).name}' did not end within {timeout_s:g} s") from exc


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
    uid, gid, groups = _identity(account)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            [str(a) for a in argv],
            cwd=cwd,
            env=clean_environment(cwd, env),
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(inherit),
            user=uid,
            group=gid,
            extra_groups=groups,
        )
    except FileNotFoundError as exc:
        raise _not_there(exc, argv, cwd) from exc
    except PermissionError as exc:
        raise ProgramError(f"'{argv[0]}' may not be run in '{cwd}'") from exc
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


def last_lines(log: Path, *, limit: int = _TAIL) -> str:
    """Return the end of a server's log for an error message; empty where there is none."""
    try:
        return log.read_text(encoding="utf-8", errors="replace")[-limit:].strip()
    except OSError:
        return ""
