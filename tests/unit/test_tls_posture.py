"""Who is let in, and how: read off the lines as PostgreSQL does, first match first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dbsec.pg.hba import HbaLine
from dbsec.tls.posture import hba

LINES = hba(admin="postgres")
MEMBERS = {"+app_readwrite": {"app_gateway", "both"}, "+app_migrator": {"app_migrator", "both"}}


def first_match(lines: Sequence[HbaLine], user: str, *, tls: bool, database: str = "app") -> HbaLine:
    """Return the line that decides, for a client on the loopback."""
    for line in lines:
        by_type = line.type == "host" or (line.type == "hostssl") == tls
        everything = "all" in line.databases and database != "replication"
        by_user = "all" in line.users or user in line.users or any(user in MEMBERS.get(u, ()) for u in line.users)
        by_own_name = f"+{user}" in line.users
        if by_type and (everything or database in line.databases) and (by_user or by_own_name):
            return line
    raise AssertionError("no line matches: the last one must match everyone")


@pytest.mark.parametrize(
    ("user", "tls", "method", "options"),
    [
        ("app_gateway", True, "scram-sha-256", ()),
        ("app_migrator", True, "scram-sha-256", ("clientcert=verify-full",)),
        ("both", True, "scram-sha-256", ("clientcert=verify-full",)),
        ("postgres", True, "scram-sha-256", ()),
        ("stranger", True, "reject", ()),
        ("app_gateway", False, "reject", ()),
        ("app_migrator", False, "reject", ()),
        ("postgres", False, "reject", ()),
    ],
)
def test_who_is_let_in(user: str, tls: bool, method: str, options: tuple[str, ...]) -> None:
    line = first_match(LINES, user, tls=tls)
    assert (line.method, line.options) == (method, options)


@pytest.mark.parametrize(
    ("user", "tls", "method"),
    [("app_backup", True, "scram-sha-256"), ("app_backup", False, "reject"), ("app_gateway", True, "reject")],
)
def test_who_may_stream(user: str, tls: bool, method: str) -> None:
    assert first_match(LINES, user, tls=tls, database="replication").method == method


@pytest.mark.parametrize("user", ["app_legacy", "app_gateway"])
def test_during_the_transition_plaintext_is_still_taken(user: str) -> None:
    lines = hba(admin="postgres", transitional=True)
    assert first_match(lines, user, tls=False).method == "md5"
    assert first_match(lines, "app_migrator", tls=True).options == ("clientcert=verify-full",)


def test_an_administrator_with_a_strange_name_is_himself_and_not_everybody() -> None:
    lines = hba(admin="all", scram=(), mtls=(), replication=())
    assert [line.users for line in lines if line.method != "reject"] == [('"all"',)] * 2


def test_no_group_gives_no_line() -> None:
    assert {line.method for line in hba(admin="a", scram=(), mtls=(), replication=(), admin_networks=())} == {"reject"}
