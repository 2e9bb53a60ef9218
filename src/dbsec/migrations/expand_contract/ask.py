"""What is asked for: a table, the columns of the release that runs, those of the next one, and how each is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract import expressions
from dbsec.migrations.names import Name


@dataclass(frozen=True, slots=True)
class Side:
    """One column: ``type`` as SQL, "" where it is not told; ``value`` computes it from the other side, "" likewise."""

    name: str
    type: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """``old``: columns that go. ``new``: columns that come. ``default``: of the new column. ``python``: what the
    backfill calls, ``module:function``. ``lookup``: the column in which an encrypted value is found. ``check``: what
    a verification calls for each encrypted row, ``module:function``."""

    table: Name
    old: tuple[Side, ...] = ()
    new: tuple[Side, ...] = ()
    default: str = ""
    python: str = ""
    lookup: str = ""
    check: str = ""

    def only(self, *, old: int | None, new: int | None, but: tuple[str, ...] = ()) -> None:
        """Check how many columns are named (None: two or more), and that no option is given that means nothing here."""
        for name, given, wanted in (("--old", self.old, old), ("--new", self.new, new)):
            if len(given) != wanted if wanted is not None else len(given) < 2:
                number = {None: "twice or more", 0: "not at all", 1: "once"}[wanted]
                hint = f"{name} 'NAME [TYPE] [= SQL]', once for each column"
                raise UsageError(f"'{name}' stands {number} in this change, not {len(given)} times", hint=hint)
        for name in ("default", "python", "lookup", "check"):
            if getattr(self, name) and name not in but:
                raise UsageError(f"'--{name}' means nothing for this change", hint=f"leave --{name} out")


def side(text: str) -> Side:
    """Read ``NAME [TYPE] [= EXPRESSION]``. Errors: ``UsageError``."""
    head, sign, value = text.partition("=")
    if sign and not value.strip():
        raise UsageError(f"'{text}': nothing stands behind '='", hint="NAME [TYPE] [= EXPRESSION]")
    if value:
        expressions.columns_of(value.strip())
    name, kind = _column(head, text)
    return Side(name, kind, value.strip())


def table_name(text: str) -> Name:
    """Read ``schema.table``. Errors: ``UsageError``."""
    from pglast import parse_sql
    from pglast.parser import ParseError

    try:
        (parsed,) = parse_sql(f"TABLE {text}")
        tree: Any = parsed.stmt
        relation = tree.fromClause[0]
        return Name(relation.schemaname, relation.relname)
    except (ParseError, ValueError, AttributeError, TypeError, IndexError) as exc:
        raise UsageError(f"'{text}' is no name of a table", hint="--table app.users") from exc


def _column(head: str, text: str) -> tuple[str, str]:
    """Split ``NAME TYPE``: PostgreSQL reads both; without a type any will do to read the name."""
    from pglast import ast, parse_sql
    from pglast.parser import ParseError, scan

    for kind in ("", " int"):
        try:
            (parsed,) = parse_sql(f"CREATE TABLE x ({head}{kind})")
        except (ParseError, ValueError):
            continue
        tree: Any = parsed.stmt
        elements: Any = tree.tableElts or ()
        if len(elements) == 1 and isinstance(elements[0], ast.ColumnDef) and not elements[0].constraints:
            first = scan(head)[0]
            return str(elements[0].colname), " ".join(head[first.end + 1 :].split()) if not kind else ""
    raise UsageError(f"'{text}' is no column", hint="NAME [TYPE] [= EXPRESSION], as 'total bigint = price * count'")
