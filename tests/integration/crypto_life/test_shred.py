"""A tenant's KEK is destroyed: nothing of it opens, live and in a restored base backup, and the others go on."""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from dbsec.clock import SystemClock
from dbsec.crypto import DecryptionFailed, open_envelope
from dbsec.crypto.life import reencrypt, retiring, rewrap, rotation
from dbsec.crypto.life.shredding import Shredder
from dbsec.errors import UsageError
from dbsec.evidence import Outcome
from dbsec.kms import KmsRefused, KmsUnavailable, open_admin
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.pg.instance import Instance


class Hurried(SystemClock):
    """A clock on which patience ends ten times as soon."""

    def monotonic(self):
        return 10 * super().monotonic()


def shredder(scene):
    return Shredder(scene.settings, scene.connect, {})


def outcomes(proofs):
    return {one.name.partition(":")[0] + ":" + one.name.rpartition(" ")[2]: one.outcome for one in proofs}


@contextmanager
def restored(scene, cluster):
    """Take a base backup of the running server now; yields what starts it as a server of its own."""
    folder = cluster.instance.data.parent.with_name(f"{cluster.instance.data.parent.name}-restored")
    folder.mkdir(mode=0o755)
    if not cluster.account.is_current:
        shutil.chown(folder, cluster.account.uid, cluster.account.gid)
    server = Instance(cluster.instance.binaries, folder / "data", ports.free(1)[0], folder / "log", cluster.account)
    slot = f"s_{secrets.token_hex(4)}"
    try:
        server.clone(cluster.admin, slot=slot)
        scene.db.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        (server.data / "standby.signal").unlink()

        def start():
            server.start()
            return partial(connect, scene.conninfo.but(port=server.port))

        yield start
    finally:
        server.stop()
        shutil.rmtree(folder)


def test_a_restored_backup_opens_with_the_keys_of_its_day_and_not_after_shred(scene, cluster):
    scene.fill(12)
    with restored(scene, cluster) as start:
        # since then: another DEK, all rows under it, the old one destroyed, and another KEK
        list(rotation.rotate(scene.connect, scene.kms(), rotation.candidates(scene.db)))
        column = scene.settings.of("app.users", "phone_enc")
        reencrypt.run(scene.connect, reencrypt.plan(scene.db, scene.envelope(), column))
        old = retiring.retired(scene.db, scene.db, scene.settings.declared, "app.users", ttl=timedelta())
        assert len(retiring.destroy(scene.db, old)) == 2
        rewrap.rewrap(scene.connect, scene.kms(), admin_of=scene.admin)
        of_backup = start()
        envelope = open_envelope(scene.settings, of_backup, {})
        with of_backup() as backup:
            found = backup.execute("SELECT id, tenant, phone_enc FROM app.users").fetchall()
        assert {
            number: envelope.decrypt(value, column.field, tenant=tenant, row=number).decode()
            for number, tenant, value in found
        } == {n: scene.phone(n) for n in range(1, 13)}

        done = shredder(scene).shred("acme", scene.admin("acme"), restored=of_backup)
        assert outcomes(done.proofs) == {
            "live, before its rows were emptied:DEKs": Outcome.PASS,
            "live:DEKs": Outcome.SKIP,
            "live:decrypt": Outcome.PASS,
            "live:readable": Outcome.PASS,
            "restored backup:DEKs": Outcome.PASS,
            "restored backup:decrypt": Outcome.PASS,
            "restored backup:readable": Outcome.PASS,
        }
        assert done.outcome is Outcome.PASS
        fresh = open_envelope(scene.settings, of_backup, {})
        for number, tenant, value in found:
            if tenant == "acme":
                with pytest.raises(DecryptionFailed):
                    fresh.decrypt(value, column.field, tenant=tenant, row=number)
            else:
                assert fresh.decrypt(value, column.field, tenant=tenant, row=number).decode() == scene.phone(number)


def test_what_is_left_is_told_with_its_end(scene):
    scene.fill(4)
    running = scene.envelope()
    scene.phones(running)
    begun = datetime.now(UTC)
    done = shredder(scene).shred("acme", scene.admin("acme"))
    # a process that runs has the key cached: that is what its TTL is told for
    assert len(scene.phones(running)) == 4
    assert begun + timedelta(minutes=5) <= done.others_until <= datetime.now(UTC) + timedelta(minutes=5)
    assert any("TTL" in one for one in done.left)
    assert any("copies and backups of the file" in one for one in done.left)
    rows = {(row.tenant, row.state, bool(row.wrapped)) for row in scene.keyring()}
    assert rows == {("acme", "destroyed", False), ("globex", "active", True)}
    running.keyring.forget()
    with pytest.raises(DecryptionFailed):
        scene.phones(running)
    with pytest.raises(Exception, match="destroyed"):
        running.encrypt(b"x", scene.settings.declared[0].field, tenant="acme", row=1)


def test_caches_that_are_handed_over_end_with_it(scene):
    scene.fill(4)
    running = scene.envelope()
    scene.phones(running)
    shredder(scene).shred("acme", scene.admin("acme"), envelopes=(running,))
    with pytest.raises(DecryptionFailed):
        scene.phones(running)


def test_a_shared_kek_is_refused(scene):
    scene.fill(4)
    scene.kms_uri = scene.kms_uri.replace("{tenant}", "acme")
    with pytest.raises(UsageError, match="the KEK is shared"):
        shredder(scene).plan("acme")


def test_a_template_that_leads_two_tenants_to_one_kek_is_refused(scene):
    """By two links to one file, say: what wraps the rows counts, and not how the uri looks."""
    shutil.copy2(scene.folder / "acme.json", scene.folder / "globex.json")
    scene.fill(4)
    with pytest.raises(UsageError, match="the KEK of 'acme' wraps keys of 'globex' too"):
        shredder(scene).shred("acme", scene.admin("acme"))
    assert len(scene.phones()) == 4


def test_a_tenant_that_is_not_here_is_refused(scene):
    scene.fill(2)
    with pytest.raises(UsageError, match="nothing of tenant 'nobody' is here"):
        shredder(scene).plan("nobody")


def test_a_run_that_died_after_the_kek_was_gone_goes_on(scene):
    scene.fill(4)

    class Killed(BaseException):
        pass

    class Dies:
        """Destroys, and the process ends before that is recorded."""

        def destroy(self):
            scene.admin("acme").destroy()
            raise Killed

    with pytest.raises(Killed):
        shredder(scene).shred("acme", Dies())
    assert {row.state for row in scene.keyring()} == {"active"}
    done = shredder(scene).shred("acme", scene.admin("acme"))
    assert (done.outcome, done.keys, "already" in done.note) == (Outcome.PASS, 2, True)


def test_a_kms_that_still_unwraps_is_told(scene):
    """A destruction that did not happen: the administrator said yes and did nothing."""
    scene.fill(4)

    class Lies:
        def destroy(self):
            from dbsec.kms import Destruction

            return Destruction(datetime.now(UTC), "gone")

    done = shredder(scene).shred("acme", Lies())
    assert done.outcome is Outcome.FAIL
    found = {one.name: one.outcome for one in done.proofs}
    assert found["live, before its rows were emptied: the KMS unwraps the tenant's DEKs"] is Outcome.FAIL


def test_openbao_keys_are_shredded(scene, openbao):
    for tenant in ("acme", "globex"):
        open_admin(openbao.uri(f"life-{scene.conninfo.dbname}-{tenant}"), environ={}).create()
    scene.kms_uri = openbao.uri(f"life-{scene.conninfo.dbname}-{{tenant}}")
    scene.fill(6)
    assert len(scene.phones()) == 6
    plan = shredder(scene).plan("acme")
    assert (plan.open, plan.values, len(plan.keys)) == (3, 3, 2)
    # a token that may not delete: nothing happens, and it is said
    keys = "transit/keys/*"
    weak = openbao.token(
        f'path "transit/*" {{ capabilities = ["update"] }} path "{keys}" {{ capabilities = ["read"] }}'
    )
    uri = openbao.uri(f"life-{scene.conninfo.dbname}-{{tenant}}", token_file=weak)
    with pytest.raises(KmsRefused):
        shredder(scene).shred("acme", open_admin(uri, environ={}, tenant="acme"))
    assert len(scene.phones()) == 6
    done = shredder(scene).shred("acme", open_admin(scene.kms_uri, environ={}, tenant="acme"))
    assert done.outcome is Outcome.PASS
    assert any("snapshot" in one for one in done.left)
    with pytest.raises(DecryptionFailed):
        scene.phones()


def test_a_kms_that_is_away_before_the_proof_leaves_the_keyring_as_it_was(scene, openbao_factory):
    bao = openbao_factory()
    open_admin(bao.uri("acme"), environ={}).create()
    open_admin(bao.uri("globex"), environ={}).create()
    scene.kms_uri = bao.uri("{tenant}")
    scene.fill(4)

    hurried = Shredder(scene.settings, scene.connect, {}, clock=Hurried())

    def observe(step, edge):
        if step == "destroy the KEK" and edge == "after-record":
            bao.pause()

    try:
        with pytest.raises(KmsUnavailable):
            hurried.shred("acme", open_admin(bao.uri("acme"), environ={}), observer=observe)
    finally:
        bao.resume()
    assert {row.state for row in scene.keyring()} == {"active"}
    assert shredder(scene).shred("acme", open_admin(bao.uri("acme"), environ={})).outcome is Outcome.PASS
    bao.stop()


def test_a_kek_that_the_kms_does_not_show_is_gone_only_if_somebody_says_so(scene):
    """Absent and forbidden look the same: an expired token must not pass for a destruction."""
    scene.fill(4)
    (scene.folder / "acme.json").unlink()
    with pytest.raises(KmsRefused) as refused:
        shredder(scene).shred("acme", scene.admin("acme"))
    assert refused.value.hint
    assert {row.state for row in scene.keyring()} == {"active"}
    done = shredder(scene).shred("acme", scene.admin("acme"), kek_is_gone=True)
    assert "gone already" in done.note
    # no value opened before it either: that they do not open now proves nothing
    found = {one.name: one.outcome for one in done.proofs}
    assert (found["live: values of the tenant decrypt"], done.outcome) == (Outcome.ERROR, Outcome.ERROR)
