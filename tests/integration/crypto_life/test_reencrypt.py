"""Rows of a column to the active key, or encrypted for the first time, while writers go on: nothing is lost."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg
import pytest

from dbsec import retry
from dbsec.backfill import Limits
from dbsec.crypto import ModeRefused
from dbsec.crypto.life import reencrypt, retiring, rotation
from dbsec.crypto.life.rewriting import Source, Unreadable, plain
from dbsec.errors import ApplyError
from dbsec.journal import Edge
from dbsec.kms import KmsError
from dbsec.pg import connect, own
from dbsec.progress import Silent
from dbsec.secret import Secret

QUICK = Limits(reconnect_s=30, give_up_s=30, range_batches=2)


def rotated(scene, **of):
    return list(rotation.rotate(scene.connect, scene.kms(), rotation.candidates(scene.db, **of)))


def planned(scene, column="phone_enc", **more):
    return reencrypt.plan(scene.db, scene.envelope(), scene.settings.of("app.users", column), **more)


def run(scene, work, **more):
    return reencrypt.run(scene.connect, work, limits=QUICK, **more)


def active(scene):
    return {row.tenant: row.id for row in scene.keyring() if row.purpose == "data" and row.state == "active"}


@pytest.mark.pg(15, 17, 18)
def test_all_rows_come_under_the_active_keys_and_a_second_run_has_nothing_to_do(scene):
    scene.fill(40)
    rotated(scene)
    before = scene.phones()
    work = planned(scene, batch_rows=7)
    assert reencrypt.remaining(scene.db, work) == 40
    done = run(scene, work, verify=True)
    assert (done.changed, done.remaining, done.clean) == (40, 0, True)
    assert scene.key_ids() == dict.fromkeys(active(scene).values(), 20)
    assert scene.phones() == before
    versions = scene.versions()
    assert run(scene, planned(scene)).changed == 0
    assert scene.versions() == versions


def test_a_rotation_of_one_tenant_writes_the_rows_of_that_tenant(scene):
    scene.fill(20)
    rotated(scene, tenants=["acme"])
    assert run(scene, planned(scene)).changed == 10
    # and the next rotation begins from the start again
    rotated(scene)
    assert run(scene, planned(scene)).changed == 20


def test_writers_go_on_and_nothing_is_lost(scene):
    """The writer keeps the old key: it was there before the rotation, and its TTL has not ended."""
    scene.fill(300)
    writer = scene.envelope()
    scene.fill(2, first=301, envelope=writer)
    rotated(scene)
    column = scene.settings.of("app.users", "phone_enc")
    written, stop = {}, threading.Event()

    def write():
        with connect(scene.conninfo) as session:
            for n in range(1, 10_000):
                if stop.is_set():
                    return
                row = 1 + (n * 37) % 302
                tenant, text = ("acme", "globex")[row % 2], f"+1 {n:07}"
                value = writer.encrypt(text.encode(), column.field, tenant=tenant, row=row)
                index = writer.blind_index(text, column.field, column.index[1], tenant=tenant)
                query = "UPDATE app.users SET phone_enc = %s, phone_bidx = %s WHERE id = %s"
                session.execute(query, (value, index, row))
                written[row] = text

    thread = threading.Thread(target=write)

    def observe(step, edge):
        # the writer begins in the middle of the walk: rows that it writes have been passed
        if step == "range 1 batch 2" and edge is Edge.AFTER_RECORD and not thread.ident:
            thread.start()
            retry.wait_until(lambda: len(written) >= 20, within_s=30, what="the writer")

    class EndOfTtl(Silent):
        """The writer's TTL ends with the first pass."""

        def step(self, text):
            if "once more" in text:
                stop.set()
                thread.join(30)

    done = run(scene, planned(scene, batch_rows=20), observer=observe, progress=EndOfTtl())
    assert len(written) >= 20
    assert done.passes > 1, "no row was written under the old key behind the walk"
    assert (done.remaining, scene.key_ids().keys()) == (0, set(active(scene).values()))
    expected = {n: scene.phone(n) for n in range(1, 303)} | written
    assert scene.phones() == expected


def test_values_in_clear_are_encrypted_with_their_index(scene):
    scene.db.execute(
        "INSERT INTO app.users (id, tenant, phone) SELECT g, 'acme', '+49 30 ' || g FROM generate_series(1, 30) g"
    )
    scene.db.execute("INSERT INTO app.users (id, tenant) VALUES (31, 'acme')")
    done = run(scene, planned(scene, source=Source("phone", plain)), verify=True)
    assert (done.changed, done.remaining, done.verified.clean) == (30, 0, True)
    assert scene.phones() == {n: f"+49 30 {n}" for n in range(1, 31)}
    how = scene.settings.of("app.users", "phone_enc").index[1]
    wanted = scene.envelope().blind_index("+49 30 7", scene.settings.declared[0].field, how, tenant="acme")
    assert scene.db.execute("SELECT id FROM app.users WHERE phone_bidx = %s", (wanted,)).fetchall() == [(7,)]


def test_a_verification_finds_a_value_that_differs_from_its_source(scene):
    scene.db.execute(
        "INSERT INTO app.users (id, tenant, phone) SELECT g, 'acme', '+49 30 ' || g FROM generate_series(1, 9) g"
    )
    work = planned(scene, source=Source("phone", plain))
    run(scene, work)
    scene.db.execute("UPDATE app.users SET phone = '+1' WHERE id = 5")
    done = run(scene, planned(scene, source=Source("phone", plain)), verify=True)
    assert (done.changed, done.verified.clean, [one.key for one in done.verified.mismatches]) == (0, False, [("5",)])
    assert not done.clean


def test_inline_values_become_values_by_reference(scene):
    scene.fill(4)
    column, envelope = scene.settings.of("app.users", "phone_enc"), scene.envelope()
    value = envelope.encrypt_inline(scene.phone(2).encode(), column.field, tenant="acme", row=2)
    scene.db.execute("UPDATE app.users SET phone_enc = %s WHERE id = 2", (value,))
    assert run(scene, planned(scene)).changed == 1
    assert None not in scene.key_ids()
    assert scene.phones()[2] == scene.phone(2)


def test_a_deterministic_column_is_filled_from_the_generation_before_and_never_in_place(scene):
    scene.fill(6)
    old, envelope = scene.settings.of("app.users", "email_enc"), scene.envelope()
    for n in range(1, 7):
        value = envelope.encrypt_deterministic(b"a@example.org", old.field, tenant=("acme", "globex")[n % 2])
        scene.db.execute("UPDATE app.users SET email_enc = %s WHERE id = %s", (value, n))
    with pytest.raises(ModeRefused, match="deterministic"):
        planned(scene, "email_enc")
    done = run(scene, planned(scene, "email_2", source=Source("email_enc")), verify=True)
    assert (done.changed, done.clean) == (6, True)
    assert scene.db.execute("SELECT count(DISTINCT email_2) FROM app.users").fetchone() == (2,)
    assert scene.db.execute("SELECT count(*) FROM app.users WHERE email_2 = email_enc").fetchone() == (0,)


def test_a_row_that_cannot_be_read_stops_it_by_name_or_is_left_by_name(scene):
    scene.fill(10)
    rotated(scene)
    scene.db.execute("UPDATE app.users SET phone_enc = set_byte(phone_enc, 40, 1) WHERE id = 4")
    with pytest.raises(Unreadable, match=r"'app.users.phone_enc', row 4 cannot be decrypted, which names key \d"):
        run(scene, planned(scene, batch_rows=4))
    done = run(scene, planned(scene, batch_rows=4, leave=True))
    assert (done.remaining, list(done.left), done.clean) == (1, [("4",)], False)


def test_the_kms_goes_away_in_the_middle_and_the_rest_is_done_later(scene):
    """The key of the second tenant cannot be unwrapped: what was committed stays, nothing is half done."""
    scene.fill(10)
    rotated(scene)
    before = scene.phones()
    kek = scene.folder / "globex.json"
    kek.rename(scene.folder / "away")
    with pytest.raises(KmsError):
        run(scene, planned(scene, batch_rows=4))
    (scene.folder / "away").rename(kek)
    assert scene.phones() == before
    assert run(scene, planned(scene, batch_rows=4)).remaining == 0
    assert scene.phones() == before


def test_a_retired_key_is_destroyed_only_when_no_row_and_no_process_can_use_it(scene):
    scene.fill(10)
    old = rotated(scene, tenants=["acme"])[0].old

    def found(ttl=timedelta()):
        return retiring.retired(scene.db, scene.db, scene.settings.declared, "app.users", ttl=ttl)

    assert [(one.row.id, one.values, one.why_not) for one in found()] == [(old, 5, "5 values are under it")]
    run(scene, planned(scene))
    assert "processes may encrypt under it until" in found(timedelta(hours=1))[0].why_not
    with pytest.raises(ApplyError, match="stays"):
        retiring.destroy(scene.db, found(timedelta(hours=1)))
    with connect(scene.conninfo, application_name="app@1") as writer:
        writer.execute("BEGIN")
        writer.execute("SELECT 1")
        scene.db.execute("UPDATE dbsec.keyring SET retired_at = clock_timestamp() WHERE id = %s", (old,))
        assert "app@1" in found()[0].why_not
        writer.execute("COMMIT")
        assert found()[0].why_not == ""
        assert retiring.destroy(scene.db, found()) == [old]
    assert scene.db.execute("SELECT state, wrapped FROM dbsec.keyring WHERE id = %s", (old,)).fetchone() == (
        "destroyed",
        b"",
    )
    assert len(scene.phones()) == 10


def test_a_keyring_in_another_database(scene, cluster, tmp_path):
    name = f"{scene.conninfo.dbname}_keys"
    elsewhere = cluster.create_database(name)
    try:
        with connect(elsewhere) as keyring:
            own.install(keyring)
            reference = tmp_path / "keyring"
            reference.touch(mode=0o600)
            reference.write_text(elsewhere.text())
            scene.more = {"keyring": f"file:{reference}"}
            scene.fill(10)
            assert scene.keyring() == []
            kms, opened = scene.kms(), lambda: connect(elsewhere)
            wanted = rotation.candidates(keyring, tenants=["acme"])
            old = next(rotation.rotate(opened, kms, wanted)).old
            work = planned(scene, keyring=keyring)
            assert reencrypt.remaining(scene.db, work) == 5
            assert (run(scene, work, verify=True).changed, len(scene.phones())) == (5, 10)
            assert run(scene, planned(scene, keyring=keyring)).changed == 0
            # another rotation: the job has other numbers in its text, and begins anew by itself
            list(rotation.rotate(opened, kms, rotation.candidates(keyring)))
            assert run(scene, planned(scene, keyring=keyring)).changed == 10
            found = retiring.retired(scene.db, keyring, scene.settings.declared, "app.users", ttl=timedelta())
            assert (len(found), {one.why_not for one in found}) == (3, {""})
            assert old in {one.row.id for one in found}
    finally:
        cluster.drop_database(name)


def test_a_column_of_a_domain_that_refuses_plaintext(scene):
    scene.db.execute(
        "CREATE DOMAIN app.encrypted AS bytea CHECK (octet_length(VALUE) >= 22 AND get_byte(VALUE, 0) = 213);"
        " ALTER TABLE app.users ALTER phone_enc TYPE app.encrypted"
    )
    scene.fill(6)
    rotated(scene)
    assert run(scene, planned(scene), verify=True).changed == 6
    assert len(scene.phones()) == 6


def test_rows_that_a_policy_hides_are_an_error_and_not_left_out(scene):
    scene.fill(4)
    rotated(scene)
    role = f"r_{scene.conninfo.dbname}"
    scene.db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA app TO {role}")
    scene.db.execute(f"GRANT SELECT, UPDATE ON app.users TO {role}")
    own.install(scene.db, users=[role])
    scene.db.execute(
        "ALTER TABLE app.users ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.users USING (tenant = 'acme')"
    )
    try:
        hidden = scene.conninfo.but(user=role, password=Secret("x"))
        work = planned(scene)
        with pytest.raises(ApplyError, match="row-level security hides rows"):
            reencrypt.run(lambda: connect(hidden), work, limits=QUICK)
        with connect(hidden) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            retiring.retired(session, scene.db, scene.settings.declared, "app.users", ttl=timedelta())
    finally:
        scene.db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
