"""Killed and resumed again and again while a writer inserts and updates: every row is what was written last."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dbsec import retry
from dbsec.crypto.life import rotation
from dbsec.journal import Edge
from dbsec.pg import connect
from dbsec.testing import faults

HERE = Path(__file__).parent
TENANTS = ("acme", "globex")
FIRST = 500  # rows that are there before the writer


class Writer:
    """Inserts and updates rows until it is ended; ``last`` is what it committed last, by id."""

    def __init__(self, scene):
        self._scene = scene
        self._column = scene.settings.of("app.users", "phone_enc")
        self._envelope = scene.envelope()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error = None
        self.last = {n: scene.phone(n) for n in range(1, FIRST + 1)}
        self.writes = 0

    def __enter__(self):
        self._scene.fill(FIRST, envelope=self._envelope)
        return self

    def start(self):
        self._thread.start()
        self.go_on()

    def __exit__(self, *_exc):
        self.end()

    def end(self):
        self._stop.set()
        if self._thread.ident:
            self._thread.join(30)
            assert not self._thread.is_alive()

    def renew(self):
        """Begin as a new process does, or as one whose TTL has ended."""
        self._envelope = self._scene.envelope()

    def go_on(self):
        """Wait until it has written some more, and raise what stopped it."""
        wanted = self.writes + 10
        retry.wait_until(lambda: self._error or self.writes >= wanted, within_s=30, what="the writer")
        if self._error:
            raise self._error

    def _run(self):
        try:
            with connect(self._scene.conninfo) as session:
                while not self._stop.wait(0.001):
                    self._write(session)
        except BaseException as exc:  # told by the test's thread
            self._error = exc

    def _write(self, session):
        n = self.writes + 1
        is_new = n % 6 == 0
        row = len(self.last) + 1 if is_new else 1 + (n * 37) % len(self.last)
        tenant, text = TENANTS[row % 2], f"+1 {n:07}"
        field, how = self._column.field, self._column.index[1]
        envelope = self._envelope
        value = envelope.encrypt(text.encode(), field, tenant=tenant, row=row)
        index = envelope.blind_index(text, field, how, tenant=tenant)
        if is_new:
            query = "INSERT INTO app.users (phone_enc, phone_bidx, id, tenant) VALUES (%s, %s, %s, %s)"
        else:
            query = "UPDATE app.users SET phone_enc = %s, phone_bidx = %s WHERE id = %s AND tenant = %s"
        assert session.execute(query, (value, index, row, tenant)).rowcount == 1
        self.last[row] = text
        self.writes = n


@pytest.fixture
def writer(scene):
    with Writer(scene) as writer:
        yield writer


def die(job, scene, writer, deaths):
    """Kill a life of the job at each of these edges in turn; the writer goes on behind each body."""
    for step, edge in deaths:
        assert not job.run(scene.folder, step, edge), f"'{step}' {edge} was not reached"
        writer.go_on()


def all_is_there(scene, writer):
    writer.end()
    assert len(writer.last) > FIRST, "no row was inserted"
    assert scene.phones() == writer.last
    assert scene.db.execute("SELECT count(*) FROM app.users").fetchone() == (len(writer.last),)


def test_a_reencryption_that_dies_four_times(scene, writer):
    """The writer has the old key until the last life, as a process has it whose TTL has not ended."""
    scene.config()
    list(rotation.rotate(scene.connect, scene.kms(), rotation.candidates(scene.db)))
    job = faults.Job("jobs:reencrypt_large_batches", search=(HERE,))
    writer.start()
    deaths = [
        ("range 1 batch 1", Edge.AFTER_EFFECT),
        ("range 2 batch 1", Edge.BEFORE),
        ("range 3 batch 1 cursor", Edge.AFTER_EFFECT),
        ("range 4 batch 1", Edge.AFTER_RECORD),
    ]
    die(job, scene, writer, deaths)
    active = {row.id for row in scene.keyring() if row.purpose == "data" and row.state == "active"}
    assert scene.key_ids().keys() > active, "the kills left nothing, or the writer had the new keys"
    writer.renew()
    writer.go_on()
    job.run(scene.folder)
    writer.go_on()
    assert scene.key_ids().keys() == active
    all_is_there(scene, writer)


def test_a_rewrap_that_dies_five_times(scene, writer):
    """Processes begin between the deaths: each opens what is half under the old KEK version and half under the new."""
    scene.config()
    assert [row.id for row in scene.keyring()] == [1, 2, 3, 4]
    kms = scene.kms()
    first, second = (kms.describe({"tenant": row.tenant}).kek for row in scene.keyring()[::2])
    job = faults.Job("jobs:rewrap_all", search=(HERE,))
    writer.start()
    deaths = [
        (f"rotate {first}", Edge.AFTER_EFFECT),
        (f"rotate {second}", Edge.BEFORE),
        ("keys up to 2 wrapped", Edge.AFTER_EFFECT),
        ("keys up to 2", Edge.AFTER_RECORD),
        ("keys up to 4 wrapped", Edge.AFTER_EFFECT),
    ]
    for death in deaths:
        die(job, scene, writer, [death])
        writer.renew()
    assert [row.kek_version for row in scene.keyring()] == ["2", "2", "1", "1"]
    job.run(scene.folder)
    writer.go_on()
    assert {row.kek_version for row in scene.keyring()} == {"2"}
    all_is_there(scene, writer)
