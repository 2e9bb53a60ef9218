"""What every folder shares: clusters by version, a database per test, the reaper, time budgets, DBSEC_REQUIRE=all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hypothesis
import pytest

from dbsec import files, process
from dbsec.errors import ProgramError, ProgramMissing
from dbsec.lab import account, ports
from dbsec.pg import Conninfo
from dbsec.process import Account, ProcessId
from dbsec.progress import Silent
from dbsec.testing.clusters import Cluster, Clusters
from dbsec.testing.reaper import nothing_survives

if TYPE_CHECKING:
    from tests.daemons import Daemons
    from tests.moto import Moto
    from tests.objectstore import S3
    from tests.openbao import OpenBao
    from tests.softhsm import SoftHsm

DEFAULT = 17
ROOT = Path(__file__).parents[1]
EXTRA = ROOT / ".extra"  # where make setup-extra unpacks what it may not install
os.environ["PATH"] = f"{os.environ['PATH']}:{EXTRA / 'bin'}"
# Seconds of a folder's tests summed over all workers. Machines are noisy: three times as much is an error.
BUDGETS_S = {
    "unit": 120,
    "arch": 60,
    "contract": 90,
    "docs": 60,
    "integration": 600,
    "attack": 180,
    "drill": 120,
    "acceptance": 420,
}
_spent_s: dict[str, float] = dict.fromkeys(BUDGETS_S, 0.0)
_clusters: list[Clusters] = []
_other_servers: list[Callable[[], list[ProcessId]]] = []

# A shared machine stalls now and then: how long an example takes says nothing.
hypothesis.settings.register_profile("dbsec", deadline=None)
hypothesis.settings.load_profile("dbsec")


def missing(reason: str) -> NoReturn:
    """Skip by name, or fail where everything is required: in CI a missing server is an error."""
    if os.environ.get("DBSEC_REQUIRE") == "all":
        pytest.fail(f"DBSEC_REQUIRE=all, but {reason}")
    pytest.skip(reason)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg_major" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("pg")
        majors = marker.args if marker else (DEFAULT,)
        metafunc.parametrize("pg_major", majors, ids=[f"pg{m}" for m in majors], scope="session")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _, _, rest = report.nodeid.partition("tests/")
    folder = rest.partition("/")[0]
    if folder in _spent_s:
        _spent_s[folder] += report.duration


def _over_budget() -> list[str]:
    return [folder for folder, spent in _spent_s.items() if spent > 3 * BUDGETS_S[folder]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    shown = [f"{folder} {spent:.0f}/{BUDGETS_S[folder]}" for folder, spent in _spent_s.items() if spent]
    terminalreporter.write_line(f"seconds spent/budget: {', '.join(shown)}")
    for folder in _over_budget():
        terminalreporter.write_line(f"ERROR: tests/{folder} took three times its budget", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _over_budget() and session.exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _reaper() -> Iterator[None]:
    """Fail a test that leaves a process or a listener behind; the shared servers may stay."""
    with nothing_survives(spare=_shared_servers):
        yield


def _shared_servers() -> list[ProcessId]:
    asked = [*(made.running for made in _clusters), *_other_servers]
    return [pid for running in asked for pid in running()]


@pytest.fixture(scope="session")
def server_root() -> Path:
    """A folder that the server account may enter, kept between runs: it holds the cached initdb."""
    root = Path(tempfile.gettempdir()) / f"dbsec-tests-{os.geteuid()}"
    root.mkdir(mode=0o755, exist_ok=True)
    assert root.lstat().st_uid == os.geteuid(), f"'{root}' belongs to somebody else"
    return root


@pytest.fixture(scope="session")
def clusters(server_root: Path, pg_major: int) -> Iterator[Clusters]:
    who = account.server_account(Silent())
    try:
        made = Clusters(server_root, pg_major, account=who, free_port=lambda: ports.free(1)[0], unpacked=EXTRA / "root")
        made.binaries()
    except ProgramMissing as exc:
        missing(f"PostgreSQL {pg_major} is not installed: {exc.hint}")
    _clusters.append(made)
    yield made
    made.close()
    assert not made.running(), "a server outlived its tests"


@pytest.fixture(scope="session")
def cluster(clusters: Clusters) -> Cluster:
    """One server for all tests of a version; tests must not change roles, hba or TLS here."""
    return clusters.create()


@pytest.fixture(scope="session")
def cluster_factory(clusters: Clusters) -> Callable[..., Cluster]:
    """Make a private server: ``cluster_factory(ssl="on", ...)``."""
    return clusters.create


@dataclass(frozen=True)
class Database:
    """A fresh database in the shared server."""

    cluster: Cluster
    conninfo: Conninfo


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    name = f"t_{secrets.token_hex(4)}"
    yield Database(cluster, cluster.create_database(name))
    cluster.drop_database(name)


@pytest.fixture(scope="session")
def openbao_factory(server_root: Path) -> Iterator[Callable[..., OpenBao]]:
    """Make a private OpenBao, to be paused or stopped: ``openbao_factory("raft")`` keeps its data over a restart."""
    from tests.openbao import Servers  # brings hvac, which most folders never need

    try:
        made = Servers(server_root, account.server_account(Silent()))
    except ProgramMissing as exc:
        missing(f"OpenBao is not installed: {exc.hint}")
    _other_servers.append(made.running)
    yield made.create
    made.close()
    assert not made.running(), "an OpenBao outlived its tests"


@pytest.fixture(scope="session")
def openbao(openbao_factory: Callable[..., OpenBao]) -> OpenBao:
    """One OpenBao for all tests of a worker; each test takes keys, policies and tokens of its own."""
    return openbao_factory()


@pytest.fixture(scope="session")
def daemons(server_root: Path) -> Iterator[Daemons]:
    """Make private MariaDBs and PgBouncers."""
    from tests.daemons import Daemons

    made = Daemons(server_root, account.server_account(Silent()), (EXTRA / "root/usr/sbin", EXTRA / "root/usr/bin"))
    _other_servers.append(made.running)
    yield made
    made.close()
    assert not made.running(), "a MariaDB or PgBouncer outlived its tests"


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """A PKCS#11 token in software; one in a process, for the module is initialised once."""
    from tests.softhsm import start

    try:
        return start(tmp_path_factory.mktemp("softhsm"), EXTRA / "root")
    except ProgramMissing as exc:
        missing(f"{exc}: {exc.hint}")


@pytest.fixture(scope="session")
def moto(server_root: Path) -> Iterator[Moto]:
    """AWS's shapes, on loopback."""
    from tests.moto import Moto

    server = Moto.start(server_root)
    _other_servers.append(server.running)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(server_root: Path) -> Iterator[S3]:
    """One real S3 for all tests of a worker; each takes a prefix of its own: ``s3.url()``."""
    from tests.objectstore import Stores

    made = Stores(server_root, account.server_account(Silent()))
    _other_servers.append(made.running)
    try:
        yield made.create()
    except ProgramMissing as exc:
        missing(f"SeaweedFS is not installed: {exc.hint}")
    finally:
        made.close()
    assert not made.running(), "an S3 outlived its tests"


@pytest.fixture(scope="session")
def user_bin(server_root: Path) -> Path:
    """The ``bin`` of a virtual environment with dbsec that the server account may run: root's may lie below /root.

    Cached by lock and source. Skipped where the tests run as an ordinary user already.
    """
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    who = account.server_account(Silent())
    python = next((p for p in (Path("/usr/bin/python3"), Path(sys.executable).resolve()) if _runs(p, who)), None)
    if python is None:
        missing("python3 with venv, 3.11 or newer, runs for no ordinary user: apt-get install python3-venv")
    source = [ROOT / name for name in ("pyproject.toml", "src", "app", "db")]
    made = f"{_digest(ROOT / 'locks/demo.txt')}-{_digest(*source)}"
    venv = server_root / "user-venv"
    with files.locked(server_root / ".user-venv.lock"):
        if not (venv / made).exists():
            _install(python, venv, made)
    return venv / "bin"


def _runs(python: Path, who: Account) -> bool:
    try:
        process.run([python, "-c", "import venv, ensurepip, tomllib"], cwd=Path("/"), account=who)
    except ProgramError:
        return False
    return True


def _install(python: Path, venv: Path, made: str) -> None:
    pip = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
    lock = made.partition("-")[0]
    if not list(venv.glob(f"{lock}-*")):
        shutil.rmtree(venv, ignore_errors=True)
        process.run([python, "-m", "venv", venv], cwd=Path("/"))
        demo = ["--require-hashes", "-r", ROOT / "locks/demo.txt"]
        process.run([*pip, *demo], cwd=Path("/"), env=settings, timeout_s=600)
    with tempfile.TemporaryDirectory() as built:
        process.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=ROOT)
        wheel = next(Path(built).glob("*.whl"))
        process.run([*pip, "--no-deps", "--force-reinstall", wheel], cwd=Path("/"), env=settings)
    for stamp in venv.glob("*-*"):
        stamp.unlink()
    process.run(["chmod", "-R", "a+rX", venv], cwd=Path("/"))
    (venv / made).touch()


def _digest(*paths: Path) -> str:
    seen = hashlib.sha256()
    for path in sorted(file for top in paths for file in (top.rglob("*") if top.is_dir() else [top])):
        if path.is_file() and "__pycache__" not in path.parts:
            seen.update(str(path).encode() + b"\0" + path.read_bytes())
    return seen.hexdigest()[:12]
