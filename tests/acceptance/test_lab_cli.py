"""``dbsec lab`` as a person or a script meets it: what is on stdout, what on stderr, and how it exits."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import dbsec
from dbsec.lab import account
from dbsec.process import Account
from dbsec.progress import Silent

SERVERS = {"primary", "standby", "openbao", "objectstore"}


@dataclass(frozen=True)
class Shell:
    """Runs dbsec in ``folder`` as ``account``, with an environment as a login gives it."""

    folder: Path
    bin: Path
    account: Account

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        own = (
            {} if self.account.is_current else {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        )
        return subprocess.run(
            argv,
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "DBSEC_HOME": str(self.folder / "a 'home'")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **own,
        )

    def lab(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.bin / "dbsec", "lab", *argv)


@pytest.fixture(params=["caller", "ordinary user"])
def shell(request: pytest.FixtureRequest, server_root: Path):
    """Each test once as whoever runs the tests, and once as an ordinary user where that is root."""
    who, found = Account.current(), Path(sys.executable).parent
    if request.param != "caller":
        found = request.getfixturevalue("user_bin")
        who = account.server_account(Silent())
    folder = Path(tempfile.mkdtemp(prefix="lab-cli-", dir=server_root))
    folder.chmod(0o755)  # the servers may pass
    shutil.chown(folder, who.uid, who.gid)
    yield Shell(folder, found, who)
    shutil.rmtree(folder)


def test_up_status_env_down(shell: Shell):
    up = shell.lab("up")
    assert up.returncode == 0, up.stderr
    try:
        told_up(shell, up)
        told_status(shell)
        told_env(shell)
        told_again(shell)
    finally:
        down = shell.lab("down")
    assert (down.returncode, down.stdout) == (0, "")
    assert set(down.stderr.removeprefix("stopped ").strip().split(", ")) == SERVERS
    told_nothing(shell)


def told_up(shell: Shell, up: subprocess.CompletedProcess[str]) -> None:
    head, *rows = up.stdout.splitlines()
    runs_as = "dbsec-lab" if os.geteuid() == 0 else shell.account.name
    assert head == f"lab in {shell.folder}/a 'home'/lab, servers run as {runs_as}"
    assert {row.split()[0]: row.split()[1] for row in rows} == dict.fromkeys(SERVERS, "up")
    assert "PostgreSQL is up: the primary, and a standby that streams" in up.stderr
    assert "for a lab only" in up.stderr
    assert up.stderr.endswith('next: eval "$(dbsec lab env)" && psql\n')


def told_status(shell: Shell) -> None:
    as_json = shell.lab("status", "--format", "json")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    body = json.loads(as_json.stdout)
    assert (body["dbsec"], body["format"], body["command"]) == (dbsec.__version__, 1, "lab status")
    assert {s["name"]: s["state"] for s in body["result"]["servers"]} == dict.fromkeys(SERVERS, "up")
    uid = account.server_account(Silent()).uid
    assert {Path(f"/proc/{s['pid']}").stat().st_uid for s in body["result"]["servers"]} == {uid}


def told_env(shell: Shell) -> None:
    told = shell.lab("env")
    assert (told.returncode, told.stderr) == (0, "")
    assert all(line.startswith("export ") for line in told.stdout.splitlines())
    secrets = shell.folder / "a 'home'/lab/secrets"
    assert not stat.S_IMODE(secrets.stat().st_mode) & 0o066
    assert not [p for p in secrets.iterdir() if p.read_bytes().strip() in told.stdout.encode()]
    query = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    used = shell.run(
        "sh", "-c", f'eval "$(\'{shell.bin}/dbsec\' lab env)" && psql -Atc "{query}" && bao status >/dev/null'
    )
    assert (used.returncode, used.stdout, used.stderr) == (0, "postgres|t\n", "")


def told_again(shell: Shell) -> None:
    again = shell.lab("up")
    assert (again.returncode, again.stdout) == (3, "")
    assert "is already up\n  try: dbsec lab status, or dbsec lab down\n" in again.stderr
    assert "Traceback" not in again.stderr


def told_nothing(shell: Shell) -> None:
    """No folder, no socket, no process: the reaper looks for the last."""
    home = shell.folder / "a 'home'"
    assert not (home / "lab").exists()
    for argv in (("status",), ("status", "--format", "json"), ("env",)):
        done = shell.lab(*argv)
        # what follows an eval of no exports must not go to a server of its own choice
        assert (done.returncode, done.stdout) == (3, "false\n" if argv == ("env",) else "")
        assert done.stderr == f"dbsec: no lab is up in '{home}/lab'\n  try: dbsec lab up\n"
    down = shell.lab("down")
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "nothing was running\n")


@pytest.mark.parametrize("shell", ["caller" if os.geteuid() else "ordinary user"], indirect=True)
def test_a_folder_that_may_not_be_written_is_told(shell: Shell):
    closed = shell.folder / "closed"
    closed.mkdir(mode=0o555)
    done = shell.run("env", f"DBSEC_HOME={closed}/home", shell.bin / "dbsec", "lab", "up")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"dbsec: cannot make '{closed}/home': Permission denied\n  try: set DBSEC_HOME" in done.stderr
