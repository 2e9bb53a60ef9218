"""The SQL of a job over a window: what locks its rows, reads them, and writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from dbsec.backfill import windows
from dbsec.backfill.job import Function, Job
from dbsec.backfill.session import Limits
from dbsec.backfill.target import Target, named
from dbsec.backfill.windows import Part, Window

_NOTHING = sql.SQL("")
_NEW = sql.SQL("dbsec_new")


@dataclass(frozen=True, slots=True)
class Work:
    """A job, its table, its python function where it has one, and what it may cost."""

    job: Job
    target: Target
    limits: Limits
    function: Function | None = None


def lock(work: Work, window: Window) -> Part:
    """Lock the rows that an UPDATE is about to write, in the order of the key: one order, no deadlock."""
    rows = _rows(work, window)
    query = sql.SQL("SELECT count(*) FROM ({} FOR NO KEY UPDATE) AS locked")
    return Part(query.format(rows.text), rows.values)


def update(work: Work, window: Window) -> Part:
    """Write what the job's ``set`` says."""
    condition = _condition(work, window)
    query = sql.SQL("UPDATE {} SET {} WHERE {}")
    return Part(query.format(work.target.identifier, _written(work.job.set or ""), condition.text), condition.values)


def versions(work: Work, window: Window) -> Part:
    """Lock the rows in the order of the key; give the key and the version (xmin) of each."""
    rows = _rows(work, window, sql.SQL("{}, xmin::text").format(windows.texts(work.target)))
    return Part(sql.SQL("{} FOR NO KEY UPDATE").format(rows.text), rows.values)


def read(work: Work, window: Window) -> Part:
    """Read key, version, and then what the python function is shown, without a lock."""
    names = [named(name) for name in shown(work)]
    asked = sql.SQL(", ").join([windows.texts(work.target), sql.SQL("xmin::text"), *names])
    return _rows(work, window, asked)


def shown(work: Work) -> list[str]:
    """Name the columns that the python function is shown: the key, and what the job asks for."""
    return list(dict.fromkeys([*work.job.key_names, *work.job.column_names]))


def store(work: Work, window: Window, names: Sequence[str]) -> sql.Composed:
    """Write new values of columns ``names``: placeholders are an array a column of the key, then one a name.

    An array of arrays has no rows that differ in length: values of an array type come as text.
    """
    target = work.target
    columns = [*target.key, *(target.columns[name] for name in names)]
    types = ["pg_catalog.text" if column.array else column.spelled for column in columns]
    fresh = [sql.SQL(f"dbsec_{n}") for n in range(len(columns))]
    ours = "dbsec_old."
    at = len(target.key)
    return sql.SQL("UPDATE {} AS dbsec_old SET {} FROM ROWS FROM ({}) AS {} ({}) WHERE ({}) = ({}) AND {}").format(
        target.identifier,
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(column.identifier, sql.Composed([name, column.cast] if column.array else [name]))
            for column, name in zip(columns[at:], fresh[at:], strict=True)
        ),
        sql.SQL(", ").join(sql.SQL(f"unnest(%s::{type_}[])") for type_ in types),
        _NEW,
        sql.SQL(", ").join(fresh),
        windows.columns(target, ours),
        sql.SQL(", ").join(fresh[:at]),
        windows.inside(target, window, ours).text,
    )


def _rows(work: Work, window: Window, asked: sql.Composable = _NOTHING) -> Part:
    condition = _condition(work, window)
    query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}")
    return Part(
        query.format(asked, work.target.identifier, condition.text, windows.columns(work.target)), condition.values
    )


def _condition(work: Work, window: Window) -> Part:
    inside = windows.inside(work.target, window)
    if work.job.where is None:
        return inside
    return Part(sql.SQL("{} AND ({})").format(inside.text, _written(work.job.where)), inside.values)


def _written(text: str) -> sql.SQL:
    # A % is no placeholder, and a comment in the last line hides nothing of ours.
    return sql.SQL(text.replace("%", "%%") + "\n")
