"""A month of backups ends with its KEK: in the store and in every copy of it, and no other month with it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from tests.backup_bed import Bed, make_bed
from tests.backup_months import NEXT, OLD, PLAIN, backup, month_bed, wal
from tests.forks import in_a_child

from dbsec.backup import KeyUnavailable
from dbsec.backup.errors import StillNeeded
from dbsec.backup.key_notes import shredded
from dbsec.backup.key_states import groups, states
from dbsec.backup.keys import ESCROW
from dbsec.backup.proving import prove
from dbsec.backup.recipients import create_recipient
from dbsec.backup.rekey import Targets, rekey, survey
from dbsec.backup.shred_plan import plan
from dbsec.backup.shredding import AdminOf, shred
from dbsec.clock import SYSTEM
from dbsec.errors import UsageError
from dbsec.evidence import Outcome
from dbsec.kms import KmsAdmin, KmsRefused, open_admin, open_kms


def admin_of(bed: Bed) -> AdminOf:
    def of(role: str, period: str) -> KmsAdmin:
        uri = bed.settings.escrow if role == ESCROW else bed.settings.kms
        return open_admin(uri, environ=bed.environ, tenant=period)

    return of


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return month_bed(tmp_path)


@pytest.fixture(params=["kms alone", "with escrow"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Bed:
    return month_bed(tmp_path, escrow=request.param == "with escrow")


def test_nothing_of_the_month_opens_and_the_next_one_does(either: Bed) -> None:
    gone, stays = wal(either, OLD, 1), wal(either, NEXT, 2)
    copied = either.folder / "copied"  # a mirror, or a bucket under a compliance lock
    shutil.copytree(either.store_folder, copied)
    done = shred(either.again(), OLD, admin_of(either))
    assert (done.outcome, done.epochs, done.objects, done.open) == (Outcome.PASS, 1, 1, [])
    for settings in (either.settings, either.settings.model_copy(update={"store": f"file://{copied}"})):
        there = either.again(store=settings.store)
        with pytest.raises(KeyUnavailable) as caught:
            there.get(gone)
        assert caught.value.refused
        assert there.get(stays) == PLAIN
    assert (either.store_folder / gone).exists()  # ciphertext without a key
    assert shredded(either.repository.store) == {OLD}


def test_a_shredded_month_stands_in_the_way_of_nothing(bed: Bed) -> None:
    wal(bed, OLD, 1)
    wal(bed, NEXT, 2)
    shred(bed.again(), OLD, admin_of(bed))
    assert bed.settings.kms
    kms = open_kms(bed.settings.kms, environ=bed.environ)
    assert survey(bed.again().keys, Targets(kms)).shredded == 1
    assert rekey(bed.again(), Targets(kms)).failed == []
    proof = prove(bed.again(), Targets(kms))
    assert (proof.failed, proof.shredded) == ([], 1)
    assert {group.held.kek for group in groups(states(bed.again().keys).keys)} > {"shredded"}


def test_a_kept_backup_and_what_builds_on_it_are_not_broken_by_chance(bed: Bed) -> None:
    full = backup(bed, OLD, start=1)
    child = backup(bed, NEXT, start=3, parent=full.id)
    other = backup(bed, NEXT, start=5)
    found = plan(bed.again(), OLD)
    assert found.backups == [full.id, child.id]
    assert other.id not in found.backups
    with pytest.raises(StillNeeded, match=full.id):
        shred(bed.again(), OLD, admin_of(bed))
    assert open_admin(bed.settings.kms, environ=bed.environ, tenant=OLD)
    assert bed.again().get(f"base/{full.id}/data/00000000") == PLAIN
    done = shred(bed.again(), OLD, admin_of(bed), break_chains=True)
    assert done.outcome is Outcome.PASS
    with pytest.raises(KeyUnavailable):
        bed.again().get(f"base/{full.id}/data/00000000")


@pytest.mark.parametrize(("number", "needed"), [(1, False), (2, True), (3, True)])
def test_the_wal_after_a_kept_backup_is_needed(bed: Bed, number: int, needed: bool) -> None:
    backup(bed, NEXT, start=2)
    wal(bed, OLD, number)
    assert bool(plan(bed.again(), OLD).needed) is needed
    if needed:
        with pytest.raises(StillNeeded, match="WAL"):
            shred(bed.again(), OLD, admin_of(bed))


def test_one_kek_for_all_months_is_never_destroyed(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    wal(bed, OLD, 1)
    wal(bed, NEXT, 2)
    with pytest.raises(UsageError, match="other months too"):
        shred(bed.again(), OLD, lambda role, period: open_admin(bed.settings.kms, environ=bed.environ))
    assert bed.again().get(wal(bed, OLD, 3)) == PLAIN


def test_an_escrow_that_is_no_template_would_open_it_still(bed: Bed, tmp_path: Path) -> None:
    from tests.backup_bed import make_kek

    escrow = make_kek(tmp_path / "escrow.json", bed.environ)
    bed.repository = bed.again(escrow=escrow)
    wal(bed, OLD, 1)
    rekey(bed.again(), Targets(open_kms(bed.settings.kms, environ=bed.environ), open_kms(escrow, environ=bed.environ)))
    with pytest.raises(UsageError, match="other months too"):
        shred(bed.again(escrow=escrow), OLD, admin_of(bed), break_chains=True)
    with pytest.raises(UsageError, match="is not configured"):  # and to say nothing of it does not help
        shred(bed.again(), OLD, admin_of(bed), break_chains=True)


def test_epochs_for_a_recipient_belong_to_no_month(bed: Bed) -> None:
    recipient = create_recipient(bed.repository.keys)
    name = wal(bed, OLD, 1)
    from datetime import UTC, datetime

    from tests.backup_months import At

    from dbsec.backup.keys import BackupKeys

    host = BackupKeys(
        bed.repository.store,
        bed.repository.system,
        recipient=recipient,
        content=bed.repository.keys.content(),
        clock=At(datetime(2026, 9, 20, tzinfo=UTC)),
    )
    host.begin()
    with pytest.raises(UsageError, match="recipient"):
        shred(bed.again(), OLD, admin_of(bed))
    assert bed.again().get(name) == PLAIN


def test_a_kek_that_older_wraps_name_would_open_it_still(bed: Bed, tmp_path: Path) -> None:
    """The months came later: the first wraps of the epoch are under one KEK for all."""
    from tests.backup_bed import make_kek

    first = make_kek(tmp_path / "first.json", bed.environ)
    old, template = bed.again(escrow=first), bed.repository
    bed.repository = old
    old.keys.kms, old.keys.escrow = old.keys.escrow, None
    name = wal(bed, OLD, 1)
    bed.repository = template
    rekey(old, Targets(open_kms(bed.settings.kms, environ=bed.environ)))
    with pytest.raises(UsageError, match="nothing is shredded"):
        shred(bed.again(), OLD, admin_of(bed))
    open_admin(first, environ=bed.environ).destroy()
    assert shred(bed.again(), OLD, admin_of(bed), others_gone=True).outcome is Outcome.PASS
    with pytest.raises(KeyUnavailable):
        bed.again(escrow=first).get(name)


def test_what_is_no_month_that_is_over(bed: Bed) -> None:
    for period in (f"{SYSTEM.now():%Y-%m}", "2999-01", "all", "2026-13", "../../x", ""):
        with pytest.raises(UsageError):
            shred(bed.again(), period, admin_of(bed))


def test_a_month_without_an_epoch(bed: Bed) -> None:
    with pytest.raises(UsageError, match="no epoch"):
        shred(bed.again(), OLD, admin_of(bed))


def test_a_kek_that_somebody_destroyed_is_believed_only_when_told(bed: Bed) -> None:
    wal(bed, OLD, 1)
    (bed.folder / "kms" / f"{OLD}.json").unlink()
    with pytest.raises(KmsRefused):
        shred(bed.again(), OLD, admin_of(bed))


def test_it_is_not_said_to_be_done_while_a_key_opens(bed: Bed) -> None:
    """An administrator that says yes and destroys nothing."""
    wal(bed, OLD, 1)

    class Liar:
        def __init__(self, real: KmsAdmin) -> None:
            self.real = real

        def destroy(self) -> object:
            from dbsec.kms import Destruction

            return Destruction(SYSTEM.now(), "yes")

    done = shred(bed.again(), OLD, lambda role, period: Liar(admin_of(bed)(role, period)))  # type: ignore[arg-type, return-value]
    assert done.outcome is Outcome.FAIL
    assert len(done.open) == 1
    assert not shredded(bed.repository.store)


@pytest.mark.parametrize("edge", ["before", "after"])
def test_shredding_survives_kill_9(tmp_path: Path, edge: str) -> None:
    bed = month_bed(tmp_path)
    name = wal(bed, OLD, 1)

    def killed() -> None:
        real = admin_of(bed)

        class Deadly:
            def destroy(self) -> None:
                if edge == "after":
                    real("kms", OLD).destroy()
                os.kill(os.getpid(), signal.SIGKILL)

        shred(bed.again(), OLD, lambda role, period: Deadly())  # type: ignore[arg-type, return-value]

    assert in_a_child(killed) == -signal.SIGKILL
    done = shred(bed.again(), OLD, admin_of(bed))
    assert done.outcome is Outcome.PASS
    with pytest.raises(KeyUnavailable):
        bed.again().get(name)
