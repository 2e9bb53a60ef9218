"""Why a live table gets a CHECK and not a DOMAIN: to add a column of a domain with a constraint rewrites it."""

from __future__ import annotations

from typing import Any

import pytest

from dbsec.pg import connect


@pytest.mark.pg(15, 17, 18)
def test_a_column_of_a_domain_with_a_constraint_rewrites_the_table_and_a_check_does_not(database: Any) -> None:
    with connect(database.conninfo) as session:
        session.execute("CREATE DOMAIN encrypted AS bytea CHECK (octet_length(value) >= 34)")
        session.execute("CREATE TABLE t AS SELECT n FROM generate_series(1, 100) AS n")

        def node() -> int:
            row = session.execute("SELECT pg_relation_filenode('t')").fetchone()
            assert row is not None
            return int(row[0])

        first = node()
        session.execute("ALTER TABLE t ADD COLUMN v bytea")
        session.execute("ALTER TABLE t ADD CONSTRAINT v_encrypted CHECK (octet_length(v) >= 34) NOT VALID")
        session.execute("ALTER TABLE t VALIDATE CONSTRAINT v_encrypted")
        assert node() == first
        session.execute("ALTER TABLE t ADD COLUMN w encrypted")
        assert node() != first
