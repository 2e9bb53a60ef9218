"""No record leaves with a secret in it, whatever shape it came in."""

from __future__ import annotations

import io
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec import log
from dbsec.log import MASK, Redactor

SECRET = "hunter2!x"
LEAKS = [
    "host=db password={} user=a",
    "host=db password='{}' user=a",
    "PGPASSWORD={}",
    "db_password = {}",
    '{{"password": "{}", "user": "a"}}',
    "{{'secret_id': '{}'}}",
    "aws_secret_access_key={}",
    "X-Vault-Token: {}",
    "api-key: {}",
    "Authorization: Bearer {}",
    "'authorization': 'Basic {}'",
    "postgresql://app_gateway:{}@localhost:5432/app",
    "ALTER ROLE app_gateway PASSWORD '{}' VALID UNTIL 'infinity'",
    "alter role a password E'{}'",
    "ALTER ROLE a PASSWORD $tag${}$tag$",
    "SCRAM-SHA-256$4096:{}==$c3RvcmVk:c2VydmVy",
]


@pytest.mark.parametrize("leak", LEAKS)
def test_likely_secrets_are_masked(leak):
    text = Redactor().redact(leak.format(SECRET))
    assert SECRET not in text
    assert MASK in text
    assert leak.split()[0].partition("=")[0].partition("{")[0] in text


@pytest.mark.parametrize("value", ["it''s mine", "it\\'s mine", "a b c"])
def test_a_quoted_secret_is_masked_to_its_end(value):
    for text in (f"password='{value}' user=a", f"ALTER ROLE x PASSWORD '{value}';"):
        assert not set(value.split()) & set(Redactor().redact(text).replace("'", " ").split())


def test_md5_and_scram_hashes_are_masked():
    text = Redactor().redact("rolpassword md5" + "0123456789abcdef" * 2 + " SCRAM-SHA-256$4096:c2FsdA==$c3Q=:c2Vy")
    assert "0123456789abcdef" not in text
    assert "c2Vy" not in text


@pytest.mark.parametrize(
    "plain",
    [
        'FATAL:  password authentication failed for user "app_gateway"',
        "GET https://localhost:8443/v1/users?page=2 200",
        "connected to localhost:5432 as app_gateway",
        "mail to someone@example.org: sent",
    ],
)
def test_plain_texts_stay_as_they_are(plain):
    assert Redactor().redact(plain) == plain


@given(st.text(min_size=4, max_size=30), st.text(max_size=10), st.text(max_size=10))
def test_a_known_value_never_comes_out(value, before, after):
    redacted = Redactor([value]).redact(before + value + after)
    assert value not in redacted.replace(MASK, "")


def test_a_long_line_takes_no_longer_than_it_must():
    start = time.monotonic()
    Redactor().redact("tokenpassword" * 20_000 + " " * 100_000 + "A" * 500_000)
    assert time.monotonic() - start < 5


@pytest.fixture
def logs():
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    stream = io.StringIO()
    redactor = log.to_stream(stream, level=logging.INFO, known=[SECRET])
    yield stream, redactor
    root.handlers[:] = kept
    root.setLevel(level)


def test_message_arguments_traceback_and_stack_are_redacted(logs):
    stream, _ = logs
    logger = logging.getLogger("any.library")
    try:
        raise ValueError(f"bad {SECRET}") from KeyError(SECRET)
    except ValueError:
        logger.exception("with %s and %r", SECRET, {"x": SECRET})
    logger.warning("stack of %s", "x", stack_info=True)
    text = stream.getvalue()
    assert SECRET not in text
    assert text.count(MASK) >= 4
    assert "ValueError" in text
    assert "Stack (most recent call last)" in text


def test_what_is_learned_later_is_masked_and_short_values_are_not_taken(logs):
    stream, redactor = logs
    redactor.learn("another-value")
    redactor.learn("abc")
    logging.getLogger("x").info("another-value abc")
    assert stream.getvalue().endswith(f"{MASK} abc\n")


def test_a_wrong_call_of_the_log_stops_nothing(logs):
    stream, _ = logs
    logging.getLogger("x").info("%d of " + SECRET, "three")
    assert f"%d of {MASK} (does not fit its arguments)" in stream.getvalue()


def test_levels_below_are_silent(logs):
    stream, _ = logs
    logging.getLogger("x").debug("quiet")
    assert stream.getvalue() == ""
