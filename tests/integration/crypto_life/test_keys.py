"""Keys listed, judged, rotated and rewrapped: one key encrypts at any time, and no row of data is written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dbsec.crypto.life import beginning, keys, rewrap, rotation, rows
from dbsec.crypto.store import KeyState
from dbsec.errors import ApplyError
from dbsec.journal import Edge
from dbsec.kms import KmsRefused, KmsUnavailable, Patience, open_admin

HASTY = Patience(timeout_s=0.5, within_s=0.5)
TENANTS = ("acme", "globex")


def rotated(scene, **of):
    found = rotation.candidates(scene.db, **of)
    return list(rotation.rotate(scene.connect, scene.kms(), found))


def test_a_rotation_changes_what_encrypts_and_nothing_else(scene):
    scene.fill(6)
    before = scene.versions()
    done = rotated(scene, tenants=["acme"])
    assert [(one.tenant, one.generation) for one in done] == [("acme", 2)]
    states = {(row.tenant, row.generation): row.state for row in scene.keyring() if row.purpose == "data"}
    assert states == {
        ("acme", 1): KeyState.RETIRED,
        ("acme", 2): KeyState.ACTIVE,
        ("globex", 1): KeyState.ACTIVE,
    }
    assert scene.versions() == before
    assert len(scene.phones()) == 6
    scene.fill(2, first=7)
    ours = scene.db.execute("SELECT DISTINCT substr(phone_enc, 3, 4) FROM app.users WHERE id > 6 AND tenant = 'acme'")
    assert [int.from_bytes(value, "big") for (value,) in ours] == [done[0].new]


def test_a_process_that_runs_follows_at_its_next_lease(scene):
    envelope = scene.envelope()
    scene.fill(2, envelope=envelope)
    done = rotated(scene)
    field = scene.settings.of("app.users", "phone_enc").field
    # the old key's lease is used up: 4096 were granted before the rotation
    values = envelope.encrypt_many([b"x"] * 5000, field, tenant="acme", rows=range(5000))
    assert {int.from_bytes(value[2:6], "big") for value in values} == {one.new for one in done if one.tenant == "acme"}


def test_a_key_is_rotated_by_one_session_at_a_time_and_once(scene):
    scene.fill(2)
    wanted = rotation.candidates(scene.db, tenants=["acme"])
    assert len(list(rotation.rotate(scene.connect, scene.kms(), wanted))) == 1
    with pytest.raises(ApplyError, match="is not active any more"):
        list(rotation.rotate(scene.connect, scene.kms(), wanted))
    with rows.alone(scene.db, "crypto rotate", "globex\0app.users"), pytest.raises(ApplyError, match="another session"):
        rotated(scene, tenants=["globex"])


def test_a_kms_that_is_gone_rotates_nothing(scene):
    scene.fill(2)
    (scene.folder / "acme.json").unlink()
    with pytest.raises(KmsRefused):
        rotated(scene, tenants=["acme"])
    assert {row.state for row in scene.keyring()} == {KeyState.ACTIVE}


def test_what_is_due_is_found(scene):
    scene.fill(2)
    cadence = timedelta(days=365)
    assert keys.judge(keys.read(scene.db, scene.kms()), cadence) == []
    scene.db.execute("UPDATE dbsec.keyring SET used = 2147483648 WHERE tenant = 'acme' AND purpose = 'data'")
    scene.db.execute("UPDATE dbsec.keyring SET created_at = now() - interval '400 days' WHERE tenant = 'globex'")
    found = {(f.code, f.target) for f in keys.judge(keys.read(scene.db, scene.kms()), cadence)}
    assert found == {("ENC101", "acme/app.users/data/1"), ("ENC102", "globex/app.users/data/1")}
    assert {row.tenant for row in rotation.candidates(scene.db, only_due=cadence)} == {"acme", "globex"}
    scene.admin("acme").rotate()
    scene.admin("globex").disable()
    found = {(f.code, f.target) for f in keys.judge(keys.read(scene.db, scene.kms()), timedelta(days=1000))}
    assert found >= {("ENC104", "acme/app.users/data/1"), ("ENC103", "globex/app.users/data/1")}


def test_a_rewrap_writes_no_row_of_data(scene):
    scene.fill(6)
    before, wrapped = scene.versions(), {row.id: row.wrapped for row in scene.keyring()}
    assert len(rewrap.stale(scene.db, scene.kms())) == 0
    done = rewrap.rewrap(scene.connect, scene.kms(), admin_of=scene.admin, batch=1)
    assert (done.rewrapped, done.kept, len(done.rotated), done.failed) == (4, 0, 2, [])
    assert {row.kek_version for row in scene.keyring()} == {"2"}
    assert all(row.wrapped != wrapped[row.id] for row in scene.keyring())
    assert scene.versions() == before
    assert len(scene.phones()) == 6
    again = rewrap.rewrap(scene.connect, scene.kms())
    assert (again.rewrapped, again.kept) == (0, 4)


def test_one_kek_that_is_disabled_stops_no_other(scene):
    scene.fill(4)
    for tenant in ("acme", "globex"):
        scene.admin(tenant).rotate()
    scene.admin("acme").disable()
    done = rewrap.rewrap(scene.connect, scene.kms())
    assert (done.rewrapped, len(done.failed)) == (2, 2)
    assert all("is disabled" in why for _, why in done.failed)
    scene.admin("acme").enable()
    assert rewrap.rewrap(scene.connect, scene.kms()).rewrapped == 2


class Liar:
    """A KMS that gives another key back than the one it was asked to rewrap: real keys, another row's."""

    def __init__(self, kms):
        self._kms = kms

    def __getattr__(self, name):
        return getattr(self._kms, name)

    def rewrap_many(self, items):
        aad = items[0][1]
        return [self._kms.wrap(bytes(32), aad) for _ in items]

    def unwrap_many(self, items):
        return [self._kms.unwrap(*item) for item in items]


def test_a_wrapping_of_another_dek_never_takes_the_place(scene):
    scene.fill(2)
    scene.admin("acme").rotate()
    before = {row.id: row.wrapped for row in scene.keyring()}
    done = rewrap.rewrap(scene.connect, Liar(scene.kms()), tenant="acme", batch=1)
    assert (done.rewrapped, len(done.failed)) == (0, 2)
    assert {row.id: row.wrapped for row in scene.keyring()} == before


class Away:
    """A KMS that goes away after so many rewraps; what is behind it is real."""

    def __init__(self, kms, after):
        self._kms, self._left = kms, after

    def __getattr__(self, name):
        return getattr(self._kms, name)

    def rewrap_many(self, items):
        if self._left <= 0:
            return [KmsUnavailable("no answer") for _ in items]
        self._left -= len(items)
        return self._kms.rewrap_many(items)


def test_a_kms_that_goes_away_leaves_whole_batches(scene):
    scene.fill(6)
    for tenant in ("acme", "globex"):
        scene.admin(tenant).rotate()
    with pytest.raises(KmsUnavailable, match="2 keys were rewrapped before") as away:
        rewrap.rewrap(scene.connect, Away(scene.kms(), 2), batch=2)
    assert "same command" in away.value.hint
    assert sorted(row.kek_version for row in scene.keyring()) == ["1", "1", "2", "2"]
    assert len(scene.phones()) == 6
    assert rewrap.rewrap(scene.connect, scene.kms(), batch=2).rewrapped == 2


def test_openbao_rotates_and_rewraps_in_batches_and_stops_clean_when_it_is_away(scene, openbao_factory):
    bao = openbao_factory()
    for tenant in TENANTS:
        open_admin(bao.uri(tenant), environ={}).create()
    scene.kms_uri = bao.uri("{tenant}")
    scene.fill(6)
    before = scene.versions()

    def admin(tenant):
        return open_admin(scene.kms_uri, environ={}, tenant=tenant)

    def away(step, edge):
        if (step, edge) == ("keys up to 2", Edge.AFTER_RECORD):
            bao.pause()

    try:
        with pytest.raises(KmsUnavailable, match="2 keys were rewrapped before"):
            rewrap.rewrap(scene.connect, scene.kms(HASTY), admin_of=admin, batch=2, observer=away)
        with pytest.raises(KmsUnavailable):
            list(rotation.rotate(scene.connect, scene.kms(HASTY), rotation.candidates(scene.db)))
    finally:
        bao.resume()
    assert sorted(row.kek_version for row in scene.keyring()) == ["1", "1", "2", "2"]
    assert {row.state for row in scene.keyring()} == {KeyState.ACTIVE}
    done = rewrap.rewrap(scene.connect, scene.kms(), admin_of=admin, batch=2)
    assert (done.rewrapped, {row.kek_version for row in scene.keyring()}) == (2, {"2"})
    assert (scene.versions(), len(scene.phones())) == (before, 6)
    bao.stop()


def test_keks_are_made_once_and_proven(scene):
    made = list(beginning.look(scene.kms(), ["acme", "umbrella"]))
    assert [bool(one.kek) for one in made] == [True, False]
    done = list(beginning.make(scene.kms(), scene.admin, made))
    assert [(one.tenant, one.made) for one in done] == [("acme", False), ("umbrella", True)]
    assert not any(one.made for one in beginning.make(scene.kms(), scene.admin, done))
    scene.admin("umbrella").disable()
    with pytest.raises(KmsRefused):
        list(beginning.make(scene.kms(), scene.admin, done))
