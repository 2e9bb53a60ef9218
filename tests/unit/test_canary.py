"""Every planted canary is found, in each form and place; a clean place has no hit; what is unreadable is told."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec import process
from dbsec.process import ProcessId
from dbsec.testing import proc
from dbsec.testing.canary import Canaries, Hit, Watch

SECRET = 's3cr\'et/Überraschung+"x"%'
RAW = SECRET.encode()
CANARIES = Canaries({"password": SECRET})
FORMS = {
    "plain": RAW,
    "hex": RAW.hex().encode(),
    "HEX": RAW.hex().upper().encode(),
    "base64": base64.b64encode(RAW),
    "base64-url": base64.urlsafe_b64encode(RAW),
    "base64-basic": base64.b64encode(b"admin:" + RAW + b"\n"),
    "base64-other": base64.b64encode(b"dbsec:x" + RAW),
    "url": quote(RAW).encode(),
    "url-all": quote(RAW, safe="").encode(),
    "url-form": quote_plus(RAW).encode(),
    "url-lower": re.sub("%..", lambda m: m[0].lower(), quote(RAW, safe="")).encode(),
    "utf-16": SECRET.encode("utf-16-le"),
    "utf-16-be": SECRET.encode("utf-16-be"),
    "json": json.dumps({"password": SECRET}).encode(),
    "json-utf8": json.dumps({"password": SECRET}, ensure_ascii=False).encode(),
    "sql": b"ALTER ROLE a PASSWORD '" + SECRET.replace("'", "''").encode() + b"'",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found_in_a_file(tmp_path, form):
    (tmp_path / "server.log").write_bytes(b"2026-11-23 LOG: " + FORMS[form] + b" and more\n")
    scan = CANARIES.in_files(tmp_path)
    assert {(hit.secret, hit.place) for hit in scan.hits} == {("password", str(tmp_path / "server.log"))}
    assert SECRET not in repr(scan)


@given(st.binary(min_size=8, max_size=40), st.binary(max_size=7), st.binary(max_size=7))
def test_base64_is_found_at_any_offset(secret, before, after):
    hits = Canaries({"key": secret}).in_bytes(base64.b64encode(before + secret + after), "here")
    assert Hit("key", "base64", "here") in set(hits)


def test_a_clean_folder_has_no_hit_and_says_what_was_looked_at(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.log").write_text("s3cr'et/Uberraschung")
    scan = CANARIES.in_files(tmp_path)
    assert (scan.hits, scan.looked_at, scan.unread) == (frozenset(), 3, ())


def test_a_secret_across_two_chunks_is_found_once(tmp_path):
    """Files are read in pieces of some megabytes: a canary at each offset around a border."""
    for offset in (0, 1, len(RAW) // 2, len(RAW) - 1, len(RAW)):
        (tmp_path / "core").write_bytes(b"\0" * ((4 << 20) - offset) + RAW + b"\0" * 100)
        hits = CANARIES.in_files(tmp_path).hits
        assert {hit.form for hit in hits} == {"plain"}, offset


def test_a_file_name_and_a_single_file_are_looked_at(tmp_path):
    named = tmp_path / "dump of hunter2-hunter2.txt"
    named.touch()
    canaries = Canaries({"password": "hunter2-hunter2"})
    assert {hit.place for hit in canaries.in_files(named).hits} == {f"name of {named}"}


def test_skipped_folders_and_links_are_left_out(tmp_path):
    kept, secrets = tmp_path / "logs", tmp_path / "secrets"
    kept.mkdir()
    secrets.mkdir()
    (secrets / "postgres").write_bytes(RAW)
    (kept / "link").symlink_to(secrets / "postgres")
    os.mkfifo(kept / "fifo")
    assert not CANARIES.in_files(tmp_path, skip=[secrets]).hits
    assert len(CANARIES.in_files(tmp_path).hits) == 1


def test_what_cannot_be_read_is_told(tmp_path):
    missing = CANARIES.in_files(tmp_path / "nowhere")
    assert missing.looked_at == 0
    assert "nowhere" in missing.unread[0]
    unreadable = Path("/proc/self/mem")  # opens, and refuses to be read: also by root
    assert "Input/output error" in CANARIES.in_files(unreadable).unread[0]


@pytest.fixture
def sleeper(tmp_path):
    started = []

    def start(*argv, **env):
        pid = process.spawn(argv, cwd=tmp_path, log=tmp_path / "log", env=env)
        started.append(pid.pid)
        deadline = time.monotonic() + 10
        while not Path(f"/proc/{pid.pid}/cmdline").read_bytes().startswith(str(argv[0]).encode()):
            assert time.monotonic() < deadline
        return pid.pid

    yield start
    for pid in reversed(proc.tree(*started)):
        if child := ProcessId.of(pid):
            process.stop(child)


def test_arguments_and_environment_of_a_process_are_read(sleeper):
    told = sleeper("/bin/sh", "-c", "sleep 60; true", SECRET)
    inherits = sleeper("/bin/sleep", "60", PGPASSWORD=SECRET)
    clean = sleeper("/bin/sleep", "60")
    places = {hit.place for hit in CANARIES.in_processes(told).hits}
    assert f"cmdline of process {told} (sh)" in places
    # between fork and exec the shell's child has the shell's arguments
    assert all(place.startswith("cmdline of process ") and place.endswith(" (sh)") for place in places)
    assert {hit.place for hit in CANARIES.in_processes(inherits).hits} == {f"environ of process {inherits} (sleep)"}
    scan = CANARIES.in_processes(clean)
    assert (scan.hits, scan.looked_at, scan.unread) == (frozenset(), 2, ())


def test_descendants_are_found_from_the_root(sleeper):
    parent = sleeper("/bin/sh", "-c", f"sh -c 'PGPASSWORD=\"{'x' * 12}\" sleep 60; true'; true")
    canaries = Canaries({"password": "PGPASSWORD=" + "x" * 12})
    deadline = time.monotonic() + 10
    while not (hits := {hit.place.partition(" ")[0] for hit in canaries.in_processes(parent).hits} - {"cmdline"}):
        assert time.monotonic() < deadline, proc.tree(parent)
    assert hits == {"environ"}
    assert parent in proc.tree(os.getpid())


def test_a_watch_sees_a_child_that_is_gone_when_it_ends(tmp_path):
    with Watch(CANARIES, os.getpid(), every_s=0.01) as watch:
        process.run([sys.executable, "-c", "import time; time.sleep(0.3)", SECRET], cwd=tmp_path)
    assert {hit.form for hit in watch.hits} == {"plain"}
    assert not CANARIES.in_processes(os.getpid()).hits
    assert watch.looked_at > 2


def test_a_secret_too_short_to_prove_anything_is_refused():
    with pytest.raises(ValueError, match="'pin' has fewer than 8 bytes"):
        Canaries({"pin": "1234"})
