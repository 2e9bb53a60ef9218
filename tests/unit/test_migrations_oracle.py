"""What needs no server of the oracle: reading PostgreSQL's messages, and telling where the linter and it part."""

from __future__ import annotations

import pytest

from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.comparing import disagreements
from dbsec.migrations.oracle.foretelling import foretold, key
from dbsec.migrations.oracle.loading import rows_follow
from dbsec.migrations.oracle.notices import Notice, Told, proofs_in, work_in
from dbsec.migrations.reading.parse import parse, parse_text
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.script import Script

T, NEW = Name("public", "t"), Name("public", "new")
AX, SUX, RX = LockMode.ACCESS_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.ROW_EXCLUSIVE
TABLES = {T}


def debug(*texts: str) -> list[Notice]:
    return [Notice("DEBUG", "00000", text) for text in texts]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('rewriting table "t"', Told(Work.REWRITE, "t")),
        ('verifying table "odd ""name"', Told(Work.SCAN, 'odd ""name')),
        ('validating foreign key constraint "t_fk"', Told(Work.FK_SCAN, constraint="t_fk")),
        ('building index "i" on table "t" serially', Told(Work.BUILD, "t", index="i")),
        ('building index "i" on table "t" with request for 1 parallel workers', Told(Work.BUILD, "t", index="i")),
    ],
)
def test_work_is_read_from_what_postgresql_says(said, told):
    assert work_in(debug(said, said, "something else")) == [told]


def test_what_the_server_makes_for_itself_is_no_work():
    own = [
        'building index "pg_toast_16401_index" on table "pg_toast_16401" serially',
        'building index "pg_temp_16401_i" on table "pg_temp_16401" serially',
    ]
    assert work_in(debug(*own)) == []


def test_proofs_are_read():
    said = (
        'existing constraints on column "t.a" are sufficient to prove that it does not contain nulls',
        'partition constraint for table "t_1" is implied by existing constraints',
        'updated partition constraint for default partition "t_rest" is implied by existing constraints',
    )
    assert proofs_in(debug(*said, 'verifying table "t"')) == said


def effect(mode=None, *work, table=T, **more) -> Effect:
    return Effect(((table, mode),) if mode else (), tuple(Task(one, table) for one in work), **more)


@pytest.mark.parametrize(
    ("said", "seen", "parted"),
    [
        (effect(AX, Work.SCAN), effect(AX, Work.SCAN), []),
        (
            effect(AX),
            effect(SUX),
            ["lock on public.t: the linter says ACCESS EXCLUSIVE, PostgreSQL takes SHARE UPDATE"],
        ),
        (effect(), effect(AX), ["lock on public.t: the linter says none, PostgreSQL takes ACCESS EXCLUSIVE"]),
        (effect(AX), effect(AX, Work.SCAN), ["scan of public.t: the linter does not foretell it"]),
        (effect(AX, Work.SCAN), effect(AX), ["scan of public.t: PostgreSQL does not do it"]),
        (
            effect(AX, fails="it cannot"),
            effect(AX),
            ["the linter says that it fails (it cannot), and PostgreSQL does it"],
        ),
        # a rewrite reads every row and builds every index; written rows and weak locks are the data's affair
        (effect(AX, Work.REWRITE, Work.SCAN), effect(AX, Work.REWRITE, Work.BUILD), []),
        (effect(RX), effect(RX, Work.WRITE), []),
        (effect(), effect(RX), []),
        # the worst was assumed: less is no surprise, more is
        (effect(AX, Work.SCAN, unsure=True), effect(AX), []),
        (effect(AX, unsure=True), effect(SUX), []),
        (effect(SUX, unsure=True), effect(AX), ["lock on public.t: the linter says SHARE UPDATE EXCLUSIVE, Postgre"]),
        (effect(AX, unsure=True), effect(AX, Work.SCAN), ["scan of public.t: the linter does not foretell it"]),
        # what the release makes itself is nobody's yet
        (effect(), effect(AX, Work.BUILD, table=NEW), []),
        (effect(AX, Work.BUILD, table=NEW), effect(), []),
    ],
)
def test_disagreements_are_told_and_only_they(said, seen, parted):
    found = disagreements(said, seen, tables=TABLES)
    assert len(found) == len(parted)
    assert all(text.startswith(begin) for text, begin in zip(found, parted, strict=True))


def test_a_lock_that_the_transaction_holds_already_is_not_seen_again():
    assert disagreements(effect(SUX), effect(), tables=TABLES, held={T: AX}) == ()
    assert len(disagreements(effect(AX), effect(), tables=TABLES, held={T: SUX})) == 1
    assert len(disagreements(effect(AX), effect(), tables=TABLES, held={})) == 1


def test_what_stands_in_a_do_block_is_foretold_of_the_block():
    schema, _ = from_dump("CREATE TABLE t (id int PRIMARY KEY, a int);", source="schema.sql")
    text = "DO $$ BEGIN CREATE INDEX t_a ON t (a); ALTER TABLE t ADD COLUMN b int; END $$; SELECT 1; BEGIN; COMMIT;"
    script = Script("1.sql", text)
    told = foretold([script], schema, 17)
    block = parse(script)[0][0]
    assert told[key(block)].lock_on(T) is AX
    assert [task.work for task in told[key(block)].work] == [Work.BUILD]
    assert not any(of[3] in ("BEGIN", "COMMIT") for of in told)


@pytest.mark.parametrize(
    ("text", "follow"),
    [("COPY t FROM stdin", True), ("COPY t TO stdout", False), ("COPY t FROM '/x'", False), ("SELECT 1", False)],
)
def test_rows_that_are_not_in_the_statement_are_seen(text, follow):
    (statement,) = parse_text(text)
    assert rows_follow(statement) is follow
