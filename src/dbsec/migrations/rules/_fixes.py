"""The safe statements that several rules advise: each a line of SQL, in the order in which they run in autocommit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from dbsec.migrations.names import Name
from dbsec.migrations.operations import Constraint, ConstraintKind
from dbsec.migrations.rule import Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._words import columns, ident, sql
from dbsec.migrations.schema.model import Schema, Table

_NAME_BYTES = 63
_LABEL_BYTES = 40  # of what is put behind a name; the label of a constraint is shorter
_BLOCKS = 1000


def lines(statements: Iterable[str]) -> str:
    """Join statements to the text of a fix."""
    return "\n".join(statement if statement.endswith(";") else f"{statement};" for statement in statements)


def alter(table: Name, act: str, *, only: bool = False) -> str:
    """Write one ALTER TABLE."""
    return f"ALTER TABLE {'ONLY ' if only else ''}{sql(table)} {act};"


def named(schema: Schema, table: Name, of: tuple[str, ...], label: str) -> str:
    """Choose the name that PostgreSQL would choose: ``table_column_label``, cut to 63 bytes, not taken yet."""
    label, middle, taken = _short(label), "_".join(of), set(_taken(schema, table))
    name, number = _object_name(table.name, middle, label), 0
    while name in taken:
        number += 1
        name = _object_name(table.name, middle, f"{label}{number}")
    return name


def _taken(schema: Schema, table: Name) -> Iterator[str | None]:
    """Yield the table's constraints, and the relations of its schema: indexes share their names."""
    known = schema.table(table)
    if known is None:
        return
    yield from (one.name for one in known.constraints)
    for other in schema.tables.values():
        if other.name.schema == known.name.schema:
            yield other.name.name
            yield from other.indexes


def new_name(schema: Schema, table: Name, column: str) -> str:
    """Choose a name for the column that shall replace another."""
    known = schema.table(table)
    name = _object_name(column, "", "new")
    while known is not None and name in known.columns:
        name = _object_name(name, "", "new")
    return name


def cut(name: str, label: str) -> str:
    """Make ``name_label``, cut to 63 bytes as PostgreSQL does."""
    return _object_name(name, "", _short(label))


def _short(label: str) -> str:
    return label.encode()[:_LABEL_BYTES].decode(errors="ignore")


def _object_name(table: str, middle: str, label: str) -> str:
    """Source: makeObjectName of PostgreSQL: the longer of the two names is cut first."""
    first, second = table.encode(), middle.encode()
    room = _NAME_BYTES - len(label) - 1 - (1 if second else 0)
    while len(first) + len(second) > room:
        first, second = (first[:-1], second) if len(first) > len(second) else (first, second[:-1])
    pieces = [piece.decode(errors="ignore") for piece in (first, second) if piece]
    return "_".join([*pieces, label])


def not_valid(table: Name, name: str, definition: str) -> list[str]:
    """Add a CHECK or FOREIGN KEY without the scan, then scan under SHARE UPDATE EXCLUSIVE."""
    return [
        alter(table, f"ADD CONSTRAINT {ident(name)} {definition} NOT VALID"),
        alter(table, f"VALIDATE CONSTRAINT {ident(name)}"),
    ]


def not_null(step: Step, table: Name, column: str) -> list[str]:
    """Make a column NOT NULL without a scan under ACCESS EXCLUSIVE, as the major allows it."""
    known = step.schema.table(table)
    if step.major >= 18:
        if (waiting := unproven_not_null(known, column)) is not None:
            return [alter(table, f"VALIDATE CONSTRAINT {ident(waiting)}")]
        name = named(step.schema, table, (column,), "not_null")
        return not_valid(table, name, f"NOT NULL {ident(column)}")
    check = _check_of(known, column)
    name = check or named(step.schema, table, (column,), "not_null")
    made = not_valid(table, name, f"CHECK ({ident(column)} IS NOT NULL)")[1 if check else 0 :]
    kept = [] if check else [alter(table, f"DROP CONSTRAINT {ident(name)}")]
    return [*made, alter(table, f"ALTER COLUMN {ident(column)} SET NOT NULL"), *kept]


def unproven_not_null(table: Table | None, column: str) -> str | None:
    """Name the NOT NULL … NOT VALID constraint (18) of a column."""
    found = table.of_kind(ConstraintKind.NOT_NULL) if table is not None else ()
    return next((one.name for one in found if column in one.columns and not one.valid), None)


def _check_of(table: Table | None, column: str) -> str | None:
    """Name a CHECK (column IS NOT NULL) that stands but is not validated."""
    found = table.of_kind(ConstraintKind.CHECK) if table is not None else ()
    return next((one.name for one in found if not one.valid and is_not_null(one, column)), None)


def is_not_null(check: Constraint, column: str) -> bool:
    """Tell whether a CHECK says just that the column is not null."""
    test = (check.expression or {}).get("NullTest", {})
    fields = test.get("arg", {}).get("ColumnRef", {}).get("fields", [])
    return test.get("nulltesttype") == "IS_NOT_NULL" and [f.get("String", {}).get("sval") for f in fields] == [column]


class Key(Struct, frozen=True):
    """A UNIQUE or PRIMARY KEY definition in the pieces that CREATE INDEX and USING INDEX want."""

    primary: bool
    index: str  # "(a, b) INCLUDE (c) NULLS NOT DISTINCT WITH (…) TABLESPACE …"
    timing: str  # "DEFERRABLE INITIALLY DEFERRED"
    table: str  # the definition as a table constraint

    @property
    def kind(self) -> str:
        return "PRIMARY KEY" if self.primary else "UNIQUE"


def key(definition: str, of: tuple[str, ...]) -> Key | None:
    """Take a key's definition apart; ``of`` are its columns. None for WITHOUT OVERLAPS, which no plain index serves."""
    found = _source.words(definition)
    names = [word.name for word in found]
    if "OVERLAPS" in names or not found:
        return None
    primary, outer = names[0] == "PRIMARY", [word for word in found if word.depth == 0]
    listed = f"({_source.parenthesised(definition, names[0])})" if _has_columns(names) else f"({columns(of)})"
    nulls = " NULLS NOT DISTINCT" if "NULLS_P" in names and "DISTINCT" in names and "NOT" in names[:4] else ""
    include, with_ = (_source.parenthesised(definition, word) for word in ("INCLUDE", "WITH"))
    index = listed + (f" INCLUDE ({include})" if include else "") + nulls + (f" WITH ({with_})" if with_ else "")
    space = next((i for i, word in enumerate(outer) if word.name == "TABLESPACE"), None)
    if space is not None:
        index += f" TABLESPACE {definition[outer[space + 1].start : outer[space + 1].end]}"
    timing = _timing(definition, outer)
    head = ("PRIMARY KEY " if primary else "UNIQUE ") + nulls.strip() + (" " if nulls else "")
    return Key(primary, index, timing, f"{head}{listed}{f' INCLUDE ({include})' if include else ''}{timing}")


def _has_columns(names: list[str]) -> bool:
    opening = next((i for i, name in enumerate(names) if name == "ASCII_40"), None)
    return opening is not None and not {"WITH", "INCLUDE"} & set(names[:opening])


def _timing(definition: str, outer: list[_source.Word]) -> str:
    start = next((i for i, word in enumerate(outer) if word.name in ("DEFERRABLE", "INITIALLY")), None)
    if start is None:
        return ""
    start -= outer[start - 1].name in ("NOT", "NOT_LA")
    return f" {definition[outer[start].start : outer[-1].end]}"


def key_name(schema: Schema, table: Name, of: tuple[str, ...], *, primary: bool) -> str:
    """Choose the name that PostgreSQL would give to a key."""
    return named(schema, table, (), "pkey") if primary else named(schema, table, of, "key")


def unique(step: Step, table: Name, name: str, of: tuple[str, ...], wanted: Key) -> list[str]:
    """Build the index of a key concurrently, then adopt it; on a partitioned table partition by partition."""
    known = step.schema.table(table)
    nullable = [column for column in of if wanted.primary and may_be_null(known, column)]
    made = [line for column in nullable for line in not_null(step, table, column)]
    if known is not None and known.partition_by is not None:
        return made + list(_unique_by_partition(step.schema, table, name, wanted))
    return [
        *made,
        f"CREATE UNIQUE INDEX CONCURRENTLY {ident(name)} ON {sql(table)} {wanted.index};",
        alter(table, f"ADD CONSTRAINT {ident(name)} {wanted.kind} USING INDEX {ident(name)}{wanted.timing}"),
    ]


def may_be_null(table: Table | None, column: str) -> bool:
    """Tell whether a column is not known to be NOT NULL."""
    return table is None or column not in table.columns or not table.columns[column].not_null


def _unique_by_partition(schema: Schema, parent: Name, name: str, wanted: Key) -> Iterator[str]:
    yield alter(parent, f"ADD CONSTRAINT {ident(name)} {wanted.table}", only=True)
    known = schema.table(parent)
    for part in schema.partitions(known.name) if known is not None else ():
        inner = named(schema, part.name, (), "pkey" if wanted.primary else f"{name}")
        if part.partition_by is not None:
            yield from _unique_by_partition(schema, part.name, inner, wanted)
        else:
            yield f"CREATE UNIQUE INDEX CONCURRENTLY {ident(inner)} ON {sql(part.name)} {wanted.index};"
            act = f"ADD CONSTRAINT {ident(inner)} {wanted.kind} USING INDEX {ident(inner)}{wanted.timing}"
            yield alter(part.name, act)
        yield f"ALTER INDEX {beside(parent, name)} ATTACH PARTITION {beside(part.name, inner)};"


def beside(table: Name, index: str) -> str:
    """Write the name of an index with the schema of its table."""
    return sql(Name(table.schema, index))


def backfill(step: Step, table: Name, assignment: str, where: str) -> str:
    """Update the rows in batches of 1,000 blocks, each in its own transaction, without a key: one statement."""
    regclass = _literal(sql(table))
    known = step.schema.table(table)
    if known is not None and known.partition_by is not None:
        size = f"(SELECT max(pg_relation_size(relid)) FROM pg_partition_tree({regclass}))"
    else:
        size = f"pg_relation_size({regclass})"
    return (
        f"DO $dbsec$ BEGIN FOR block IN 0..{size} / current_setting('block_size')::int BY {_BLOCKS} LOOP"
        f" UPDATE {sql(table)} SET {assignment} WHERE ctid >= format('(%s,0)', block)::tid"
        f" AND ctid < format('(%s,0)', block + {_BLOCKS})::tid AND {where}; COMMIT; END LOOP; END $dbsec$;"
    )


def again_not_valid(table: Name, constraint: str, acts: str, *, without: str = "") -> str:
    """Write ALTER TABLE with ``acts``, which end where a constraint's definition shall follow: the server tells it."""
    statement = alter(table, acts).rstrip(";").replace("%", "%%") + " %s NOT VALID"
    told = "pg_get_constraintdef(oid)"
    told = f"replace({told}, {_literal(without)}, '')" if without else told
    return (
        f"DO $dbsec$ BEGIN EXECUTE (SELECT format({_literal(statement)}, {told}) FROM pg_constraint"
        f" WHERE conrelid = {_literal(sql(table))}::regclass AND conname = {_literal(constraint)}); END $dbsec$;"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def kept_equal(step: Step, table: Name, column: str, expression: str) -> list[str]:
    """Fill a column from the others of its row: a trigger for what is written from now on, batches for what stands."""
    function = named(step.schema, table, (column,), "sync")
    return [
        f"CREATE FUNCTION {beside(table, function)}() RETURNS trigger LANGUAGE plpgsql AS $dbsec$ BEGIN"
        f" SELECT {expression} INTO NEW.{ident(column)} FROM (SELECT NEW.*) AS {ident(table.name)};"
        " RETURN NEW; END $dbsec$;",
        f"CREATE TRIGGER {ident(function)} BEFORE INSERT OR UPDATE ON {sql(table)}"
        f" FOR EACH ROW EXECUTE FUNCTION {beside(table, function)}();",
        backfill(step, table, f"{ident(column)} = {expression}", f"{ident(column)} IS DISTINCT FROM ({expression})"),
    ]
