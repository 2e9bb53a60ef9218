"""The evidence chain: every way to falsify a sealed file is found, with its class and its line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbsec import canonical, evidence
from dbsec.errors import EvidenceError, EvidenceTampered, LabError, NewerFormat
from dbsec.evidence import Control, Drill, Observation, Outcome, Phase, Provenance, Recorder, verify, worst
from dbsec.evidence import line as chain

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
CONTROL = Control("roles.no-drop", "no table is dropped", "data is lost", ("CIS 4.5",))
LINES = 6  # a chapter, four observations and the seal
Lines = list[dict[str, Any]]


def record(path: Path, key: Ed25519PrivateKey = KEY, outcome: Outcome = Outcome.FAIL) -> Path:
    with Recorder(path, Provenance("deploy", "db-1", "0.1.0", "c71e3d9")) as recorder:
        recorder.chapter("roles", title="Roles", summary="s")
        for number, phase in enumerate((Phase.BASELINE, Phase.BEFORE, Phase.DURING, Phase.AFTER)):
            facts = {"n": number, "share": 0.5, "text": "naïve\x1f", "nested": {"b": [1, None], "a": True}}
            seen = Observation(outcome, f"attempt {number}", facts)
            recorder.record(CONTROL, "drop a table", seen, chapter="roles", phase=phase, seconds=1.0)
        recorder.seal(key)
    return path


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return record(tmp_path / "evidence.jsonl")


def lines_of(path: Path) -> Lines:
    return [json.loads(text) for text in path.read_bytes().splitlines()]


def write(path: Path, lines: Lines) -> None:
    path.write_bytes(b"".join(canonical.json_bytes(line) + b"\n" for line in lines))


def rechained(lines: Lines) -> Lines:
    """Make the chain consistent again, as whoever has the file but not the key can."""
    done: Lines = []
    prev = chain.FIRST_PREV
    for line in lines:
        line = {**line, "prev": prev}
        if line["kind"] == "seal":
            line |= {"count": len(done), "head": prev}
        line["hash"] = chain.line_hash(line)
        prev = line["hash"]
        done.append(line)
    return done


def test_a_sealed_file_verifies_with_its_key_and_says_so(sealed: Path) -> None:
    found = verify(sealed, KEY.public_key())
    signer = chain.raw_public(KEY.public_key()).hex()
    assert (found.count, found.signed_by) == (LINES - 1, signer)
    assert found.head == lines_of(sealed)[-1]["prev"]
    assert found.summary == f"authentic: 5 lines signed by Ed25519 key {signer[:12]}"


def test_without_a_key_it_is_consistent_and_not_called_authentic(sealed: Path) -> None:
    assert verify(sealed).signed_by is None
    assert verify(sealed).summary == "consistent, unsigned: 5 lines, no public key was given"


def changed(lines: Lines) -> Lines:
    return [{**line, "outcome": "pass"} if number == 3 else line for number, line in enumerate(lines, 1)]


def changed_with_its_hash(lines: Lines) -> Lines:
    forged = changed(lines)
    forged[2]["hash"] = chain.line_hash(forged[2])
    return forged


def wrong_seal(lines: Lines, **other: object) -> Lines:
    seal = {**lines[-1], **other}
    return [*lines[:-1], {**seal, "hash": chain.line_hash(seal)}]


@pytest.mark.parametrize(
    ("falsify", "line", "said"),
    [
        pytest.param(changed, 3, "its hash is another", id="changed"),
        pytest.param(changed_with_its_hash, 4, "does not follow", id="changed-and-rehashed"),
        pytest.param(lambda ls: ls[:2] + ls[3:], 3, "does not follow", id="dropped"),
        pytest.param(lambda ls: ls[1:], 1, "does not follow", id="first-dropped"),
        pytest.param(lambda ls: [*ls[:2], ls[3], ls[2], *ls[4:]], 3, "does not follow", id="reordered"),
        pytest.param(lambda ls: ls[:3] + ls[2:], 4, "does not follow", id="repeated"),
        pytest.param(lambda ls: ls[:-1], 6, "the seal is missing", id="cut"),
        pytest.param(lambda ls: [*ls, {**ls[2], "prev": ls[-1]["hash"]}], 7, "its hash", id="added-after-the-seal"),
        pytest.param(lambda ls: rechained([*ls, ls[1]]), 7, "something follows the seal", id="chained-after-the-seal"),
        pytest.param(lambda ls: wrong_seal(ls, count=4), 6, "counts other lines", id="seal-with-another-count"),
        pytest.param(lambda ls: wrong_seal(ls, head="0" * 64), 6, "counts other lines", id="seal-with-another-head"),
        pytest.param(lambda _: [], 1, "the seal is missing", id="empty"),
    ],
)
def test_what_is_found_without_a_key(sealed: Path, falsify: Callable[[Lines], Lines], line: int, said: str) -> None:
    write(sealed, falsify(lines_of(sealed)))
    with pytest.raises(EvidenceTampered, match=said) as caught:
        verify(sealed)
    assert (caught.value.line, caught.value.exit_code) == (line, 1)
    assert str(caught.value).startswith(f"line {line}: ")


def forged_seal(lines: Lines) -> Lines:
    return rechained([*lines[:-1], {**lines[-1], "sealed_at": "1999-01-01T00:00:00.000000Z"}])


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(lambda ls: rechained(changed(ls)), id="changed"),
        pytest.param(lambda ls: rechained(ls[:2] + ls[3:]), id="dropped"),
        pytest.param(lambda ls: rechained([*ls[:3], ls[2], *ls[3:]]), id="added"),
        pytest.param(lambda ls: rechained([*ls[:2], ls[3], ls[2], *ls[4:]]), id="reordered"),
        pytest.param(forged_seal, id="seal-alone"),
    ],
)
def test_a_full_rewrite_needs_the_key(sealed: Path, rewrite: Callable[[Lines], Lines]) -> None:
    write(sealed, rewrite(lines_of(sealed)))
    assert verify(sealed).signed_by is None, "the forgery is consistent: only the signature can find it"
    with pytest.raises(EvidenceTampered, match="not of this public key") as caught:
        verify(sealed, KEY.public_key())
    assert caught.value.line == len(lines_of(sealed))


def test_sealing_again_with_another_key_is_found(tmp_path: Path) -> None:
    forged = record(tmp_path / "forged.jsonl", OTHER, Outcome.PASS)
    assert verify(forged, OTHER.public_key()).signed_by
    with pytest.raises(EvidenceTampered, match="not of this public key") as caught:
        verify(forged, KEY.public_key())
    assert caught.value.line == LINES


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        pytest.param(b'"outcome":"fail"', b'"outcome":"pass","outcome":"fail"', 2, id="a-key-twice"),
        pytest.param(b'"seconds":1.0', b'"seconds":1e0', 2, id="another-float"),
        pytest.param(b"\\u001f", b"\\u001F", 2, id="another-escape"),
        pytest.param(b'"kind":', b'"kind": ', 1, id="white-space"),
        pytest.param(b'"share":0.5', b'"share":NaN', 2, id="not-a-number"),
        pytest.param(b"attempt 0", b"\\ud800", 2, id="half-a-surrogate-pair"),
    ],
)
def test_other_bytes_for_the_same_values_are_found(sealed: Path, old: bytes, new: bytes, line: int) -> None:
    raw = sealed.read_bytes()
    assert old in raw
    sealed.write_bytes(raw.replace(old, new, 1))
    with pytest.raises(EvidenceTampered, match="not canonical JSON") as caught:
        verify(sealed, KEY.public_key())
    assert caught.value.line == line


def test_a_missing_last_newline_is_found(sealed: Path) -> None:
    sealed.write_bytes(sealed.read_bytes()[:-1])
    with pytest.raises(EvidenceTampered) as caught:
        verify(sealed)
    assert caught.value.line == LINES


@pytest.mark.parametrize("text", [b"\xff\xfe", b"{", b"[" * 100_000, b'{"a":1} x'])
def test_what_is_not_json_is_named_by_line(sealed: Path, text: bytes) -> None:
    lines = sealed.read_bytes().splitlines(keepends=True)
    sealed.write_bytes(b"".join([*lines[:2], text + b"\n", *lines[3:]]))
    with pytest.raises(EvidenceTampered, match="is not JSON") as caught:
        verify(sealed)
    assert caught.value.line == 3


def test_a_line_that_is_no_object_is_named(sealed: Path) -> None:
    lines = sealed.read_bytes().splitlines(keepends=True)
    sealed.write_bytes(b"".join([lines[0], b"[]\n", *lines[1:]]))
    with pytest.raises(EvidenceTampered, match="is not an object") as caught:
        verify(sealed)
    assert caught.value.line == 2


def test_the_first_bad_line_is_the_one_named(sealed: Path) -> None:
    raw = sealed.read_bytes().replace(b"attempt 0", b"attempt 9").splitlines(keepends=True)
    sealed.write_bytes(b"".join([*raw[:4], b"garbage\n", *raw[5:]]))
    with pytest.raises(EvidenceTampered) as caught:
        verify(sealed)
    assert caught.value.line == 2


def test_a_newer_format_is_not_called_tampered(sealed: Path) -> None:
    write(sealed, [{**line, "format": 2} for line in lines_of(sealed)])
    with pytest.raises(NewerFormat) as caught:
        verify(sealed)
    assert (caught.value.found, caught.value.known, caught.value.exit_code) == (2, 1, 2)


def test_a_missing_file_is_not_called_tampered(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError) as caught:
        verify(tmp_path / "none.jsonl")
    assert not isinstance(caught.value, EvidenceTampered)


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_byte_is_found(sealed: Path, data: st.DataObject) -> None:
    raw = sealed.read_bytes()
    at = data.draw(st.integers(0, len(raw) - 1), label="at")
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != raw[at]), label="byte")
    forged = sealed.with_name("forged.jsonl")
    forged.write_bytes(raw[:at] + bytes([byte]) + raw[at + 1 :])
    with pytest.raises((EvidenceTampered, NewerFormat)):
        verify(forged, KEY.public_key())


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_is_found(sealed: Path, data: st.DataObject) -> None:
    raw = sealed.read_bytes()
    forged = sealed.with_name("forged.jsonl")
    forged.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1), label="length")])
    with pytest.raises(EvidenceTampered):
        verify(forged)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_drill_saw_verifies_when_read_again(tmp_path: Path, facts: dict[str, Any]) -> None:
    path = tmp_path / "evidence.jsonl"
    drill = Drill(CONTROL, "d", lambda: Observation(Outcome.PASS, "seen", facts))
    with Recorder(path, Provenance("a", "h")) as recorder:
        recorder.run(drill, chapter="c", phase=Phase.AFTER)
        recorder.seal(KEY)
    assert verify(path, KEY.public_key()).count == 1


def raises(error: Exception) -> Callable[[], Observation]:
    def attack() -> Observation:
        raise error

    return attack


@pytest.mark.parametrize(
    ("attack", "summary"),
    [
        (raises(LabError("the lab is not up", hint="dbsec lab up")), "the lab is not up"),
        (raises(RuntimeError("boom")), "RuntimeError: boom"),
        (lambda: Observation(Outcome.PASS, "s", {"price": Decimal(1)}), "TypeError"),
        (lambda: Observation(Outcome.PASS, "s", {"raw": float("nan")}), "ValueError"),
        (lambda: Observation(Outcome.PASS, "s", {"raw": "\udcff"}), "UnicodeEncodeError"),
    ],
)
def test_what_an_attack_raises_or_cannot_write_is_an_error_and_the_run_goes_on(
    tmp_path: Path, attack: Callable[[], Observation], summary: str
) -> None:
    path = tmp_path / "evidence.jsonl"
    with Recorder(path, Provenance("a", "h")) as recorder:
        line = recorder.run(Drill(CONTROL, "d", attack), chapter="c", phase=Phase.AFTER)
        recorder.seal(KEY)
    assert line["outcome"] == "error"
    assert summary in line["summary"]
    assert verify(path, KEY.public_key()).count == 1


class Refused(Exception):
    """An error as a driver raises it: its text quotes the row, its fields do not."""

    sqlstate = "23505"

    def __init__(self) -> None:
        super().__init__("duplicate key\nDETAIL:  Key (phone)=(+4915112345678) already exists.")
        self.diag = SimpleNamespace(message_primary="duplicate key, password=hunter2-secret")


PLAIN = "+4915112345678", "hunter2-secret"


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (Refused(), "Refused 23505: duplicate key, password=<redacted>"),
        (LabError("it failed: password=hunter2-secret", hint="psql 'password=hunter2-secret'"), "it failed: password="),
        (LabError(f"gave up: {Refused()}"), "gave up: duplicate key"),
        (OSError("first line\nKey (phone)=(+4915112345678)"), "OSError: first line"),
        (RuntimeError("host=db password='hunter2-secret'"), "RuntimeError: host=db password=<redacted>"),
    ],
)
def test_what_an_attack_raises_brings_no_secret_and_no_row_into_the_evidence(
    tmp_path: Path, error: Exception, summary: str
) -> None:
    path = tmp_path / "evidence.jsonl"
    with Recorder(path, Provenance("a", "h")) as recorder:
        line = recorder.run(Drill(CONTROL, "d", raises(error)), chapter="c", phase=Phase.AFTER)
    assert line["summary"].startswith(summary)
    assert not [value for value in PLAIN if value in path.read_text()]


def test_an_error_of_the_server_keeps_its_sqlstate(tmp_path: Path) -> None:
    with Recorder(tmp_path / "evidence.jsonl", Provenance("a", "h")) as recorder:
        line = recorder.run(Drill(CONTROL, "d", raises(Refused())), chapter="c", phase=Phase.AFTER)
    assert line["facts"] == {"error": "Refused", "sqlstate": "23505"}


def test_nothing_can_be_appended_to_a_sealed_file(tmp_path: Path) -> None:
    with Recorder(tmp_path / "evidence.jsonl", Provenance("a", "h")) as recorder:
        recorder.seal(KEY)
        with pytest.raises(EvidenceError, match="is sealed"):
            recorder.chapter("late", title="t", summary="s")


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    second = Recorder(path, Provenance("b", "h"))
    with Recorder(path, Provenance("a", "h")), pytest.raises(EvidenceError, match="another run writes"):
        second.__enter__()


@pytest.mark.parametrize(
    ("outcomes", "folded"),
    [
        ((), Outcome.SKIP),
        ((Outcome.SKIP, Outcome.PASS), Outcome.PASS),
        ((Outcome.PASS, Outcome.ERROR), Outcome.ERROR),
        ((Outcome.ERROR, Outcome.FAIL, Outcome.PASS), Outcome.FAIL),
    ],
)
def test_fail_beats_error_beats_pass(outcomes: tuple[Outcome, ...], folded: Outcome) -> None:
    assert worst(outcomes) is folded


def test_the_signing_key_is_made_once_private_and_its_public_half_verifies(tmp_path: Path, sealed: Path) -> None:
    made = evidence.signing_key(tmp_path / "keys")
    again = evidence.signing_key(tmp_path / "keys")
    assert chain.raw_public(made.public_key()) == chain.raw_public(again.public_key())
    assert (tmp_path / "keys/evidence.key").stat().st_mode & 0o777 == 0o600
    public = evidence.load_public_key(tmp_path / "keys/evidence.pub")
    assert verify(record(tmp_path / "again.jsonl", made), public).signed_by
    with pytest.raises(EvidenceTampered):
        verify(sealed, public)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("of another key")])
def test_a_lost_or_strange_public_key_is_written_again(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    made = evidence.signing_key(tmp_path / "keys")
    public = tmp_path / "keys/evidence.pub"
    spoil(public)
    evidence.signing_key(tmp_path / "keys")
    assert chain.raw_public(evidence.load_public_key(public)) == chain.raw_public(made.public_key())


def test_the_folder_of_the_key_is_private_and_usable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        evidence.signing_key(tmp_path / "keys")
    finally:
        os.umask(before)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("load", [evidence.load_public_key, lambda path: evidence.signing_key(path.parent)])
def test_a_broken_key_file_is_an_evidence_error(tmp_path: Path, load: Callable[[Path], object]) -> None:
    path = tmp_path / "evidence.key"
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(EvidenceError, match="cannot read"):
        load(path)
