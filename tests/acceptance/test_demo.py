"""The main job as a customer runs it: the command as a process, its evidence line by line, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbsec import evidence
from dbsec.demo import sequence
from dbsec.lab.state import State
from dbsec.testing.canary import Canaries
from dbsec.tls.stranger import STRANGERS

# a whole demo, on a machine that may be slow and does other work meanwhile
pytestmark = pytest.mark.timeout(900)
DBSEC = [sys.executable, "-m", "dbsec"]
FIELDS = {
    *("format", "kind", "prev", "hash", "actor", "host", "target", "dbsec", "revision", "config_digest", "ticket"),
    *("chapter", "control", "title", "risk", "refs", "drill", "phase", "outcome", "summary", "facts", "exhibits"),
    *("started_at", "seconds"),
}


PATIENT = "[slo]\np99_ms = 10000\n"  # this machine runs other tests meanwhile, and a timing is no test


def dbsec(*argv: str | Path, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DBSEC_HOME": str(home)}
    return subprocess.run([*DBSEC, *map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Run:
    """A finished demo whose lab is still up."""

    home: Path
    out: Path
    done: subprocess.CompletedProcess[str]
    lines: list[dict]

    def drills(self, phase: str) -> dict[tuple[str, str], str]:
        return {(x["control"], x["drill"]): x["outcome"] for x in self.lines if x.get("phase") == phase}


@pytest.fixture(scope="module")
def home(server_root: Path) -> Path:
    return server_root / f"demo-{os.getpid()}"


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    cwd = tmp_path_factory.mktemp("demo")
    out = cwd / "report"
    (cwd / "dbsec.toml").write_text(PATIENT)
    argv = ("--scale", "small", "--out", out, "--keep", "--ticket", "SEC-1", "--config", "dbsec.toml")
    done = dbsec("demo", *argv, home=home, cwd=cwd)
    try:
        told = evidence.read(out / "evidence.jsonl") if (out / "evidence.jsonl").exists() else []
        bad = [x for x in told if x.get("phase") == "after" and x["outcome"] != "pass"]
        assert done.returncode == 0, done.stdout + done.stderr + json.dumps(bad, indent=1)
        yield Run(home, out, done, list(evidence.read(out / "evidence.jsonl")))
    finally:
        down = dbsec("lab", "down", "--name", "demo", home=home, cwd=cwd)
        assert down.returncode == 0, down.stderr


def test_every_attack_succeeds_before_and_is_refused_after(run):
    before, after = run.drills("before"), run.drills("after")
    assert before.keys() == after.keys()
    assert len(after) >= 24
    assert set(before.values()) == {"fail"}
    assert set(after.values()) == {"pass"}
    assert (
        f"{len(after)} attacks succeeded before; all are refused now. 4 risks found, and still open." in run.done.stdout
    )


@pytest.mark.parametrize(
    "control",
    [
        *("ROL-SERVICE-DDL", "ROL-SERVICE-TRUNCATE", "ROL-PASSWORD-HASHES", "ROL-SERVER-PROGRAM", "LOG-DDL"),
        *("ROL-RUNAWAY-STATEMENT", "ROL-CONNECTION-LIMIT", "ROL-FUTURE-TABLES", "LOG-PRIVILEGED"),
        *("TLS-PLAINTEXT", "TLS-IMPERSONATION", "TLS-CLIENT-CERTIFICATE", "TLS-SESSIONS", "TLS-SCRAM"),
    ],
)
def test_the_controls_of_the_first_pack_are_all_there(run, control):
    assert control in {c for c, _ in run.drills("after")}


def test_each_line_says_who_where_what_and_when(run):
    seen = [line for line in run.lines if line["kind"] == "observation"]
    for line in seen:
        assert line.keys() == FIELDS
        assert line["ticket"] == "SEC-1"
        assert line["target"]["system_identifier"].isdigit()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["started_at"])
        assert line["refs"]
        assert len(line["config_digest"]) == 64
    told = [line["chapter"] for line in run.lines if line["kind"] == "chapter"]
    assert told == [*(chapter.name for chapter in sequence.found()), "service"]


def test_refusals_are_for_the_right_reason(run):
    facts = {(x["control"], x["drill"]): json.dumps(x["facts"]) for x in run.lines if x.get("phase") == "after"}
    text = {control: "".join(told for (one, _), told in facts.items() if one == control) for control, _ in facts}
    assert "42501" in text["ROL-SERVICE-DDL"]
    assert "57014" in text["ROL-RUNAWAY-STATEMENT"]
    assert "53300" in text["ROL-CONNECTION-LIMIT"]
    assert "28000" in text["TLS-PLAINTEXT"]
    assert "28000" in text["TLS-CLIENT-CERTIFICATE"]
    assert "certificate_revoked" in text["TLS-CLIENT-CERTIFICATE"]
    assert "app_migrator" in text["LOG-DDL"]


def test_what_counts_as_a_success_before_was_one(run):
    met = [x["facts"] for x in run.lines if x.get("phase") == "before" and x["control"] == "TLS-IMPERSONATION"]
    given = [x["password_given"] for x in met if "password_given" in x]
    assert given == [True] * len(STRANGERS)


def test_the_kept_lab_is_reached_as_it_is_now(run, tmp_path):
    told = dbsec("lab", "env", "--name", "demo", home=run.home, cwd=tmp_path)
    script = f"{told.stdout}\npsql -Atc 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()'"
    used = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (used.stdout, used.stderr) == ("t\n", "")


def test_the_service_lost_no_request(run):
    whole = next(x for x in run.lines if x.get("drill") == "load during the whole run")
    assert whole["facts"]["failed"] == 0
    assert whole["facts"]["requests"] > 200
    (plot,) = whole["exhibits"]
    assert {band["kind"] for band in plot["bands"]} == {"before", "apply", "after"}


def test_plaintext_sessions_are_drained_ended_and_counted(run):
    drained = next(x for x in run.lines if x.get("drill", "").startswith("drain"))
    assert drained["facts"]["terminated"] == 3
    assert drained["facts"]["already_encrypted"] >= 2


def test_evidence_is_authentic_and_a_cut_line_is_found(run, tmp_path):
    key = run.home / "keys/evidence.pub"
    good = dbsec("report", "verify", run.out, "--public-key", key, home=run.home, cwd=tmp_path)
    assert (good.returncode, "authentic" in good.stdout) == (0, True)
    cut = tmp_path / "evidence.jsonl"
    cut.write_bytes(b"".join((run.out / "evidence.jsonl").read_bytes().splitlines(keepends=True)[:-1]))
    bad = dbsec("report", "verify", cut, "--public-key", key, home=run.home, cwd=tmp_path)
    assert bad.returncode == 1
    assert f"line {len(run.lines)}" in bad.stderr + bad.stdout


def test_the_report_is_whole_and_needs_no_network(run):
    page = (run.out / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    for name in ("report.md", "report.json", "screens/roles.svg", "screens/transit.svg", "logs/primary.log"):
        assert (run.out / name).stat().st_size > 0, name
    assert "url(http" not in (run.out / "screens/transit.svg").read_text()


def test_no_secret_of_the_lab_is_in_report_logs_argv_or_environment(run):
    lab = run.home / "demo"
    secrets = _secrets(lab)
    assert len(secrets) >= 8
    state = State.load(lab)
    assert state is not None
    pids = [s.pid for s in state.servers.values()]
    canaries = Canaries(secrets)
    files = canaries.in_files(run.out, lab / "logs")
    assert (files.hits, files.unread) == (frozenset(), ())
    assert files.looked_at > 10
    processes = canaries.in_processes(*pids)
    assert (processes.hits, processes.unread) == (frozenset(), ())
    assert processes.looked_at > 20
    output = run.done.stdout + run.done.stderr
    assert not [name for name, value in secrets.items() if value.decode() in output]


def _secrets(lab: Path) -> dict[str, bytes]:
    """Collect every credential of the lab: passwords, tokens, keys, and the passwords inside DSNs."""
    found: dict[str, bytes] = {}
    for path in (lab / "secrets").iterdir():
        text = path.read_bytes().strip()
        inner = re.findall(rb"password='?([^\s']+)'?|aws_secret_access_key = (\S+)", text)
        values = [a or b for a, b in inner] or ([text.rpartition(b":")[2]] if path.suffix == ".pgpass" else [text])
        for number, value in enumerate(values):
            if len(value) >= 12 and value.isascii():
                found[f"{path.name}#{number}"] = value
    return found


def test_one_chapter_applies_its_predecessors_and_leaves_nothing_running(home, tmp_path):
    other = home.with_name(home.name + "-one")
    (tmp_path / "dbsec.toml").write_text(PATIENT)
    done = dbsec("demo", "--scale", "small", "--chapter", "transit", "--out", "r", home=other, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = list(evidence.read(tmp_path / "r/evidence.jsonl"))
    assert {x["chapter"] for x in lines if x.get("phase") == "after"} == {"transit"}
    assert not (other / "demo").exists()


def test_a_path_with_all_that_a_shell_would_read_and_a_report_that_is_kept(home, tmp_path):
    other = home.with_name(f"{home.name} it's ø")
    for _ in range(2):
        done = dbsec("demo", "--scale", "small", "--chapter", "baseline", "--out", "r", home=other, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "No control was attacked in this run" in done.stdout
    (kept,) = tmp_path.glob("r.*")
    assert dbsec("report", "verify", kept, home=other, cwd=tmp_path).returncode == 0
    first = (tmp_path / "r/evidence.jsonl").read_bytes()
    refused = dbsec("demo", "--chapter", "baseline", "--out", "r", home=Path("/dev/null/x"), cwd=tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (3, False)
    assert (tmp_path / "r/evidence.jsonl").read_bytes() == first, "a run that never started touched the last report"


def test_a_chapter_that_is_not_there_is_named_before_anything_starts(home, tmp_path):
    done = dbsec("demo", "--chapter", "nonsense", home=home.with_name("never-made"), cwd=tmp_path)
    assert done.returncode == 2
    assert f"choose one of: {', '.join(c.name for c in sequence.found())}" in done.stderr
    assert not home.with_name("never-made").exists()


def test_a_folder_that_holds_something_else_is_left_alone(home, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/mine").write_text("mine\n")
    done = dbsec("demo", "--out", ".", home=home.with_name("never-made"), cwd=tmp_path)
    assert (done.returncode, "choose another --out" in done.stderr) == (2, True)
    assert (tmp_path / "logs/mine").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        ("PostgreSQL is up", signal.SIGINT),
        ("measuring the undisturbed", signal.SIGTERM),
        ("the new certificate is served", signal.SIGINT),
    ],
)
def test_interrupt_stops_everything_and_says_where_to_look(home, tmp_path, moment, sent):
    (tmp_path / "r").mkdir()
    for stale in ("index.html", "evidence.jsonl"):
        (tmp_path / "r" / stale).write_text("of an earlier run\n")
    other = home.with_name(f"{home.name}-int")
    argv = [*DBSEC, "demo", "--scale", "small", "--out", "r"]
    env = {**os.environ, "DBSEC_HOME": str(other)}
    demo = subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    seen = []
    for line in demo.stderr:
        seen.append(line)
        if moment in line:
            break
    state = State.load(other / "demo")
    assert state is not None
    servers = list(state.servers.values())
    demo.send_signal(sent)
    time.sleep(0.3)  # an impatient person; whether it falls into the clean-up or before it, nothing may be left
    demo.send_signal(sent)
    _, rest = demo.communicate(timeout=60)
    assert demo.returncode == 130, "".join(seen) + rest
    assert f"look at: {tmp_path}/r" in rest
    assert (tmp_path / "r/logs/primary.log").exists()
    page = tmp_path / "r/index.html"
    assert not page.exists() or "the run did not finish" in page.read_text()
    deadline = time.monotonic() + 5
    while any(s.process.alive for s in servers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [s.name for s in servers if s.process.alive]
    assert not (other / "demo").exists()
