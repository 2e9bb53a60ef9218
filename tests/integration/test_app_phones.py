"""The release that encrypts phones beside the one that does not: each step of the change, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from app.phone_cipher import PhoneCipher, Undecryptable

from dbsec import files
from dbsec.errors import ConfigError
from dbsec.pg import connect
from dbsec.secret import Secret

KEY = "a key of the tests, and of no service: fedcba9876543210"
EXPAND = """
ALTER TABLE app.users ADD COLUMN phone_enc bytea, ADD COLUMN phone_bidx bytea, ALTER COLUMN phone DROP NOT NULL;
CREATE UNIQUE INDEX users_tenant_phone_bidx_key ON app.users (tenant_id, phone_bidx);
"""


@dataclass
class Green:
    """The new release beside the old one, on the same database."""

    service: Any
    client: Any
    file: Path

    def flags(self, **told: bool) -> None:
        files.write_atomic(self.file, json.dumps(told))
        assert self.service.hang_up()["flags"] == {"dual_write": False, "read_switch": False, **told}


@pytest.fixture
def green(deployed: Any, start_service: Callable[..., Any], tmp_path: Path) -> Iterator[Green]:
    with connect(deployed.conninfo) as admin:
        admin.execute(EXPAND)
    flags, key = tmp_path / "flags", tmp_path / "key"
    files.write_atomic(key, KEY)
    files.write_atomic(flags, json.dumps({"dual_write": True}))
    told = {"APP_RELEASE": "green", "APP_PHONE_KEY": f"file:{key}", "APP_FLAGS": str(flags)}
    service = start_service(deployed.conninfo, **told)
    yield Green(service, service.client(deployed.big), flags)
    service.stop()
    with connect(deployed.conninfo) as admin:
        admin.execute("DELETE FROM app.users WHERE phone IS NULL")
        admin.execute("ALTER TABLE app.users DROP COLUMN phone_enc, DROP COLUMN phone_bidx")
        admin.execute("ALTER TABLE app.users ALTER COLUMN phone SET NOT NULL")


def stored(deployed: Any, user: int) -> Any:
    (row,) = deployed.rows("SELECT phone, phone_enc, phone_bidx, tenant_id FROM app.users WHERE id = %s", user)
    return row


def created(client: Any, deployed: Any) -> tuple[int, str]:
    user = deployed.user()
    reply = client.post("/v1/users", json=user)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"], user["phone"]


def found(client: Any, phone: str) -> list[int]:
    reply = client.get("/v1/users", params={"phone": phone})
    assert reply.status_code == 200, reply.text
    assert all(item["phone"] == phone for item in reply.json()["items"])
    return [item["id"] for item in reply.json()["items"]]


def test_both_releases_read_what_either_writes_while_the_new_one_writes_both(green: Any, deployed: Any) -> None:
    new, phone = created(green.client, deployed)
    clear, sealed, index, tenant = stored(deployed, new)
    cipher = PhoneCipher(Secret(KEY))
    assert (clear, cipher.decrypt(sealed, tenant)) == (phone, phone)
    assert index == cipher.index(phone, tenant)
    assert found(deployed.as_big, phone) == found(green.client, phone) == [new]
    old, other = created(deployed.as_big, deployed)
    assert found(green.client, other) == [old]
    assert green.client.post("/v1/users", json=deployed.user(phone=other)).json()["type"].endswith("phone-taken")


def test_the_new_columns_are_read_after_the_switch_and_the_old_one_is_not_written_after_dual_write(
    green: Any, deployed: Any
) -> None:
    new, phone = created(green.client, deployed)
    with connect(deployed.conninfo) as admin:  # whoever still reads the old column is found out
        admin.execute("UPDATE app.users SET phone = '+4900000' || id WHERE id = %s", [new])
    green.flags(dual_write=True, read_switch=True)
    assert found(green.client, phone) == [new]
    assert green.client.get(f"/v1/users/{new}").json()["phone"] == phone
    green.flags(read_switch=True)
    last, sole = created(green.client, deployed)
    assert stored(deployed, last)[0] is None
    assert found(green.client, sole) == [last]
    assert green.client.post("/v1/users", json=deployed.user(phone=sole)).status_code == 409


def test_a_phone_moved_to_another_tenant_is_not_shown_and_the_error_does_not_hold_it(green: Any, deployed: Any) -> None:
    green.flags(read_switch=True)
    new, phone = created(green.client, deployed)
    with connect(deployed.conninfo) as admin:
        admin.execute("UPDATE app.users SET tenant_id = %s WHERE id = %s", [deployed.other.id, new])
    reply = green.service.client(deployed.other).get(f"/v1/users/{new}")
    assert reply.status_code == 500
    assert phone not in reply.text
    assert phone not in green.service.log
    assert KEY not in green.service.log


def test_the_cipher_opens_nothing_but_what_it_sealed_for_this_tenant() -> None:
    cipher, tenant = PhoneCipher(Secret(KEY)), uuid4()
    value = cipher.encrypt("+4915112345678", tenant)
    assert cipher.decrypt(value, tenant) == "+4915112345678"
    assert value != cipher.encrypt("+4915112345678", tenant)
    spoiled = [value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :] for at in range(len(value))]
    for wrong in (*spoiled, *(value[:length] for length in range(len(value)))):
        with pytest.raises(Undecryptable):
            cipher.decrypt(wrong, tenant)
    with pytest.raises(Undecryptable):
        cipher.decrypt(value, UUID(int=tenant.int ^ 1))
    with pytest.raises(ConfigError):
        PhoneCipher(Secret("short"))
