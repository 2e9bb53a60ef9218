"""A layered layout for small directed graphs, left to right: ranks, few crossings, straight runs.

After Sugiyama, Tagawa and Toda (1981): break cycles, rank, split long edges, order by the mean of neighbours, place.
Made for some 20 nodes: it does not look for the best of all orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Edge = tuple[str, str]
_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """``rank`` is the column of each node, ``y`` the middle of each, ``paths`` the bends of each edge, ends included.

    A path is a list of (column, y) from the left end to the right one; an edge of a cycle runs from right to left.
    """

    rank: Mapping[str, int]
    y: Mapping[str, float]
    paths: Sequence[Sequence[tuple[int, float]]]
    height: float


def place(nodes: Sequence[str], edges: Sequence[Edge], *, size: float, gap: float) -> Layout:
    """Lay out a graph whose nodes are ``size`` high and stand ``gap`` apart. Edges join known, different nodes."""
    forward = _acyclic(nodes, edges)
    rank = _ranks(nodes, forward)
    chains, links = _split(forward, rank)
    columns = _columns(nodes, chains, rank)
    neighbours = _neighbours(links)
    best, fewest = columns, _crossings(columns, links)
    for sweep in range(_SWEEPS):
        columns = _reordered(columns, neighbours, leftwards=bool(sweep % 2))
        crossings = _crossings(columns, links)
        if crossings < fewest:
            best, fewest = columns, crossings
    y = _heights(best, neighbours, set(nodes), size, gap)
    paths = [[(rank[a] + i, y[n]) for i, n in enumerate(chain)] for chain in chains for a in [chain[0]]]
    return Layout(rank, {n: y[n] for n in nodes}, paths, max(y.values(), default=0.0) + size / 2)


def _acyclic(nodes: Sequence[str], edges: Sequence[Edge]) -> list[Edge]:
    """Turn round the edges that close a cycle."""
    after: dict[str, list[str]] = {n: [b for a, b in edges if a == n] for n in nodes}
    done: set[str] = set()
    open_: list[str] = []
    back: set[Edge] = set()

    def visit(node: str) -> None:
        open_.append(node)
        for following in after[node]:
            if following in open_:
                back.add((node, following))
            elif following not in done:
                visit(following)
        open_.pop()
        done.add(node)

    for node in nodes:
        if node not in done:
            visit(node)
    return [(b, a) if (a, b) in back else (a, b) for a, b in edges]


def _ranks(nodes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Put each node one column right of its last predecessor, then move sources next to what they point at."""
    rank = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for a, b in edges:
            rank[b] = max(rank[b], rank[a] + 1)
    targets = {b for _, b in edges}
    for node in nodes:
        following = [rank[b] for a, b in edges if a == node]
        if node not in targets and following:
            rank[node] = min(following) - 1
    return rank


def _split(edges: Sequence[Edge], rank: dict[str, int]) -> tuple[list[list[str]], list[Edge]]:
    """Cut edges over several columns into links of one, with a stop (a name no node has) in each column between."""
    chains = []
    for number, (a, b) in enumerate(edges):
        stops = [f"\0{number}:{column}" for column in range(rank[a] + 1, rank[b])]
        chains.append([a, *stops, b])
    return chains, [link for chain in chains for link in pairwise(chain)]


def _columns(nodes: Sequence[str], chains: Sequence[Sequence[str]], rank: dict[str, int]) -> list[list[str]]:
    columns: list[list[str]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for node in nodes:
        columns[rank[node]].append(node)
    for chain in chains:
        for step, stop in enumerate(chain[1:-1], 1):
            columns[rank[chain[0]] + step].append(stop)
    return columns


def _neighbours(links: Sequence[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for a, b in links:
        before.setdefault(b, []).append(a)
        after.setdefault(a, []).append(b)
    return before, after


def _reordered(
    columns: Sequence[Sequence[str]], neighbours: tuple[dict[str, list[str]], dict[str, list[str]]], *, leftwards: bool
) -> list[list[str]]:
    """Sort each column by the mean place of the neighbours in the column that was sorted before it."""
    ordered = [list(column) for column in columns]
    near = neighbours[1] if leftwards else neighbours[0]
    indices = range(len(columns) - 2, -1, -1) if leftwards else range(1, len(columns))
    for i in indices:
        beside = {n: p for p, n in enumerate(ordered[i + 1 if leftwards else i - 1])}
        means = {}
        for place_, node in enumerate(ordered[i]):
            at = [beside[n] for n in near.get(node, ()) if n in beside]
            means[node] = sum(at) / len(at) if at else float(place_)
        ordered[i].sort(key=lambda n: means[n])
    return ordered


def _crossings(columns: Sequence[Sequence[str]], links: Sequence[Edge]) -> int:
    at = {n: (c, p) for c, column in enumerate(columns) for p, n in enumerate(column)}
    ends = [(at[a], at[b]) for a, b in links]
    return sum(
        a[0] == c[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[i + 1 :]
    )


def _heights(
    columns: Sequence[Sequence[str]],
    neighbours: tuple[dict[str, list[str]], dict[str, list[str]]],
    nodes: set[str],
    size: float,
    gap: float,
) -> dict[str, float]:
    """Give each node and stop its y: near the mean of its neighbours, never nearer to its column's than ``gap``."""
    tall = {n: size if n in nodes else gap for column in columns for n in column}
    y = {n: float(i) * (size + gap) for column in columns for i, n in enumerate(column)}
    for sweep in range(2 * _SWEEPS):
        near = neighbours[sweep % 2]
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = [sum(y[m] for m in near[n]) / len(near[n]) if near.get(n) else y[n] for n in column]
            placed: list[float] = []
            for i, node in enumerate(column):
                least = placed[-1] + (tall[column[i - 1]] + tall[node]) / 2 + gap if placed else wanted[i]
                placed.append(max(wanted[i], least))
            shift = sum(w - p for w, p in zip(wanted, placed, strict=True)) / len(column) if column else 0.0
            y.update((n, p + shift) for n, p in zip(column, placed, strict=True))
    lowest = min((y[n] - tall[n] / 2 for n in y), default=0.0)
    return {n: value - lowest for n, value in y.items()}
