"""A stream comes back as it was; what was cut, moved, swapped or changed is refused with one class and one message."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import os
import pickle
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.crypto import DecryptionFailed, KeyExhausted
from dbsec.crypto.stream import (
    Decryptor,
    Encryptor,
    StreamReader,
    decrypt_file,
    decrypt_stream,
    encrypt_file,
    encrypt_stream,
    read_prelude,
)
from dbsec.crypto.stream import format as stream_format
from dbsec.crypto.stream import pieces as stream_pieces
from dbsec.errors import UsageError

TESTS = Path(__file__).parents[1]
VECTORS = json.loads((TESTS / "vectors/crypto_stream.json").read_text())
KEY = bytes(range(32))
HEADER = b"backup/base.tar"
TEXT = bytes(range(256))


def encrypted(plain: bytes, *, header: bytes = HEADER, frame_bytes: int = 16, key: bytes = KEY) -> bytes:
    encryptor = Encryptor(key, header=header, frame_bytes=frame_bytes, key_id=7)
    return encryptor.update(plain) + encryptor.finalize()


def decrypted(stream: bytes, *, key: bytes = KEY, header: bytes | None = HEADER) -> bytes:
    decryptor = Decryptor(key, header=header)
    return decryptor.update(stream) + decryptor.finalize()


def by_copy(stream: bytes, **asked) -> bytes:
    sink = io.BytesIO()
    decrypt_stream(io.BytesIO(stream), sink, asked.get("key", KEY), header=asked.get("header", HEADER))
    return sink.getvalue()


def by_reader(stream: bytes, **asked) -> bytes:
    reader = StreamReader.of_file(io.BytesIO(stream), asked.get("key", KEY), header=asked.get("header", HEADER))
    return b"".join(reader.decrypt_frame(index) for index in range(reader.frames))


WAYS = pytest.mark.parametrize("way", [decrypted, by_copy, by_reader])


def assert_refused(stream: bytes, way=decrypted, **asked) -> None:
    with pytest.raises(DecryptionFailed) as caught:
        way(stream, **asked)
    assert type(caught.value) is DecryptionFailed
    assert str(caught.value) == "a value of 'stream' cannot be decrypted"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def frames_of(stream: bytes) -> tuple[bytes, list[bytes]]:
    prelude = read_prelude(io.BytesIO(stream))
    full = prelude.full_frame_bytes
    return stream[: prelude.size], [stream[at : at + full] for at in range(prelude.size, len(stream), full)]


# --- round trips


@given(st.integers(1, 40), st.integers(0, 5), st.integers(-2, 2), st.integers(1, 97), st.binary(max_size=50))
def test_round_trip_around_the_borders_of_frames(frame_bytes, frames, off, step, header):
    plain = (TEXT * 2)[: max(0, frames * frame_bytes + off)]
    encryptor = Encryptor(KEY, header=header, frame_bytes=frame_bytes, key_id=2**32 - 1)
    stream = b"".join(encryptor.update(plain[at : at + step]) for at in range(0, len(plain), step))
    stream += encryptor.finalize()
    decryptor = Decryptor(KEY, header=header)
    out = [decryptor.update(stream[at : at + step]) for at in range(0, len(stream), step)]
    assert not decryptor.whole
    assert b"".join(out) + decryptor.finalize() == plain == by_reader(stream, header=header)
    assert decryptor.whole
    assert decryptor.counts == encryptor.counts
    assert encryptor.counts.stream_bytes == len(stream) == encryptor.prelude.stream_bytes(len(plain))
    assert encryptor.prelude.plain_bytes(len(stream)) == len(plain)
    assert encryptor.counts.frames == encryptor.prelude.frame_count(len(plain)) == max(1, -(-len(plain) // frame_bytes))


@given(st.integers(1, 60), st.integers(0, 600))
def test_a_size_that_no_stream_has_is_told(frame_bytes, stream_bytes):
    prelude = stream_format.Prelude(b"", frame_bytes, 0, bytes(32), bytes(32))
    sizes = {prelude.stream_bytes(plain): plain for plain in range(600)}
    if stream_bytes in sizes:
        assert prelude.plain_bytes(stream_bytes) == sizes[stream_bytes]
    else:
        with pytest.raises(ValueError, match="no stream"):
            prelude.plain_bytes(stream_bytes)


@given(st.binary(max_size=100), st.integers(0, 120), st.integers(0, 120))
def test_any_part_is_read_alone(plain, offset, size):
    reader = StreamReader.of_file(io.BytesIO(encrypted(plain)), KEY, header=HEADER)
    assert reader.read_at(offset, size) == plain[offset : offset + size]
    assert reader.plain_bytes == len(plain)


def test_the_default_frame_is_a_mebibyte(tmp_path):
    plain = os.urandom((2 << 20) + 5)
    (tmp_path / "plain").write_bytes(plain)
    counts = encrypt_file(tmp_path / "plain", tmp_path / "stream", KEY, header=HEADER)
    assert (counts.frames, counts.plain_bytes, counts.prelude.frame_bytes) == (3, len(plain), 1 << 20)
    assert counts.stream_bytes == (tmp_path / "stream").stat().st_size
    assert decrypt_file(tmp_path / "stream", tmp_path / "again", KEY, header=HEADER) == counts
    assert (tmp_path / "again").read_bytes() == plain
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name != "plain"} == {
        "stream": 0o600,
        "again": 0o600,
    }


def test_the_header_and_the_key_id_are_read_without_the_key():
    prelude = read_prelude(io.BytesIO(encrypted(TEXT)))
    assert (prelude.header, prelude.key_id, prelude.frame_bytes) == (HEADER, 7, 16)


def test_the_key_is_found_by_the_prelude():
    asked = []
    found = decrypted(encrypted(TEXT), key=lambda prelude: asked.append(prelude.key_id) or KEY)
    assert (found, asked) == (TEXT, [7])


def test_what_the_finder_of_the_key_raises_comes_through():
    def away(_):
        raise KeyError("the KMS is away")

    with pytest.raises(KeyError, match="away"):
        decrypted(encrypted(TEXT), key=away)


def test_equal_plaintexts_share_no_bytes_but_the_header():
    one, two = (frames_of(encrypted(TEXT)) for _ in range(2))
    assert one[0][16:48] != two[0][16:48]
    assert not set(one[1]) & set(two[1])


# --- vectors


@WAYS
@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["name"])
def test_valid_vectors_are_opened(vector, way):
    raw = {name: bytes.fromhex(vector[name]) for name in ("key", "header", "plaintext", "stream")}
    assert way(raw["stream"], key=raw["key"], header=raw["header"]) == raw["plaintext"]
    prelude = read_prelude(io.BytesIO(raw["stream"]))
    assert (prelude.header, prelude.frame_bytes, prelude.key_id) == (
        raw["header"],
        vector["frame_bytes"],
        vector["key_id"],
    )


@WAYS
@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["name"])
def test_invalid_vectors_are_refused(vector, way):
    raw = {name: bytes.fromhex(vector[name]) for name in ("key", "header", "stream")}
    assert_refused(raw["stream"], way, key=raw["key"], header=raw["header"])


@pytest.fixture(scope="module")
def written_twice():
    """The second writer of the format, which imports nothing of dbsec."""
    spec = importlib.util.spec_from_file_location("stream_vectors", TESTS.parent / "scripts/stream_vectors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_vectors_are_those_of_the_second_writer(written_twice):
    assert (TESTS / "vectors/crypto_stream.json").read_text() == written_twice.made()


@given(plain=st.binary(max_size=70), header=st.binary(max_size=40), frame_bytes=st.integers(1, 40))
def test_both_writers_write_the_same(written_twice, plain, header, frame_bytes):
    ours = encrypted(plain, header=header, frame_bytes=frame_bytes)
    asked = {"key": KEY, "header": header, "frame": frame_bytes, "key_id": 7, "salt": ours[16:48]}
    assert written_twice.Stream(plain, **asked).raw() == ours


# --- attacks


@WAYS
@pytest.mark.parametrize("plain", [b"", b"x", TEXT[:40]], ids=len)
def test_every_flipped_bit_is_refused(plain, way):
    stream = encrypted(plain)
    for bit in range(len(stream) * 8):
        changed = bytearray(stream)
        changed[bit // 8] ^= 1 << bit % 8
        assert_refused(bytes(changed), way)


@WAYS
@pytest.mark.parametrize("plain", [b"", b"x", TEXT[:32], TEXT[:40]], ids=len)
def test_every_truncation_is_refused(plain, way):
    stream = encrypted(plain)
    for end in range(len(stream)):
        assert_refused(stream[:end], way)


@WAYS
@given(added=st.binary(min_size=1, max_size=70))
def test_what_is_appended_is_refused(way, added):
    for plain in (b"", TEXT[:32], TEXT[:40]):
        assert_refused(encrypted(plain) + added, way)


@WAYS
@given(order=st.lists(st.integers(0, 3), max_size=6))
def test_no_other_order_of_frames_is_accepted(way, order):
    prelude, frames = frames_of(encrypted(TEXT[:60]))
    stream = prelude + b"".join(frames[index] for index in order)
    if order == [0, 1, 2, 3]:
        assert way(stream) == TEXT[:60]
    else:
        assert_refused(stream, way)


@WAYS
@pytest.mark.parametrize("place", range(4))
def test_a_frame_of_another_stream_is_refused(way, place):
    """The same key, header, place and length: only the salt is another."""
    prelude, frames = frames_of(encrypted(TEXT[:60]))
    frames[place] = frames_of(encrypted(TEXT[:60]))[1][place]
    assert_refused(prelude + b"".join(frames), way)


@WAYS
def test_a_whole_stream_in_the_place_of_another_is_refused(way):
    other = encrypted(TEXT, header=b"backup/manifest")
    assert_refused(other, way)
    assert way(other, header=None) == TEXT  # who takes any header must look at it


@WAYS
def test_a_header_that_was_changed_to_the_one_expected_is_refused(way):
    other = encrypted(TEXT, header=b"backup/copy.tar")
    assert_refused(other.replace(b"backup/copy.tar", HEADER), way)
    assert_refused(other.replace(b"backup/copy.tar", HEADER), way, header=None)


@WAYS
def test_another_key_is_refused_before_its_frames_are_tried(way):
    """Frames that would open under two keys are no help: the commitment names one key."""
    assert_refused(encrypted(TEXT), way, key=bytes(32))
    prelude, frames = frames_of(encrypted(TEXT))
    assert_refused(prelude[:-32] + bytes(32) + b"".join(frames), way)


def test_the_error_names_the_stream_and_its_key(tmp_path):
    (tmp_path / "base.tar.d5").write_bytes(encrypted(TEXT)[:-1])
    with pytest.raises(DecryptionFailed, match=r"'base\.tar\.d5'") as caught:
        decrypt_file(tmp_path / "base.tar.d5", tmp_path / "base.tar", KEY, header=HEADER)
    assert caught.value.key_id == 7
    assert caught.value.exit_code == 1


# --- what is refused is not written, what is written was verified


def test_a_file_that_is_refused_leaves_the_old_one_and_nothing_else(tmp_path):
    (tmp_path / "stream").write_bytes(encrypted(TEXT)[:-17])
    (tmp_path / "plain").write_text("old")
    with pytest.raises(DecryptionFailed):
        decrypt_file(tmp_path / "stream", tmp_path / "plain", KEY, header=HEADER)
    assert (tmp_path / "plain").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"stream", "plain"}


def test_a_source_that_fails_leaves_no_stream(tmp_path):
    with pytest.raises(IsADirectoryError):
        encrypt_file(tmp_path, tmp_path / "stream", KEY, header=HEADER)
    assert list(tmp_path.iterdir()) == []


def test_a_sink_gets_a_true_beginning_and_an_error():
    prelude, frames = frames_of(encrypted(TEXT))
    frames[5] = bytes(32)
    sink = io.BytesIO()
    decryptor = Decryptor(KEY, header=HEADER)
    for piece in (prelude, *frames[:6]):
        sink.write(decryptor.update(piece))
    with pytest.raises(DecryptionFailed):
        decryptor.update(frames[6])  # a frame is opened when another follows
    assert sink.getvalue() == TEXT[: 16 * 5]
    assert not decryptor.whole
    for act in (partial(decryptor.update, frames[6]), decryptor.finalize):
        with pytest.raises(DecryptionFailed):
            act()


def test_a_stream_that_was_refused_stays_refused():
    """Its end may come late, but it was asked for: who got the error has thrown the beginning away."""
    stream = encrypted(TEXT)
    decryptor = Decryptor(KEY, header=HEADER)
    decryptor.update(stream[:-1])
    for act in (decryptor.finalize, partial(decryptor.update, stream[-1:]), decryptor.finalize):
        with pytest.raises(DecryptionFailed):
            act()


def test_a_stream_ends_once():
    encryptor, decryptor = Encryptor(KEY, header=HEADER), Decryptor(KEY, header=HEADER)
    with pytest.raises(UsageError, match="not read yet"):
        _ = decryptor.prelude
    decryptor.update(encryptor.finalize())
    assert decryptor.finalize() == b""
    for act in (
        encryptor.finalize,
        partial(encryptor.update, b"x"),
        decryptor.finalize,
        partial(decryptor.update, b"x"),
    ):
        with pytest.raises(UsageError, match="has ended"):
            act()


class Trickle(io.RawIOBase):
    """An unbuffered file that takes and gives at most three bytes at a time, as a socket may."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = io.BytesIO(data)

    def read(self, size=-1):
        return self.data.read(min(size, 3))

    def write(self, data):
        return self.data.write(bytes(data[:3]))


def test_a_file_that_gives_and_takes_little_is_copied_whole():
    stream, plain = Trickle(), Trickle()
    encrypt_stream(Trickle(TEXT), stream, KEY, header=HEADER, frame_bytes=10)
    assert decrypt_stream(Trickle(stream.data.getvalue()), plain, KEY, header=HEADER).plain_bytes == len(TEXT)
    assert plain.data.getvalue() == TEXT
    assert read_prelude(Trickle(stream.data.getvalue())).header == HEADER


def test_a_pipe_that_has_nothing_yet_is_no_end():
    """A None that passes for the end would make a whole stream of half a plaintext."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with (
        os.fdopen(reading, "rb", buffering=0) as source,
        os.fdopen(writing, "wb"),
        pytest.raises(UsageError, match="does not block"),
    ):
        encrypt_stream(source, io.BytesIO(), KEY, header=HEADER)
    with pytest.raises(UsageError, match="does not block"):
        decrypt_stream(io.BytesIO(encrypted(TEXT)), Full(), KEY, header=HEADER)


class Full(io.RawIOBase):
    def write(self, _):
        return None


# --- nonces and memory


def test_a_forked_child_may_not_go_on():
    """Both would encrypt different plaintexts under the same nonce."""
    encryptor = Encryptor(KEY, header=HEADER)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for act in (encryptor.finalize, partial(encryptor.update, b"x")):
                with pytest.raises(UsageError, match="another process"):
                    act()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    encryptor.finalize()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_encryptor_is_not_copied(copied):
    with pytest.raises(TypeError, match="nonces"):
        copied(Encryptor(KEY, header=HEADER))


def test_threads_that_share_a_stream_never_share_a_nonce(monkeypatch):
    """Frames of 4 KiB let other threads run while one encrypts."""
    seen = []
    real = stream_format.FrameCipher.encrypt

    def noted(cipher, index, plain, *, last):
        seen.append((index, last))
        return real(cipher, index, plain, last=last)

    cipher = stream_format.FrameCipher
    monkeypatch.setattr(cipher, "encrypt", noted)  # hook: ok notes the nonces and calls the real cipher
    encryptor = Encryptor(KEY, header=HEADER, frame_bytes=4096)
    data = bytes(4096 * 3)
    threads = [threading.Thread(target=lambda: [encryptor.update(data) for _ in range(40)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encryptor.finalize()
    assert sorted(index for index, _ in seen) == list(range(4 * 40 * 3))


def test_a_stream_has_an_end_before_its_nonces_have(monkeypatch):
    monkeypatch.setattr(stream_pieces, "MOST_FRAMES", 3)  # hook: ok a smaller limit: the real one is 4 PiB
    encryptor = Encryptor(KEY, header=HEADER, frame_bytes=1)
    with pytest.raises(KeyExhausted):
        encryptor.update(b"abcde")
    with pytest.raises(KeyExhausted):
        encryptor.finalize()


def test_memory_holds_a_few_frames(tmp_path):
    size, frame_bytes = 32 << 20, 1 << 20
    (tmp_path / "plain").write_bytes(bytes(size))
    tracemalloc.start()
    try:
        encrypt_file(tmp_path / "plain", tmp_path / "stream", KEY, header=HEADER, frame_bytes=frame_bytes)
        decrypt_file(tmp_path / "stream", tmp_path / "again", KEY, header=HEADER)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * frame_bytes
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("plain", "again")}
    assert len(digests) == 1


def test_a_claimed_frame_size_costs_no_memory():
    """A stream that claims frames of 64 MiB is refused by its commitment before one is waited for."""
    stream = bytearray(encrypted(TEXT))
    stream[8:12] = (1 << 26).to_bytes(4, "big")
    with pytest.raises(DecryptionFailed):
        Decryptor(KEY, header=HEADER).update(stream)


# --- what the caller gets wrong


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"frame_bytes": 0}, "a frame has"),
        ({"frame_bytes": (1 << 26) + 1}, "a frame has"),
        ({"header": bytes(65536)}, "header has at most"),
        ({"key_id": -1}, "key id"),
        ({"key_id": 1 << 32}, "key id"),
        ({"key": bytes(16)}, "key has 32 bytes"),
    ],
)
def test_what_the_format_has_no_place_for(asked, said):
    with pytest.raises(UsageError, match=said):
        Encryptor(**{"key": KEY, "header": HEADER, **asked})


def test_the_reader_tells_which_frames_there_are():
    reader = StreamReader.of_file(io.BytesIO(encrypted(TEXT)), KEY, header=HEADER)
    for index in (-1, 16):
        with pytest.raises(UsageError, match="frames 0 to 15"):
            reader.decrypt_frame(index)
    for offset, size in ((-1, 2), (2, -1)):
        with pytest.raises(UsageError, match="bytes at"):
            reader.read_at(offset, size)


def test_a_reader_knows_the_end_before_it_reads_anything():
    prelude, frames = frames_of(encrypted(TEXT))
    with pytest.raises(DecryptionFailed):
        StreamReader.of_file(io.BytesIO(prelude + b"".join(frames[:-1])), KEY, header=HEADER)


def test_a_range_that_comes_short_is_refused():
    stream = encrypted(TEXT)
    reader = StreamReader(lambda at, size: stream[at : at + size], len(stream), KEY, header=HEADER)
    assert reader.read_at(100, 20) == TEXT[100:120]
    reader._read = lambda at, size: stream[at : at + size - 1]  # only the network's answer is faked
    with pytest.raises(DecryptionFailed):
        reader.read_at(100, 20)


@pytest.mark.parametrize("raw", [b"", b"\xd5", b"\xd5STM\2" + bytes(60), b"\xd5\x11" + bytes(60)])
def test_inspection_says_what_is_no_stream(raw):
    with pytest.raises(ValueError, match=r"not an encrypted stream|cut off|not known"):
        read_prelude(io.BytesIO(raw))
