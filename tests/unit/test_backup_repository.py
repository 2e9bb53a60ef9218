"""The repository: what is put comes back proven, and whatever was changed meanwhile is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.backup_bed import SYSTEM, Bed, make_bed, make_kek

from dbsec.backup import Cluster, ContentConflict, KeyUnavailable, Tampered, WrongCluster, init_repository
from dbsec.backup.keys import CONTENT, EPOCHS
from dbsec.backup.recipients import create_recipient
from dbsec.errors import UsageError
from dbsec.store import ObjectMissing

NAME = "wal/00000001/00000000/000000010000000000000001"
OTHER = "wal/00000001/00000000/000000010000000000000002"
PLAIN = b"a segment " * 300_000


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return make_bed(tmp_path)


def test_what_is_put_comes_back_on_another_host(bed: Bed) -> None:
    put = bed.repository.put(NAME, PLAIN, timeline=1)
    assert put.fresh
    assert put.stored_bytes < len(PLAIN)
    assert bed.again().get(NAME) == PLAIN
    assert b"a segment a segment" not in (bed.store_folder / NAME).read_bytes()


def test_the_same_content_is_no_error_and_other_content_is(bed: Bed) -> None:
    bed.repository.put(NAME, PLAIN)
    before = (bed.store_folder / NAME).read_bytes()
    assert not bed.again().put(NAME, PLAIN).fresh
    with pytest.raises(ContentConflict):
        bed.again().put(NAME, PLAIN + b"!")
    assert (bed.store_folder / NAME).read_bytes() == before


def _flip(raw: bytes, at: int) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda raw: _flip(raw, len(raw) // 2), "altered or truncated"),
        (lambda raw: _flip(raw, 70), "header"),
        (lambda raw: raw[:-1], "altered or truncated"),
        (lambda raw: raw[:30], "cut off"),
        (lambda raw: b"", "not an encrypted stream|cut off"),
        (lambda raw: raw + raw[-100:], "altered or truncated"),
    ],
    ids=["bit", "header", "cut", "prelude", "empty", "longer"],
)
def test_damage_is_refused(bed: Bed, change, why: str) -> None:
    import os

    plain = os.urandom(3 << 20)
    bed.repository.put(NAME, plain)
    path = bed.store_folder / NAME
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(Tampered, match=why):
        bed.again().get(NAME)


def test_frames_change_no_places(bed: Bed) -> None:
    import os

    bed.repository.put(NAME, os.urandom(3 << 20))
    path = bed.store_folder / NAME
    raw = path.read_bytes()
    full = (1 << 20) + 16
    start = len(raw) % full - (len(raw) - 3 * full) % full + (len(raw) - 3 * full)
    start = len(raw) - (len(raw) - start)
    moved = raw[:start] + raw[start + full : start + 2 * full] + raw[start : start + full] + raw[start + 2 * full :]
    path.write_bytes(moved)
    with pytest.raises(Tampered, match="altered"):
        bed.again().get(NAME)


def test_an_object_under_another_name_is_refused(bed: Bed) -> None:
    bed.repository.put(NAME, PLAIN)
    bed.repository.put(OTHER, PLAIN + b"!")
    (bed.store_folder / NAME).write_bytes((bed.store_folder / OTHER).read_bytes())
    with pytest.raises(Tampered, match="it is the object"):
        bed.again().get(NAME)


def test_an_object_of_another_cluster_is_refused(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    other = make_bed(tmp_path / "two", system=SYSTEM + 1)
    other.repository.put(NAME, PLAIN)
    bed.repository.put(NAME, PLAIN)
    (bed.store_folder / NAME).write_bytes((other.store_folder / NAME).read_bytes())
    with pytest.raises(Tampered, match="of the cluster"):
        bed.again().get(NAME)


def test_two_clusters_share_no_prefix(bed: Bed) -> None:
    with pytest.raises(WrongCluster):
        init_repository(bed.settings, Cluster(SYSTEM + 1, 16 << 20), environ=bed.environ)


def test_the_wrong_kek_opens_nothing(bed: Bed, tmp_path: Path) -> None:
    bed.repository.put(NAME, PLAIN)
    with pytest.raises(KeyUnavailable) as caught:
        bed.again(kms=make_kek(tmp_path / "other.json", bed.environ))
    assert caught.value.refused


def test_an_escrow_opens_what_the_kms_no_longer_can(tmp_path: Path) -> None:
    environ_free = tmp_path / "bed"
    environ_free.mkdir()
    bed = make_bed(environ_free)
    escrow = make_kek(tmp_path / "escrow.json", bed.environ)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "store").mkdir()
    settings = bed.settings.model_copy(update={"store": f"file://{tmp_path}/two/store", "escrow": escrow})
    both = init_repository(settings, Cluster(SYSTEM, 16 << 20), environ=bed.environ)
    both.put(NAME, PLAIN)
    alone = settings.model_copy(update={"kms": escrow, "escrow": ""})
    assert init_repository(alone, Cluster(SYSTEM, 16 << 20), environ=bed.environ).get(NAME) == PLAIN


def test_a_host_with_a_recipient_writes_and_cannot_read(bed: Bed) -> None:
    recipient = create_recipient(bed.repository.keys)
    environ = {"CONTENT": bed.repository.keys.opened(CONTENT).hex()}
    settings = bed.settings.model_copy(
        update={"kms": "", "recipient": recipient.public.hex(), "content_key": "env:CONTENT"}
    )
    host = init_repository(settings, Cluster(SYSTEM, 16 << 20), environ=environ)
    host.put(NAME, PLAIN)
    assert not host.put(NAME, PLAIN).fresh
    with pytest.raises(KeyUnavailable, match="only writes"):
        init_repository(settings, Cluster(SYSTEM, 16 << 20), environ=environ).get(NAME)
    assert bed.again().get(NAME) == PLAIN


def test_a_process_goes_on_with_the_epoch_of_today(bed: Bed) -> None:
    bed.repository.put(NAME, PLAIN)
    bed.again().put(OTHER, PLAIN)
    assert len(list(bed.repository.list(EPOCHS))) == 1


def test_an_object_has_64_mib_at_most(bed: Bed) -> None:
    with pytest.raises(UsageError):
        bed.repository.put(NAME, bytes((64 << 20) + 1))


def test_what_is_not_there_is_missing(bed: Bed) -> None:
    with pytest.raises(ObjectMissing):
        bed.repository.get(NAME)
