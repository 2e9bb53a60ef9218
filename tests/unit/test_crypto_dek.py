"""A DEK: its derivations are HKDF, its commitment is its own, its bytes are gone."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from dbsec.crypto import dek as deks
from dbsec.crypto.dek import Dek

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS, KEYS, st.binary(max_size=80), st.integers(1, 64))
def test_a_subkey_is_what_another_hkdf_derives(key, salt, info, size):
    assert Dek(bytearray(key), salt).subkey(info, size) == HKDF(SHA256(), size, salt, info).derive(key)


@given(KEYS, KEYS, KEYS, KEYS)
def test_a_commitment_is_kept_by_its_own_dek_and_salt_alone(key, salt, other_key, other_salt):
    commitment = Dek(bytearray(key), salt).commitment()
    assert len(commitment) == 32
    assert Dek(bytearray(key), salt).keeps(commitment)
    assert Dek(bytearray(other_key), salt).keeps(commitment) is (other_key == key)
    assert Dek(bytearray(key), other_salt).keeps(commitment) is (other_salt == salt)


def test_the_bytes_are_zero_once_it_is_taken():
    key = deks.fresh()
    assert len(key) == 32
    assert any(key)
    Dek(key, bytes(32))
    assert key == bytearray(32)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_dek_of_another_size_is_refused_and_erased(size):
    key = bytearray(b"k" * size)
    with pytest.raises(ValueError, match="32 bytes"):
        Dek(key, bytes(32))
    assert key == bytearray(size)


def test_it_does_not_show_itself():
    key = deks.fresh()
    raw = bytes(key)
    shown = repr(Dek(key, bytes(32)))
    assert shown == "<DEK>"
    assert raw.hex() not in shown
