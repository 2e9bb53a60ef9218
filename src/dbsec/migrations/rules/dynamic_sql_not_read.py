"""MIG512: EXECUTE of a text that only the server will know."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Block
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import USERS


def _match(step: Step) -> Iterator[Hit]:
    block = step.operation
    assert isinstance(block, Block)
    if block.dynamic:
        yield Hit(
            f"DO at line {step.statement.line}",
            "EXECUTE builds its text when it runs: this part was not judged; dbsec migrate trace shows what PostgreSQL "
            "does",
        )


RULE = Rule(
    code="MIG512",
    name="dynamic-sql-not-read",
    title="Dynamic SQL that could not be read",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(Block,),
    match=_match,
    effect="The body of a DO block is read, and so is a literal behind EXECUTE. A text that is put together from "
    "variables or query results can be anything, DROP TABLE too.",
    instead="Write the statements out, generate them into a file that can be read and reviewed, or let dbsec migrate "
    "trace run them against a copy of the schema.",
    example=Example(
        setup=USERS,
        bad="DO $$ DECLARE command text; BEGIN "
        "FOR command IN SELECT 'DELETE FROM app.' || tablename FROM pg_tables WHERE schemaname = 'app' LOOP "
        "EXECUTE command; END LOOP; END $$;",
        good="DO $$ BEGIN EXECUTE 'DELETE FROM app.users WHERE id = -1'; END $$;",
        proof=Loses("SELECT count(*) FROM app.users"),
    ),
    source=("plpgsql-statements", "sql-do"),
)
