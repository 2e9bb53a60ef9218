"""``dbsec migrate lint`` from its options to its exit code."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dbsec import files, waivers
from dbsec.cli import exits
from dbsec.cli.migrate import inputs, judging
from dbsec.cli.migrate.judging import Judged
from dbsec.clock import SYSTEM
from dbsec.errors import DbsecError
from dbsec.findings import Finding, Severity
from dbsec.migrations import collector
from dbsec.migrations.linter import DEFAULT_MAJOR, MANUAL, Located, Options, all_rules
from dbsec.migrations.reading import source
from dbsec.migrations.rule import Hazard
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Wrap
from dbsec.report.findings import Format, NotRead, Results, Words

if TYPE_CHECKING:
    from dbsec.migrations.names import Name
    from dbsec.migrations.rule import Rule
    from dbsec.migrations.stats import Stats

COMMAND = "migrate lint"


class Asked(Struct, frozen=True):
    """The options, as given."""

    paths: tuple[str, ...]
    pg_version: str | None = None
    schema: Path | None = None
    dsn: str | None = None
    stats: Path | None = None
    form: str = "text"
    output: Path | None = None
    fix: bool = False
    yes: bool = False
    changed_since: str | None = None
    baseline: Path | None = None
    write_baseline: Path | None = None
    waivers: Path | None = None
    fail_on: Severity = Severity.ERROR
    wrap: Wrap | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


def run(asked: Asked, ending: Callable[[int, object], None] | None = None) -> int:
    """Lint, tell, and return the exit code; ``ending`` gets it too, with what is not needed any more."""
    with collector.paused():
        code, judged = _run(asked)
        if ending is not None:
            ending(code, judged)
    return code


def _run(asked: Asked) -> tuple[int, Judged]:
    inputs.need_parser()
    asked = replace(asked, paths=tuple(inputs.paths_of(asked.paths)))
    stdin = inputs.stdin_text() if "-" in asked.paths else None
    schema, unread = inputs.schema_of(asked.schema, asked.dsn)
    options = _options(asked, schema)
    judged = _judge(asked, options, schema, stdin)
    if asked.fix:
        from dbsec.cli.migrate import fixing

        if fixing.fix(judged, text=asked.form == "text" and asked.output is None, yes=asked.yes):
            judged = _judge(asked, options, schema, stdin)
    judged.unread[:0] = unread
    if asked.write_baseline is not None:
        from dbsec import baseline

        number = baseline.write(asked.write_baseline, judged.findings)
        print(f"dbsec: '{asked.write_baseline}' holds {number:,} findings", file=sys.stderr)
        return (exits.COULD_NOT_TELL if judged.unread else exits.CLEAN), judged
    results = _results(judged, asked)
    _tell(results, asked)
    return _code(results, asked.fail_on), judged


def _options(asked: Asked, schema: Schema | None) -> Options:
    stats = None
    if asked.stats is not None:
        from dbsec.migrations.stats import Stats

        stats = Stats.load(asked.stats)
    told = schema if schema is not None and schema.major else None
    major = inputs.major_of(asked.pg_version, told, (stats.major if stats else None) or DEFAULT_MAJOR)
    rules = inputs.chosen(all_rules(), asked.select, asked.ignore)
    return Options(major=major, stats=stats, rules=rules)


def _judge(asked: Asked, options: Options, schema: Schema | None, stdin: str | None) -> Judged:
    scripts, unread = source.read(asked.paths, stdin=stdin, changed_since=asked.changed_since, wrap=asked.wrap)
    state = Schema() if schema is None else copy.deepcopy(schema) if asked.fix else schema
    entries, today = _entries(asked.waivers), SYSTEM.now().date()
    if asked.fix or options.stats is not None:
        share, result = judging.whole(scripts, state, options, entries=entries, today=today)
    else:
        shown = asked.form == "json" and asked.baseline is None and asked.write_baseline is None
        share, result = judging.shared(scripts, state, options, entries=entries, today=today, shown=shown)
    if schema is None and asked.changed_since is None and len(scripts) > 1:
        _tell_what_counts_as_new(share.new_tables)
    return Judged(scripts, share, options, [*unread, *share.unread], result, schema)


def _tell_what_counts_as_new(made: int) -> None:
    if made:
        print(
            f"dbsec: tables that these files create ({made:,}) count as new and empty; are some deployed?\n"
            "  try: --schema with pg_dump -s of production, or --changed-since with the branch that is deployed",
            file=sys.stderr,
        )


def _entries(given: Path | None) -> list[waivers.Waiver]:
    path = given or Path(waivers.FILE)
    return waivers.load(path) if given is not None or path.exists() else []


def _results(judged: Judged, asked: Asked) -> Results:
    found, known = judged.findings, 0
    if asked.baseline is not None:
        from dbsec import baseline

        compared = baseline.compare(asked.baseline, found)
        found, known = compared.new, len(compared.known)
        for entry in compared.gone:
            print(f"dbsec: no longer there, and still in the baseline: {entry}", file=sys.stderr)
    return Results(
        COMMAND,
        found,
        {"files": judged.share.files, "statements": judged.share.statements},
        [NotRead(one.path, one.line, one.reason, one.hint) for one in judged.unread],
        {rule.code: words(rule, judged.options.major) for rule in all_rules().values()},
        judged.share.waived,
        known,
        _legend(judged.options.stats, found, judged),
    )


def words(rule: Rule, major: int) -> Words:
    """Say of a rule what a format shows."""
    page = MANUAL.format(major=major, page=rule.source[0]) if rule.source else ""
    return Words(rule.code, rule.name, rule.title, rule.severity, rule.effect, rule.instead, page, (str(rule.hazard),))


def _legend(stats: Stats | None, found: Sequence[Finding], judged: Judged) -> list[str]:
    """Say how long work on each table that is blocked takes, by the snapshot."""
    if stats is None or not found:
        return []
    from dbsec.migrations import stats as sizes
    from dbsec.migrations.effects.model import Work

    keys = {finding.key for finding in found}
    blocked = {table for one in judged.result.located if one.finding.key in keys and (table := _blocked(one))}
    lines = []
    for table in sorted(blocked, key=str):
        if stats.of(table) is not None:
            works = ", ".join(f"{work} {sizes.duration(stats.seconds(work, table) or 0)}" for work in Work)
            lines.append(f"    {stats.told(table, ())}; {works}")
    if not lines:
        return []
    head = (
        f"how long, by the sizes of {stats.source} at {stats.taken_at} and the rates of the snapshot (no other load):"
    )
    return ["\n".join([head, *lines])]


def _blocked(one: Located) -> Name | None:
    """Tell the table that a finding is about where it blocks."""
    if one.finding.where["hazard"] not in (Hazard.BLOCKS_ALL, Hazard.BLOCKS_WRITES):
        return None
    return one.hit.table or getattr(one.operation, "table", None)


def _tell(results: Results, asked: Asked) -> None:
    form: Format = importlib.import_module(f"dbsec.report.findings.{asked.form}").FORMAT
    text = form.render(results)
    if asked.output is not None:
        files.write_atomic(asked.output, text, mode=0o644)
        from dbsec.report.findings.text import summary

        print(f"dbsec: {summary(results)}: see '{asked.output}'", file=sys.stderr)
    elif asked.form == "text" and sys.stdout.isatty():
        from dbsec.cli.terminal import show_findings

        show_findings(text)
    else:
        sys.stdout.write(text)
    for unread in results.unread:
        place = f"{unread.file}:{unread.line}" if unread.line else unread.file
        exits.say(DbsecError(f"{place}: {unread.reason}", hint=unread.hint))


def _code(results: Results, fail_on: Severity) -> int:
    if results.unread:
        return exits.COULD_NOT_TELL
    failing = set(Severity) if fail_on is Severity.WARNING else {Severity.ERROR}
    return exits.FINDINGS if any(f.severity in failing for f in results.findings) else exits.CLEAN
