"""The locks pin every package by hash, name no host, agree with each other, and hold what pyproject asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {path.stem: path.read_text() for path in sorted((ROOT / "locks").glob("*.txt"))}
EXTRAS = PROJECT["project"]["optional-dependencies"]
_PIN = re.compile(r"([a-z0-9][a-z0-9.-]*)(?:\[[a-z,-]+\])?==([0-9][\w.+!]*)(?: ; .+)?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(text):
    """Read a lock: (name, version, marker) -> hashes. What is neither a pin nor a hash is an error."""
    found = {}
    for entry in re.sub(r"\\\n\s*", "\0", re.sub(r"(?m)^#.*\n", "", text)).splitlines():
        requirement, *hashes = (part.strip() for part in entry.split("\0"))
        match = _PIN.fullmatch(requirement)
        assert match, f"'{requirement}' is no pin"
        assert hashes, f"'{requirement}' has no hash"
        assert all(_HASH.fullmatch(h) for h in hashes), f"'{requirement}' has something else than hashes"
        found.setdefault(match[1], {})[match[2]] = frozenset(hashes)
    return found


def names(requirements):
    return {re.split(r"[\[<>=!~; ]", r)[0].lower().replace("_", "-") for r in requirements} - {"dbsec"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_a_version_and_hashes_and_no_host(lock):
    assert pins(LOCKS[lock])
    assert not re.search(r"https?:|file:|--index|--find-links|--extra|@", LOCKS[lock])


def test_no_two_locks_disagree():
    whole = pins(LOCKS["test"])
    for lock, text in LOCKS.items():
        for name, versions in pins(text).items():
            assert versions.items() <= whole[name].items(), f"locks/{lock}.txt has another {name} than locks/test.txt"


def test_each_lock_holds_what_pyproject_asks_for():
    core = names(PROJECT["project"]["dependencies"])
    wanted = {"core": core, **{extra: core | names(EXTRAS[extra]) for extra in EXTRAS}}
    wanted["lab"] |= names(EXTRAS["app"])
    wanted["demo"] = wanted["lab"] | wanted["screens"] | names(PROJECT["build-system"]["requires"])
    wanted["test"] = set().union(*wanted.values()) | names(PROJECT["dependency-groups"]["test"])
    assert set(LOCKS) == set(wanted)
    assert {lock: absent for lock in LOCKS if (absent := wanted[lock] - set(pins(LOCKS[lock])))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "psycopg==3.3.9\n",
        "psycopg>=3.3 \\\n    --hash=sha256:" + "0" * 64 + "\n",
        "psycopg==3.3.9 \\\n    --hash=md5:00\n",
        "--index-url somewhere\n",
        "psycopg @ file:/tmp/psycopg \\\n    --hash=sha256:" + "0" * 64 + "\n",
    ],
)
def test_what_is_not_pinned_by_hash_is_seen(text):
    with pytest.raises(AssertionError):
        pins(text)
