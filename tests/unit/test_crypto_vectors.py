"""The vectors of docs/formats.md: dbsec reads and writes the valid ones, refuses the rest; so does a reader in Perl."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.conftest import missing

from dbsec.canonical import length_prefixed
from dbsec.crypto import (
    UNBOUND,
    BlindIndex,
    DecryptionFailed,
    Envelope,
    Field,
    Keyring,
    KeyRow,
    KeyState,
    MemoryKeyStore,
    Normal,
    Purpose,
    nonces,
)
from dbsec.crypto.binding import aad_prefix, row_part
from dbsec.crypto.dek import Dek
from dbsec.crypto.format import parse
from dbsec.crypto.lookup import normalised
from dbsec.kms import Aad, Description, KekState, KmsRefused, aad_bytes
from dbsec.kms.port import NO_AAD

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "vectors"
ROW_TYPES = {"int8": int, "uuid": UUID, "text": str, "bytea": bytes.fromhex}


@cache
def vectors(kind: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"crypto_{kind}.json").read_text())


def each(kind: str, section: str) -> Any:
    return pytest.mark.parametrize("vector", vectors(kind)[section], ids=lambda vector: vector["name"])


class VectorKms:
    """The KMS of the vectors, as docs/formats.md says: AES-256-GCM under one KEK; it wraps nothing."""

    def __init__(self, kek: str) -> None:
        self._kek = AESGCM(bytes.fromhex(kek))

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        raise KmsRefused("the vectors have all their keys")

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        try:
            return bytearray(self._kek.decrypt(wrapped[:12], wrapped[12:], aad_bytes(aad)))
        except (InvalidTag, ValueError):
            raise KmsRefused("a DEK cannot be unwrapped") from None

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        return wrapped

    def describe(self, aad: Aad = NO_AAD) -> Description:
        return Description("vector", "vector:kek", "1", KekState.ENABLED, "file")


def key_row(told: dict[str, Any]) -> KeyRow:
    """Make a row of the keyring from a vector."""
    return KeyRow(
        id=told["id"],
        tenant=told["tenant"],
        context=told["context"],
        purpose=Purpose(told["purpose"]),
        generation=told["generation"],
        state=KeyState(told["state"]),
        kek="vector:kek",
        kek_version="1",
        **{name: bytes.fromhex(told[name]) for name in ("wrapped", "commitment", "salt")},
    )


def envelope(kind: str) -> Envelope:
    store = MemoryKeyStore()
    store.rows = {told["id"]: key_row(told) for told in vectors(kind)["keys"]}
    return Envelope(Keyring(store, VectorKms(vectors(kind)["kek"])))


def place(vector: dict[str, Any]) -> dict[str, Any]:
    """Return where a value is read, as dbsec takes it."""
    row = tuple(ROW_TYPES[kind](text) for part in vector["row"] for kind, text in part.items())
    version = vector["version"]
    return {"tenant": vector["tenant"], "row": row or UNBOUND, "version": None if version is None else int(version)}


def field(vector: dict[str, Any]) -> Field:
    return Field(vector["context"], vector["column"])


@each("values", "valid")
def test_a_valid_value_is_read(vector):
    plain = envelope("values").decrypt(bytes.fromhex(vector["value"]), field(vector), **place(vector))
    assert plain.hex() == vector["plaintext"]


@each("values", "valid")
def test_a_valid_value_is_read_in_bulk(vector):
    told = place(vector)
    batch = [bytes.fromhex(vector["value"])] * 3
    pairs = {"rows": [told["row"]] * 3, "versions": [told["version"]] * 3}
    opened = envelope("values").decrypt_many(batch, field(vector), tenant=told["tenant"], **pairs)
    assert [plain.hex() for plain in opened] == [vector["plaintext"]] * 3


@each("values", "valid")
def test_the_aad_is_that_of_the_vector(vector):
    told = place(vector)
    header = parse(bytes.fromhex(vector["value"])).header
    aad = aad_prefix(told["tenant"], field(vector), header) + row_part(told["row"], told["version"])
    assert aad.hex() == vector["aad"]


BY_REFERENCE = [one for one in vectors("values")["valid"] if one["value"].startswith("d511")]
DETERMINISTIC = [one for one in vectors("values")["valid"] if one["value"].startswith("d512")]


def named_row(vector: dict[str, Any]) -> dict[str, Any]:
    """Return the row that the header of a value names."""
    return next(row for row in vectors("values")["keys"] if row["id"] == int(vector["value"][4:12], 16))


@pytest.mark.parametrize("vector", BY_REFERENCE, ids=lambda vector: vector["name"])
def test_a_value_is_written_as_in_the_vector(vector, monkeypatch):
    told, plain = place(vector), bytes.fromhex(vector["plaintext"])
    store = MemoryKeyStore()
    store.rows = {row.id: replace(row, state=KeyState.ACTIVE) for row in [key_row(named_row(vector))]}
    ours = Envelope(Keyring(store, VectorKms(vectors("values")["kek"])))
    nonce = bytes.fromhex(vector["value"])[6:18]
    fixed = lambda size: nonce * (size // len(nonce))  # noqa: E731
    monkeypatch.setattr(nonces.os, "urandom", fixed)  # hook: ok the nonce of the vector comes next, all else is real
    assert ours.encrypt(plain, field(vector), **told).hex() == vector["value"]
    told["rows"], told["versions"] = [told.pop("row")], [told.pop("version")]
    assert [one.hex() for one in ours.encrypt_many([plain], field(vector), **told)] == [vector["value"]]


@pytest.mark.parametrize("vector", DETERMINISTIC, ids=lambda vector: vector["name"])
def test_a_deterministic_value_is_written_as_in_the_vector(vector):
    plain, generation = bytes.fromhex(vector["plaintext"]), named_row(vector)["generation"]
    written = envelope("values").encrypt_deterministic(
        plain, field(vector), tenant=vector["tenant"], generation=generation
    )
    assert written.hex() == vector["value"]


@each("values", "invalid")
def test_an_invalid_value_is_refused_in_the_same_words(vector):
    with pytest.raises(DecryptionFailed) as caught:
        envelope("values").decrypt(bytes.fromhex(vector["value"]), field(vector), **place(vector))
    assert str(caught.value) == f"a value of '{field(vector)}' cannot be decrypted"


@each("values", "invalid")
def test_an_invalid_value_is_refused_in_bulk_and_beside_valid_ones(vector):
    told = place(vector)
    good = next(one for one in vectors("values")["valid"] if one["name"] == "a phone number")
    batch = [bytes.fromhex(one["value"]) for one in (good, vector, good)]
    pairs = {"rows": [1, told["row"], 1], "versions": [None, told["version"], None]}
    with pytest.raises(DecryptionFailed):
        envelope("values").decrypt_many(batch, field(vector), tenant=told["tenant"], **pairs)


def test_one_value_opens_under_two_keys_and_only_the_commitment_refuses_it():
    """GCM does not commit: without the commitment the row's KMS could choose between two plaintexts."""
    vector = next(one for one in vectors("values")["invalid"] if "two DEKs" in one["name"])
    raw, told = bytes.fromhex(vector["value"]), place(vector)
    row = named_row(vector)
    store, kms = MemoryKeyStore(), VectorKms(vectors("values")["kek"])
    dek = Dek(kms.unwrap(key_row(row).wrapped, key_row(row).aad), bytes.fromhex(row["salt"]))
    aad = aad_prefix(told["tenant"], field(vector), raw[:6]) + row_part(told["row"])
    info = length_prefixed([b"dbsec/1/aead", *(vector[name].encode() for name in ("tenant", "context", "column"))])
    assert AESGCM(dek.subkey(info)).decrypt(raw[6:18], raw[18:], aad)
    assert not dek.keeps(bytes.fromhex(row["commitment"]))
    # the same row, committed to the wrapped DEK, opens it: nothing else stood in the way
    store.rows = {row["id"]: key_row({**row, "commitment": dek.commitment().hex()})}
    assert Envelope(Keyring(store, kms)).decrypt(raw, field(vector), **told)


@each("keys", "valid")
def test_subkeys_and_commitment_of_a_row(vector):
    row = key_row(vector)
    dek = Dek(VectorKms(vectors("keys")["kek"]).unwrap(row.wrapped, row.aad), row.salt)
    names = [vector[name].encode() for name in ("tenant", "context", "column")]
    made = {
        name: dek.subkey(length_prefixed([b"dbsec/1/" + name.encode(), *names]), size)
        for name, size in (("aead", 32), ("siv", 64), ("bidx", 32))
    }
    assert {name: key.hex() for name, key in made.items()} == {name: vector[name] for name in made}
    assert dek.keeps(row.commitment)


@each("keys", "invalid")
def test_an_invalid_row_opens_nothing(vector):
    good = next(one for one in vectors("values")["valid"] if one["name"] == "a phone number")
    store = MemoryKeyStore()
    store.rows = {vector["id"]: key_row(vector)}
    ours = Envelope(Keyring(store, VectorKms(vectors("keys")["kek"])))
    told = {**place(good), "tenant": vector["tenant"]}
    with pytest.raises(DecryptionFailed):
        ours.decrypt(bytes.fromhex(good["value"]), Field(vector["context"], "phone"), **told)


@each("indexes", "valid")
def test_a_blind_index_is_that_of_the_vector(vector):
    how = BlindIndex(vector["bits"], vector["generation"], Normal(vector["normal"]))
    made = envelope("indexes").blind_index(vector["text"], field(vector), how, tenant=vector["tenant"])
    assert (str(made) if isinstance(made, int) else made.hex()) == vector["index"]
    assert normalised(vector["text"], how.normal).hex() == vector["normal_form"]


@pytest.mark.parametrize(("kind", "results"), [("values", "plaintext"), ("keys", ""), ("indexes", "index")])
def test_a_reader_in_another_language_agrees(kind, results):
    """read_crypto.pl is written from docs/formats.md, with an AES of its own."""
    perl = shutil.which("perl")
    if perl is None:
        missing("perl is not installed: apt-get install perl")
    told = vectors(kind)
    command = [perl, FOLDER / "read_crypto.pl", kind, FOLDER / f"crypto_{kind}.json"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    subkeys = ("aead", "siv", "bidx")
    expected = {v["name"]: v[results] if results else {name: v[name] for name in subkeys} for v in told["valid"]}
    assert said["valid"] == expected
    assert said["invalid"] == {v["name"]: None for v in told.get("invalid", [])}


def test_the_vectors_are_what_the_script_makes():
    done = subprocess.run(
        [sys.executable, "scripts/crypto_vectors.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["values", "keys", "indexes"])
def test_names_of_vectors_are_unique(kind):
    for section in ("valid", "invalid"):
        names = [vector["name"] for vector in vectors(kind).get(section, [])]
        assert len(names) == len(set(names))
