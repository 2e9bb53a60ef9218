"""What a team copies out of db/ is what dbsec applies."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from dbsec.lab.deployment import deployment_folder
from dbsec.pg import hba
from dbsec.tls import posture
from dbsec.tls.examples import ADMIN, examples

DB = deployment_folder() / "db"
REWRITE = "write dbsec.tls.examples.examples() to db/ again"


def test_pg_hba_conf_has_not_drifted() -> None:
    assert (DB / "pg_hba.conf.example").read_text() == examples()["pg_hba.conf.example"], REWRITE


def test_postgresql_conf_holds_this_pillars_section() -> None:
    assert examples()["postgresql.conf.example"] in (DB / "postgresql.conf.example").read_text(), REWRITE


def test_the_example_says_what_is_applied() -> None:
    without_comments = [line.columns() for line in posture.hba(admin=ADMIN)]
    assert [line.columns() for line in hba.parse(examples()["pg_hba.conf.example"])] == without_comments


def test_the_page_on_certificates_works_as_it_is_written(tmp_path: Path) -> None:
    code = re.search(r"```sh\n(dbsec tls ca .*?)```", (DB / "ssl/README.md").read_text(), re.DOTALL)
    assert code
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-e", "-c", code[1]], cwd=tmp_path, env=env, check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.is_file()}
    names = ("server", "app_migrator", "app_backup")
    assert modes.items() >= ({f"{n}.crt": 0o644 for n in names} | {f"{n}.key": 0o600 for n in names}).items()
    assert stat.S_IMODE((tmp_path / "ca/ca.key").stat().st_mode) == 0o600
