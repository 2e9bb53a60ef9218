"""pg_hba.conf as data: what is written is what is read, whatever a role is called."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dbsec.errors import ConfigError
from dbsec.pg import hba
from dbsec.pg.hba import HbaLine

# Whatever PostgreSQL lets a role be called, but for line breaks, which its hba file cannot hold.
NAMES = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=24) | (
    st.sampled_from(["all", "+x", '"', '"all"', "a,b", "a b", "#", "a#b", "tail\\", "\x85", "\u2028", "@file", '+"x"'])
)
ENTRIES = (
    NAMES.map(hba.literal)
    | NAMES.map(lambda name: "+" + name)
    | st.sampled_from(["all", "replication", "sameuser", "/^app_.*$"])
)
LISTS = st.lists(ENTRIES, min_size=1, max_size=4).map(tuple)
ADDRESSES = st.sampled_from(
    ["all", "samenet", "127.0.0.1/32", "::1/128", ".example.com", "10.0.0.0 255.0.0.0", "fe80:: ffff::"]
)
OPTIONS = st.lists(
    st.sampled_from(["clientcert=verify-full", "map=m", "ldapsuffix=dc=a, dc=b", 'x="#"', "end\\"]), max_size=3
).map(tuple)


def lines(kinds: st.SearchStrategy[str], addresses: st.SearchStrategy[str]) -> st.SearchStrategy[HbaLine]:
    return st.builds(
        HbaLine, kinds, LISTS, LISTS, addresses, st.sampled_from(["reject", "scram-sha-256", "cert"]), OPTIONS
    )


LINES = lines(st.sampled_from(["host", "hostssl", "hostnossl", "hostgssenc"]), ADDRESSES) | lines(
    st.just("local"), st.just("")
)


@given(st.lists(LINES, max_size=5))
def test_what_is_rendered_is_what_is_parsed(records: list[HbaLine]) -> None:
    assert hba.parse(hba.render(records)) == records


@given(LINES, st.text(), st.text())
@example(HbaLine("host", ("all",), ("all",), "all", "reject"), "a header that ends in \\", "a comment too \\")
@example(HbaLine("host", ("all",), ("all",), "all", "reject"), "x\nhost all all all trust", "y\rhost all all all trust")
def test_no_comment_hides_or_adds_a_record(record: HbaLine, header: str, comment: str) -> None:
    assert hba.parse(hba.render([replace(record, comment=comment)], header=header)) == [record]


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("host all a,b 127.0.0.1/32 trust", ("a", "b")),
        ("host all a, b 127.0.0.1/32 trust", ("a", "b")),
        ('host all "a b","c""d" 127.0.0.1/32 trust', ("a b", 'c"d')),
        ('host all +"my group" 127.0.0.1/32 trust', ("+my group",)),
        ('host all "all","+x" 127.0.0.1/32 trust', ('"all"', '"+x"')),
        ("host all a 127.0.0.1/32 trust # host all b", ("a",)),
        ("host all \\\n a 127.0.0.1/32 trust", ("a",)),
        ('host\tall\t"#a"\t127.0.0.1/32\ttrust\r', ("#a",)),
    ],
)
def test_what_postgresql_reads_is_read(text: str, users: tuple[str, ...]) -> None:
    (line,) = hba.parse(text)
    assert line.users == users


def test_an_address_with_a_mask_stays_one_address() -> None:
    (line,) = hba.parse("host all all 10.0.0.0 255.0.0.0 scram-sha-256 clientcert=verify-ca")
    assert (line.address, line.method, line.options) == (
        "10.0.0.0 255.0.0.0",
        "scram-sha-256",
        ("clientcert=verify-ca",),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ninclude other.conf", "line 2: 'include' is not a connection type"),
        ("host all all 127.0.0.1/32", "line 1: 4 fields, 5 are needed"),
        ("host all all 10.0.0.0 255.0.0.0", "line 1: there is no method"),
        ('host all "all 127.0.0.1/32 trust', "line 1: a quote is not closed"),
        ("host all all 127.0.0.1/32,::1/128 trust", "line 1: only databases and users may be lists"),
    ],
)
def test_a_bad_line_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"pg_hba\.conf") as refused:
        hba.parse(text)
    assert said in refused.value.message


@pytest.mark.parametrize(
    "line",
    [
        HbaLine("host", ("all",), ("x\nhost all all all trust",), "all", "reject"),
        HbaLine("host", ("all",), ("",), "all", "reject"),
        HbaLine("host", ("all",), (), "all", "reject"),
        HbaLine("host", ("all",), ('"open',), "all", "reject"),
        HbaLine("host", ("all",), ("all",), "", "reject"),
        HbaLine("local", ("all",), ("all",), "all", "reject"),
        HbaLine("nonsense", ("all",), ("all",), "all", "reject"),
    ],
)
def test_what_the_file_cannot_hold_is_refused(line: HbaLine) -> None:
    with pytest.raises(ConfigError):
        hba.render([line])
