"""What ``dbsec migrate lint`` tells, before it is told: scripts, findings, waivers; many files by several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from msgspec import Raw, Struct, field, msgpack
from msgspec.json import Encoder

from dbsec import waivers
from dbsec.findings import Finding, Severity
from dbsec.migrations import relay
from dbsec.migrations.acts import TOO_DEEP
from dbsec.migrations.linter import Options, Release, Result, all_rules
from dbsec.migrations.rule import Rule
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.suppress import Suppressed, suppress
from dbsec.shares import Fork, Handout, processors
from dbsec.waivers import Waiver

_MANY = 1500  # statements of all scripts, from which on a second process saves more than it costs
_MOST = 4  # processes: the last of more would only shape the schema
_FOLLOWING, _SHAPING = 0.24, 0.36  # of the time that a judgement takes, measured: of what is handed out, of the rest
_ROOM = 16  # bytes to hand out for each character of the scripts


class Shown(Struct):
    """A finding as JSON writes it, where nothing else is asked of it: made by the process that found it."""

    severity: Severity
    json: bytes

    def to_json(self) -> Raw:
        """As ``Finding``'s, for msgspec's encoder."""
        return Raw(self.json)


class Share(Struct):
    """What was found in some of the scripts. ``new_tables``: of the schema behind them. ``shown``: the findings, where
    they are wanted so."""

    findings: list[Finding]
    own: list[Finding]
    waived: list[tuple[Finding, Waiver]]
    files: int
    statements: int
    unread: list[Unread]
    new_tables: int
    shown: list[Shown] = field(default_factory=list)


class Judged(Struct):
    """One pass over the files. ``result``: what the findings of this process were made of."""

    scripts: list[Script]
    share: Share
    options: Options
    unread: list[Unread]
    result: Result
    schema: Schema | None = None

    @property
    def findings(self) -> list[Finding]:
        told: list[Any] = self.share.shown or self.share.findings
        return told + self.share.own


def whole(
    scripts: list[Script], state: Schema, options: Options, *, entries: Sequence[Waiver], today: date
) -> tuple[Share, Result]:
    """Judge all scripts here, and keep what the findings were made of; ``state`` is changed."""
    result = Release(scripts, schema=state, options=options).judge(0, len(scripts))
    found = suppress(result, scripts, rules=all_rules(), chosen=_active(options), entries=entries, today=today)
    return _share(found, state), found.result


def shared(
    scripts: list[Script], state: Schema, options: Options, *, entries: Sequence[Waiver], today: date, shown: bool
) -> tuple[Share, Result]:
    """Judge the scripts, many of them by several processes: each brings the schema to where its share begins.

    What the first of them has read, it hands to the others. ``shown``: nothing is asked of the findings but their JSON.
    """
    release, chosen = Release(scripts, schema=state, options=options), _active(options)

    def part(start: int, stop: int) -> tuple[Share, Result]:
        result = release.judge(start, stop)
        found = suppress(result, scripts[start:stop], rules=all_rules(), chosen=chosen, today=today)
        share = _share(found, state)
        return (_shown(share) if shown and not entries else share), result

    first, *others = _cuts([script.text.count(";") + 1 for script in scripts])
    forks: list[Fork] = []
    if others:
        handout = Handout(_ROOM * sum(len(script.text) for script in scripts[slice(*first)]))
        forks = [Fork(partial(_packed, part, release, handout, *cut)) for cut in others]
        handout.give(relay.pack(release.read(*first)))
    own, result = part(*first)
    done = [own]
    for fork, cut in zip(forks, others, strict=True):
        told = fork.result()
        # a statement that is too deep to be judged has not changed the schema here, and has there
        agree = all(one.reason != TOO_DEEP for share in done for one in share.unread)
        done.append(msgpack.decode(told, type=Share) if told is not None and agree else part(*cut)[0])
    return _waived(_sum(done), entries, today), result


def _packed(
    part: Callable[[int, int], tuple[Share, Result]], release: Release, handout: Handout, start: int, stop: int
) -> bytes:
    handout.join()
    for _ in release.read(start, stop):
        pass
    if told := handout.take():
        release.follow(relay.unpack(told))
    return msgpack.encode(part(start, stop)[0], enc_hook=str)  # a refusal is a str of its own kind


def _waived(found: Share, entries: Sequence[Waiver], today: date) -> Share:
    if entries:
        applied = waivers.apply(found.findings, entries, today=today)
        found.findings, found.waived, found.own = applied.kept, found.waived + applied.waived, found.own + applied.own
    return found


def _cuts(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Cut the scripts into shares that take the same time: who comes later has more to shape, and judges less."""
    total = sum(sizes)
    number = min(processors(), _MOST) if total >= _MANY else 1
    weights = [1.0]
    while len(weights) < number:
        weights.append(1 - _FOLLOWING - _SHAPING * sum(weights[1:]))
    ends = [end / sum(weights) * total for end in accumulate(weights)]
    behind = list(accumulate(sizes))
    stops = [sum(size <= end for size in behind) for end in ends[:-1]]
    return [(start, stop) for start, stop in pairwise((0, *stops, len(sizes))) if start < stop] or [(0, 0)]


def _share(found: Suppressed, state: Schema) -> Share:
    result, new_tables = found.result, sum(table.new for table in state.tables.values())
    return Share(result.findings, found.own, found.waived, result.files, result.statements, result.unread, new_tables)


def _shown(share: Share) -> Share:
    encode = Encoder(enc_hook=str).encode
    share.shown = [Shown(finding.severity, encode(finding.to_json())) for finding in share.findings]
    share.findings = []
    return share


def _sum(shares: Sequence[Share]) -> Share:
    first = shares[0]
    for share in shares[1:]:
        first.findings += share.findings
        first.shown += share.shown
        first.own += share.own
        first.waived += share.waived
        first.files += share.files
        first.statements += share.statements
        first.unread += share.unread
        first.new_tables = share.new_tables
    return first


def _active(options: Options) -> Mapping[str, Rule]:
    rules = all_rules() if options.rules is None else options.rules
    return {name: rule for name, rule in rules.items() if rule.since <= options.major <= (rule.until or options.major)}
