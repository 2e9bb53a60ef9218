"""Measures every case on a server and keeps what it did: the truth that the linter is held against."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.effects.model import Effect, LockMode
from dbsec.migrations.facts import builtins
from dbsec.migrations.facts.cases import Case, every, schema_sql
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.observe import NOT_IN_TRANSACTION, Observed, Observer
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.statement import Origin, Statement
from dbsec.pg import Conninfo, connect, facts
from dbsec.progress import Progress, Silent

_TEMPLATE = "dbsec_facts_template"
_SHARED = "dbsec_facts_shared"
_CASE = "dbsec_facts_case"
_OWN_DATABASE = {"VacuumStmt", "ReindexStmt", "ClusterStmt", "LockStmt", "AlterSystemStmt", "VariableSetStmt"}
Seen = Sequence[tuple[Statement, Observed]]
_AROUND: LiteralString = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dbsec_reader') THEN CREATE ROLE dbsec_reader NOLOGIN; END IF;
END $$
"""


def measure(
    admin: Conninfo, cases: Sequence[Case] | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Run each case on a database of its own and tell what PostgreSQL did.

    ``admin`` is a superuser of a server for nothing else. Shape: ``major``, ``version``, ``cases`` {id: {statements:
    [{locks {table: mode}, work [[what, table]], proofs, error}], harmful, breaks, loses}}, ``builtins`` of that module.
    """
    report = progress or Silent()
    with connect(admin) as session:
        server = facts.server(session)
        chosen = [case for case in (every() if cases is None else cases) if case.runs_on(server.major)]
        _around(session)
        _fresh(session, _TEMPLATE, "template1")
        with connect(admin.but(dbname=_TEMPLATE)) as template:
            template.execute(schema_sql().encode())
        shared = _fresh(session, _SHARED, _TEMPLATE)
        measured = {}
        for done, case in enumerate(chosen, 1):
            measured[case.id] = _rehearsed(case, admin.but(dbname=shared)) or _apart(case, admin, session)
            report.count("cases", done, len(chosen))
        for name in (_SHARED, _CASE, _TEMPLATE):
            session.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        lists = builtins.read(session)
    return {"major": server.major, "version": server.version.split()[0], "cases": measured, "builtins": lists}


def _around(session: psycopg.Connection[Any]) -> None:
    session.execute(_AROUND)
    session.execute("SET allow_in_place_tablespaces = on")
    with suppress(psycopg.errors.DuplicateObject):
        session.execute("CREATE TABLESPACE dbsec_other LOCATION ''")


def _fresh(session: psycopg.Connection[Any], name: str, template: str) -> str:
    session.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
    session.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
    return name


def _rehearsed(case: Case, shared: Conninfo) -> dict[str, Any] | None:
    """Measure a case of one statement that can be undone; None where it needs a database of its own."""
    statements = _direct(case.sql)
    if case.setup or len(statements) != 1 or statements[0].kind in _OWN_DATABASE:
        return None
    only = statements[0]
    with connect(shared) as actor, connect(shared) as watcher:
        before = _answers(case, actor)
        after = before

        def ask() -> None:
            nonlocal after
            after = _answers(case, actor)

        observer = Observer(actor, watcher, lambda: connect(shared))
        seen = observer.rehearse(only.text, only.kind, ask)
        if seen.error is not None and seen.error[0] in NOT_IN_TRANSACTION:
            return None
        return _found(case, [(only, seen)], observer.tables(), before, after)


def _apart(case: Case, admin: Conninfo, session: psycopg.Connection[Any]) -> dict[str, Any]:
    own = admin.but(dbname=_fresh(session, _CASE, _TEMPLATE))
    with connect(own) as actor, connect(own) as watcher:
        for statement in parse_text(case.setup):
            actor.execute(statement.text.encode())
        before = _answers(case, watcher)
        observer = Observer(actor, watcher, lambda: connect(own))
        old = observer.tables()
        seen = [(one, observer.run(one.text, one.kind)) for one in _direct(case.sql)]
        if observer.in_transaction:
            actor.execute("ROLLBACK")
        return _found(case, seen, old, before, _answers(case, watcher))


def _direct(text: str) -> list[Statement]:
    return [statement for statement in parse_text(text) if statement.origin is Origin.DIRECT]


def _found(case: Case, seen: Seen, old: Set[Name], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    if before["old"] or (case.lost and before["lost"] is None):
        raise AssertionError(f"case '{case.id}': what the old release asks fails before: {before}")
    found: dict[str, Any] = {"statements": [_statement(observed) for _, observed in seen]}
    if case.old:
        found["breaks"] = after["old"]
    if case.lost:
        found["loses"] = before["lost"] != after["lost"]
    found["harmful"] = bool(case.harm) or blocks(seen, old) if case.judge else None
    return found


def _answers(case: Case, session: psycopg.Connection[Any]) -> dict[str, Any]:
    """Ask what the running release asks; nothing of it stays."""
    answers: dict[str, Any] = {"old": "", "lost": None}
    for key, text in (("old", case.old), ("lost", case.lost)):
        if not text:
            continue
        inside = session.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE
        session.execute("SAVEPOINT ask" if inside else "BEGIN")
        try:
            cursor = session.execute(text.encode())
            answers["lost"] = cursor.fetchall() if key == "lost" else None
        except psycopg.Error as exc:
            answers[key] = exc.sqlstate
        session.execute("ROLLBACK TO ask" if inside else "ROLLBACK")
    return answers


def blocks(seen: Seen, old: Set[Name]) -> bool:
    """Tell whether work was done on an old table while a lock was held on one that makes its clients wait.

    ``old``: the tables that were there before the first statement. The lock is the statement's or its transaction's.
    """
    held: dict[int, LockMode] = {}
    for statement, observed in seen:
        effect = observed.effect or Effect()
        mine = max((mode for name, mode in effect.locks if name in old), default=LockMode.ACCESS_SHARE)
        strongest = max(mine, held.get(statement.block, mine)) if statement.block else mine
        held[statement.block] = strongest
        only_read = statement.kind == "RefreshMatViewStmt"  # nobody writes to a materialized view
        waited_for = strongest.blocks_reads if only_read else strongest.blocks_writes
        if waited_for and any(task.table in old for task in effect.work):
            return True
    return False


def _statement(observed: Observed) -> dict[str, Any]:
    if observed.effect is None:
        return {"error": observed.error[0] if observed.error else ""}
    effect = observed.effect
    found: dict[str, Any] = {
        "locks": {_plain(name): int(mode) for name, mode in effect.locks},
        "work": sorted({(str(task.work), _plain(task.table)) for task in effect.work}),
    }
    if effect.proofs:
        found["proofs"] = list(effect.proofs)
    warned = [notice.sqlstate for notice in observed.notices if notice.severity == "WARNING"]
    return {**found, "warnings": warned} if warned else found


def _plain(name: Name) -> str:
    return f"{name.schema}.{name.name}"
