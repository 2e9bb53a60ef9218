"""The whole replacement of a statement: what mends some clauses of an ALTER TABLE, with the clauses beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import structs

from dbsec.findings import Severity
from dbsec.migrations.acts import Act
from dbsec.migrations.operations import AddColumn, Operation
from dbsec.migrations.rules import _source
from dbsec.migrations.statement import Statement

if TYPE_CHECKING:
    from dbsec.migrations.linter import Located


def replacement(
    statement: Statement, operations: Sequence[Operation], broken: Sequence[Operation], fixes: Sequence[str]
) -> list[str]:
    """Give the clauses that are not ``broken`` as one ALTER TABLE, then the fixes, then what needs a column of a fix.

    A fix that already holds these clauses, and any statement but ALTER TABLE, stays alone.
    """
    made = [fix.strip() for fix in dict.fromkeys(fixes)]
    kept = [_source.bare(operation.clause) for operation in operations if operation not in broken]
    start = statement.text.find(operations[0].clause) if statement.kind == "AlterTableStmt" and operations else 0
    if start <= 0 or all(_names("\n".join(made), clause) for clause in kept):
        return made
    added = [operation.column.name for operation in broken if isinstance(operation, AddColumn)]
    late = [clause for clause in kept if any(_names(clause, column) for column in added)]
    early = [clause for clause in kept if clause not in late]
    head = statement.text[:start]
    before, after = ([f"{head}{', '.join(clauses)};"] if clauses else [] for clauses in (early, late))
    return [*before, *made, *after]


def with_whole_fixes(found: list[Located], acts: Sequence[Act]) -> Iterator[Located]:
    """Give an error of one clause the clauses beside it that have none: its fix replaces the statement.

    ``acts``: all of the script.
    """
    for _, group in groupby(found, key=lambda one: id(one.statement)):
        of_it = list(group)
        statement = of_it[0].statement
        if statement.kind != "AlterTableStmt" or len(statement.node.get("cmds", ())) < 2:
            yield from of_it
            continue
        operations = [operation for of, operation in acts if of is statement]
        errors = [one.operation for one in of_it if one.finding.severity is Severity.ERROR]
        for one in of_it:
            whole = one
            if one.hit.fix and (one.hit.severity or one.rule.severity) is Severity.ERROR:
                made = replacement(statement, operations, [*errors, one.operation], [one.hit.fix])
                whole = structs.replace(one, finding=replace(one.finding, fix="\n".join(made)))
            yield whole


def _names(text: str, what: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(what)}(?!\w)", text, re.IGNORECASE) is not None
