"""How a rule's example is proven on a real server: ``bad`` does what the rule says, and ``good`` does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import psycopg

from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.rule import Breaks, Example, Locks, Loses, Proof, Queues, Refused, Shows, Warned
from dbsec.pg import connect
from dbsec.testing.bench import Bench, Done, Meanwhile, Ran, ask, direct, waits

_WITHIN_S = 20.0
_GIVES_UP_S = 5.0
_POLL_S = 0.01


def prove(example: Example, bench: Bench) -> list[str]:
    """Run an example; returns what does not hold, nothing where all does."""
    return _prove(example.proof, example, bench)


@singledispatch
def _prove(proof: Proof, _example: Example, _bench: Bench) -> list[str]:
    raise TypeError(f"no one knows how to see {proof!r}")


def _clean(ran: Ran, what: str) -> list[str]:
    return [f"{what} fails: {sqlstate} {message}" for sqlstate, message in ran.errors]


@_prove.register
def _(proof: Locks, example: Example, bench: Bench) -> list[str]:
    bad, good = (bench.run(example.setup, script) for script in (example.bad, example.good))
    table = named(proof.table)
    wrong = _clean(bad, "bad") + _clean(good, "good")
    if proof.work is None:
        if (longest := _statements_under(bad, table, proof.mode)) == 0:
            wrong.append(f"bad does not take {proof.mode.sql} on {table}: {seen(bad)}")
        elif _statements_under(good, table, proof.mode) >= longest:
            wrong.append(f"good holds {proof.mode.sql} on {table} as long as bad: {seen(good)}")
        return wrong
    if not any(one.holds(table) is proof.mode and _does(one, proof.work) for one in bad.done):
        wrong.append(f"bad does no {proof.work} under {proof.mode.sql} on {table}: {seen(bad)}")
    for one in good.done:
        if blocked := blocked_by(one, good.old, proof.work):
            wrong.append(f"good does the same on {', '.join(map(str, blocked))}: {seen(good)}")
    return wrong


def _statements_under(ran: Ran, table: Name, mode: LockMode) -> int:
    return sum(one.holds(table) is mode for one in ran.done if one.statement.kind != "TransactionStmt")


def _does(one: Done, work: Work) -> bool:
    return any(task.work is work for task in one.effect.work)


def blocked_by(one: Done, old: frozenset[Name], *of: Work) -> list[Name]:
    """Name the old tables on which work (of some kinds) is done while a lock blocks writers of an old table."""
    only_read = one.statement.kind == "RefreshMatViewStmt"  # nobody writes to a materialized view
    locks = [mode for name, mode in {**one.held, **dict(one.effect.locks)}.items() if name in old]
    if not any(mode.blocks_reads if only_read else mode.blocks_writes for mode in locks):
        return []
    return [task.table for task in one.effect.work if task.work in of and task.table in old]


@_prove.register
def _(proof: Breaks, example: Example, bench: Bench) -> list[str]:
    before = bench.ask(example.setup, proof.old)
    bad, good = (bench.run(example.setup, script, proof.old) for script in (example.bad, example.good))
    wrong = _clean(bad, "bad") + _clean(good, "good")
    if before.sqlstate:
        wrong.append(f"old fails before already: {before.sqlstate}")
    if bad.answer and bad.answer.sqlstate != proof.sqlstate:
        wrong.append(f"old ends with '{bad.answer.sqlstate or 'success'}' after bad, not '{proof.sqlstate}'")
    if good.answer and good.answer.sqlstate:
        wrong.append(f"old fails after good: {good.answer.sqlstate}")
    return wrong


@_prove.register
def _(proof: Loses, example: Example, bench: Bench) -> list[str]:
    before = bench.ask(example.setup, proof.query)
    bad, good = (bench.run(example.setup, script, proof.query) for script in (example.bad, example.good))
    wrong = _clean(bad, "bad") + _clean(good, "good")
    if before.sqlstate:
        wrong.append(f"query fails before already: {before.sqlstate}")
    if bad.answer == before:
        wrong.append("bad loses nothing that query shows")
    if good.answer != before:
        wrong.append(f"good changes what query shows: {before} is now {good.answer}")
    return wrong


@_prove.register
def _(proof: Refused, example: Example, bench: Bench) -> list[str]:
    stays, yields = (Meanwhile(proof.blocker, away) if proof.blocker else None for away in (False, True))
    bad = bench.run(example.setup, example.bad, meanwhile=stays)
    good = bench.run(example.setup, example.good, meanwhile=yields)
    wrong = _clean(good, "good")
    if proof.sqlstate not in (states := [sqlstate for sqlstate, _ in bad.errors]):
        wrong.append(f"bad does not end with {proof.sqlstate}: {states or 'it works'}")
    return wrong


@_prove.register
def _(proof: Warned, example: Example, bench: Bench) -> list[str]:
    bad, good = (bench.run(example.setup, script) for script in (example.bad, example.good))
    wrong = _clean(good, "good")
    if proof.sqlstate not in (states := list(bad.notices())):
        wrong.append(f"bad gives no notice {proof.sqlstate}: {states}")
    if proof.sqlstate in good.notices():
        wrong.append(f"good gives the notice {proof.sqlstate} too")
    return wrong


@_prove.register
def _(proof: Shows, example: Example, bench: Bench) -> list[str]:
    bad, good = (bench.run(example.setup, script, proof.query) for script in (example.bad, example.good))
    wrong = _clean(good, "good")
    shown = [str(ran.answer.rows[0][0]) if ran.answer and ran.answer.rows else "nothing" for ran in (bad, good)]
    if shown[0] != proof.after_bad:
        wrong.append(f"query shows '{shown[0]}' after bad, not '{proof.after_bad}' ({bad.answer})")
    if shown[1] == proof.after_bad or good.answer is None or good.answer.sqlstate:
        wrong.append(f"query shows '{shown[1]}' after good ({good.answer})")
    return wrong


@_prove.register
def _(proof: Queues, example: Example, bench: Bench) -> list[str]:
    wrong = []
    bad = _behind(proof, example.setup, example.bad, bench, patience_s=0)
    good = _behind(proof, example.setup, example.good, bench, patience_s=_GIVES_UP_S)
    if not bad.waited:
        wrong.append("bad does not wait for the blocker")
    elif not bad.others_wait:
        wrong.append(f"neither a reader nor a writer of '{proof.table}' waits behind bad")
    if not good.ended:
        wrong.append("good waits for as long as the blocker is there")
    elif good.errors and proof.sqlstate not in good.errors:
        wrong.append(f"good ends with {good.errors}, not {proof.sqlstate}")
    return wrong


@dataclass(slots=True)
class _Behind:
    """What a script did while another session held a lock."""

    waited: bool = False
    others_wait: bool = False
    ended: bool = False
    errors: list[str] = field(default_factory=list)


def _behind(proof: Queues, setup: str, script: str, bench: Bench, *, patience_s: float) -> _Behind:
    behind = _Behind()
    clients = (f"SELECT FROM {proof.table} LIMIT 1", f"LOCK TABLE {proof.table} IN ROW EXCLUSIVE MODE")
    with bench.set_up(setup) as (conninfo, reader), connect(conninfo) as blocker, connect(conninfo) as actor:
        reader.execute("SET lock_timeout = '100ms'")
        blocker.execute("BEGIN")
        blocker.execute(proof.blocker.encode())
        free = [client for client in clients if not ask(reader, client).sqlstate]  # the blocker alone stops some
        pid = actor.info.backend_pid
        thread = threading.Thread(target=_script, args=(actor, script, behind.errors), daemon=True)
        thread.start()
        behind.waited = _until(lambda: not thread.is_alive() or waits(reader, pid)) and thread.is_alive()
        behind.others_wait = behind.waited and any(ask(reader, client).sqlstate == "55P03" for client in free)
        thread.join(patience_s if behind.waited else _WITHIN_S)
        behind.ended = not thread.is_alive()
        blocker.execute("ROLLBACK")
        thread.join(_WITHIN_S)
    return behind


def _script(actor: psycopg.Connection[Any], script: str, errors: list[str]) -> None:
    for statement in direct(script):
        try:
            actor.execute(statement.text.encode())
        except psycopg.Error as exc:
            errors.append(exc.sqlstate or "")


def _until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(_POLL_S)
    return False


def named(text: str) -> Name:
    """Read a table's name as an example writes it; without a schema it is public's."""
    schema, _, name = text.rpartition(".")
    return Name(schema or "public", name)


def seen(ran: Ran) -> str:
    """Say what each statement of a script locked and did."""
    shown = []
    for one in ran.done:
        locks = ", ".join(f"{name} {mode.sql}" for name, mode in one.effect.locks)
        work = ", ".join(f"{task.work} of {task.table}" for task in one.effect.work)
        shown.append(f"[{locks}; {work or 'no work'}]")
    return " ".join(shown)
