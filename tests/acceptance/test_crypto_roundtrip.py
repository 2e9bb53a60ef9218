"""A customer's first day and last: encrypt, store, find, read, rotate, rewrap, reencrypt, shred."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.errors import UniqueViolation

from dbsec.crypto import (
    BlindIndex,
    CryptoSettings,
    DecryptionFailed,
    EncryptedColumn,
    Envelope,
    Field,
    Mode,
    open_envelope,
)
from dbsec.pg import connect

PHONE = EncryptedColumn(
    "app.users", "phone_enc", Field("app.users", "phone"), tenant="tenant", index=("phone_bidx", BlindIndex(63))
)
EMAIL = EncryptedColumn("app.users", "email_enc", Field("app.users", "email"), Mode.DETERMINISTIC, tenant="tenant")
TABLE = """
CREATE SCHEMA app;
CREATE TABLE app.users (
    id bigint PRIMARY KEY, tenant text NOT NULL, phone_enc bytea, phone_bidx bigint, email_enc bytea);
CREATE INDEX ON app.users (tenant, phone_bidx);
CREATE UNIQUE INDEX ON app.users (tenant, email_enc);
"""
CONFIG = """
[crypto]
kms = "{kms}"

[[crypto.columns]]
table = "app.users"
column = "phone_enc"
field = "app.users.phone"
tenant = "tenant"
index = {{ column = "phone_bidx", bits = 63 }}

[[crypto.columns]]
table = "app.users"
column = "email_enc"
field = "app.users.email"
mode = "deterministic"
tenant = "tenant"
"""
POLICY = """
path "transit/encrypt/{prefix}-*" {{ capabilities = ["update"] }}
path "transit/decrypt/{prefix}-*" {{ capabilities = ["update"] }}
path "transit/rewrap/{prefix}-*"  {{ capabilities = ["update"] }}
path "transit/keys/{prefix}-*"    {{ capabilities = ["read"] }}
"""


class Customer:
    """A service of ours and whoever looks after it: public names and the command line, nothing else."""

    def __init__(self, folder, conninfo, kms, admin_kms):
        self.folder, self.conninfo, self.kms, self.admin_kms = folder, conninfo, kms, admin_kms
        (folder / "dbsec.toml").write_text(CONFIG.format(kms=kms))

    def run(self, *argv):
        """Run ``dbsec ARGV`` as a process, in the folder with our dbsec.toml."""
        env = {**os.environ, "DSN": self.conninfo.text()}
        command = [sys.executable, "-m", "dbsec", *argv, "--dsn", "env:DSN", "--format", "json"]
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)["result"] if done.stdout.startswith("{") else done.stdout

    def service(self) -> Envelope:
        """Start a process of the service: nothing is cached."""
        return open_envelope(CryptoSettings(kms=self.kms), lambda: connect(self.conninfo), {})

    def rows(self, query, *values):
        with connect(self.conninfo) as session:
            return session.execute(query, values).fetchall()

    def store(self, envelope, user, tenant, phone, email):
        values = (
            envelope.encrypt(phone.encode(), PHONE.field, tenant=tenant, row=user),
            envelope.blind_index(phone, PHONE.field, PHONE.index[1], tenant=tenant),
            envelope.encrypt_deterministic(email.encode(), EMAIL.field, tenant=tenant),
        )
        query = "INSERT INTO app.users VALUES (%s, %s, %s, %s, %s) RETURNING id"
        self.rows(query, user, tenant, *values)

    def read(self, envelope, user, tenant):
        query = "SELECT phone_enc, email_enc FROM app.users WHERE id = %s AND tenant = %s"
        ((phone, email),) = self.rows(query, user, tenant)
        at = {"tenant": tenant, "row": user}
        return (
            envelope.decrypt(phone, PHONE.field, **at).decode(),
            envelope.decrypt(email, EMAIL.field, **at).decode(),
        )

    def find(self, envelope, tenant, phone):
        sought = envelope.blind_index(phone, PHONE.field, PHONE.index[1], tenant=tenant)
        return [
            row[0]
            for row in self.rows("SELECT id FROM app.users WHERE tenant = %s AND phone_bidx = %s", tenant, sought)
        ]

    def stored(self):
        return self.rows("SELECT * FROM app.users ORDER BY id")


@pytest.fixture
def customer(database, openbao, tmp_path):
    prefix = f"t{secrets.token_hex(4)}"
    token = openbao.token(POLICY.format(prefix=prefix))
    kms = openbao.uri(f"{prefix}-{{tenant}}", token_file=token)
    with connect(database.conninfo) as admin:
        admin.execute(TABLE)
    return Customer(tmp_path, database.conninfo, kms, openbao.uri(f"{prefix}-{{tenant}}"))


def test_from_the_first_value_to_the_end_of_a_tenant(customer):
    customer.run("db", "install", "--apply")
    tenants = ("--tenant", "acme", "--tenant", "globex")
    customer.run("crypto", "init", *tenants, "--admin", customer.admin_kms, "--apply")

    # encrypt, store, look up, decrypt
    service = customer.service()
    customer.store(service, 1, "acme", "+4915111111111", "one@acme.example")
    customer.store(service, 2, "acme", "+4915122222222", "two@acme.example")
    customer.store(service, 3, "globex", "+4915111111111", "one@acme.example")
    assert customer.find(service, "acme", "+4915111111111") == [1]
    assert customer.find(service, "globex", "+4915111111111") == [3]
    assert customer.read(customer.service(), 1, "acme") == ("+4915111111111", "one@acme.example")
    shown = str(customer.stored()) + str(customer.rows("SELECT * FROM dbsec.keyring"))
    assert "+4915" not in shown
    assert "acme.example" not in shown

    # rotate the DEK: old values open, new ones are under the new key, lookups and uniqueness hold
    before = customer.stored()
    customer.run("crypto", "rotate-dek", "--context", "app.users", "--apply")
    assert customer.stored() == before
    rotated = customer.service()
    customer.store(rotated, 4, "acme", "+4915144444444", "four@acme.example")
    phones = dict(customer.rows("SELECT id, phone_enc FROM app.users"))
    assert phones[4][2:6] != phones[1][2:6]
    assert customer.read(rotated, 1, "acme") == ("+4915111111111", "one@acme.example")
    assert customer.find(rotated, "acme", "+4915111111111") == [1]
    with pytest.raises(UniqueViolation):
        customer.store(rotated, 5, "acme", "+4915155555555", "four@acme.example")

    # bring the rows to the new key
    customer.run("crypto", "reencrypt", "app.users", "phone_enc", "--apply", "--verify")
    assert customer.read(customer.service(), 1, "acme") == ("+4915111111111", "one@acme.example")
    phones = dict(customer.rows("SELECT id, phone_enc FROM app.users"))
    assert phones[1][2:6] == phones[2][2:6] == phones[4][2:6]

    # rewrap: a new version of each KEK, no data row is written
    before = customer.stored()
    wrapped = customer.rows("SELECT wrapped FROM dbsec.keyring WHERE state <> 'destroyed' ORDER BY id")
    customer.run("crypto", "rewrap", "--rotate-kek", "--admin", customer.admin_kms, "--apply")
    assert customer.stored() == before
    after = customer.rows("SELECT wrapped FROM dbsec.keyring WHERE state <> 'destroyed' ORDER BY id")
    assert not set(after) & set(wrapped)
    assert customer.read(customer.service(), 4, "acme") == ("+4915144444444", "four@acme.example")

    # shred one tenant: its values open no more, not even from rows and keyring of the day before
    keyring = customer.rows("SELECT * FROM dbsec.keyring ORDER BY id")
    customer.run("crypto", "shred", "--tenant", "acme", "--confirm", "acme", "--admin", customer.admin_kms, "--apply")
    last = customer.service()
    with pytest.raises(DecryptionFailed, match=r"a value of 'app\.users\.phone' cannot be decrypted"):
        customer.read(last, 1, "acme")
    assert customer.read(last, 3, "globex") == ("+4915111111111", "one@acme.example")
    _put_back(customer, keyring)
    with pytest.raises(DecryptionFailed):
        customer.read(customer.service(), 1, "acme")
    assert customer.read(customer.service(), 3, "globex") == ("+4915111111111", "one@acme.example")


def _put_back(customer, keyring):
    """Restore the keyring as a backup would."""
    with connect(customer.conninfo) as session:
        session.execute("DELETE FROM dbsec.keyring")
        marks = ", ".join(["%s"] * len(keyring[0]))
        for row in keyring:
            session.execute(f"INSERT INTO dbsec.keyring OVERRIDING SYSTEM VALUE VALUES ({marks})", row)


def test_the_command_line_prints_no_secret_and_changes_nothing_without_apply(customer):
    customer.run("db", "install", "--apply")
    customer.run("crypto", "init", "--tenant", "acme", "--admin", customer.admin_kms, "--apply")
    service = customer.service()
    customer.store(service, 1, "acme", "+4915111111111", "one@acme.example")
    before = (customer.stored(), customer.rows("SELECT * FROM dbsec.keyring ORDER BY id"))
    told = [
        customer.run("crypto", "rotate-dek", "--context", "app.users"),
        customer.run("crypto", "rewrap"),
        customer.run("crypto", "shred", "--tenant", "acme", "--admin", customer.admin_kms),
        customer.run("crypto", "keys"),
        customer.run("crypto", "inspect", "--table", "app.users", "--column", "phone_enc", "--key", "1", "--prove"),
    ]
    assert (customer.stored(), customer.rows("SELECT * FROM dbsec.keyring ORDER BY id")) == before
    assert "+4915" not in str(told)
    token = Path(customer.kms.rpartition("file:")[2]).read_text().strip()
    assert token not in str(told)
    assert customer.read(customer.service(), 1, "acme") == ("+4915111111111", "one@acme.example")
