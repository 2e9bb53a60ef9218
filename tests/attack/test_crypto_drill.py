"""The drills of field encryption on a small service: in clear every attack succeeds, encrypted none does."""

from __future__ import annotations

import secrets
from functools import partial

import pytest

from dbsec.crypto import BlindIndex, DecryptionFailed, EncryptedColumn, Envelope, Field, Keyring, Mode, PostgresKeyStore
from dbsec.crypto.drill import Answer, CryptoTarget, drills, still_found
from dbsec.errors import DbsecError
from dbsec.evidence import Outcome
from dbsec.kms import open_admin, open_kms
from dbsec.pg import connect, own

PHONE = EncryptedColumn(
    "app.users", "phone_enc", Field("app.users", "phone"), tenant="tenant_id", index=("phone_bidx", BlindIndex())
)
EMAIL = EncryptedColumn("app.users", "email_enc", Field("app.users", "email"), Mode.DETERMINISTIC, tenant="tenant_id")
TENANTS = ("acme", "globex")
CLEAR = """
CREATE SCHEMA app;
CREATE TABLE app.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, phone text NOT NULL,
    email text NOT NULL, UNIQUE (tenant_id, phone))
"""
ENCRYPTED = """
CREATE SCHEMA app;
CREATE TABLE app.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL,
    phone_enc bytea CHECK (octet_length(phone_enc) >= 34 AND substr(phone_enc, 1, 2) = '\\xd511'), phone_bidx bytea,
    email_enc bytea CHECK (octet_length(email_enc) >= 22 AND substr(email_enc, 1, 2) = '\\xd512'),
    UNIQUE (tenant_id, phone_bidx))
"""


class InClear:
    """A service that keeps what it is told."""

    def __init__(self, conninfo):
        self.conninfo = conninfo

    def add(self, tenant, *, phone, email):
        return self._rows(
            "INSERT INTO app.users (tenant_id, phone, email) VALUES (%s, %s, %s) RETURNING id", [tenant, phone, email]
        )[0][0]

    def read(self, tenant, user):
        rows = self._rows("SELECT phone, email FROM app.users WHERE tenant_id = %s AND id = %s", [tenant, user])
        return _answer(*rows[0]) if rows else Answer(404, "no user has this id", {})

    def find(self, tenant, **by):
        ((column, value),) = by.items()
        rows = self._rows(f"SELECT id FROM app.users WHERE tenant_id = %s AND {column} = %s", [tenant, value])
        return [row[0] for row in rows]

    def _rows(self, query, values):
        with connect(self.conninfo) as session:
            return session.execute(query, values).fetchall()


class Encrypted(InClear):
    """A service that encrypts; ``checks`` is what a look-up does with what it found."""

    def __init__(self, conninfo, envelope, *, checks=True):
        super().__init__(conninfo)
        self.envelope = envelope
        self.checks = checks

    def add(self, tenant, *, phone, email):
        (user,) = self._rows("SELECT nextval('app.users_id_seq')", [])[0]
        values = [
            self.envelope.encrypt(phone.encode(), PHONE.field, tenant=tenant, row=user),
            self.envelope.blind_index(phone, PHONE.field, PHONE.index[1], tenant=tenant),
            self.envelope.encrypt_deterministic(email.encode(), EMAIL.field, tenant=tenant),
        ]
        query = """INSERT INTO app.users (id, tenant_id, phone_enc, phone_bidx, email_enc)
                   OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s) RETURNING id"""
        return self._rows(query, [user, tenant, *values])[0][0]

    def read(self, tenant, user):
        query = "SELECT phone_enc, email_enc FROM app.users WHERE tenant_id = %s AND id = %s"
        rows = self._rows(query, [tenant, user])
        if not rows:
            return Answer(404, "no user has this id", {})
        try:
            return _answer(*self._opened(tenant, user, *rows[0]))
        except DecryptionFailed as exc:
            return Answer(500, str(exc), {})

    def find(self, tenant, **by):
        query = "SELECT id, phone_enc, email_enc FROM app.users WHERE tenant_id = %s AND "
        if "phone" in by:
            sought = self.envelope.blind_index(by["phone"], PHONE.field, PHONE.index[1], tenant=tenant)
            rows = self._rows(query + "phone_bidx = %s", [tenant, sought])
        else:
            sought = self.envelope.encrypt_deterministic(by["email"].encode(), EMAIL.field, tenant=tenant)
            rows = self._rows(query + "email_enc = %s", [tenant, sought])
        found = [(user, *self._opened(tenant, user, phone, email)) for user, phone, email in rows]
        return [
            user
            for user, phone, email in found
            if not self.checks or by.items() <= {"phone": phone, "email": email}.items()
        ]

    def _opened(self, tenant, user, phone, email):
        at = {"tenant": tenant, "row": user}
        return [
            self.envelope.decrypt(phone, PHONE.field, **at).decode(),
            self.envelope.decrypt(email, EMAIL.field, **at).decode(),
        ]


def _answer(phone, email):
    return Answer(200, f"{phone} {email}", {"phone": phone, "email": email})


def _target(database, people, kms, stranger):
    def dsn():
        return database.conninfo

    return CryptoTarget(dsn, dsn, people, TENANTS, PHONE, EMAIL, kms, stranger)


def _but(target, **changes):
    return CryptoTarget(**{name: getattr(target, name) for name in CryptoTarget.__slots__} | changes)


@pytest.fixture
def kms(openbao):
    """Open a key of OpenBao as somebody with the service's right and as somebody who may log in and no more."""
    name = f"drill-{secrets.token_hex(4)}"
    open_admin(openbao.uri(name), environ={}).create()
    nothing = openbao.token('path "sys/health" { capabilities = ["read"] }')
    return tuple(
        partial(open_kms, openbao.uri(name, token_file=file), environ={}) for file in (openbao.token_file, nothing)
    )


@pytest.fixture
def in_clear(database, kms):
    with connect(database.conninfo) as admin:
        admin.execute(CLEAR)
    return _target(database, InClear(database.conninfo), *kms)


@pytest.fixture
def encrypted(database, kms):
    with connect(database.conninfo) as admin:
        admin.execute(ENCRYPTED)
        own.install(admin)
    envelope = Envelope(Keyring(PostgresKeyStore(lambda: connect(database.conninfo)), kms[0]()))
    people = Encrypted(database.conninfo, envelope)
    people.add("acme", phone="+4915100000001", email="first@example.org")
    return _target(database, people, *kms)


def _seen(target):
    return {drill.name: drill.attack() for drill in drills(target)}


def _rows(target):
    with connect(target.admin()) as session:
        return session.execute("SELECT * FROM app.users ORDER BY id").fetchall()


def test_in_clear_every_attack_succeeds(in_clear):
    in_clear.people.add("acme", phone="+4915100000001", email="first@example.org")
    before = _rows(in_clear)
    seen = _seen(in_clear)
    assert {name: one.outcome for name, one in seen.items()} == dict.fromkeys(seen, Outcome.FAIL)
    assert _rows(in_clear) == before
    assert still_found(in_clear).outcome is Outcome.PASS


def test_encrypted_none_does(encrypted):
    before = _rows(encrypted)
    seen = _seen(encrypted)
    assert {name: one.outcome for name, one in seen.items()} == dict.fromkeys(seen, Outcome.PASS)
    assert _rows(encrypted) == before
    assert still_found(encrypted).outcome is Outcome.PASS
    assert len(seen) == 13
    told = str([(one.summary, one.facts) for one in seen.values()])
    assert "+4915100000001" not in told
    assert "first@example.org" not in told


def test_a_service_that_trusts_its_index_is_found_out(encrypted):
    trusting = Encrypted(encrypted.admin(), encrypted.people.envelope, checks=False)
    target = _but(encrypted, people=trusting)
    assert _seen(target)["lead the look-up of a phone to somebody else"].outcome is Outcome.FAIL


def test_a_column_without_a_check_is_found_out(encrypted):
    with connect(encrypted.admin()) as admin:
        admin.execute("ALTER TABLE app.users DROP CONSTRAINT users_phone_enc_check")
    assert _seen(encrypted)["write a phone in clear with psql"].outcome is Outcome.FAIL


def test_a_thief_with_the_right_to_the_kms_opens_everything(encrypted):
    target = _but(encrypted, stranger=encrypted.kms)
    seen = _seen(target)
    assert seen["open stolen rows with the stolen keyring"].outcome is Outcome.FAIL
    assert seen["open stolen rows at home"].outcome is Outcome.PASS, "without the keyring the right is of no use"


def test_a_service_that_shows_what_it_cannot_decrypt_is_found_out(encrypted):
    class Careless(Encrypted):
        def read(self, tenant, user):
            seen = super().read(tenant, user)
            return seen if seen.person else Answer(200, "?", {"phone": "?", "email": "?"})

    target = _but(encrypted, people=Careless(encrypted.admin(), encrypted.people.envelope))
    assert _seen(target)["flip one bit of the tag"].outcome is Outcome.FAIL


def test_a_service_that_was_broken_before_proves_nothing(encrypted):
    class Broken(Encrypted):
        def read(self, tenant, user):
            return Answer(500, "out of order", {})

    target = _but(encrypted, people=Broken(encrypted.admin(), encrypted.people.envelope))
    attack = next(drill.attack for drill in drills(target) if drill.name == "flip one bit of the tag")
    with pytest.raises(DbsecError, match="does not show a user"):
        attack()
    assert len(_rows(encrypted)) == 1, "the user of the drill is gone all the same"
