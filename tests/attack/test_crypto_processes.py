"""Across threads, forks and new processes: no nonce twice, and neither plaintext nor key where they do not belong."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import pickle
import random
import statistics
import subprocess
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import pytest
from tests.envelopes import ACME, EMAIL, PHONE, Bench, KekFile, flipped

from dbsec.crypto import BlindIndex, DecryptionFailed, nonces
from dbsec.crypto.binding import label
from dbsec.crypto.dek import Dek
from dbsec.crypto.format import HEADER, NONCE_BYTES
from dbsec.kms import KmsUnavailable
from dbsec.testing.canary import Canaries

PLAIN = b"+4915112345678-canary"
AT = {"tenant": ACME, "row": 1}


# --- nonces


def _nonce(value):
    return value[HEADER.size : HEADER.size + NONCE_BYTES]


def _written(writer, count, threads, **where):
    """Encrypt one by one in threads, and return the nonces."""

    def some(_):
        return [_nonce(writer.encrypt(b"x", **where)) for _ in range(count // threads)]

    with ThreadPoolExecutor(threads) as pool:
        return [nonce for part in pool.map(some, range(threads)) for nonce in part]


def _from_files(paths):
    raw = b"".join(path.read_bytes() for path in paths)
    return [raw[at : at + NONCE_BYTES] for at in range(0, len(raw), NONCE_BYTES)]


def _child(envelope, column, path):
    """Encrypt by the envelope, and by a cipher that the fork took along."""
    drawn = _written(column, 6000, 2, row=1)
    drawn += _written(envelope, 6000, 2, field=PHONE, **AT)
    values = envelope.encrypt_many([b"x"] * 500, PHONE, tenant=ACME, rows=range(500))
    values += column.encrypt_many([b"x"] * 500, range(500))
    path.write_bytes(b"".join(drawn + [_nonce(value) for value in values]))


def _fork(act, *args):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act(*args)
            code = 0
        finally:
            os._exit(code)
    return pid


def test_threads_and_forked_children_use_no_nonce_twice(tmp_path):
    """Keys and nonces are warm when children are forked, in the midst of threads that encrypt under the same DEK."""
    bench = Bench(tmp_path)
    envelope = bench.envelope
    for row in range(1000):
        envelope.encrypt(b"x", PHONE, tenant=ACME, row=row)
    column = envelope.keyring.writers[ACME, PHONE]
    files = [tmp_path / f"child{n}" for n in range(4)]
    with ThreadPoolExecutor(8) as pool:
        mine = [pool.submit(_written, envelope, 6000, 1, field=PHONE, **AT) for _ in range(8)]
        pids = [_fork(_child, envelope, column, path) for path in files]
        drawn = [nonce for part in mine for nonce in part.result(60)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
    drawn += _from_files(files)
    assert len(drawn) == 100_000
    assert len(set(drawn)) == 100_000


def test_a_forked_child_leaves_the_lease_to_its_parent(tmp_path):
    bench = Bench(tmp_path)
    bench.envelope.encrypt(b"x", PHONE, **AT)
    column = bench.envelope.keyring.writers[ACME, PHONE]
    before = bench.rows[1].used

    def child(path):
        column.encrypt(b"x", 1)  # the store is in memory, and the child has a copy of it
        path.write_text(str(bench.rows[1].used))

    assert os.waitstatus_to_exitcode(os.waitpid(_fork(child, tmp_path / "used"), 0)[1]) == 0
    assert int((tmp_path / "used").read_text()) > before


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_draw_their_own(method):
    try:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            drawn = [nonce for part in pool.map(nonces.draw, [300] * 8) for nonce in part]
    finally:
        _end_what_multiprocessing_keeps()
    drawn += nonces.draw(600)
    assert len(set(drawn)) == len(drawn) == 3000


def _end_what_multiprocessing_keeps():
    """Its tracker and its fork server stay for the life of the process, and we leave nothing behind."""
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()


# --- what is told


def _failures(bench):
    """Make every kind of error that a value can meet, and return the exceptions."""
    envelope = bench.envelope
    value = envelope.encrypt(PLAIN, PHONE, **AT)
    inline = envelope.encrypt_inline(PLAIN, PHONE, **AT)
    siv = envelope.encrypt_deterministic(PLAIN, PHONE, tenant=ACME)
    acts = [
        lambda: envelope.decrypt(flipped(value, 20, 1), PHONE, **AT),
        lambda: envelope.decrypt(flipped(inline, 10, 1), PHONE, **AT),
        lambda: envelope.decrypt(flipped(siv, 10, 1), PHONE, **AT),
        lambda: envelope.decrypt(value, EMAIL, **AT),
        lambda: envelope.decrypt(value, PHONE, tenant="globex", row=1),
        lambda: envelope.decrypt_many([value, siv, b"x"], PHONE, tenant=ACME, rows=[1, 1, 1]),
        lambda: envelope.decrypt(value, PHONE, tenant=ACME, row=1.5),
        lambda: envelope.encrypt(PLAIN, PHONE, tenant=None, row=1),
        lambda: envelope.encrypt(PLAIN, PHONE, tenant=ACME, row=None),
        lambda: envelope.encrypt(PLAIN, PHONE, tenant=ACME, row="\ud800"),
        lambda: envelope.encrypt(PLAIN.decode(), PHONE, **AT),
        lambda: envelope.encrypt_many([PLAIN], PHONE, tenant=ACME, rows=[]),
    ]
    for act in acts:
        with pytest.raises(Exception) as caught:  # noqa: PT011 each is of its own class
            act()
        yield caught.value
    bench.kms.away = True
    for act in (lambda: bench.other().decrypt(value, PHONE, **AT), lambda: bench.other().encrypt(PLAIN, PHONE, **AT)):
        with pytest.raises(KmsUnavailable) as away:
            act()
        yield away.value
    bench.kms.away = False


def _secrets(bench):
    keys = {f"DEK {row.id}": bytes(bench.kms.unwrap(row.wrapped, row.aad)) for row in bench.rows.values()}
    for row in bench.rows.values():
        dek = Dek(bench.kms.unwrap(row.wrapped, row.aad), row.salt)
        for purpose in (b"dbsec/1/aead", b"dbsec/1/siv", b"dbsec/1/bidx"):
            keys[f"DEK {row.id}'s {purpose!r}"] = dek.subkey(label(purpose, row.tenant, PHONE))
    return Canaries({"plaintext": PLAIN, **keys})


def test_neither_plaintext_nor_key_is_in_a_repr_a_log_an_exception_or_its_pickle(tmp_path, caplog):
    bench = Bench(tmp_path)
    envelope, keyring = bench.envelope, bench.envelope.keyring
    with caplog.at_level(logging.DEBUG):
        failed = list(_failures(bench))
        envelope.blind_index(PLAIN, PHONE, BlindIndex(), tenant=ACME)
    shown = [repr(one) for one in (envelope, keyring, bench.kms, *bench.rows.values())]
    shown += [repr(one) for one in (*keyring.writers.values(), *keyring.readers.values(), *keyring._keys.values())]
    shown += [repr(one) for one in (*keyring._lookups.values(), *keyring._lookup_readers.values())]
    shown += [repr(loaded.dek) for loaded in keyring._keys.values()]
    shown += [record.getMessage() + str(record.args) + str(record.exc_text) for record in caplog.records]
    for exc in failed:
        shown += [str(exc), repr(exc), repr(exc.args), repr(vars(exc)), "".join(traceback.format_exception(exc))]
    told = "\n".join(shown).encode() + b"".join(pickle.dumps(exc) for exc in failed)
    secrets = _secrets(bench)
    assert not set(secrets.in_bytes(told, "what is told"))
    assert set(secrets.in_bytes(PLAIN, "itself")), "the search finds"


def test_a_failed_decryption_comes_out_of_a_pickle_as_it_went_in(tmp_path):
    bench = Bench(tmp_path)
    value = flipped(bench.envelope.encrypt(PLAIN, PHONE, **AT), 20, 1)
    with pytest.raises(DecryptionFailed) as caught:
        bench.envelope.decrypt(value, PHONE, **AT)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), repr(again), again.args) == (str(caught.value), repr(caught.value), caught.value.args)
    assert (again.field, again.key_id, again.hint) == ("app.users.phone", 1, caught.value.hint)


def test_frames_of_a_failed_decryption_hold_no_key(tmp_path):
    """Error reporters send the local variables of every frame."""
    bench = Bench(tmp_path)
    seen = []
    for exc in _failures(bench):
        if isinstance(exc, DecryptionFailed):
            told = traceback.TracebackException.from_exception(exc, capture_locals=True)
            seen += [repr(frame.locals) for frame in told.stack]
            walked = exc.__traceback__
            while walked is not None:
                seen += [repr(one) for name, one in walked.tb_frame.f_locals.items() if name != "PLAIN"]
                walked = walked.tb_next
    hits = {hit.secret for hit in _secrets(bench).in_bytes("\n".join(seen).encode(), "frames")}
    assert len(seen) > 10
    assert not {name for name in hits if name.startswith("DEK")}


def test_neither_keyring_nor_cipher_can_be_pickled(tmp_path):
    bench = Bench(tmp_path)
    bench.envelope.encrypt(PLAIN, PHONE, **AT)
    keyring = bench.envelope.keyring
    for one in (bench.envelope, keyring, keyring.writers[ACME, PHONE], keyring._keys[1].dek):
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
            pickle.dumps(one)


_WORKER = """
import pickle, sys
from dbsec.crypto import Envelope, Field, KeyRow, Keyring, MemoryKeyStore
from dbsec.kms import open_kms
class Keeping:
    def __init__(self, kms):
        self.kms, self.kept = kms, []
    def unwrap(self, wrapped, aad):
        self.kept.append(self.kms.unwrap(wrapped, aad))
        return self.kept[-1]
store = MemoryKeyStore()
store.rows = pickle.load(sys.stdin.buffer)
envelope = Envelope(Keyring(store, Keeping(open_kms(sys.argv[1], environ={}))))
field = Field("app.users", "phone")
for row in range(50):
    value = envelope.encrypt(b"x" * 20, field, tenant="acme", row=row)
    assert envelope.decrypt(value, field, tenant="acme", row=row) == b"x" * 20
print("ready", flush=True)
sys.stdin.buffer.read()
"""


def test_no_dek_is_in_the_memory_of_a_process_that_uses_it(tmp_path):
    """Its subkeys are: they encrypt. What would open every column and outlive the process is not."""
    kek = KekFile(tmp_path)
    bench = Bench(tmp_path, kms=kek.open())
    bench.envelope.encrypt(PLAIN, PHONE, **AT)
    command = [sys.executable, "-c", _WORKER, kek.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(pickle.dumps(bench.rows))
            worker.stdin.flush()
            assert worker.stdout.readline() == b"ready\n"
            row = bench.rows[1]
            dek = bytes(bench.kms.unwrap(row.wrapped, row.aad))
            salted = _in_memory(worker.pid, [dek, row.salt])
        finally:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
            worker.wait(20)
    assert salted == [False, True], "the salt shows that the search finds what is there"


def _in_memory(pid, needles):
    """Tell of each needle whether it stands in the writable memory of a process."""
    found = [False] * len(needles)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            with contextlib.suppress(OSError):  # a mapping of a device
                memory.seek(start)
                held = memory.read(end - start)
                found = [seen or needle in held for seen, needle in zip(found, needles, strict=True)]
    return found


# --- time


def test_the_time_of_a_refusal_does_not_tell_its_cause(tmp_path):
    """A smoke test: causes are tried in turn, and medians compared. benchmarks/crypto_timing.py prints the figures."""
    bench = Bench(tmp_path)
    value = bench.envelope.encrypt(PLAIN, PHONE, **AT)
    assert bench.envelope.decrypt(value, PHONE, **AT) == PLAIN
    causes = {
        "first bit of the tag": (flipped(value, len(value) - 16, 128), AT),
        "last bit of the tag": (flipped(value, len(value) - 1, 1), AT),
        "nonce": (flipped(value, 6, 1), AT),
        "ciphertext": (flipped(value, 18, 1), AT),
        "row": (value, {"tenant": ACME, "row": 2}),
    }
    took = {cause: [] for cause in causes}
    order = list(causes.items())
    gc.disable()
    try:
        for _ in range(400):
            random.shuffle(order)  # whoever follows a slow case finds cold caches
            for cause, (blob, at) in order:
                took[cause].append(_seconds(bench.envelope, blob, at))
    finally:
        gc.enable()
    medians = {cause: statistics.median(times) for cause, times in took.items()}
    assert max(medians.values()) < 1.5 * min(medians.values()), medians


def _seconds(envelope, blob, at):
    start = time.perf_counter()
    for _ in range(5):
        try:
            envelope.decrypt(blob, PHONE, **at)
        except DecryptionFailed:
            continue
        raise AssertionError("it was accepted")
    return time.perf_counter() - start
