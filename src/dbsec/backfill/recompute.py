"""Judges the rows of a job in python: by its check, or by asking its function again; values stay in the process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from dbsec.backfill import comparison, python_rows, statements, windows
from dbsec.backfill.job import Check
from dbsec.backfill.python_rows import Key, Seen
from dbsec.backfill.statements import Work
from dbsec.backfill.verification import Judged
from dbsec.backfill.windows import Window
from dbsec.errors import ApplyError, DbsecError, UsageError


class Recompute:
    """Judges windows of a job in python."""

    def __init__(self, work: Work, check: Check | None) -> None:
        self._work = work
        self._check = check
        self._repeats = False  # known only once the function has returned something

    def look(self, connection: psycopg.Connection[Any], window: Window) -> Judged:
        """Judge a window, in one snapshot: a transaction that is REPEATABLE READ.

        Errors: ``UsageError`` for a function that gives another value each time, and has no check.
        """
        rows = self._rows(connection, window)
        outside = self._outside(connection, window)
        checksum = sum(row["dbsec_hash"] for row in rows.values())
        off = self._failed(rows) if self._check is not None else self._other(connection, window, rows)
        missed = [key for key in off if rows[key]["dbsec_needed"]]
        wrong = [key for key in off if not rows[key]["dbsec_needed"]]
        return Judged(len(rows), outside, 0, checksum, missed=missed, wrong=wrong)

    def _rows(self, connection: psycopg.Connection[Any], window: Window) -> dict[Key, dict[str, Any]]:
        job, target = self._work.job, self._work.target
        inside = windows.inside(target, window)
        names = sql.SQL(", ").join(column.identifier for column in target.columns.values())
        query = sql.SQL(
            "SELECT {key} AS dbsec_key, ({needed}) IS TRUE AS dbsec_needed,"
            " pg_catalog.hashtextextended(ROW({names})::text, 0) AS dbsec_hash, {names}"
            " FROM {table} WHERE {inside} AND ({scope}) ORDER BY {order}"
        ).format(
            key=windows.texts(target),
            needed=comparison.written(job.where or "false"),
            names=names,
            table=target.identifier,
            inside=inside.text,
            scope=comparison.written(job.scope or "true"),
            order=windows.columns(target),
        )
        with connection.cursor(row_factory=dict_row) as cursor:
            return {tuple(row["dbsec_key"]): row for row in cursor.execute(query, inside.values)}

    def _outside(self, connection: psycopg.Connection[Any], window: Window) -> int:
        if self._work.job.scope is None:
            return 0
        inside = windows.inside(self._work.target, window)
        query = sql.SQL("SELECT count(*) FROM {} WHERE {} AND ({}) IS NOT TRUE").format(
            self._work.target.identifier, inside.text, comparison.written(self._work.job.scope)
        )
        found = connection.execute(query, inside.values).fetchone()
        return int(found[0]) if found else 0

    def _failed(self, rows: Mapping[Key, Mapping[str, Any]]) -> list[Key]:
        assert self._check is not None, "there is no check"
        shown = [{name: row[name] for name in self._work.target.columns} for row in rows.values()]
        with _told(f"check '{self._name(self._check)}'", len(rows)):
            verdicts = list(self._check(shown)) if shown else []
            if len(verdicts) != len(rows) or not all(isinstance(one, bool) for one in verdicts):
                raise python_rows.Wrong("it must return one bool for each row")
        return [key for key, right in zip(rows, verdicts, strict=True) if not right]

    def _other(
        self, connection: psycopg.Connection[Any], window: Window, rows: Mapping[Key, Mapping[str, Any]]
    ) -> list[Key]:
        """Ask the function of the job again, and let the server compare: it knows what equal is."""
        names = statements.shown(self._work)
        seen = {key: Seen("", {name: row[name] for name in names}) for key, row in rows.items()}
        with _told(f"function '{self._work.job.definition['python']}'", len(rows)):
            wanted = {key: new for key, new in python_rows._asked(self._work, seen).items() if new is not None}
            if wanted and not self._repeats:
                self._must_repeat({key: seen[key] for key in wanted}, wanted)
            self._must_settle(seen, wanted)
            return self._differing(connection, window, wanted) if wanted else []

    def _must_repeat(self, seen: Mapping[Key, Seen], wanted: Mapping[Key, Any]) -> None:
        if dict(python_rows._asked(self._work, seen)) != dict(wanted):
            raise UsageError(
                f"function '{self._work.job.definition['python']}' gives another value each time:"
                " what it gave before cannot be compared",
                hint='give the job a check = "module:function" that tells of each row whether it is right',
            )
        self._repeats = True

    def _must_settle(self, seen: Mapping[Key, Seen], wanted: Mapping[Key, Mapping[str, Any]]) -> None:
        """Errors: ``UsageError`` where what it gives is no answer to itself: a repair would count a row once more."""
        moved = {
            key: names
            for key, new in wanted.items()
            if (names := [name for name, value in new.items() if seen[key].values.get(name, value) != value])
        }
        if not moved:
            return
        after = {key: Seen("", {**seen[key].values, **_of(wanted[key], names)}) for key, names in moved.items()}
        again = python_rows._asked(self._work, after)
        odd = [
            key for key, names in moved.items() if _of(again.get(key) or wanted[key], names) != _of(wanted[key], names)
        ]
        if odd:
            raise UsageError(
                f"function '{self._work.job.definition['python']}' reads '{moved[odd[0]][0]}', which it writes:"
                " what it was before is not known",
                hint='give the job a check = "module:function" that tells of each row whether it is right',
            )

    def _differing(
        self, connection: psycopg.Connection[Any], window: Window, wanted: Mapping[Key, Mapping[str, Any]]
    ) -> list[Key]:
        target = self._work.target
        names = list(next(iter(wanted.values())))
        python_rows._writable(self._work, names, wanted)
        arrays = [list(texts) for texts in zip(*wanted, strict=True)]
        for name in names:
            values = [row[name] for row in wanted.values()]
            arrays.append(python_rows._literals(connection, values) if target.columns[name].array else values)
        inside = windows.inside(target, window, "dbsec_old.")
        query = self._compared(connection, names, inside.text)
        return [tuple(key) for (key,) in connection.execute(query, [*arrays, *inside.values])]

    def _compared(
        self, connection: psycopg.Connection[Any], names: Sequence[str], inside: sql.Composed
    ) -> sql.Composed:
        target = self._work.target
        types = comparison.types(connection, target)
        columns = [*target.key, *(target.columns[name] for name in names)]
        fresh = [sql.SQL(f"dbsec_{n}") for n in range(len(columns))]
        at = len(target.key)
        arrays = [sql.SQL(f"unnest(%s::{'pg_catalog.text' if one.array else one.spelled}[])") for one in columns]
        pairs = zip(columns[at:], fresh[at:], strict=True)
        return sql.SQL(
            "SELECT {} FROM {} AS dbsec_old, ROWS FROM ({}) AS dbsec_new ({}) WHERE ({}) = ({}) AND ({}) AND {}{}"
        ).format(
            windows.texts(target),
            target.identifier,
            sql.SQL(", ").join(arrays),
            sql.SQL(", ").join(fresh),
            windows.columns(target, "dbsec_old."),
            sql.SQL(", ").join(fresh[:at]),
            sql.SQL(" OR ").join(
                comparison.differing(
                    column,
                    sql.Composed([column.identifier]),
                    sql.Composed([new, sql.SQL("::" + types[column.name].replace("%", "%%"))]),
                )
                for column, new in pairs
            ),
            inside,
            self._about(types, names),
        )

    def _about(self, types: Mapping[str, str], names: Sequence[str]) -> sql.Composable:
        """Leave out the rows that ``where`` never meant; a scope has done so already."""
        job, target = self._work.job, self._work.target
        if job.where is None or job.scope is not None:
            return sql.SQL("")
        written = [comparison.Expected(target.columns[name], types[name], None) for name in names]
        about = sql.SQL(" AND EXISTS (SELECT FROM {} WHERE ({}) = ({}) AND {})")
        ours, theirs = windows.columns(target), windows.columns(target, "dbsec_old.")
        return about.format(target.identifier, ours, theirs, comparison._scope(job, target, written))

    def _name(self, check: Check) -> str:
        given = self._work.job.check
        return given if isinstance(given, str) else f"{check.__module__}:{check.__qualname__}"


def _of(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row.get(name) for name in names}


@contextmanager
def _told(what: str, count: int) -> Iterator[None]:
    """Say of a failure where it is and what class it has: its text is not ours, and may quote a value."""
    try:
        yield
    except (DbsecError, psycopg.Error):
        raise
    except python_rows.Wrong as exc:
        why = str(exc)
    except Exception as exc:  # noqa: BLE001 whatever it is, it is told without its text
        why = f"{type(exc).__name__} at {python_rows._place(exc)}"
    else:
        return
    raise ApplyError(
        f"{what} failed on a batch of {count} rows: {why}",
        hint='where it cannot take some rows, say which the job is about: scope = "..."',
    )
