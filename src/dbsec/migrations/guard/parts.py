"""What the script makes beside its tables: event triggers, and the functions as they stand in ``sql/``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event trigger; triggers of one event fire by name, which is why the names bear a number."""

    name: str
    event: str
    function: str
    tags: tuple[str, ...] = ()


_ROUTINES = ("CREATE FUNCTION", "ALTER FUNCTION", "CREATE PROCEDURE", "ALTER PROCEDURE", "ALTER ROUTINE")
_TABLES = ("CREATE TABLE", "CREATE TABLE AS", "SELECT INTO", "CREATE SCHEMA")
TRIGGERS = (
    Trigger("dbsec_guard_0_path_start", "ddl_command_start", "note_path"),
    Trigger("dbsec_guard_0_path_end", "ddl_command_end", "note_path"),
    Trigger("dbsec_guard_0_path_drop", "sql_drop", "note_path"),
    Trigger("dbsec_guard_1_time", "ddl_command_start", "limit_time"),
    Trigger("dbsec_guard_2_query", "ddl_command_start", "read_query"),
    Trigger("dbsec_guard_3_settings", "ddl_command_end", "judge_settings"),
    Trigger("dbsec_guard_4_build", "ddl_command_end", "judge_build"),
    Trigger("dbsec_guard_5_definer", "ddl_command_end", "judge_definer", _ROUTINES),
    Trigger("dbsec_guard_6_tenancy", "ddl_command_end", "close_table", _TABLES),
    Trigger("dbsec_guard_7_rewrite", "table_rewrite", "judge_rewrite"),
    Trigger("dbsec_guard_8_drop", "sql_drop", "judge_drop"),
)


@dataclass(frozen=True, slots=True)
class Function:
    """A function as the catalog keeps it."""

    name: str
    body: str
    definer: bool
    settings: tuple[str, ...]


def functions(parts: Iterable[str]) -> dict[str, Function]:
    """Read the functions that some SQL makes, by name."""
    shape = re.compile(r"^CREATE FUNCTION dbsec_guard\.(\w+)\((.*?) AS (\$\w*\$)(.*?)\3;", re.DOTALL | re.MULTILINE)
    found = {}
    for match in (match for text in parts for match in shape.finditer(text)):
        setting = re.search(r" SET search_path = (.*)$", match[2])
        path = (f"search_path={setting[1]}",) if setting else ()
        found[match[1]] = Function(match[1], match[4], "SECURITY DEFINER" in match[2], path)
    return found
