"""Baseline: the deployment as found, and how the service feels when nobody disturbs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dbsec.clock import SYSTEM
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.evidence import Control, Observation, Outcome
from dbsec.pg import facts

MEASURED_S = 6.0

POSTURE = Control(
    "BASE-POSTURE",
    "the deployment is known before it is changed",
    "hardening without a picture of what was there cannot be judged",
    ("NIST SP 800-53 CM-6",),
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
_WEAK = """
SELECT (SELECT count(*) FROM pg_roles WHERE rolsuper AND rolcanlogin),
       (SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'md5%'),
       (SELECT count(*) FROM pg_authid WHERE rolcanlogin AND rolvaliduntil IS NULL),
       (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'app' AND c.relkind = 'r' AND NOT c.relrowsecurity),
       (SELECT phone FROM app.users ORDER BY id LIMIT 1) ~ '^\\+[0-9]+$'
"""


def observe(stage: Stage) -> Iterator[Seen]:
    """Read what is there, and leave the service alone for a while so that its normal latency is known."""
    with stage.admin() as connection:
        settings = facts.settings(connection, _SETTINGS)
        sessions = facts.sessions(connection)
        row = connection.execute(_WEAK).fetchone() or (0, 0, 0, 0, False)
    supers, md5, endless, without_rls, clear = row
    plaintext = Counter(s.user for s in sessions if s.network and not s.encrypted)
    found = {
        "superuser_logins": supers,
        "md5_passwords": md5,
        "passwords_without_end": endless,
        "tables_without_row_security": without_rls,
        "phones_in_clear": bool(clear),
        "plaintext_sessions": dict(plaintext),
        "service_login": stage.login("service").user,
        "service_sslmode": stage.login("service").params.get("sslmode", "prefer"),
    }
    rows = [[name, s.value, s.source] for name, s in settings.items()]
    yield (
        POSTURE,
        "the server as found",
        Observation(
            Outcome.FAIL,
            f"the service is superuser '{found['service_login']}', {sum(plaintext.values())} sessions are in clear, "
            f"{md5} md5 password, {without_rls} tables without row security, phones readable",
            found,
            [{"type": "table", "title": "Settings as found", "columns": ["setting", "value", "source"], "rows": rows}],
        ),
    )
    stage.progress.step(f"measuring the undisturbed service for {MEASURED_S:g} s")
    SYSTEM.sleep(MEASURED_S)


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
