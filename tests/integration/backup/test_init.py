"""``backup init``: whose repository it is, and a store that lies is refused before anything lies in it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.backup_bed import make_bed, make_kek
from tests.lying_s3 import (
    FailsAfterThePut,
    Lie,
    answers_500,
    drops_the_offset,
    hides_names,
    honest,
    loses,
    lying,
    makes_up,
    overwrites,
)
from tests.objectstore import S3
from tests.small_archive import NOW, At

from dbsec.backup import BackupSettings, WrongCluster
from dbsec.backup.initialising import UnsafeStore, check_traits, initialise
from dbsec.errors import ConfigError
from dbsec.evidence import Outcome
from dbsec.pg import connect
from dbsec.store import StoreUnavailable, open_store
from dbsec.store.bucket import ask_bucket
from dbsec.store.file import FileStore
from dbsec.store.probing import Trait, probe, traits_of
from dbsec.testing.clusters import Cluster


@pytest.fixture
def settings(tmp_path: Path) -> tuple[BackupSettings, dict[str, str]]:
    (tmp_path / "store").mkdir()
    environ = {"KEK": "a passphrase of the tests"}
    kms = make_kek(tmp_path / "kek.json", environ)
    return BackupSettings(store=f"file://{tmp_path}/store", kms=kms), environ


def failed(traits: tuple[Trait, ...]) -> set[str]:
    return {trait.name for trait in traits if trait.outcome is not Outcome.PASS}


def test_a_second_init_changes_nothing(cluster: Cluster, settings: tuple[BackupSettings, dict[str, str]]) -> None:
    told, environ = settings
    with connect(cluster.admin) as session:
        first = initialise(told, session, environ=environ)
        before = {entry.name: first.repository.store.get(entry.name) for entry in first.repository.store.list()}
        again = initialise(told, session, environ=environ)
    assert {entry.name: again.repository.store.get(entry.name) for entry in again.repository.store.list()} == before
    assert any("archive_mode" in warning for warning in again.warnings)
    assert not any("checksums" in warning for warning in again.warnings)


def test_the_repository_of_another_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    with connect(cluster.admin) as session, pytest.raises(WrongCluster):
        initialise(bed.settings, session, environ=bed.environ)


def test_an_honest_folder_is_left_as_it_was(tmp_path: Path) -> None:
    assert failed(probe(FileStore(tmp_path))) == set()
    assert not list(FileStore(tmp_path).list())


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (honest, set()),
        (FailsAfterThePut(), set()),
        (overwrites, {"create only", "read after write", "part of an object"}),
        (loses, {"read after write", "part of an object"}),
        (hides_names, {"list after write"}),
        (drops_the_offset, set()),
        (makes_up, {"what is not there"}),
    ],
    ids=["honest", "deaf", "overwrites", "loses", "hides", "no offset", "makes up"],
)
def test_a_store_that_lies_is_refused(s3: S3, tmp_path: Path, lie: Lie, told: set[str]) -> None:
    """The real store behind a proxy; an offset that is ignored is made up for by the client, which filters."""
    with lying(s3, tmp_path, lie) as proxy:
        store = open_store(s3.url(endpoint=proxy.endpoint), environ=s3.environ)
        traits = probe(store)
    assert failed(traits) == told
    if told:
        with pytest.raises(UnsafeStore):
            check_traits(traits)
        check_traits(traits, accept_unsafe=True)
    else:
        check_traits(traits)


def test_nothing_lies_in_a_store_that_was_refused(
    s3: S3, cluster: Cluster, settings: tuple[BackupSettings, dict[str, str]], tmp_path: Path
) -> None:
    url = s3.url()
    told, environ = settings
    with lying(s3, tmp_path, overwrites) as proxy, connect(cluster.admin) as session:
        through = told.model_copy(update={"store": url.replace(s3.endpoint, proxy.endpoint)})
        with pytest.raises(UnsafeStore, match="If-None-Match"):
            initialise(through, session, environ={**environ, **s3.environ})
        assert not list(open_store(url, environ=s3.environ).list())
        done = initialise(through, session, environ={**environ, **s3.environ}, accept_unsafe=True)
        assert any("If-None-Match" in warning for warning in done.warnings)


def test_a_store_that_only_fails_is_no_liar(s3: S3, tmp_path: Path) -> None:
    with lying(s3, tmp_path) as proxy:
        store = open_store(s3.url(endpoint=proxy.endpoint, timeout_s="5"), environ=s3.environ)
        proxy.lie = answers_500
        with pytest.raises(StoreUnavailable, match="InternalError"):
            store.put("a", b"")
    trait = Trait("create only", Outcome.ERROR, "no answer", needed=True)
    with pytest.raises(StoreUnavailable, match="create only"):
        check_traits((trait,))


def test_versions_and_locks_of_a_bucket_are_told(s3: S3) -> None:
    def told(url: str) -> dict[str, tuple[Outcome, str]]:
        return {one.name: (one.outcome, one.said) for one in traits_of(ask_bucket(url, environ=s3.environ))}

    with_locks, plain = told(s3.url()), told(s3.url(bucket=s3.plain_bucket()))
    assert with_locks["versions"][0] is Outcome.PASS
    assert with_locks["object lock"] == (
        Outcome.FAIL,
        "no default: what is put is not locked until somebody locks it",
    )
    assert plain["versions"][0] is plain["object lock"][0] is Outcome.FAIL
    name, rule = "locked-by-default", {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 2}}
    client = s3.boto()
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    assert told(s3.url(bucket=name))["object lock"] == (Outcome.PASS, "COMPLIANCE 2 days")
    assert told(s3.url(bucket="there-is-none"))["versions and locks"][0] is Outcome.ERROR
    locked = probe(open_store(s3.url(bucket=name), environ=s3.environ))
    assert failed(locked) == set()


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_differs_is_told(tmp_path: Path, hours: int) -> None:
    traits = probe(FileStore(tmp_path), clock=At(NOW + timedelta(hours=hours)))
    assert failed(traits) == {"clock"}
    check_traits(traits)


def test_a_store_without_tls_is_refused(s3: S3) -> None:
    with pytest.raises(ConfigError, match="https"):
        open_store(s3.url(endpoint="http://localhost:1"), environ=s3.environ)
