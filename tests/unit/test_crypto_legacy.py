"""Old formats, as their own libraries made them (scripts/legacy_vectors.py), are read; a wrong key gives no text."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from dbsec.crypto.life import legacy
from dbsec.errors import ConfigError, UsageError
from dbsec.secret import Secret

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/crypto_legacy.json").read_text())
CASES = VECTORS["cases"]
NAMES = [f"{case['format']} {case['padding']} {len(case['keys'])}".replace("  ", " ") for case in CASES]
# made by GnuPG 2.2.40: gpg --symmetric -z 0 --s2k-count 65536 --cipher-algo NAME, passphrase "pass phrase"
GNUPG = {
    "BLOWFISH": "jA0EBAMCODdoPavxBq5g0jcB0eshp89L1C/FC26c3fVJyg2e192EZmU285aZYQEMCyu2CLtO+utBWAsZwfIryf9WzUmvFp8z",
    "CAST5": "jA0EAwMCVNAOs+UZe/Fg0jcBO4Kc4drd4zOVkNWmFs7YvE++80ZOUyGoJI3jgi5PGL3rWXGJY06J/PDvkYrR1n+MOsh6i/85",
    "3DES": "jA0EAgMCZAYx/vOlMJZg0jcBDrnWMSbQzavyUeBVNJojQJGR3bHq+a3ss/9ywEyC2UG+uX7Qo9WZ1Y9XOX54h0LIOKYK6op3",
    "AES256": (
        "jA0ECQMCW37LPZWbi21g0j8BSXjj0+TVlz6oBzJEzPYV1hrpSQ/NEAlbz3/I4P95NOchc2RocFSTDUqyrYaR5CsI5l9yY2Px4jfqIaBR7AQ="
    ),
}


def reader(case, *keys):
    return legacy.reader(case["format"], [Secret(key) for key in keys or case["keys"]], case["padding"])


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_each_value_is_read_as_text_and_as_bytes(case):
    read = reader(case)
    for one in case["values"]:
        assert read(one["value"]).decode() == one["plain"]
        assert read(one["value"].encode()).decode() == one["plain"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_wrong_key_opens_nothing(case):
    wrong = VECTORS["wrong_key"] if case["format"] != "fernet" else base64.urlsafe_b64encode(bytes(32)).decode()
    read = reader(case, wrong)
    for one in case["values"]:
        with pytest.raises(ValueError):  # noqa: PT011 its text is told to nobody
            read(one["value"])


@pytest.mark.parametrize("case", [case for case in CASES if "aes" not in case["format"]], ids=lambda c: c["format"])
def test_several_keys_are_tried(case):
    wrong = VECTORS["wrong_key"] if case["format"] != "fernet" else base64.urlsafe_b64encode(bytes(32)).decode()
    read = reader(case, wrong, *case["keys"])
    assert read(case["values"][0]["value"]).decode() == case["values"][0]["plain"]


@pytest.mark.parametrize("value", ["", "A", "AAAA", "****", "é", base64.b64encode(bytes(5)).decode(), 7, None])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_what_is_no_value_is_refused(case, value):
    with pytest.raises((ValueError, TypeError)):
        reader(case)(value)


def test_what_does_not_notice_a_wrong_key_takes_one_alone():
    with pytest.raises(UsageError, match="several cannot be tried"):
        legacy.reader("sqlalchemy-utils-aes", [Secret("a"), Secret("b")])


def test_names_and_keys_that_are_none():
    with pytest.raises(UsageError, match="'rot13' is no format"):
        legacy.reader("rot13", [Secret("a")])
    with pytest.raises(UsageError, match="has no padding 'pkcs7'"):
        legacy.reader("sqlalchemy-utils-aes", [Secret("a")], "pkcs7")
    with pytest.raises(UsageError, match="needs its old key"):
        legacy.reader("fernet", [])
    with pytest.raises(ConfigError, match="the old key is none of 'fernet'") as refused:
        legacy.reader("fernet", [Secret("not a key of fernet")])
    assert "not a key of fernet" not in str(refused.value)


def test_every_format_says_what_it_is():
    assert {name: bool(one.about) for name, one in legacy.known().items()} == {
        "fernet": True,
        "pgcrypto": True,
        "sqlalchemy-utils-aes": True,
        "sqlalchemy-utils-fernet": True,
        "sqlalchemy-utils-gcm": True,
    }


@pytest.mark.parametrize("name", GNUPG)
def test_openpgp_of_another_writer_is_read(name):
    """Ciphers that pgcrypto has only with OpenSSL's legacy provider."""
    value = base64.b64decode(GNUPG[name])
    assert legacy.reader("pgcrypto", [Secret("pass phrase")])(value) == b"+49 30 1234567"
    with pytest.raises(ValueError):  # noqa: PT011
        legacy.reader("pgcrypto", [Secret("another")])(value)
