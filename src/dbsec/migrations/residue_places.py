"""Where a secret of one database can lie: the files of its server by their names, and what the server itself shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from dbsec.migrations.residue import Place, files_below

_FILE = re.compile(r"(?P<node>\d+)(?:_(?:fsm|vm|init))?(?:\.\d+)?\Z")
_RELATIONS: LiteralString = """
SELECT pg_catalog.pg_relation_filenode(c.oid)::text, c.relkind::text, c.oid::pg_catalog.regclass::text,
       (SELECT m.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class m WHERE m.reltoastrelid = c.oid),
       c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace
FROM pg_catalog.pg_class c WHERE pg_catalog.pg_relation_filenode(c.oid) IS NOT NULL
"""
_DATABASE: LiteralString = "SELECT oid::text FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
_STATISTICS: LiteralString = """
SELECT pg_catalog.format('%%I.%%I.%%I', schemaname, tablename, attname),
       pg_catalog.concat_ws(' ', most_common_vals::text, histogram_bounds::text, most_common_elems::text)
FROM pg_catalog.pg_stats WHERE schemaname <> ALL (%s::text[])
"""
_ACTIVITY: LiteralString = """
SELECT pid::text, query FROM pg_catalog.pg_stat_activity WHERE pid <> pg_catalog.pg_backend_pid() AND query <> ''
"""
_STATEMENTS: LiteralString = """
SELECT n.nspname FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'
"""
# What writes values into the server log, and when: setting, the value that does not, what it does otherwise.
_LOGGING = (
    ("log_error_verbosity", ("terse",), "DETAIL of a failed constraint has the row or the key"),
    ("log_parameter_max_length_on_error", ("0",), "parameters of a statement that fails are logged"),
    ("log_statement", ("none", "ddl"), "statements are logged, with the parameters they are given"),
)


def of_cluster(connection: psycopg.Connection[Any], data: Path) -> Iterator[Place]:
    """Yield every file of a data directory, as whatever it is: table, index, toast, catalog, wal, log, temporary.

    ``data`` is the directory of the connected server, on this host. Files that the catalog no longer knows are named
    as such: a dropped table's first file stays, cut to nothing, until the next checkpoint.
    """
    database, names = _database(connection), _names(connection)
    yield from files_below(data, lambda below: _kind(below, database, names))


def of_copy(root: Path, kind: str) -> Iterator[Place]:
    """Yield every file of a standby's data directory, a base backup, an archive of WAL, a folder of logs, or one file.

    ``kind`` is what its traces are called. Archives (tar) are looked into as they are; .gz, .bz2 and .xz are opened.
    """
    yield from files_below(root, lambda _: kind, f"{kind} ")


def of_server(connection: psycopg.Connection[Any]) -> Iterator[Place]:
    """Yield what the server shows to this role: statistics of columns, statements that were counted, and running ones.

    The texts come here to be looked through: a parameter with the value would itself be logged.
    """
    system = ["pg_catalog", "information_schema"]
    for name, text in connection.execute(_STATISTICS, (system,)):
        yield Place("pg_stats", name, text=str(text).encode())
    for pid, text in connection.execute(_ACTIVITY):
        yield Place("pg_stat_activity", f"last statement of {pid}", text=str(text).encode())
    for (schema,) in connection.execute(_STATEMENTS).fetchall():
        query = sql.SQL("SELECT query FROM {}").format(sql.Identifier(schema, "pg_stat_statements"))
        for number, (text,) in enumerate(connection.execute(query), 1):
            yield Place("pg_stat_statements", f"statement {number}", text=str(text).encode())


def written_out(connection: psycopg.Connection[Any]) -> list[str]:
    """Let the server write out what it holds in memory: a page there would come to the disk after the search.

    Returns a caveat where this role may not (pg_checkpoint, a superuser).
    """
    try:
        connection.execute("CHECKPOINT")
    except errors.InsufficientPrivilege:
        return ["pages in the server's memory were not looked at: this role may not CHECKPOINT (pg_checkpoint)"]
    return []


def caveats(connection: psycopg.Connection[Any]) -> list[str]:
    """Say what hides values from a search, and which settings write values into the server log."""
    told = [
        "values of about 2 kB and more are compressed in TOAST, or cut: take a short one, or look for its neighbours"
    ]
    if (on := _setting(connection, "wal_compression")) != "off":
        told.append(f"wal_compression is '{on}': full pages in WAL are compressed, and nothing is found in them")
    for name, safe, what in _LOGGING:
        if (value := _setting(connection, name)) not in safe:
            told.append(f"{name} is '{value}': {what}")
    slow = ("log_min_duration_statement", "log_min_duration_sample")
    if (
        any(_setting(connection, name) != "-1" for name in slow)
        and _setting(connection, "log_parameter_max_length") != "0"
    ):
        told.append(
            "log_min_duration_statement logs slow statements with their parameters: log_parameter_max_length = 0"
        )
    return told


def _setting(connection: psycopg.Connection[Any], name: str) -> str:
    row = connection.execute("SELECT setting FROM pg_catalog.pg_settings WHERE name = %s", (name,)).fetchone()
    return str(row[0]) if row else "off"


def _database(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute(_DATABASE).fetchone()
    assert row is not None
    return str(row[0])


def _names(connection: psycopg.Connection[Any]) -> dict[str, tuple[str, str]]:
    """Map the numbers of files to kind and relation."""
    names: dict[str, tuple[str, str]] = {}
    for node, kind, name, toast_of, system in connection.execute(_RELATIONS):
        if system:
            names[node] = ("catalog", name)
        elif kind == "t":
            names[node] = ("toast", f"toast of {toast_of}")
        else:
            names[node] = ("index", name) if kind == "i" else ("table", name)
    return names


def _kind(below: Path, database: str, names: Mapping[str, tuple[str, str]]) -> str:
    parts = below.parts
    if parts[0] == "pg_wal":
        return "wal"
    if parts[0] in ("log", "pg_log") or below.suffix in (".log", ".csv", ".json"):
        return "log"
    match = _FILE.match(below.name)
    if parts[0] == "base" and len(parts) == 3 and parts[1] == database and match is not None:
        kind, name = names.get(match["node"], ("dropped", ""))
        return f"{kind} {name}".rstrip()
    if "pgsql_tmp" in parts:
        return "temporary file"
    if parts[0] == "base":
        return "other database"
    return "other file"
