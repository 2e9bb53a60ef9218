"""Fixtures of every folder: clusters by version, a database per test, and what DBSEC_REQUIRE=all demands."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbsec.errors import ProgramMissing
from dbsec.pg import Conninfo
from dbsec.testing.clusters import Cluster, Clusters

DEFAULT = 17


def missing(reason: str) -> None:
    """Skip by name, or fail where everything is required: in CI a missing server is an error."""
    if os.environ.get("DBSEC_REQUIRE") == "all":
        pytest.fail(f"DBSEC_REQUIRE=all, but {reason}")
    pytest.skip(reason)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg_major" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("pg")
        majors = marker.args if marker else (DEFAULT,)
        metafunc.parametrize("pg_major", majors, ids=[f"pg{m}" for m in majors], scope="session")


@pytest.fixture(scope="session")
def server_root() -> Path:
    """A folder that the server account may enter, kept between runs: it holds the cached initdb."""
    root = Path(tempfile.gettempdir()) / f"dbsec-tests-{os.geteuid()}"
    root.mkdir(mode=0o755, exist_ok=True)
    return root


@pytest.fixture(scope="session")
def clusters(server_root: Path, pg_major: int) -> Iterator[Clusters]:
    made = Clusters(server_root, pg_major)
    try:
        made.binaries()
    except ProgramMissing as exc:
        missing(f"PostgreSQL {pg_major} is not installed: {exc.hint}")
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
