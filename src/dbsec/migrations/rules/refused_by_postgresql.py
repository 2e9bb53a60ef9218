"""MIG519: a statement that this schema does not allow."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Drop, DropColumn, Operation
from dbsec.migrations.rule import Example, Hazard, Hit, Needs, Refused, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._words import target

_TOLD_ELSEWHERE = (
    "inside a transaction block",  # MIG503
    "contains null values",  # MIG305
    "does not allow null values",  # MIG305
    "cannot truncate",  # MIG402: CASCADE is the next try
    "to unlogged",  # MIG407
    "cannot create index on partitioned table",  # MIG115
    "unsafe use of new value",  # MIG510
    'at or near "EXPRESSION"',  # MIG513
    "does not exist",  # the statement does not fit the schema that was given: that is told as such
)


def _match(step: Step) -> Iterator[Hit]:
    refusal = step.effect.fails
    if not refusal or step.effect.unsure or any(told in refusal for told in _TOLD_ELSEWHERE):
        return
    if isinstance(step.operation, DropColumn) or (isinstance(step.operation, Drop) and step.operation.kind != "index"):
        return  # a drop of what somebody uses is an error already
    name = next((found for one in ("table", "view", "name") if (found := getattr(step.operation, one, None))), None)
    yield Hit(
        target(step, name) if isinstance(name, Name) else step.statement.kind,
        f"PostgreSQL refuses it: {refusal}; what its transaction did before is undone, what stood before stays",
    )


RULE = Rule(
    code="MIG519",
    name="refused-by-postgresql",
    title="PostgreSQL will refuse the statement",
    severity=Severity.ERROR,
    hazard=Hazard.FAILS,
    applies=(Operation,),
    needs=Needs.FAILURE,
    match=_match,
    effect="With this schema the statement ends with an error: a view or a policy reads the column whose type changes, "
    "the object is there already, an object still depends on what is dropped. In a test database without that view it "
    "works, and in production the migration stops halfway.",
    instead="Take away what stands in the way first, by name and in the same transaction (DROP VIEW, change, CREATE "
    "VIEW), or leave the object alone and add a new one beside it.",
    example=Example(
        setup=USERS + "CREATE VIEW app.contacts AS SELECT id, phone FROM app.users;\n",
        bad="ALTER TABLE app.users ALTER COLUMN phone TYPE varchar(80);",
        good="BEGIN;\nDROP VIEW app.contacts;\nALTER TABLE app.users ALTER COLUMN phone TYPE varchar(80);\n"
        "CREATE VIEW app.contacts AS SELECT id, phone FROM app.users;\nCOMMIT;",
        proof=Refused("0A000"),
    ),
    more=(
        Example(
            setup=USERS + "CREATE VIEW app.contacts AS SELECT id, phone FROM app.users;\n",
            bad="CREATE OR REPLACE VIEW app.contacts AS SELECT id FROM app.users;",
            good="CREATE OR REPLACE VIEW app.contacts AS SELECT id, phone, email FROM app.users;",
            proof=Refused("42P16"),
        ),
    ),
    source=("sql-altertable", "ddl-depend", "sql-createview"),
)
