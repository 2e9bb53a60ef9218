"""What a full enumeration of TLS takes, and what it finds: dbsec, sslyze and testssl on one weak PostgreSQL.

The server takes all that its OpenSSL can be made to offer (ALL:COMPLEMENTOFALL, security level 0, TLS 1.0 on). dbsec
and sslyze are timed within their processes, from the first connection to the last result; "dbsec, command" holds the
start of Python too. sslyze runs in an environment of its own; testssl is Debian's, where it is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from _bench import arguments, last_line, peer, show

from dbsec.lab import account, ports
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters
from dbsec.tls.ca import Authority
from dbsec.tls.prober import Protocol, probe
from dbsec.tls.prober.greeting import Target

OURS = "dbsec"
WEAK = {"ssl": "on", "ssl_ciphers": "ALL:COMPLEMENTOFALL:@SECLEVEL=0", "ssl_min_protocol_version": "TLSv1"}
OPEN = "host all all 127.0.0.1/32 scram-sha-256\n"
Found = set[tuple[str, str]]  # version (TLS 1.2) and IANA's name
Ran = tuple[float, Found]  # milliseconds, and what was found


def main() -> None:
    """Start the server, let all take turns, and print."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="dbsec-bench-") as made, weak_server(Path(made)) as port:
        runs: dict[str, Callable[[], Ran]] = {
            OURS: lambda: in_process(port),
            "sslyze": lambda: by_sslyze(port),
            "dbsec, command": lambda: timed(lambda: by_command(port)),
        }
        if shutil.which("testssl") and not given.quick:
            runs["testssl"] = lambda: timed(lambda: by_testssl(port, Path(made)))
        timings: dict[str, list[float]] = {name: [] for name in runs}
        found: dict[str, Found] = {}
        for turn in range(2 if given.quick else 5):
            for name, run in runs.items():
                if turn == 0 or name != "testssl":  # a minute each
                    ms, found[name] = run()
                    timings[name].append(ms)
    ratios = show("full enumeration of a weak PostgreSQL 15", "ms", timings, ours=OURS)
    for name, suites in found.items():
        missed, more = found[OURS] - suites, suites - found[OURS]
        print(f"{name}: {len(suites)} suites in all versions; {len(missed)} of ours missed, {len(more)} that we missed")
    peers = [name for name in found if not name.startswith("dbsec")]
    keys: dict[str, object] = {f"speedup_vs_{name}": round(1 / ratios[name], 1) for name in peers}
    keys |= {f"suites_found_{name}": len(found[name]) for name in peers}
    last_line(given.json, **keys, suites_found=len(found[OURS]))


@contextmanager
def weak_server(root: Path) -> Iterator[int]:
    """Yield the port of a PostgreSQL 15 that takes all that its OpenSSL has."""
    root.chmod(0o755)
    clusters = Clusters(root, 15, account=account.server_account(Silent()), free_port=lambda: ports.free(1)[0])
    try:
        instance = clusters.create().instance
        pair = Authority.create("the bench's CA").issue_server(["localhost", "127.0.0.1"])
        for name, text in (("server.crt", pair.certificate), ("server.key", pair.key), ("pg_hba.conf", OPEN)):
            instance.write(name, text)
        instance.configure(WEAK)
        instance.stop()
        instance.start()
        yield instance.port
    finally:
        clusters.close()


def timed(run: Callable[[], Found]) -> Ran:
    """Run a command, its start included."""
    begun = time.monotonic()
    found = run()
    return (time.monotonic() - begun) * 1000, found


def by_command(port: int) -> Found:
    """Run the command, as a person would."""
    argv = [sys.executable, "-m", "dbsec", "tls", "probe", f"127.0.0.1:{port}", "--format", "json"]
    told = json.loads(_run(argv))["result"]
    return {(_version(v), suite["name"]) for v, suites in told["suites"].items() for suite in suites}


def in_process(port: int) -> Ran:
    """Probe without the start of an interpreter."""
    seen = probe(Target("127.0.0.1", port, Protocol.POSTGRES))
    found = {(_version(v), suite.name) for v, suites in seen.suites.items() for suite in suites}
    return seen.seconds * 1000, found


def by_sslyze(port: int) -> Ran:
    """Let sslyze look at the same, timed by itself."""
    argv = [peer("sslyze") / "python", Path(__file__).with_name("_sslyze_turn.py"), str(port)]
    told = json.loads(_run(argv))
    return told["ms"], {(version, name) for version, name in told["suites"]}


def by_testssl(port: int, root: Path) -> Found:
    """Run testssl's enumeration of every suite of every version."""
    report = root / "testssl.json"
    report.unlink(missing_ok=True)
    argv = ["testssl", "-t", "postgres", "-E", "--quiet", "--color", "0", "--jsonfile", report, f"127.0.0.1:{port}"]
    _run(argv)
    rows = [one for one in json.loads(report.read_text()) if "_x" in one["id"]]
    return {(_version(one["id"].partition("-")[2].partition("_x")[0]), one["finding"].split()[-1]) for one in rows}


def _version(told: str) -> str:
    """Write each peer's own name of a version as ``TLS 1.2``."""
    digits = "".join(letter for letter in told if letter.isdigit())
    if told.lower().startswith("ssl"):
        return f"SSL {digits[:1]}"
    return f"TLS 1.{digits[1:2] or '0'}"


def _run(argv: Sequence[str | Path]) -> str:
    """Return stdout; the exit code is a verdict on the server."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
