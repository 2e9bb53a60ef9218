"""``dbsec report`` as a process: what it writes, what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit import report_sample

from dbsec import evidence


def dbsec(*args: object, cwd: Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "DBSEC_HOME": str(home or cwd / "nowhere")}
    argv = [sys.executable, "-m", "dbsec", "report", *map(str, args)]
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def out(tmp_path: Path, home: Path) -> Path:
    """A run's folder, sealed with the key of ``home``."""
    folder = tmp_path / "out"
    folder.mkdir()
    home.mkdir()
    report_sample.write(folder / "evidence.jsonl", evidence.signing_key(home / "keys"))
    return folder


def envelope(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document = json.loads(done.stdout)
    assert set(document) == {"dbsec", "format", "command", "result"}
    result = document["result"]
    assert isinstance(result, dict)
    return result


def tamper(out: Path) -> None:
    path = out / "evidence.jsonl"
    path.write_text(path.read_text().replace("emptied orders in 0.02 s", "emptied nothing at all"))


def test_build_writes_beside_the_evidence_and_says_the_verdict(out: Path) -> None:
    done = dbsec("build", out, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    first, *paths = done.stdout.splitlines()
    assert first == "8 of 11 controls hold after hardening"
    assert sorted(paths) == [str(out / n) for n in ("index.html", "report.json", "report.md")]
    assert all(Path(p).stat().st_size > 1000 for p in paths)
    assert "report: writing index.html" in done.stderr


def test_build_elsewhere_as_json(out: Path, tmp_path: Path) -> None:
    done = dbsec("build", out / "evidence.jsonl", "--out", tmp_path / "page", "--format", "json", cwd=tmp_path)
    result = envelope(done)
    assert (done.returncode, result["verdict"]) == (0, "fail")
    assert all(Path(p).parent == tmp_path / "page" and Path(p).exists() for p in result["paths"])


def test_verify_finds_the_key_of_the_usual_folder(out: Path, home: Path) -> None:
    done = dbsec("verify", out, cwd=out.parent, home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("authentic: 35 lines signed by Ed25519 key ")


def test_verify_with_a_given_key_as_json(out: Path, home: Path) -> None:
    key = home / "keys/evidence.pub"
    result = envelope(dbsec("verify", out, "--public-key", key, "--format", "json", cwd=out.parent))
    assert (result["holds"], result["count"], result["public_key"]) == (True, 35, str(key))
    assert len(result["signed_by"]) == 64


def test_verify_without_any_key_says_unsigned_and_what_to_do(out: Path) -> None:
    done = dbsec("verify", out, cwd=out.parent)
    assert (done.returncode, done.stdout) == (0, "consistent, unsigned: 35 lines, no public key was given\n")
    assert "--public-key evidence.pub" in done.stderr


def test_verify_names_the_tampered_line(out: Path, home: Path) -> None:
    tamper(out)
    done = dbsec("verify", out, cwd=out.parent, home=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dbsec: line 7: was changed: its hash is another\n"


def test_verify_names_the_tampered_line_as_json(out: Path, home: Path) -> None:
    tamper(out)
    done = dbsec("verify", out, "--format", "json", cwd=out.parent, home=home)
    result = envelope(done)
    assert (done.returncode, result["holds"], result["line"]) == (1, False, 7)


def test_verify_with_the_key_of_another_is_tampered(out: Path, tmp_path: Path) -> None:
    evidence.signing_key(tmp_path / "other")
    done = dbsec("verify", out, "--public-key", tmp_path / "other/evidence.pub", cwd=tmp_path)
    assert done.returncode == 1
    assert "line 36: the signature is not of this public key" in done.stderr


@pytest.mark.parametrize("command", ["build", "verify"])
def test_a_missing_path_is_a_usage_error(tmp_path: Path, command: str) -> None:
    done = dbsec(command, tmp_path / "none", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dbsec: there is no evidence at '{tmp_path / 'none'}'\n  try: dbsec demo\n"


def test_a_missing_key_is_a_usage_error(out: Path) -> None:
    assert dbsec("verify", out, "--public-key", "none.pub", cwd=out.parent).returncode == 2


def test_what_is_no_key_leaves_it_open(out: Path) -> None:
    done = dbsec("verify", out, "--public-key", out / "evidence.jsonl", cwd=out.parent)
    assert done.returncode == 3
    assert "cannot read public key" in done.stderr


def test_evidence_that_cannot_be_read_leaves_it_open(tmp_path: Path) -> None:
    (tmp_path / "evidence.jsonl").mkdir()
    done = dbsec("verify", tmp_path, cwd=tmp_path)
    assert done.returncode == 3
    assert "cannot read" in done.stderr


def test_evidence_of_a_newer_dbsec_is_said_to_be_newer(out: Path) -> None:
    (out / "evidence.jsonl").write_text('{"format":7}\n')
    for command in ("build", "verify"):
        done = dbsec(command, out, cwd=out.parent)
        assert done.returncode == 2
        assert "newer dbsec (format 7, this one knows 1)" in done.stderr


def test_a_damaged_run_is_built_with_the_damage_said_first(out: Path) -> None:
    tamper(out)
    built = dbsec("build", out, cwd=out.parent)
    assert (built.returncode, "the evidence is not whole: line 7" in built.stderr) == (1, True)
    page = (out / "index.html").read_text()
    assert "line 7: was changed: its hash is another" in page
    assert page.index("does not verify") < page.index("<h1")


def test_help_lists_both_commands_without_a_lab(tmp_path: Path) -> None:
    done = dbsec("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "build" in done.stdout
    assert "verify" in done.stdout
