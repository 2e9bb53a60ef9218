"""The contract of an object store, as claims: each is a function of a ``Bench`` and yields what does not hold.

For a store of your own: fill a ``Provider`` and run every claim of ``CLAIMS`` that it does not say it lacks. Each claim
asks for a place of its own, which it leaves as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from dbsec.errors import UsageError
from dbsec.store import ObjectExists, ObjectMissing, ObjectStore, StoreUnavailable

__all__ = ["CLAIMS", "Bench", "Provider", "check"]

_SKEW = timedelta(minutes=1)
_BAD_NAMES = ("", "/", "a/", "/a", "a//b", "..", "../a", "a/../b", "a/./b", ".a", "a/.b", "a\0b", "a b", "ä", "a" * 513)
_NAMES = ("A", "_", "a", "a.b", "a0", "b/a", "b/c/d", "b/c0", "c/00000001/x", "c/00000002/x", "c/history/x")
_PREFIXES = ("", "a", "b/", "b/c", "c/", "c/0000000", "c/00000001/", "nothing", "nothing/")
_AFTERS = (*_NAMES, "", "aa", "b", "b/", "b/b", "b/c", "b/c/", "b/d0", "c", "c/", "c/00000001", "c/000000010", "z")


@dataclass(frozen=True)
class Provider:
    """What the suite is given: ``open`` opens a new, empty place each time.

    ``away`` takes the server of a store that is open away, while its block runs. ``many``: objects of the longest
    listing; a server's page has 1000. ``lacks`` names the claims that do not apply, each with the reason.
    """

    open: Callable[[], ObjectStore]
    away: Callable[[ObjectStore], AbstractContextManager[None]] | None = None
    many: int = 1050
    lacks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """A provider, and the place of one claim."""

    provider: Provider
    store: ObjectStore


def create_only(bench: Bench) -> Iterator[str]:
    """A name that is taken is refused, for the same bytes too, and what it holds stays."""
    bench.store.put("a/b", b"first")
    for other in (b"second", b"first", b""):
        if not _raises(ObjectExists, partial(bench.store.put, "a/b", other)):
            yield f"a second put of {other!r} was acknowledged"
    if bench.store.get("a/b") != b"first":
        yield "a second put has changed the object"


def one_winner(bench: Bench) -> Iterator[str]:
    """Of several who create one name at once a single one is told that he did, and it is his object."""
    contents = [os.urandom(1000) for _ in range(4)]

    def put(data: bytes) -> bool:
        return not _raises(ObjectExists, lambda: bench.store.put("race", data))

    with ThreadPoolExecutor(len(contents)) as threads:
        won = [data for data, created in zip(contents, threads.map(put, contents), strict=True) if created]
    if len(won) != 1:
        yield f"{len(won)} of {len(contents)} were told that they created it"
    elif bench.store.get("race") != won[0]:
        yield "it is not the object of the one who was told that he created it"


def round_trip(bench: Bench) -> Iterator[str]:
    """Every size comes back as it went, whole and in parts; beyond the end there is nothing."""
    for size in (0, 1, 1000, 3 << 20):
        data, name = os.urandom(size), f"of/{size}"
        bench.store.put(name, data)
        if bench.store.get(name) != data or bench.store.head(name).size != size:
            yield f"{size} bytes do not come back as they were put"
        for offset, part in (
            (0, size),
            (0, 10),
            (size // 2, 10),
            (max(size - 1, 0), 10),
            (size, 1),
            (size + 5, 1),
            (0, 0),
        ):
            if bench.store.get(name, offset, part) != data[offset : offset + part]:
                yield f"{part} bytes from {offset} of {size} are other ones"
        if bench.store.get(name, size // 2) != data[size // 2 :]:
            yield f"what follows the first half of {size} bytes is something else"


def absent(bench: Bench) -> Iterator[str]:
    """What is not there is missing, for a name beside, below and above one that is; to delete it is no error."""
    bench.store.put("a/b/c", b"")
    for name in ("a/b/d", "a/b", "a", "a/b/c/d", "x/y/z"):
        asked: tuple[tuple[str, Callable[[], object]], ...] = (
            ("get", partial(bench.store.get, name)),
            ("get of a part", partial(bench.store.get, name, 0, 1)),
            ("head", partial(bench.store.head, name)),
        )
        for what, act in asked:
            if not _raises(ObjectMissing, act):
                yield f"{what} of '{name}' does not say that it is missing"
        bench.store.delete(name)
    if list(bench.store.list("x/")) or [entry.name for entry in bench.store.list()] != ["a/b/c"]:
        yield "a listing shows something else than what is there"


def listing(bench: Bench) -> Iterator[str]:
    """Names come in order, those with the prefix, those after a name: one that is there or not."""
    for name in reversed(_NAMES):
        bench.store.put(name, name.encode())
    for prefix in _PREFIXES:
        for after in _AFTERS:
            wanted = [name for name in _NAMES if name.startswith(prefix) and name > after]
            found = [(entry.name, entry.size) for entry in bench.store.list(prefix, after)]
            if found != [(name, len(name)) for name in wanted]:
                yield f"prefix '{prefix}' after '{after}': {found} instead of {wanted}"


def order_of_slashes(bench: Bench) -> Iterator[str]:
    """In the order of names "/" is a character like others: what sorts before it comes before a folder."""
    names = ["a-b", "a.b", "a/b", "a/c-d", "a/c/d", "a/c0", "a0"]
    for name in reversed(names):
        bench.store.put(name, b"")
    if [entry.name for entry in bench.store.list()] != names:
        yield f"{[entry.name for entry in bench.store.list()]} is not the order of names"


def many(bench: Bench) -> Iterator[str]:
    """A listing of more than a page is whole and in order, from the start and from its middle."""
    names = [f"m/{number:08d}" for number in range(bench.provider.many)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: bench.store.put(name, b"x"), names))
    if [entry.name for entry in bench.store.list()] != names:
        yield f"a listing of {len(names)} objects is not whole"
    middle = len(names) // 2
    if [entry.name for entry in bench.store.list("m/", names[middle])] != names[middle + 1 :]:
        yield "a listing from the middle is not whole"


def deletion(bench: Bench) -> Iterator[str]:
    """What is deleted is gone for each way to ask, at once; the others stay; its name can be given again."""
    for name in ("d/a", "d/b"):
        bench.store.put(name, b"1")
    before = bench.store.head("d/a")
    bench.store.delete("d/a")
    if not _raises(ObjectMissing, lambda: bench.store.get("d/a")) or not _raises(
        ObjectMissing, lambda: bench.store.head("d/a")
    ):
        yield "a deleted object still answers"
    if [entry.name for entry in bench.store.list("d/")] != ["d/b"]:
        yield "a deleted object is listed, or its neighbour is not"
    bench.store.put("d/a", b"2")
    after = bench.store.head("d/a")
    if bench.store.get("d/a") != b"2":
        yield "what was put again is not what is read"
    if before.tag and before.tag == after.tag:
        yield "an object that was written again has the tag of the one before"


def described(bench: Bench) -> Iterator[str]:
    """Head and listing tell the same; the time is now, with a zone."""
    bench.store.put("t/x", b"12345")
    told, listed = bench.store.head("t/x"), next(iter(bench.store.list("t/")))
    if (told.name, told.size, told.tag) != (listed.name, listed.size, listed.tag):
        yield f"head tells {told}, a listing {listed}"
    if told.modified.tzinfo is None or abs(told.modified - datetime.now(UTC)) > _SKEW:
        yield f"it was put just now, and not at {told.modified}"


def names(bench: Bench) -> Iterator[str]:
    """A name that could lead elsewhere is refused by every call that takes one."""
    for name in _BAD_NAMES:
        acts: tuple[Callable[[], object], ...] = (
            partial(bench.store.put, name, b""),
            partial(bench.store.get, name),
            partial(bench.store.get, name, 0, 1),
            partial(bench.store.head, name),
            partial(bench.store.delete, name),
        )
        for act in acts:
            if not _raises(UsageError, act):
                yield f"the name {name[:20]!r} was taken"
    if list(bench.store.list()):
        yield "a bad name has left something"


def threads(bench: Bench) -> Iterator[str]:
    """Many threads put, read, list and delete, each its own."""

    def live(number: int) -> bool:
        name, data = f"w/{number % 3}/{number:03d}", os.urandom(2000)
        bench.store.put(name, data)
        seen = name in [entry.name for entry in bench.store.list(f"w/{number % 3}/")]
        same = bench.store.get(name) == data
        bench.store.delete(name)
        return seen and same

    with ThreadPoolExecutor(8) as pool:
        if not all(pool.map(live, range(32))):
            yield "a thread did not find its own object"
    if list(bench.store.list()):
        yield "an object is left"


def away(bench: Bench) -> Iterator[str]:
    """A server that is away is unavailable for every call: nothing is missing, and no listing is empty."""
    assert bench.provider.away is not None
    bench.store.put("here", b"1")
    with bench.provider.away(bench.store):
        asked: tuple[tuple[str, Callable[[], object]], ...] = (
            ("put", lambda: bench.store.put("there", b"1")),
            ("get", lambda: bench.store.get("here")),
            ("get of what is missing", lambda: bench.store.get("never")),
            ("head", lambda: bench.store.head("here")),
            ("list", lambda: list(bench.store.list())),
            ("delete", lambda: bench.store.delete("here")),
        )
        for what, act in asked:
            if not _raises(StoreUnavailable, act):
                yield f"{what} does not say that the store is away"
    if bench.store.get("here") != b"1":
        yield "it does not come back"


_CLAIMS = (
    create_only,
    one_winner,
    round_trip,
    absent,
    listing,
    order_of_slashes,
    many,
    deletion,
    described,
    names,
    threads,
    away,
)
CLAIMS: dict[str, Callable[[Bench], Iterator[str]]] = {claim.__name__: claim for claim in _CLAIMS}


def check(claim: str, provider: Provider) -> list[str]:
    """Return what does not hold of a claim, nothing where all does."""
    return list(CLAIMS[claim](Bench(provider, provider.open())))


def _raises(kind: type[Exception], act: Callable[[], object]) -> bool:
    try:
        act()
    except kind:
        return True
    return False
