"""The wheel as a user installs it: without the lab it works, and says what brings the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*argv: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        **{k: v for k, v in os.environ.items() if k.startswith("PIP_")},
    }
    return subprocess.run([str(a) for a in argv], cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the built wheel and the core lock, nothing else; returns its bin folder."""
    folder = tmp_path_factory.mktemp("wheel")
    planted = ROOT / "db/ssl/planted.key"  # what whoever follows db/ssl/README.md has there
    planted.write_text("a key that must not be in the wheel\n")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "dist"]
    done = subprocess.run([str(a) for a in build], cwd=ROOT, capture_output=True, text=True, check=False)
    planted.unlink()
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".key", ".crt", ".pyc"))]
    bin_folder = folder / "venv/bin"
    for step in (
        (sys.executable, "-m", "venv", folder / "venv"),
        (bin_folder / "pip", "install", "-q", "--require-hashes", "-r", ROOT / "locks/core.txt"),
        (bin_folder / "pip", "install", "-q", "--no-deps", wheel),
    ):
        done = _run(*step, cwd=folder)
        assert done.returncode == 0, done.stderr
    return bin_folder


def test_help_and_version(installed, tmp_path):
    assert _run(installed / "dbsec", "--version", cwd=tmp_path).stdout.startswith("dbsec ")
    listed = _run(installed / "dbsec", "--help", cwd=tmp_path)
    assert listed.returncode == 0
    assert {"demo", "init", "lab", "report"} <= set(listed.stdout.split())


def test_the_lab_says_which_extra_brings_it(installed, tmp_path):
    refused = _run(installed / "dbsec", "lab", "up", cwd=tmp_path)
    assert refused.returncode == 3
    assert "pip install 'dbsec[lab]'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_init_copies_the_deployment_from_the_wheel_and_keeps_what_is_there(installed, tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db/roles.toml").write_text("# ours\n")
    done = _run(installed / "dbsec", "init", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "db/roles.toml").read_text() == "# ours\n"
    assert "kept     db/roles.toml" in done.stdout
    assert (tmp_path / "db/pg_hba.conf.example").exists()
    assert os.access(tmp_path / "db/pitr/restore.sh", os.X_OK)
    again = _run(installed / "dbsec", "init", ".", cwd=tmp_path)
    assert "written" not in again.stdout


def test_init_leaves_keys_behind_and_lets_git_ignore_those_to_come(installed, tmp_path):
    assert _run(installed / "dbsec", "init", ".", cwd=tmp_path).returncode == 0
    assert {p.name for p in (tmp_path / "db/ssl").iterdir()} == {"README.md", ".gitignore"}
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o755
    (tmp_path / "db/ssl/ca.key").write_text("a key\n")
    _run("git", "init", "-q", ".", cwd=tmp_path)
    _run("git", "add", "-A", cwd=tmp_path)
    assert "ca.key" not in _run("git", "ls-files", cwd=tmp_path).stdout


def test_init_over_a_file_is_a_usage_error(installed, tmp_path):
    (tmp_path / "db").write_text("a file\n")
    refused = _run(installed / "dbsec", "init", ".", cwd=tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_init_into_a_folder_that_is_not_there_is_a_usage_error(installed, tmp_path):
    refused = _run(installed / "dbsec", "init", "absent", cwd=tmp_path)
    assert refused.returncode == 2
    assert "mkdir -p absent" in refused.stderr
