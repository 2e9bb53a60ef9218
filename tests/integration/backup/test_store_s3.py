"""What a real S3 answers, told apart: what is missing, refused, full or away, and that a request is heard once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.backup_bed import SEGMENT, SYSTEM, make_bed
from tests.lying_s3 import FailsAfterThePut, is_full, lying
from tests.objectstore import S3

from dbsec.backup import Cluster, init_repository
from dbsec.store import (
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    open_store,
)
from dbsec.testing.proxy import Proxy
from dbsec.tls.ca import Authority

ACTS: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put("a", b""),
    "get": lambda store: store.get("a"),
    "part": lambda store: store.get("a", 1, 2),
    "head": lambda store: store.head("a"),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete("a"),
}


def answer(act: Callable[[], object]) -> type[StoreError] | None:
    try:
        act()
    except StoreError as exc:
        return type(exc)
    return None


def answers(store: ObjectStore, *acts: str) -> dict[str, type[StoreError] | None]:
    return {name: answer(lambda act=ACTS[name]: act(store)) for name in acts or ACTS}  # type: ignore[misc]


def test_a_missing_object_is_no_missing_bucket(s3: S3) -> None:
    empty = open_store(s3.url(), environ=s3.environ)
    found = answers(empty, "get", "part", "head", "list", "delete")
    missing = dict.fromkeys(("get", "part", "head"), ObjectMissing)
    assert found == {**missing, "list": None, "delete": None}
    # a HEAD has no body: whether the bucket or the object is missing, it does not tell
    none = open_store(s3.url(bucket=f"none-{secrets.token_hex(4)}"), environ=s3.environ)
    assert set(answers(none, "get", "list", "delete").values()) == {StoreRefused}


@pytest.mark.parametrize("wrong", ["S3_KEY", "S3_SECRET"])
def test_a_wrong_key_is_refused(s3: S3, wrong: str) -> None:
    store = open_store(s3.url(), environ={**s3.environ, wrong: "another-one"})
    assert answers(store) == dict.fromkeys(ACTS, StoreRefused)
    with pytest.raises(StoreRefused) as caught:
        store.put("a", b"")
    assert "another-one" not in str(caught.value)
    assert "key of the store" in caught.value.hint


def test_a_certificate_of_somebody_else_is_refused(s3: S3, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority.create("somebody else", days=1).certificate)
    store = open_store(s3.url(ca=str(other)), environ=s3.environ)
    with pytest.raises(StoreRefused, match="UnknownIssuer") as caught:
        store.get("a")
    assert "?ca=" in caught.value.hint


def test_a_store_that_does_not_answer_is_away(s3: S3) -> None:
    url = s3.url(endpoint="https://localhost:1")
    assert set(answers(open_store(url, environ=s3.environ), "get", "list").values()) == {StoreUnavailable}
    with Proxy(s3.port) as proxy:
        store = open_store(s3.url(endpoint=f"https://localhost:{proxy.port}", timeout_s="1"), environ=s3.environ)
        store.put("before", b"1")
        proxy.black_hole()
        assert answers(store, "put") == {"put": StoreUnavailable}
        proxy.forward()
        assert store.get("before") == b"1"


def test_a_store_that_is_full_says_so(s3: S3, tmp_path: Path) -> None:
    with lying(s3, tmp_path, is_full) as proxy:
        store = open_store(s3.url(endpoint=proxy.endpoint), environ=s3.environ)
        with pytest.raises(StoreFull):
            store.put("a", b"1")


def test_a_put_that_was_not_heard_of_is_found_to_be_ours(s3: S3, tmp_path: Path) -> None:
    """The store has it and the answer is lost: the second try is told that it exists, and it is our content."""
    bed = make_bed(tmp_path)
    lie = FailsAfterThePut()
    with lying(s3, tmp_path, lie) as proxy:
        environ = {**bed.environ, **s3.environ}
        settings = bed.settings.model_copy(update={"store": s3.url()})
        init_repository(settings, Cluster(SYSTEM, SEGMENT), environ=environ)
        bed.environ = environ
        through = bed.again(store=settings.store.replace(s3.endpoint, proxy.endpoint))
        lie.failed = 0
        epoch = through.keys.begin()
        assert lie.failed == 1
        lie.failed = 0
        done = through.put("notes/one", b"content", epoch=epoch)
        assert lie.failed == 1
        assert not done.fresh
        assert through.get("notes/one") == b"content"


def test_a_put_whose_answer_is_lost_is_not_put_twice(s3: S3, tmp_path: Path) -> None:
    with lying(s3, tmp_path, FailsAfterThePut()) as proxy:
        store = open_store(s3.url(endpoint=proxy.endpoint), environ=s3.environ)
        with pytest.raises(ObjectExists):
            store.put("a", b"1")
        assert store.get("a") == b"1"


def test_names_that_nobody_of_ours_has_given_are_listed_and_told(s3: S3) -> None:
    """Others may write into a bucket too: what they put hides nothing."""
    url = s3.url()
    store, prefix = open_store(url, environ=s3.environ), url.partition("?")[0].rpartition("/")[2]
    for key in ("x/y", "ü ö", "trail/", "%2e%2e/x"):
        s3.boto().put_object(Bucket=s3.bucket, Key=f"{prefix}/{key}", Body=b"z")
    store.put("w/1", b"")
    found = [entry.name for entry in store.list()]
    assert "w/1" in found
    assert len(found) == 5
    s3.boto().put_object(Bucket=s3.bucket, Key=f"{prefix}/a\tb", Body=b"z")
    with pytest.raises(StoreRefused, match="illegal character"):  # no listing is shown without it
        list(store.list())
