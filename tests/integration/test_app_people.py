"""The releases that encrypt phones and e-mail addresses beside the one that does not: each step, and the way back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from app.encryption import EMAIL, PHONE, open_for

from dbsec import files
from dbsec.kms import open_admin
from dbsec.pg import connect, own

EXPAND = """
ALTER TABLE app.users ADD COLUMN phone_enc bytea, ADD COLUMN phone_bidx bytea, ALTER COLUMN phone DROP NOT NULL,
  ADD COLUMN email_enc bytea, ALTER COLUMN email DROP NOT NULL;
CREATE UNIQUE INDEX users_tenant_phone_bidx_key ON app.users (tenant_id, phone_bidx);
"""
BACK = """
DELETE FROM app.users WHERE phone IS NULL OR email IS NULL;
ALTER TABLE app.users DROP COLUMN phone_enc, DROP COLUMN phone_bidx, ALTER COLUMN phone SET NOT NULL,
  DROP COLUMN email_enc, ALTER COLUMN email SET NOT NULL;
"""


@dataclass
class Green:
    """The new release beside the old one, on the same database."""

    service: Any
    client: Any
    file: Path
    told: dict[str, str]

    def flags(self, **told: bool) -> None:
        files.write_atomic(self.file, json.dumps(told))
        assert self.service.hang_up()["flags"] == {"dual_write": False, "read_switch": False, **told}


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory, deployed: Any) -> dict[str, str]:
    """A KEK for each of two tenants."""
    folder = tmp_path_factory.mktemp("kms")
    files.write_atomic(folder / "passphrase", "a passphrase of the tests, and of no service")
    uri = f"file-kek:{folder}/{{tenant}}.json?passphrase=file:{folder}/passphrase"
    for tenant in (deployed.big, deployed.other):
        open_admin(uri, environ={}, tenant=str(tenant.id)).create()
    return {"APP_KMS": uri}


@pytest.fixture
def green(deployed: Any, start_service: Callable[..., Any], tmp_path: Path, kms: dict[str, str]) -> Iterator[Green]:
    with connect(deployed.conninfo) as admin:
        own.install(admin)
        admin.execute(EXPAND)
    flags = tmp_path / "flags"
    files.write_atomic(flags, json.dumps({"dual_write": True}))
    told = {"APP_RELEASE": "green", "APP_CHANGING": "phone,email", "APP_FLAGS": str(flags), **kms}
    service = start_service(deployed.conninfo, **told)
    yield Green(service, service.client(deployed.big), flags, told)
    service.stop()
    with connect(deployed.conninfo) as admin:
        admin.execute(BACK)


def stored(deployed: Any, user: int) -> Any:
    query = "SELECT phone, phone_enc, phone_bidx, email, email_enc, tenant_id::text FROM app.users WHERE id = %s"
    (row,) = deployed.rows(query, user)
    return row


def created(client: Any, deployed: Any) -> tuple[int, dict[str, str]]:
    user = deployed.user(email=f"{secrets.token_hex(6)}@example.org")
    reply = client.post("/v1/users", json=user)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"], user


def found(client: Any, **by: str) -> list[int]:
    reply = client.get("/v1/users", params=by)
    assert reply.status_code == 200, reply.text
    ((name, value),) = by.items()
    assert all(item[name] == value for item in reply.json()["items"])
    return [item["id"] for item in reply.json()["items"]]


def test_both_releases_read_what_either_writes_while_the_new_one_writes_both(green: Green, deployed: Any) -> None:
    new, user = created(green.client, deployed)
    phone, phone_enc, index, email, email_enc, tenant = stored(deployed, new)
    envelope = open_for(green.told, lambda: deployed.conninfo)
    assert phone == user["phone"] == envelope.decrypt(phone_enc, PHONE.field, tenant=tenant, row=new).decode()
    assert email == user["email"] == envelope.decrypt(email_enc, EMAIL.field, tenant=tenant, row=new).decode()
    assert index == envelope.blind_index(phone, PHONE.field, PHONE.index[1], tenant=tenant)
    for client in (deployed.as_big, green.client):
        assert found(client, phone=phone) == found(client, email=email) == [new]
    old, other = created(deployed.as_big, deployed)
    assert found(green.client, phone=other["phone"]) == found(green.client, email=other["email"]) == [old]
    taken = green.client.post("/v1/users", json=deployed.user(phone=other["phone"]))
    assert taken.json()["type"].endswith("phone-taken")


def test_the_new_columns_are_read_after_the_switch_and_the_old_ones_are_not_written_after_dual_write(
    green: Green, deployed: Any
) -> None:
    new, user = created(green.client, deployed)
    with connect(deployed.conninfo) as admin:  # whoever still reads the old columns is found out
        admin.execute("UPDATE app.users SET phone = '+4900000' || id, email = 'x@y' WHERE id = %s", [new])
    green.flags(dual_write=True, read_switch=True)
    assert found(green.client, phone=user["phone"]) == found(green.client, email=user["email"]) == [new]
    shown = green.client.get(f"/v1/users/{new}").json()
    assert (shown["phone"], shown["email"]) == (user["phone"], user["email"])
    green.flags(read_switch=True)
    last, sole = created(green.client, deployed)
    row = stored(deployed, last)
    assert (row[0], row[3]) == (None, None)
    assert found(green.client, phone=sole["phone"]) == [last]
    assert green.client.post("/v1/users", json=deployed.user(phone=sole["phone"])).status_code == 409


def test_a_release_that_comes_after_the_change_knows_the_encrypted_columns_alone(
    green: Green, deployed: Any, start_service: Callable[..., Any]
) -> None:
    new, user = created(green.client, deployed)
    with connect(deployed.conninfo) as admin:
        admin.execute("UPDATE app.users SET phone = NULL, email = NULL WHERE id = %s", [new])
    told = {**green.told, "APP_CHANGING": "", "APP_ENCRYPTED": "phone,email"}
    teal = start_service(deployed.conninfo, **told)
    try:
        client = teal.client(deployed.big)
        assert found(client, phone=user["phone"]) == found(client, email=user["email"]) == [new]
        last, sole = created(client, deployed)
        assert found(client, email=sole["email"]) == [last]
    finally:
        teal.stop()


@pytest.mark.parametrize(
    "move",
    [
        "UPDATE app.users SET tenant_id = %(other)s WHERE id = %(victim)s",
        "UPDATE app.users SET phone_enc = (SELECT phone_enc FROM app.users WHERE id = %(victim)s) WHERE id = %(mine)s",
        "UPDATE app.users SET phone_enc = set_byte(phone_enc, 20, 255 - get_byte(phone_enc, 20)) WHERE id = %(victim)s",
    ],
)
def test_a_phone_that_was_moved_or_altered_is_not_shown_and_the_error_does_not_hold_it(
    green: Green, deployed: Any, move: str
) -> None:
    green.flags(read_switch=True)
    victim, user = created(green.client, deployed)
    mine, _ = created(green.client, deployed)
    with connect(deployed.conninfo) as admin:
        admin.execute(move.encode(), {"other": deployed.other.id, "victim": victim, "mine": mine})
    moved_to_other = "tenant_id" in move
    client = green.service.client(deployed.other) if moved_to_other else green.client
    reply = client.get(f"/v1/users/{mine if 'mine' in move else victim}")
    assert reply.status_code == 500
    assert user["phone"] not in reply.text
    assert user["phone"] not in green.service.log


def test_a_look_up_is_by_one_of_the_two(deployed: Any) -> None:
    assert deployed.as_big.get("/v1/users").status_code == 422
    both = {"phone": "+4915112345678", "email": "a@b"}
    assert deployed.as_big.get("/v1/users", params=both).status_code == 422
