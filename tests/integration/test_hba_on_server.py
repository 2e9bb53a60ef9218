"""pg_hba.conf as dbsec writes it, read back by PostgreSQL itself: hostile names, comments and masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbsec.pg import connect
from dbsec.pg.hba import HbaLine, literal, render
from dbsec.testing.clusters import Cluster

pytestmark = [pytest.mark.pg(15, 17, 18)]

HARMLESS = ["plain", "-", "{}", "Ünï", "\x85", "\u2028x"]
HOSTILE = ["all", "+x", "@none", "a b", "a,b", '"', 'x"y"z', "#", "a#b", "tail\\"]
NAMES = [*HARMLESS, *HOSTILE]
QUERY = "SELECT type, database, user_name, auth_method, error FROM pg_hba_file_rules ORDER BY line_number"


def test_the_server_reads_what_was_meant(cluster_factory: Callable[..., Cluster]) -> None:
    cluster = cluster_factory()
    where = ("127.0.0.1/32", "scram-sha-256")
    lines = [
        HbaLine("hostssl", (literal(name),), (literal(name), f"+{name}"), *where, comment=f"{name}\\") for name in NAMES
    ]
    lines += [
        HbaLine("host", ("all", "replication"), ("all",), "10.0.0.0 255.0.0.0", "reject", (), "tail \\"),
        HbaLine("local", ("sameuser",), ("all",), "", "peer", ("map=a b",)),
    ]
    cluster.instance.write("pg_hba.conf", render(lines, header="head \\"))
    with connect(cluster.admin) as admin:
        found = admin.execute(QUERY).fetchall()
    assert [(kind, databases, users, method) for kind, databases, users, method, _ in found] == [
        *(("hostssl", [name], [name, f"+{name}"], "scram-sha-256") for name in NAMES),
        ("host", ["all", "replication"], ["all"], "reject"),
        ("local", ["sameuser"], ["all"], "peer"),
    ]
    assert {error for *_, error in found} <= {None, "hostssl record cannot match because SSL is disabled"}
