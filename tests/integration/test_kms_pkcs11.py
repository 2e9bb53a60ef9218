"""pkcs11 on a real SoftHSM: keys that cannot leave, versions by CKA_ID, lost sessions and logins, forks, pins."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pkcs11
import pytest
from tests.softhsm import TOKEN, SoftHsm

from dbsec import files
from dbsec.errors import ConfigError
from dbsec.kms import KmsRefused, KmsUnavailable, Patience, open_admin, open_kms
from dbsec.kms.pkcs11_token import Module
from dbsec.kms.uri import split
from dbsec.shares import Fork

A = pkcs11.Attribute
AAD = {"tenant": "a", "context": "app.users"}
DEK = bytes(range(32))
QUICK = Patience(within_s=0.2)


@pytest.fixture
def label() -> str:
    return f"kek-{secrets.token_hex(4)}"


@pytest.fixture
def uri(softhsm: SoftHsm, label: str) -> str:
    open_admin(softhsm.uri(label), environ={}).create()
    return softhsm.uri(label)


def kms_of(uri: str, patience: Patience = QUICK) -> Any:
    return open_kms(uri, environ={}, patience=patience)


@contextmanager
def session_of(softhsm: SoftHsm) -> Iterator[Any]:
    """The library in other hands, within this process."""
    token = pkcs11.lib(str(softhsm.module)).get_token(token_label=TOKEN)
    try:
        yield token.open(rw=True, user_pin=softhsm.pin)
    except pkcs11.exceptions.UserAlreadyLoggedIn:
        yield token.open(rw=True)


def keys_in(session: Any, label: str) -> list[Any]:
    return list(session.get_objects({A.LABEL: label, A.CLASS: pkcs11.ObjectClass.SECRET_KEY}))


def make_key(session: Any, label: str, key_id: bytes, **template: Any) -> Any:
    kept = {A.SENSITIVE: True, A.EXTRACTABLE: False, A.PRIVATE: True}
    asked = {**kept, **{A[name]: value for name, value in template.items()}}
    return session.generate_key(pkcs11.KeyType.AES, 256, label=label, id=key_id, store=True, template=asked)


def test_a_key_never_leaves_the_token(softhsm, uri, label):
    with session_of(softhsm) as session:
        (key,) = keys_in(session, label)
        told = [key[a] for a in (A.SENSITIVE, A.ALWAYS_SENSITIVE, A.EXTRACTABLE, A.NEVER_EXTRACTABLE, A.LOCAL)]
        assert told == [True, True, False, True, True]
        with pytest.raises(pkcs11.exceptions.AttributeSensitive):
            key[A.VALUE]
        for change in ({A.EXTRACTABLE: True}, {A.SENSITIVE: False}):
            with pytest.raises(pkcs11.exceptions.AttributeReadOnly):
                key[next(iter(change))] = next(iter(change.values()))
        with pytest.raises(pkcs11.exceptions.PKCS11Error):
            key.copy({A.EXTRACTABLE: True, A.TOKEN: False})


@pytest.mark.parametrize("template", [{"EXTRACTABLE": True}, {"SENSITIVE": False}])
def test_a_key_that_can_leave_wraps_nothing(softhsm, label, template):
    with session_of(softhsm) as session:
        make_key(session, label, b"\x01", **template)
    with pytest.raises(KmsRefused, match="the key can leave the token"):
        kms_of(softhsm.uri(label)).wrap(DEK, AAD)


def test_versions_are_told_by_their_id_and_the_highest_wraps(softhsm, uri, label):
    kms = kms_of(uri)
    wraps = [kms.wrap(DEK, AAD)]
    for _ in range(3):
        open_admin(uri, environ={}).rotate()
        wraps.append(kms.wrap(DEK, AAD))
    assert [wrap[:3] for wrap in wraps] == [bytes([1, 1, version]) for version in (1, 2, 3, 4)]
    assert [len(wrap) for wrap in wraps] == [len(DEK) + 31] * 4
    assert all(kms.unwrap(wrap, AAD) == DEK for wrap in wraps)


def test_after_255_versions_the_id_is_longer(softhsm, label):
    with session_of(softhsm) as session:
        make_key(session, label, b"\xff")
    kms, admin = kms_of(softhsm.uri(label)), open_admin(softhsm.uri(label), environ={})
    old = kms.wrap(DEK, AAD)
    assert admin.rotate().version == "256"
    new = kms.wrap(DEK, AAD)
    assert new[:4] == b"\x01\x02\x01\x00"
    assert kms.unwrap(old, AAD) == kms.unwrap(new, AAD) == DEK


def test_a_uri_with_an_id_is_that_version_alone(softhsm, uri, label):
    open_admin(uri, environ={}).rotate()
    first = kms_of(uri.replace(f"object={label}", f"object={label};id=%01"))
    wrapped = first.wrap(DEK, AAD)
    assert wrapped[2] == 1
    assert first.describe().version == "1"
    assert kms_of(uri).unwrap(wrapped, AAD) == DEK
    with pytest.raises(KmsRefused, match="no key here has the id 02"):
        first.unwrap(kms_of(uri).wrap(DEK, AAD), AAD)
    with pytest.raises(ConfigError, match="cannot be rotated"):
        open_admin(uri.replace(f"object={label}", f"object={label};id=%01"), environ={}).rotate()


@pytest.mark.parametrize("same", [b"\x01", b"\x00\x01"])
def test_two_keys_that_are_one_version_are_refused(softhsm, uri, label, same):
    kms = kms_of(uri)
    wrapped = kms.wrap(DEK, AAD)
    with session_of(softhsm) as session:
        make_key(session, label, same)
    for act in (lambda: kms.wrap(DEK, AAD), lambda: kms.unwrap(wrapped, AAD), kms.describe):
        with pytest.raises(KmsRefused, match="is ambiguous: two keys have the same label and id"):
            act()


def test_a_key_of_another_kind_is_no_version(softhsm, uri, label):
    with session_of(softhsm) as session:
        session.generate_key(pkcs11.KeyType.DES3, label=label, id=b"\x09", store=True)
    assert kms_of(uri).describe().version == "1"


def test_a_logout_by_others_is_made_good(softhsm, uri):
    kms = kms_of(uri)
    wrapped = kms.wrap(DEK, AAD)
    for _ in range(3):
        with session_of(softhsm) as session:
            _log_out(session, softhsm)
        assert kms.unwrap(wrapped, AAD) == DEK


def _log_out(session: Any, softhsm: SoftHsm) -> None:
    """End the login of the whole process: closing a session that logged in does."""
    if session.user_type == pkcs11.UserType.NOBODY:
        import ctypes

        assert ctypes.CDLL(str(softhsm.module)).C_Logout(ctypes.c_ulong(session.handle)) == 0
    else:
        session.close()


def test_after_a_new_start_no_session_is_taken_for_anothers(softhsm, label):
    """Handles are given out anew: an old one may be a session with another token, where a key has the same label."""
    softhsm.add(other := f"other-{secrets.token_hex(2)}")
    start_again(softhsm)
    uris = [softhsm.uri(label), softhsm.uri(label, token=other)]
    for uri in uris:
        open_admin(uri, environ={}).create()
    mine, theirs = (kms_of(uri) for uri in uris)
    for first_after_a_start in (mine, theirs):  # both get the same handle
        start_again(softhsm)
        first_after_a_start.describe()
    wrapped = mine.wrap(DEK, AAD)
    with pytest.raises(KmsRefused, match="another KEK"):
        theirs.unwrap(wrapped, AAD)
    assert mine.unwrap(wrapped, AAD) == DEK


def start_again(softhsm: SoftHsm) -> None:
    module = Module.at(softhsm.module)
    with module.alone(5):
        module.start_again()


def test_a_kek_is_not_made_twice(softhsm, uri):
    with pytest.raises(KmsRefused, match="is there already"):
        open_admin(uri, environ={}).create()
    assert kms_of(uri).describe().version == "1"


def test_a_library_that_others_started_anew_is_made_good(softhsm, uri):
    kms = kms_of(uri)
    wrapped = kms.wrap(DEK, AAD)
    pkcs11.lib(str(softhsm.module)).reinitialize()
    assert kms.unwrap(wrapped, AAD) == DEK


def test_a_token_that_is_away_at_the_first_call_is_waited_for(softhsm, uri):
    kms = kms_of(uri)
    with moved_away(softhsm), pytest.raises(KmsUnavailable, match=r"does not start|do not answer|does not answer"):
        kms.wrap(DEK, AAD)
    assert kms.unwrap(kms.wrap(DEK, AAD), AAD) == DEK


@contextmanager
def moved_away(softhsm: SoftHsm) -> Iterator[None]:
    gone = softhsm.tokens.rename(softhsm.tokens.with_name("gone"))
    try:
        yield
    finally:
        gone.rename(softhsm.tokens)


def test_a_key_that_is_not_there_and_a_token_that_is_not_there_are_told_apart(softhsm, label):
    kms = kms_of(softhsm.uri(label))
    with pytest.raises(KmsRefused, match=f"has no key '{label}'"):
        kms.describe()
    with moved_away(softhsm), pytest.raises(KmsUnavailable):
        kms.describe()
    with pytest.raises(KmsRefused, match=f"has no key '{label}'"):
        kms.describe()


def test_a_failed_decryption_asks_whether_the_token_is_there(softhsm, uri):
    kms = kms_of(uri)
    kms.wrap(DEK, AAD)
    provider = kms._kms  # SoftHSM cannot be taken away between its finding a key and its use of it
    assert isinstance(provider._judge("unwrap", "GeneralError"), KmsRefused)
    with moved_away(softhsm):
        assert isinstance(provider._judge("unwrap", "GeneralError"), KmsUnavailable)
    assert kms.describe().version == "1"


def test_a_child_of_a_fork_starts_the_library_for_itself(softhsm, uri):
    """PKCS#11 asks for it; SoftHSM would get along without."""
    kms = kms_of(uri)
    wrapped = kms.wrap(DEK, AAD)
    module, token = Module.at(softhsm.module), kms._kms._token
    starts, session = module.starts, token._session

    def in_child() -> bytes:
        assert kms.unwrap(wrapped, AAD) == DEK
        assert token._session is not session
        return str(module.starts - starts).encode()

    assert Fork(in_child).result() == b"1"
    assert module.starts == starts
    assert kms.unwrap(wrapped, AAD) == DEK


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks among threads, which is the test
def test_a_fork_waits_for_the_call_of_another_thread(softhsm, uri):
    kms = kms_of(uri)
    wrapped = kms.wrap(DEK, AAD)
    inside, forking, done = threading.Event(), threading.Event(), []
    os.register_at_fork(before=forking.set)  # the hook registered last runs first

    def call(session: Any) -> None:
        inside.set()
        assert forking.wait(20)
        done.append(kms._kms._token.must_answer())

    other = threading.Thread(target=lambda: kms._kms._token.run(call))
    other.start()
    assert inside.wait(20)
    child = Fork(lambda: bytes(kms.unwrap(wrapped, AAD)) + bytes([len(done)]))
    assert child.result() == DEK + b"\x01"
    other.join()


def test_a_token_of_another_name_is_not_there(softhsm):
    with pytest.raises(KmsUnavailable, match="there is no token 'other'"):
        kms_of(softhsm.uri("k", token="other")).describe()


def test_a_wrong_pin_is_tried_once(softhsm, uri, tmp_path):
    """A token locks after some tries: SoftHSM does not, so the refusals tell whether it was asked."""
    pin = tmp_path / "pin"
    files.write_atomic(pin, "not the pin")
    with session_of(softhsm) as session:
        _log_out(session, softhsm)
    wrong = kms_of(uri.replace(str(softhsm.pin_file), str(pin)))
    said = []
    for _ in range(3):
        with pytest.raises(KmsRefused, match="does not take the pin") as refused:
            wrong.describe()
        said.append(refused.value.cause_known)
        assert "not the pin" not in f"{refused.value!r} {refused.value.hint}"
    assert said == ["PinIncorrect"] + ["it was wrong before, and a token locks after some tries"] * 2
    files.write_atomic(pin, softhsm.pin)
    assert wrong.describe().version == "1"


@pytest.mark.parametrize("library", ["/etc/passwd", __file__])
def test_what_is_no_library_is_told(softhsm, library):
    uri = softhsm.uri("k").replace(str(softhsm.module), library)
    with pytest.raises(ConfigError, match=f"the PKCS#11 module '{library}' does not start"):
        kms_of(uri).describe()


def test_it_says_that_softhsm_is_no_hsm(softhsm, uri, label):
    seen = kms_of(uri).describe()
    assert (seen.scheme, seen.kek, seen.protection, seen.fips) == (
        "pkcs11",
        f"pkcs11:{TOKEN}/{label}",
        "software",
        False,
    )
    assert any("not for production" in note for note in seen.notes)


def test_the_pin_is_by_reference(softhsm, label):
    uri = softhsm.uri(label).replace(f"file:{softhsm.pin_file}", softhsm.pin)
    with pytest.raises(ConfigError, match="by reference, never by value") as refused:
        kms_of(uri)
    assert softhsm.pin not in f"{refused.value} {split(uri)!r}"
