"""[crypto] of dbsec.toml: what it declares, and that a mistake is named by its key and without its value."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dbsec.crypto import BlindIndex, EncryptedColumn, Field, Mode, Normal, Profile, open_envelope, settings
from dbsec.errors import ConfigError

PHONE = {
    "table": "app.users",
    "column": "phone_enc",
    "field": "app.users.phone",
    "tenant": "tenant_id",
    "index": {"column": "phone_bidx", "bits": 63, "normal": "digits"},
}


def test_what_is_declared():
    found = settings.of_table({"kms": "file-kek:/k", "ttl": "90s", "profile": "fips", "columns": [PHONE]})
    assert (found.ttl, found.profile, found.cadence) == (timedelta(seconds=90), Profile.FIPS, timedelta(days=365))
    assert found.declared == (
        EncryptedColumn(
            "app.users",
            "phone_enc",
            Field("app.users", "phone"),
            Mode.RANDOMISED,
            "tenant_id",
            index=("phone_bidx", BlindIndex(63, 1, Normal.DIGITS)),
        ),
    )
    assert found.of("app.users", "phone_enc") == found.declared[0]
    with pytest.raises(ConfigError, match=r"'app.users.name' is no encrypted column"):
        found.of("app.users", "name")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ttl": "5"}, r"'ttl': write a number and s, min, h or d"),
        ({"ttl": 5}, r"'ttl'"),
        ({"profile": "strict"}, r"'profile'"),
        ({"kmz": "x"}, r"'kmz': extra"),
        ({"columns": [{**PHONE, "table": "users"}]}, r"'columns.0.table': name its schema"),
        ({"columns": [{**PHONE, "field": "phone"}]}, r"'columns.0.field': name context and column"),
        ({"columns": [{**PHONE, "mode": "deterministic"}]}, r"app.users.phone_enc': .* deterministic"),
        ({"columns": [{**PHONE, "index": {"column": "b", "bits": 65}}]}, r"a blind index of 65 bits"),
        ({"columns": [{**PHONE, "row": []}]}, r"is bound to no row"),
        ({"columns": [PHONE, PHONE]}, r"'app.users.phone_enc' is declared twice"),
        ({"columns": [PHONE, {**PHONE, "table": "app.clients"}]}, r"field 'app.users.phone' is of 'app.users' already"),
    ],
)
def test_a_mistake_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        settings.of_table(changes)


def test_a_value_where_a_reference_belongs_is_not_shown():
    found = settings.of_table({"kms": "file-kek:/k?passphrase=hunter2", "keyring": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in repr(found)
    with pytest.raises(ConfigError) as refused:
        open_envelope(found, lambda: None, {})
    assert "hunter2" not in str(refused.value) + refused.value.hint


def test_without_a_kms_it_says_what_to_write():
    with pytest.raises(ConfigError, match="no KMS is named"):
        open_envelope(settings.of_table({}), lambda: None, {})


def test_two_generations_of_one_field_may_stand_beside_each_other():
    email = {"table": "app.users", "column": "email_1", "field": "app.users.email", "mode": "deterministic"}
    found = settings.of_table({"columns": [email, {**email, "column": "email_2", "generation": 2}]})
    assert [one.generation for one in found.declared] == [1, 2]
