"""The unique trap: a value that is in under the old lookup key is tried under the new one, at every step."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from psycopg import errors
from tests.lookup_rotation import BIDX, SIV, House, Stage

from dbsec.crypto import BlindIndex, ModeRefused
from dbsec.crypto import generations as gen
from dbsec.pg import connect

VICTIM = "victim@example.org"


@pytest.fixture(params=[SIV, BIDX], ids=["deterministic", "blind index"])
def house(request, database, tmp_path):
    made = House(database.conninfo, tmp_path, request.param)
    with connect(database.conninfo) as session:
        made.insert(session, made.stages["A"], VICTIM)
    return made


def _naive(column):
    """The next key in the same column: what `new writes take the new key` comes to."""
    if column.index is None:
        return replace(column, generation=2)
    name, how = column.index
    return replace(column, index=(name, BlindIndex(how.bits, 2, how.normal)))


def test_two_generations_in_one_column_let_the_value_in_twice(house):
    """Not refused: this is the trap, and why a generation has a column of its own."""
    naive = _naive(house.old)
    with connect(house.conninfo) as session:
        house.insert(session, Stage("naive", (naive,), naive), VICTIM)
    assert Counter(house.emails(house.old))[VICTIM] == 2


@pytest.mark.parametrize("column", [SIV, BIDX], ids=["deterministic", "blind index"])
def test_a_generation_in_the_old_column_cannot_be_declared(column):
    with pytest.raises(ModeRefused, match="old generation"):
        gen.next_generation(column, gen.lookup_column(column))


def test_a_value_that_is_in_is_refused_at_each_step_by_each_release_that_may_run(house):
    house.write()
    for step, may_run in {"": "A", "expand": "AB", "backfill": "BC", "contract_before": "CD", "contract": "D"}.items():
        if step == "backfill":
            house.backfill()
        elif step:
            house.run(step)
        with connect(house.conninfo) as session:
            for stage in may_run:
                with pytest.raises(errors.UniqueViolation) as refused:
                    house.insert(session, house.stages[stage], VICTIM)
                session.rollback()
                assert VICTIM not in str(refused.value)
                assert house.find(session, house.stages[stage], VICTIM) == [1], (step, stage)
    assert house.emails(house.new) == [VICTIM]
