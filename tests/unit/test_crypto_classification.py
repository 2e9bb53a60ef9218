"""A classification is read whole or refused by its key; what a database has is judged by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dbsec.crypto.classification import RULES, Class, Classification, Handling, ListedColumn, judge, load
from dbsec.crypto.classification.observed import Observed, ObservedColumn
from dbsec.crypto.classification.personal import by_name
from dbsec.errors import ConfigError
from dbsec.findings import Severity

ROOT = Path(__file__).parents[2]
OURS = ROOT / "db/data_classification.toml"


def listed(name: str, mode: Handling = Handling.CLEAR, kind: Class = Class.PERSONAL, **more: str) -> ListedColumn:
    return ListedColumn("app.users", name, kind, mode, "a reason", "owner", **more)


def there(name: str, type_name: str = "text", **more) -> ObservedColumn:
    return ObservedColumn("app.users", "app", "users", name, type_name, type_name, **more)


def judged(entries: list[ListedColumn], columns: list[ObservedColumn], **more) -> list[tuple[str, str]]:
    found = judge(Classification(("app",), tuple(entries)), Observed(tuple(columns), **more))
    assert all(finding.name == RULES[finding.code].name for finding in found)
    return [(finding.code, finding.target.removeprefix("app.users.")) for finding in found]


def test_what_is_listed_and_kept_as_listed_is_clean():
    entries = [
        listed("id", kind=Class.INTERNAL),
        listed("phone_enc", Handling.RANDOMISED),
        listed("phone_bidx", Handling.BLIND_INDEX, along="phone_enc"),
    ]
    columns = [there("id", "int8"), there("phone_enc", "bytea", not_ours=0), there("phone_bidx", "bytea")]
    assert judged(entries, columns) == []


PERSONAL = """
email EMail customer_email workPhone msisdn last_name name dateOfBirth birth_date ssn tax_id IBAN card_number
home_address ip_address lat_latitude password_hash apiKey api_key_hash refresh_token
"""
OTHER = """
id:int8 amount_cents:int8 slug:text status:int2 emailed:text email_sent_at:timestamptz has_phone:bool company:text
pinned:text shipping:text mailing:text card:text tokenize:text
"""


@pytest.mark.parametrize("name", PERSONAL.split())
def test_a_column_that_looks_personal_and_is_not_listed_is_an_error(name):
    assert judged([], [there(name)]) == [("ENC201", name)]


@pytest.mark.parametrize(("name", "type_name"), [one.split(":") for one in OTHER.split()])
def test_any_other_column_that_is_not_listed_is_a_warning(name, type_name):
    assert judged([], [there(name, type_name)]) == [("ENC202", name)]
    assert RULES["ENC202"].severity is Severity.WARNING


def test_values_make_an_unlisted_column_personal_whatever_its_name():
    assert judged([], [there("c17", looks_like="an e-mail address")]) == [("ENC201", "c17")]


@pytest.mark.parametrize("kind", [Class.PUBLIC, Class.INTERNAL])
def test_values_that_look_personal_in_a_column_that_is_not(kind):
    assert judged([listed("note", kind=kind)], [there("note", looks_like="a phone number")]) == [("ENC207", "note")]


@pytest.mark.parametrize("kind", [Class.PERSONAL, Class.SECRET])
def test_a_personal_column_in_clear_with_a_reason_is_accepted(kind):
    assert judged([listed("name", kind=kind)], [there("name", looks_like="an e-mail address")]) == []


@pytest.mark.parametrize("mode", [Handling.RANDOMISED, Handling.INLINE, Handling.DETERMINISTIC])
@pytest.mark.parametrize("state", [{"type_name": "text"}, {"type_name": "bytea", "not_ours": 3}])
def test_an_encrypted_column_of_another_type_or_with_other_bytes_is_an_error(mode, state):
    assert judged([listed("phone_enc", mode)], [there("phone_enc", **state)]) == [("ENC203", "phone_enc")]


def test_no_hash_or_index_is_held_to_the_format_of_a_value():
    entries = [listed("a", Handling.HASH), listed("b", Handling.BLIND_INDEX)]
    assert judged(entries, [there("a", "bytea"), there("b", "int8")]) == []


IN_CLEAR = [
    listed("phone", until="phone_enc"),
    listed("phone_enc", Handling.RANDOMISED),
    listed("phone_bidx", Handling.BLIND_INDEX, along="phone_enc"),
]


def test_before_encryption_the_column_in_clear_is_the_one_error():
    assert judged(IN_CLEAR, [there("phone")]) == [("ENC204", "phone")]


def test_while_it_is_encrypted_the_copy_in_clear_is_a_warning():
    columns = [there("phone"), there("phone_enc", "bytea"), there("phone_bidx", "bytea")]
    assert judged(IN_CLEAR, columns) == [("ENC205", "phone")]
    assert RULES["ENC205"].severity is Severity.WARNING


def test_after_contract_nothing_is_left_to_say():
    assert judged(IN_CLEAR, [there("phone_enc", "bytea"), there("phone_bidx", "bytea")]) == []


def test_what_goes_missing_is_a_warning_but_for_what_was_to_go():
    assert judged(IN_CLEAR, [there("phone_enc", "bytea")]) == [("ENC206", "phone_bidx")]
    assert judged(IN_CLEAR, []) == [("ENC206", "phone_enc")]
    assert judged(IN_CLEAR, [], missing_schemas=("app",)) == []


def test_a_finding_holds_what_to_write_into_the_file():
    (finding,) = judge(Classification(("app",), ()), Observed((there("phone"),)))
    assert finding.fix.splitlines()[0] == '[tables."app.users".columns]'
    assert finding.target == "app.users.phone"
    assert "a phone number" in finding.message


def test_names_are_split_into_words():
    assert by_name("customerEMailAddress", "text")
    assert by_name("EMAIL", "varchar")
    assert not by_name("mailinglist", "text")
    assert not by_name("", "text")


FILE = """
format = 1
schemas = ["app"]
[tables."app.users"]
owner = "accounts"
[tables."app.users".columns]
id = { class = "internal", mode = "clear", reason = "why" }
phone = { class = "personal", mode = "clear", until = "phone_enc", reason = "why" }
phone_enc = { class = "personal", mode = "randomised", reason = "why", owner = "another" }
"""


@pytest.fixture
def written(tmp_path):
    def write(old: str = "", new: str = "") -> Path:
        assert old in FILE
        path = tmp_path / "classification.toml"
        path.write_text(FILE.replace(old, new))
        return path

    return write


def test_a_file_is_read(written):
    found = load(written())
    assert found.schemas == ("app",)
    assert [one.name for one in found.columns] == ["app.users.id", "app.users.phone", "app.users.phone_enc"]
    assert [one.owner for one in found.columns] == ["accounts", "accounts", "another"]
    assert found.of("app.users.phone") == replace(found.columns[1])
    assert found.of("app.users.fax") is None


REFUSED = [
    ('reason = "why" }\nphone =', 'reason = " " }\nphone =', "reason"),
    ('mode = "clear", reason', 'mode = "clear", color = "red", reason', "color"),
    ('class = "internal"', 'class = "confidential"', "class"),
    ('mode = "randomised"', 'mode = "rot13"', "mode"),
    ('owner = "accounts"', "", "owner"),
    ('until = "phone_enc"', 'until = "fax_enc"', "fax_enc"),
    ('until = "phone_enc"', 'until = "phone"', "no other column"),
    ('class = "internal"', 'class = "secret"', "secret and in clear"),
    ('["app"]', '["other"]', "none of the schemas"),
    ('["app"]', "[]", "schemas"),
    ("format = 1", "format = 2", "format 2"),
    ("format = 1", "", "format"),
    ("format = 1", "format = ", "no TOML"),
]


@pytest.mark.parametrize(("old", "new", "said"), REFUSED, ids=[said for _, _, said in REFUSED])
def test_a_file_that_is_not_whole_is_refused_by_its_key(written, old, new, said):
    with pytest.raises(ConfigError, match=said):
        load(written(old, new))


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere.toml")


def test_ours_agrees_with_what_the_service_declares(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from app.encryption import EMAIL, PHONE

    found = load(OURS)
    for column in (PHONE, EMAIL):
        entry = found.of(f"{column.table}.{column.column}")
        assert entry is not None
        assert (entry.kind, entry.mode.value) == (Class.PERSONAL, column.mode.value)
        clear = found.of(f"{column.table}.{column.field.column}")
        assert clear is not None
        assert clear.until == column.column
        if column.index is not None:
            index = found.of(f"{column.table}.{column.index[0]}")
            assert index is not None
            assert (index.mode, index.along) == (Handling.BLIND_INDEX, column.column)


def test_each_reason_of_ours_says_something():
    assert all(len(one.reason) > 15 and one.owner for one in load(OURS).columns)
