"""The lab: every server up in parallel, described in one file, and gone without a trace."""

from __future__ import annotations

import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from dbsec import files, process
from dbsec.errors import LabError, ProgramError, ProgramMissing
from dbsec.lab import account, cluster, objectstore, openbao, ports
from dbsec.lab.cluster import Profile
from dbsec.lab.site import Site
from dbsec.lab.state import State, stop_all
from dbsec.pg import Conninfo
from dbsec.pg.binaries import Binaries, Source, find
from dbsec.pg.instance import Instance
from dbsec.process import Account
from dbsec.progress import Progress
from dbsec.secret import Secret
from dbsec.tls.ca import Authority

_NEEDED_BYTES = 1 << 30
_FULL_BYTES = 16 << 20  # the size of one WAL segment


@dataclass(frozen=True, slots=True)
class Plan:
    """What to bring up. ``profile`` None is TLS by the lab's CA; ``port`` 0 is any free one."""

    folder: Path
    programs: Path
    postgres: Source = Source.WHEEL
    port: int = 0
    profile: Callable[[Site], Profile] = cluster.encrypted_profile


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab. ``admin`` is the superuser's conninfo as the lab was started."""

    site: Site
    primary: Instance
    standby: Instance
    admin: Conninfo

    @property
    def folder(self) -> Path:
        return self.site.folder

    def down(self) -> list[str]:
        """Stop every server and delete the lab's folder; returns what had to be stopped."""
        return down(self.folder)


def up(plan: Plan, *, progress: Progress) -> Lab:
    """Bring the lab up; what a killed run left is stopped first.

    Locks: an flock beside the folder while it comes up: a second ``up`` waits and then finds it running.
    Errors: ``LabError`` where it is already up, or something stops the start; then all that had started is stopped.
    """
    who = account.server_account(progress)
    _prepare_home(plan.folder.parent, who)
    with files.locked(plan.folder.parent / f".{plan.folder.name}.lock"):
        _clear_leftovers(plan.folder, progress)
        site = _site(plan, who)
        try:
            return _bring_up(plan, site, progress)
        except BaseException as exc:
            progress.step("stopping what had started")
            with process.undisturbed():
                stop_all(site.state)
            if told := _explained(exc, site.folder):
                raise told from exc
            raise


def _explained(exc: BaseException, folder: Path) -> LabError | None:
    """Name a full disk, of which servers tell in many ways or not at all, and what else is no error of ours yet."""
    if not isinstance(exc, Exception):
        return None
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        hint = "free some disk space, or set DBSEC_HOME to a larger file system"
        return LabError(f"no space left on the disk of '{folder}': {exc}", hint=hint)
    if isinstance(exc, OSError | psycopg.Error):
        return LabError(f"the lab cannot start: {exc}", hint=f"see {folder / 'logs'}")
    return None


def load(folder: Path) -> State:
    """Read a lab that is up. Errors: ``LabError`` where there is none."""
    state = State.load(folder)
    if state is None or not any(s.process.alive for s in state.servers.values()):
        hint = "dbsec lab up" if folder.name == "lab" else f"dbsec {folder.name} --keep"
        raise LabError(f"no lab is up in '{folder}'", hint=hint)
    return state


def down(folder: Path) -> list[str]:
    """Stop what runs in a lab's folder, also what a killed run left, and delete the folder."""
    state = State.load(folder)
    stopped = stop_all(state) if state else []
    _delete(folder)
    return stopped


def _command(folder: Path, verb: str) -> str:
    return f"dbsec lab {verb}" + ("" if folder.name == "lab" else f" --name {folder.name}")


def _delete(folder: Path) -> None:
    """Delete a lab, what says that it is one last: a folder without it would be taken for somebody's own."""
    if not folder.exists():
        return
    try:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "lab.json"):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        folder.rmdir()
    except OSError as exc:
        raise LabError(f"cannot delete '{folder}': {exc}", hint=f"rm -r {folder}") from exc


def exports(state: State) -> Mapping[str, str]:
    """Name the environment variables with which psql, bao and the AWS tools reach the lab.

    A value is quoted for a POSIX shell: PATH gets the lab's programs in front, a credential is read from its file.
    """
    primary = state.facts["postgres"]
    bao, store = state.facts["openbao"], state.facts["objectstore"]
    plain = {
        "PGHOST": "localhost",
        "PGHOSTADDR": ports.LOOPBACK,
        "PGPORT": str(primary["port"]),
        "PGUSER": cluster.SUPERUSER,
        "PGDATABASE": "postgres",
        "PGPASSFILE": str(primary["passfile"]),
        **{k: str(v) for k, v in primary["environment"].items()},
        "BAO_ADDR": bao["address"],
        "BAO_CACERT": state.facts["ca"],
        "AWS_ENDPOINT_URL": store["address"],
        "AWS_CA_BUNDLE": state.facts["ca"],
        "AWS_SHARED_CREDENTIALS_FILE": store["credentials"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return {
        **{name: shlex.quote(value) for name, value in plain.items()},
        "PATH": shlex.quote(f"{primary['programs']}:{bao['programs']}:") + '"$PATH"',
        "BAO_TOKEN": f'"$(cat {shlex.quote(bao["token"])})"',
    }


def _bring_up(plan: Plan, site: Site, progress: Progress) -> Lab:
    binaries = _found(plan)
    progress.step(f"PostgreSQL {binaries.version} ({binaries.source}), OpenBao and S3 in {site.folder}")
    sql, standby, api, raft = ports.free(4)
    sql = plan.port or sql
    profile = plan.profile(site)
    with ThreadPoolExecutor(3) as pool, ExitStack() as failed:
        started = pool.submit(cluster.start, site, binaries, profile, port=sql, standby_port=standby)
        others = {
            "OpenBao": pool.submit(openbao.start, site, port=api, cluster_port=raft),
            "object store": pool.submit(objectstore.start, site),
        }
        failed.callback(lambda: stop_all(site.state))  # so that the other threads' waits end at once
        pair = started.result()
        progress.step("PostgreSQL is up: the primary, and a standby that streams")
        for name, future in others.items():
            future.result()
            progress.step(f"{name} is up")
        failed.pop_all()
    environment = {f"PG{name.upper()}": value for name, value in profile.admin.items()}
    passfile = site.write("secrets/pgpass", pair.admin.passfile_line())
    site.state.tell(
        ca=str(site.ca_path),
        postgres={
            "port": sql,
            "standby_port": standby,
            "passfile": str(passfile),
            "environment": environment,
            "source": str(binaries.source),
            "version": binaries.version,
            "programs": str(pair.primary.binaries.folder),
        },
    )
    return Lab(site, pair.primary, pair.standby, pair.admin)


def _site(plan: Plan, who: Account) -> Site:
    folder, mode = plan.folder, _mode(who)
    files.make_folder(folder, mode=mode)
    files.make_folder(plan.programs, mode=0o755)
    if not account.may_enter(who, folder):
        folder.rmdir()
        raise LabError(
            f"account '{who.name}' may not enter '{folder}': a folder above is closed to it",
            hint=f"chmod o+x {folder.parent}, or set DBSEC_HOME to a folder that every account may enter",
        )
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise LabError(f"'{folder}' has {free >> 20} MiB free, the lab needs {_NEEDED_BYTES >> 20}", hint="df -h")
    authority = Authority.create("dbsec lab CA", days=30)
    site = Site(folder, plan.programs, who, authority, State(folder, secrets.token_hex(16)))
    site.state.tell(account=who.name)  # first of all: this is what makes the folder a lab, to be deleted one day
    files.make_folder(folder / "secrets", mode=mode)
    for name in ("logs", "tmp"):
        site.subfolder(name)
    files.write_atomic(site.ca_path, authority.certificate, mode=0o644)
    site.secret("postgres", Secret(secrets.token_urlsafe(24)))
    return site


def _mode(who: Account) -> int:
    """Let the servers' account pass, and nobody read."""
    return 0o700 if who.is_current else 0o711


def _prepare_home(home: Path, who: Account) -> None:
    """Make the home and what is missing above it; what is there keeps its mode."""
    if bad := set(str(home)) & set('$`"\\\n'):
        raise LabError(
            f"'{home}' cannot hold a lab: pg_ctl gives its path to a shell, and {sorted(bad)} would not survive it",
            hint="set DBSEC_HOME to a folder without these characters",
        )
    try:
        files.make_folder(home, mode=_mode(who))
    except OSError as exc:
        raise LabError(f"cannot make '{home}': {exc.strerror}", hint="set DBSEC_HOME to another folder") from exc


def _clear_leftovers(folder: Path, progress: Progress) -> None:
    state = State.load(folder)
    if state and "postgres" in state.facts and any(s.process.alive for s in state.servers.values()):
        down_ = ", ".join(s.name for s in state.servers.values() if not s.process.alive)
        raise LabError(
            f"the lab in '{folder}' is already up" + (f", but for {down_}" if down_ else ""),
            hint=f"{_command(folder, 'status')}, or {_command(folder, 'down')}",
        )
    if folder.exists():
        progress.step("an earlier lab did not end well: stopping what it left")
        down(folder)


def _found(plan: Plan) -> Binaries:
    """Find PostgreSQL and run its programs once as ourselves: a missing library is told by name before any starts."""
    try:
        binaries = find(plan.postgres, cache=plan.programs / "pg0")
        process.run([binaries.program("initdb"), "--version"], cwd=Path("/"), env=binaries.env)
    except ProgramMissing:
        raise
    except ProgramError as exc:
        library = exc.tail.partition("libraries:")[2].partition(":")[0].strip()
        hint = f"install the package that holds {library}" if library else "dbsec lab up --postgres system"
        raise LabError(f"PostgreSQL ({plan.postgres}) does not run here: {exc.tail}", hint=hint) from exc
    return binaries
