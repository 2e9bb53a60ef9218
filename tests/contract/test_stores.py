"""What every store owes: the claims of dbsec.testing.stores, on a folder and on a real S3 with and without versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.lying_s3 import lying, overwrites
from tests.objectstore import S3

from dbsec.store import ObjectStore, open_store
from dbsec.store.file import FileStore
from dbsec.testing import stores as suite
from dbsec.testing.proxy import Proxy
from dbsec.testing.stores import Provider

KINDS = ("file", "s3", "s3 without versions")
_OUT_OF_ORDER = "SeaweedFS without versions lists 'a/b' before 'a-b'; no object of a repository lies beside such a one"


@pytest.fixture
def provider_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Provider]]:
    """Make the provider of a kind; a test's proxy ends with it."""
    with ExitStack() as stack:
        yield lambda kind: _file(tmp_path) if kind == "file" else _s3(request, kind, stack)


@pytest.fixture(scope="module")
def plain_bucket(s3: S3) -> str:
    return s3.plain_bucket()


def _file(top: Path) -> Provider:
    def opened() -> ObjectStore:
        folder = top / f"{len(list(top.iterdir()))}"
        folder.mkdir()
        return FileStore(folder)

    @contextmanager
    def away(_store: ObjectStore) -> Iterator[None]:
        newest = max(top.iterdir(), key=lambda one: int(one.name))
        newest.rename(newest.with_name("0away"))
        try:
            yield
        finally:
            newest.with_name("0away").rename(newest)

    return Provider(opened, away=away)


def _s3(request: pytest.FixtureRequest, kind: str, stack: ExitStack) -> Provider:
    s3: S3 = request.getfixturevalue("s3")
    proxy = stack.enter_context(Proxy(s3.port))
    bucket = s3.bucket if kind == "s3" else request.getfixturevalue("plain_bucket")

    def opened() -> ObjectStore:
        url = s3.url(bucket=bucket, endpoint=f"https://localhost:{proxy.port}", timeout_s="20")
        return open_store(url, environ=s3.environ)

    @contextmanager
    def away(_store: ObjectStore) -> Iterator[None]:
        proxy.cut()
        try:
            yield
        finally:
            proxy.forward()

    lacks = {} if kind == "s3" else {"order_of_slashes": _OUT_OF_ORDER}
    return Provider(opened, away=away, lacks=lacks)


@pytest.mark.parametrize("claim", suite.CLAIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_holds(kind: str, claim: str, provider_of: Callable[[str], Provider]) -> None:
    provider = provider_of(kind)
    assert set(provider.lacks) <= set(suite.CLAIMS)
    if claim in provider.lacks:
        pytest.skip(provider.lacks[claim])
    assert suite.check(claim, provider) == []


def test_the_suite_tells_a_store_that_overwrites(s3: S3, tmp_path: Path) -> None:
    with lying(s3, tmp_path, overwrites) as proxy:
        bad = Provider(lambda: open_store(s3.url(endpoint=proxy.endpoint), environ=s3.environ))
        assert len(suite.check("create_only", bad)) == 4
        assert suite.check("one_winner", bad)
