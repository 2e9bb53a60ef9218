"""The audit trail in the server's own log: who did what, from where and when; by reload alone, without an extension.

A client that is not yet logged in may put a line break into the user name or database that it asks for, and so begin a
line of the log with text of its own (seen on 15, 17 and 18). Such a line is told by the torn one before it, and marked
doubtful. What a session sends later cannot do this: the server indents its further lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, GaveUp, UsageError, reason
from dbsec.pg import facts, settle
from dbsec.retry import wait_until
from dbsec.roles.changes import Change, Plan, change

# Time, process; of a session also its id, where it comes from, SQLSTATE, who, where to, with what: what a client
# chooses stands last and in quotes.
LINE_PREFIX = '%m [%p] %q%c %h %e user="%u" db="%d" app="%a" '

SETTINGS: dict[str, str] = {
    "log_connections": "on",
    "log_disconnections": "on",
    "log_line_prefix": LINE_PREFIX,
    "log_statement": "ddl",
    "log_replication_commands": "on",
    "log_min_duration_statement": "1s",
    "log_lock_waits": "on",
    # values are personal data: phones and names would outlive their rows in the log
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "default",
    "log_hostname": "off",
    "log_timezone": "UTC",
    "lc_messages": "C",
}
# 18 takes a list of what to log of a connection; "on" means less there than before
_SINCE_18 = {"log_connections": "all"}

_PRESENT: LiteralString = """
SELECT s.name, coalesce(f.setting, s.boot_val, ''), coalesce(f.sourcefile LIKE '%%postgresql.auto.conf', false)
  FROM pg_catalog.pg_settings s
  -- what the files say and not what this session has: its role may have a value of its own
  LEFT JOIN LATERAL (SELECT setting, sourcefile FROM pg_catalog.pg_file_settings
                      WHERE name = s.name AND applied ORDER BY seqno DESC LIMIT 1) f ON true
 WHERE s.name = ANY (%s)
"""
_SUPERUSERS: LiteralString = """
SELECT r.rolname, (SELECT substr(c, strpos(c, '=') + 1) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c
                    WHERE s.setrole = r.oid AND s.setdatabase = 0 AND c LIKE 'log_statement=%%')
  FROM pg_catalog.pg_roles r WHERE r.rolsuper AND r.rolcanlogin AND r.rolname <> ALL (%s) ORDER BY 1
"""
_REFUSED: LiteralString = """
SELECT name, coalesce(error, 'the server must be restarted for it') FROM pg_catalog.pg_file_settings
 WHERE name = ANY (%s) AND sourcefile LIKE '%%postgresql.auto.conf' AND NOT applied
"""

_RELOAD = Change("reload", "the reload", "", "SELECT pg_catalog.pg_reload_conf()", "")

_HEAD = r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[(?P<pid>\d+)\] "
_SESSION = r"(?P<session>[0-9a-f]{8,}\.[0-9a-f]+) (?P<host>\S+) (?P<sqlstate>[0-9A-Z]{5}) user=\""
_WHO = r"(?P<user>.+?)\" db=\"(?P<database>.*?)\" app=\"(?P<application>.*?)\" "
_LINE = re.compile(rf"{_HEAD}(?:{_SESSION}{_WHO})?(?P<severity>[A-Z]+\d?):  (?P<message>.*)", re.DOTALL)
_TORN = re.compile(rf"{_HEAD}{_SESSION}")
_END_OF_PREFIX = re.compile(r"\" app=\".*?\" [A-Z]+\d?:  ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One entry. Of a background process ``session``, ``host``, ``user``, ``database``, ``application`` are empty.

    ``doubtful``: who was refused at login may have written it, so that it proves nothing.
    """

    at: datetime
    pid: int
    session: str
    host: str
    sqlstate: str
    user: str
    database: str
    application: str
    severity: str
    message: str
    doubtful: bool = False

    def to_json(self) -> dict[str, str]:
        """Return who, from where, when and what, for an evidence line."""
        return {
            "user": self.user,
            "from": self.host,
            "application": self.application,
            "database": self.database,
            "at": self.at.isoformat(timespec="milliseconds"),
            "session": self.session,
            "sqlstate": self.sqlstate,
            "message": self.message,
        }


def wanted(major: int) -> dict[str, str]:
    """Return the settings for a version."""
    return {**SETTINGS, **(_SINCE_18 if major >= 18 else {})}


def plan(connection: psycopg.Connection[Any], *, leave: Collection[str] = ()) -> Plan:
    """Say which settings would change; every superuser login but those to ``leave`` has all it does logged."""
    return Plan((*_server_changes(connection), *_role_changes(connection, leave)))


def _server_changes(connection: psycopg.Connection[Any]) -> Iterator[Change]:
    names = wanted(facts.server(connection).major)
    present = {name: (value, ours) for name, value, ours in connection.execute(_PRESENT, [list(names)])}
    for name, value in names.items():
        before, ours = present[name]
        if before != value:
            target = Identifier(name)
            back = SQL("ALTER SYSTEM SET {} = {}").format(target, Literal(before))
            undo = back if ours else SQL("ALTER SYSTEM RESET {}").format(target)
            statement = SQL("ALTER SYSTEM SET {} = {}").format(target, Literal(value))
            yield change("server-setting", name, statement, undo, f"is '{before}'")


def _role_changes(connection: psycopg.Connection[Any], leave: Collection[str]) -> Iterator[Change]:
    for role, before in connection.execute(_SUPERUSERS, [list(leave)]):
        if before != "all":
            name = Identifier(role)
            statement = SQL("ALTER ROLE {} SET log_statement = 'all'").format(name)
            back = SQL("ALTER ROLE {} SET log_statement = {}").format(name, Literal(before))
            undo = back if before is not None else SQL("ALTER ROLE {} RESET log_statement").format(name)
            yield change("setting", f"{role}: log_statement", statement, undo, "is a superuser that may log in")


def apply(connection: psycopg.Connection[Any], plan: Plan, *, within_s: float = 10.0, clock: Clock = SYSTEM) -> int:
    """Write the settings, reload, and return how many; new sessions are logged so at once, no restart is needed.

    Needs superuser and a connection in autocommit mode. Errors: ``ApplyError`` where the server refuses one; all of
    them are then taken back, or the error names those that are not. An interrupt takes them back too.
    """
    if not connection.autocommit:
        raise UsageError("settings of a server are changed on a connection in autocommit mode")
    begun: list[Change] = []
    try:
        for each in plan:
            begun.append(each)  # before it is sent: an interrupt may come when the server has done it
            connection.execute(each.statement.encode())
        _reload(connection, [c.object for c in plan if c.kind == "server-setting"], within_s, clock)
    except BaseException as exc:
        _take_back(connection, begun, cause=exc)
        if not isinstance(exc, (psycopg.Error, GaveUp, ApplyError)):
            raise
        raise ApplyError(f"the log settings were not changed: {reason(exc)}") from exc
    return len(plan)


def _take_back(connection: psycopg.Connection[Any], begun: list[Change], *, cause: BaseException) -> None:
    """Undo each change, whatever becomes of the others. Errors: ``ApplyError`` with what is left to be run."""
    left: dict[str, str] = {}
    reasons: list[str] = []
    settle(connection)
    for each in (*(c for c in reversed(begun) if c.undo), _RELOAD):
        try:
            connection.execute(each.undo.encode())
        except psycopg.errors.UndefinedObject:
            pass  # it was refused for the same reason, and nothing of it is there
        except psycopg.Error as exc:
            left[each.object] = each.undo
            reasons.append(reason(exc))
    if left:
        raise ApplyError(
            f"it did not hold ({reason(cause)}), and not all is as before ({reasons[0]}): {', '.join(left)}",
            hint=f"run as superuser: {'; '.join(left.values())}",
        ) from cause


def _reload(connection: psycopg.Connection[Any], names: list[str], within_s: float, clock: Clock) -> None:
    refused = connection.execute(_REFUSED, [names]).fetchall()
    if refused:
        raise ApplyError(f"'{refused[0][0]}': {refused[0][1]}")
    before = connection.execute("SELECT pg_catalog.pg_conf_load_time()").fetchone()
    connection.execute("SELECT pg_catalog.pg_reload_conf()")
    wait_until(
        lambda: connection.execute("SELECT pg_catalog.pg_conf_load_time()").fetchone() != before,
        within_s=within_s,
        what="the server to read its configuration again",
        clock=clock,
    )


def parse(line: str) -> LogLine | None:
    """Read one line written under ``LINE_PREFIX``; None for any other, and for one that was torn."""
    match = _LINE.fullmatch(line.rstrip("\n"))
    if match is None:
        return None
    part = match.groupdict(default="")
    # the session's id ends with its process: whoever makes one up has to make up both
    if part["session"] and int(part["session"].partition(".")[2], 16) != int(part["pid"]):
        return None
    return LogLine(
        at=datetime.fromisoformat(part["at"]).replace(tzinfo=UTC),
        pid=int(part["pid"]),
        session=part["session"],
        host=part["host"],
        sqlstate=part["sqlstate"],
        user=part["user"],
        database=part["database"],
        application=part["application"],
        severity=part["severity"],
        message=part["message"],
    )


def read(log: Path, *, offset: int = 0) -> Iterator[LogLine]:
    """Yield the entries of a log from a byte offset on, each with its further lines.

    Shape: an entry's further lines begin with a tab. Other lines (of programs that the server runs) are passed over.
    """
    held: LogLine | None = None
    torn = False
    with log.open(encoding="utf-8", errors="replace", newline="\n") as stream:
        stream.seek(offset)
        for line in stream:
            if line.startswith("\t"):
                held = replace(held, message=f"{held.message}\n{line[1:].rstrip()}") if held else None
                continue
            if held:
                yield held
            held = parse(line)
            if torn:
                held, torn = held and replace(held, doubtful=True), not _END_OF_PREFIX.search(line)
            else:
                torn = held is None and bool(_TORN.match(line))
    if held:
        yield held


def find(
    log: Path,
    *,
    since: datetime | None = None,
    offset: int = 0,
    user: str | None = None,
    contains: str = "",
) -> list[LogLine]:
    """Find entries by time, user and text.

    Doubtful ones are there too, marked: left out, they would be a way to hide the entry that follows a torn line.
    """
    return [
        line
        for line in read(log, offset=offset)
        if (since is None or line.at >= since) and (user is None or line.user == user) and contains in line.message
    ]
