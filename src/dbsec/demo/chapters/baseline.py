"""Baseline: the deployment as found, and how the service feels when nobody disturbs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg

from dbsec.clock import SYSTEM
from dbsec.demo.baseline import OLD_BACKUP
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.evidence import Control, Observation, Outcome
from dbsec.pg import facts

MEASURED_S = 6.0

POSTURE = Control(
    "BASE-POSTURE",
    "The deployment is known before it is changed",
    "hardening without a picture of what was there cannot be judged",
    ("NIST SP 800-53 CM-6",),
)
TENANTS = Control(
    "RLS-TENANTS",
    "One forgotten WHERE shows no tenant its neighbour",
    "the application alone keeps tenants apart, in every query that anyone ever writes",
    ("OWASP A01:2021", "NIST SP 800-53 AC-3"),
)
PHONES = Control(
    "ENC-PHONES",
    "Phone numbers cannot be read from a copy of the database",
    "a stolen backup, a replica or a careless SELECT gives every number away",
    ("OWASP A02:2021", "NIST SP 800-53 SC-28"),
)
PASSWORDS = Control(
    "SEC-PASSWORD-AGE",
    "Credentials end",
    "a password that leaked years ago still opens the database",
    ("OWASP A07:2021", "NIST SP 800-53 IA-5"),
)
BACKUPS = Control(
    "BAK-RESTORE",
    "Backups are encrypted, and their restore is rehearsed",
    "a copy that nobody restored may be unreadable on the day, and whoever finds it can read it all",
    ("NIST SP 800-53 CP-9", "NIST SP 800-53 CP-4"),
)
_SETTINGS = (
    "ssl",
    "ssl_min_protocol_version",
    "password_encryption",
    "log_connections",
    "log_statement",
    "archive_mode",
    "archive_command",
    "wal_level",
    "data_checksums",
)
_OPEN_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'app' AND c.relkind = 'r' AND NOT c.relrowsecurity ORDER BY c.relname
"""
_ENDLESS = "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolvaliduntil IS NULL ORDER BY rolname"
_ONE_PHONE = "SELECT phone, pg_relation_filepath('app.users') FROM app.users ORDER BY id LIMIT 1"
_CLEAR = """
SELECT count(*), count(*) FILTER (WHERE phone ~ '^\\+[0-9]{6,}$') FROM (SELECT phone FROM app.users LIMIT 1000) s
"""


def observe(stage: Stage) -> Iterator[Seen]:
    """Read what is there, and leave the service alone for a while so that its normal latency is known."""
    with stage.admin() as connection:
        yield POSTURE, "read the server as found", _posture(stage, connection)
        tables = [row[0] for row in connection.execute(_OPEN_TABLES)]
        endless = [row[0] for row in connection.execute(_ENDLESS)]
        sampled, clear = connection.execute(_CLEAR).fetchone() or (0, 0)
    yield (
        TENANTS,
        "look for row security",
        _judge(len(tables), f"{len(tables)} tables without row security", tables=tables),
    )
    yield (
        PHONES,
        "read phones as they are stored",
        _judge(clear, f"{clear:,} of {sampled:,} phones read in clear", sampled=sampled, in_clear=clear),
    )
    yield PASSWORDS, "look for an end of each password", _judge(len(endless), f"{len(endless)} logins never end")
    yield BACKUPS, "read the last backup as a thief would", _backup(stage)
    stage.progress.step(f"measuring the undisturbed service for {MEASURED_S:g} s")
    SYSTEM.sleep(MEASURED_S)


def _backup(stage: Stage) -> Observation:
    """Look for a phone of the database in the files of the copy."""
    with stage.admin() as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute(_ONE_PHONE).fetchone()
    if row is None:
        return Observation(Outcome.ERROR, "there is no phone to look for")
    phone, path = row
    copy = stage.lab.folder / OLD_BACKUP / path
    readable = copy.is_file() and phone.encode() in copy.read_bytes()
    return _judge(int(readable), "a phone number stands readable in the copy, which nobody ever restored", file=path)


def _posture(stage: Stage, connection: psycopg.Connection[Any]) -> Observation:
    settings, sessions = facts.settings(connection, _SETTINGS), facts.sessions(connection)
    in_clear = Counter(s.user for s in sessions if s.network and not s.encrypted)
    service = stage.login("service")
    found = {
        "service_login": service.user,
        "service_sslmode": service.params.get("sslmode", "prefer"),
        "sessions_in_clear": dict(in_clear),
    }
    rows = [[name, s.value, s.source] for name, s in settings.items()]
    return Observation(
        Outcome.PASS,
        f"the service is superuser '{service.user}', {in_clear.total()} of {len(sessions)} sessions are in clear",
        found,
        [{"type": "table", "title": "Settings as found", "columns": ["setting", "value", "source"], "rows": rows}],
    )


def _judge(bad: int, summary: str, **found: object) -> Observation:
    """Record a risk where it is there; the chapter that closes it comes with its pillar."""
    return Observation(Outcome.FAIL if bad else Outcome.PASS, summary, found)


CHAPTER = Chapter(
    name="baseline",
    order=0,
    title="As found",
    summary=(
        "The service logs in as a superuser with a password that never changes. TLS is self-signed and optional. "
        "Nothing separates tenants, phones lie in clear, and the backup is a copy that nobody restored."
    ),
    observe=observe,
)
