"""The commands that keep the keys of backups, as processes: what they print, and what they answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.backup_bed import Bed, make_bed, make_kek
from tests.backup_months import NAMES, NEXT, OLD, backup, fill, month_bed, wal

from dbsec.backup import KeyUnavailable

Told = subprocess.CompletedProcess[str]


class Host:
    """Where somebody keeps the keys: a folder with dbsec.toml."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.settings(kms=bed.settings.kms)

    def settings(self, **told: str) -> None:
        lines = {"store": self.bed.settings.store, **told}
        body = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
        (self.bed.folder / "dbsec.toml").write_text(f"[backup]\n{body}")

    def run(self, *argv: str | Path, code: int = 0) -> Told:
        env = {**self.bed.environ, "PATH": "/usr/bin:/bin", "DBSEC_HOME": str(self.bed.folder / "home")}
        command = [sys.executable, "-P", "-m", "dbsec", "backup", *map(str, argv)]
        done = subprocess.run(command, cwd=self.bed.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr + done.stdout
        assert self.bed.environ["KEK"] not in done.stdout + done.stderr
        return done

    def json(self, *argv: str | Path, code: int = 0) -> dict:
        return json.loads(self.run(*argv, "--format", "json", code=code).stdout)["result"]


def test_a_kek_is_replaced_proven_and_retired(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    fill(bed, 3)
    host, uri = Host(bed), make_kek(tmp_path / "new.json", bed.environ)
    assert "3 epochs under kms file-kek:" in host.run("keys").stdout
    plan = host.json("rekey", "--to", uri)
    assert (plan["applied"], plan["stale"]) == (False, 4)
    assert not (bed.store_folder / "keys/rewraps").exists()
    assert host.json("rekey", "--to", uri, "--prove", code=1)["proof"]["retirable"] == []
    done = host.run("rekey", "--to", uri, "--prove", "--apply", "--evidence", tmp_path / "rekey.jsonl")
    assert "4 keys rewrapped" in done.stdout
    assert "version 1 may be retired" in done.stdout
    assert "useless" in done.stdout
    evidence = [json.loads(line) for line in (tmp_path / "rekey.jsonl").read_text().splitlines()]
    assert [line.get("control", line["kind"]) for line in evidence] == ["chapter", "BAK-REKEY", "seal"]
    proof = [json.loads(line) for line in (tmp_path / "rekey.proof.jsonl").read_text().splitlines()]
    assert proof[1]["outcome"] == "pass"
    assert "overwritten" in host.run("rekey", "--apply", "--evidence", tmp_path / "rekey.jsonl", code=2).stderr
    (tmp_path / "kek.json").unlink()
    host.settings(kms=uri)
    assert host.json("rekey", "--prove")["proof"]["failed"] == []
    assert bed.again(kms=uri).get(NAMES[2])


def test_an_object_that_does_not_open_is_named(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    fill(bed, 2)
    path = bed.store_folder / NAMES[0]
    path.write_bytes(path.read_bytes()[:-1])
    done = Host(bed).run("rekey", "--prove", code=1)
    assert NAMES[0] in done.stderr
    assert "retire no KEK" in done.stderr


def test_a_month_is_shredded_by_name_and_not_by_chance(tmp_path: Path) -> None:
    bed = month_bed(tmp_path)
    host, gone = Host(bed), wal(bed, OLD, 1)
    host.run("keys", "--create")
    kept = backup(bed, NEXT, start=1)
    assert "in the way: 1 WAL files" in host.run("shred", OLD, code=1).stdout
    assert bed.again().get(gone)
    assert "--break-chains" in host.run("shred", OLD, "--apply", "--confirm", OLD, code=1).stderr
    assert "name the month again" in host.run("shred", OLD, "--apply", "--break-chains", code=2).stderr
    done = host.json("shred", OLD, "--apply", "--break-chains", "--confirm", OLD, "--evidence", tmp_path / "e.jsonl")
    assert (done["outcome"], done["epochs"]) == ("pass", 1)
    assert "BAK-SHRED" in (tmp_path / "e.jsonl").read_text()
    with pytest.raises(KeyUnavailable):
        bed.again().get(gone)
    assert bed.again().get(f"base/{kept.id}/data/00000000")
    assert "1 epochs under shredded" in host.run("keys").stdout


def test_one_kek_for_all_is_refused(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    assert "one KEK for all months" in Host(bed).run("shred", OLD, code=2).stderr


def test_a_host_gets_what_it_needs_to_write(tmp_path: Path) -> None:
    bed = make_bed(tmp_path)
    host = Host(bed)
    public = host.run("recipient", "new", "--out", tmp_path / "content").stdout.strip()
    assert (tmp_path / "content").stat().st_mode & 0o777 == 0o600
    assert "there already" in host.run("recipient", "new", "--out", tmp_path / "content", code=2).stderr
    writer = bed.again(kms="", recipient=public, content_key=f"file:{tmp_path}/content")
    writer.put(NAMES[0], b"sealed elsewhere")
    assert bed.again().get(NAMES[0]) == b"sealed elsewhere"
    assert public in host.run("recipient", "show").stdout
    host.settings(recipient=public, content_key=f"file:{tmp_path}/content")
    assert "only writes" in host.run("rekey", "--apply", code=2).stderr


def test_the_kek_of_next_month_is_asked_for_and_made(tmp_path: Path) -> None:
    bed = month_bed(tmp_path)
    host = Host(bed)
    assert "without it nothing is sealed" in host.run("keys", code=1).stderr
    made = host.run("keys", "--months", "2", "--create").stdout
    assert made.count("is made") == 2
    host.run("keys", "--months", "2")
