"""Examines a clone's tables and indexes by PostgreSQL's own amcheck."""

from __future__ import annotations

from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors, sql

from dbsec.errors import reason
from dbsec.progress import Progress

_MOST_TOLD: Final = 20
# what is corrupt, and a file that is not there or cannot be read: of the clone. The rest is a check that did not run.
_CORRUPT: Final = ("XX", "58")
_RELATIONS: LiteralString = """
SELECT c.oid, c.oid::regclass::text, c.relkind = 'i'
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
 WHERE c.relpersistence = 'p'
   AND (c.relkind IN ('r', 't', 'm') AND a.amname = 'heap'
        OR c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid AND i.indisready)
 ORDER BY 3, 2
"""
_INSTALLED: LiteralString = """
SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'amcheck'
"""
_INSTALL: LiteralString = """
SET session_replication_role = replica;
CREATE EXTENSION amcheck SCHEMA dbsec_drill_clone;
RESET session_replication_role
"""


def examine(session: psycopg.Connection[Any], progress: Progress) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check every permanent heap and B-tree of the database; returns what is corrupt, and what could not be told.

    Of an index, order and the links between levels are checked, and that every row of its table is in it. **locks**:
    SHARE, on a server that nobody else uses. Source: PostgreSQL, "amcheck".
    """
    schema, why = _schema(session)
    if why:
        return (), (why,)
    found: list[str] = []
    unknown: list[str] = []
    relations = list(session.execute(_RELATIONS))
    heap = sql.SQL("SELECT blkno, msg FROM {}(%s::oid::regclass)").format(sql.Identifier(schema, "verify_heapam"))
    index = sql.SQL("SELECT {}(%s::oid::regclass, true)").format(sql.Identifier(schema, "bt_index_parent_check"))
    for number, (oid, name, is_index) in enumerate(relations, 1):
        progress.count("relations examined", number, len(relations))
        try:
            rows = session.execute(index if is_index else heap, [oid])
            if not is_index:
                found += [f"{name}: block {block}: {said}" for block, said in rows.fetchmany(_MOST_TOLD)]
        except psycopg.Error as exc:
            if session.closed:
                raise
            where = found if (exc.sqlstate or "")[:2] in _CORRUPT else unknown
            where.append(f"{name}: {exc.sqlstate}: {exc.diag.message_primary}")
    return tuple(found[:_MOST_TOLD]), tuple(f"amcheck: {said}" for said in unknown[:_MOST_TOLD])


def _schema(session: psycopg.Connection[Any]) -> tuple[str, str]:
    """Return where the extension is, installed now if need be; else why not."""
    row = session.execute(_INSTALLED).fetchone()
    if row is not None:
        return str(row[0]), ""
    try:
        session.execute(_INSTALL)
    except (errors.UndefinedFile, errors.FeatureNotSupported, errors.InsufficientPrivilege) as exc:
        session.execute("RESET session_replication_role")
        return "", f"amcheck is not installed with the clone's programs: {reason(exc)}"
    return "dbsec_drill_clone", ""
