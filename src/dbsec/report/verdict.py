"""The words of a verdict: the headline, the sentence below it, and how an outcome is named."""

from __future__ import annotations

from collections.abc import Mapping

from dbsec.evidence import Outcome, Phase
from dbsec.report.model import Chapter, Report, Totals

SYMBOL = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.ERROR: "!", Outcome.SKIP: "–"}
WORD = {Outcome.PASS: "Pass", Outcome.FAIL: "Fail", Outcome.ERROR: "Error", Outcome.SKIP: "Skip"}
WHEN = {Phase.BASELINE: "As found", Phase.BEFORE: "Before", Phase.DURING: "During", Phase.AFTER: "After"}
VACUOUS = "The attack did not succeed before hardening, so this drill proves nothing: an error of ours."


def overall(report: Report) -> Outcome:
    """Fold the whole report: damaged evidence, or none, is ERROR whatever it says."""
    totals = report.totals
    if totals.failed:
        return Outcome.FAIL
    return Outcome.PASS if report.integrity.intact and totals.held and not totals.unproven else Outcome.ERROR


def headline(report: Report) -> str:
    """Say in one line how many controls hold."""
    totals = report.totals
    if not totals.attacks_before and not totals.attacks_after and not totals.vacuous:
        return "No control was attacked in this run"
    holds = "holds" if totals.controls == 1 else "hold"
    return f"{totals.held} of {count(totals.controls, 'control')} {holds} after hardening"


def lead(report: Report) -> str:
    """Say what the attacks did before, what they still do, and what could not be told."""
    totals = report.totals
    parts = [_attacks(totals)] if totals.attacks_before or totals.attacks_after else []
    if totals.unproven:
        parts.append(f"{count(totals.unproven, 'control')} could not be proven")
    if totals.vacuous:
        parts.append(f"{count(totals.vacuous, 'drill')} proved nothing, since the attack failed before hardening too")
    if report.as_found:
        parts.append(f"{count(len(report.as_found), 'risk')} found, and still open")
    if totals.skipped:
        parts.append(f"{count(totals.skipped, 'control')} did not apply")
    return "".join(f"{part}. " for part in parts).strip()


def _attacks(totals: Totals) -> str:
    said = f"{count(totals.attacks_before, 'attack')} succeeded before"
    if totals.attacks_refused == totals.attacks_before and not totals.attacks_after:
        return f"{said}; {'it is' if totals.attacks_before == 1 else 'all are'} refused now"
    refused = f"{totals.attacks_refused:,} of them {'is' if totals.attacks_refused == 1 else 'are'} refused now"
    still = f"{count(totals.attacks_after, 'attack')} still {'succeeds' if totals.attacks_after == 1 else 'succeed'}"
    return f"{said}; {refused}" + (f", {still}" if totals.attacks_after else "")


def sentence(text: str) -> str:
    """Begin with a capital, where the first word is a plain word and not a name such as pg_hba.conf."""
    first = text.split(" ", 1)[0].rstrip(",:;")
    return text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text


def count(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 control``, ``1,204 controls``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


HOW_TO_VERIFY = "dbsec report verify OUT --public-key evidence.pub"


def target(report: Report) -> str:
    """Name the target in a few words: version, database and system identifier, as far as the lines say so."""
    facts = report.origin.target
    server = f"PostgreSQL {facts['version']}" if str(facts.get("version", ""))[:1].isdigit() else facts.get("version")
    named = (("database", "database"), ("system_identifier", "system"))
    parts = [str(server or ""), *(f"{name} {facts[key]}" for key, name in named if facts.get(key))]
    return ", ".join(part for part in parts if part) or "see provenance"


def tally(chapter: Chapter) -> str:
    """Say how many of a chapter's controls hold; empty for one that only looked."""
    acted = [c for c in chapter.controls if c.hardened and c.verdict is not Outcome.SKIP]
    held = sum(c.verdict is Outcome.PASS for c in acted)
    return f"{held} of {count(len(acted), 'control')} {'holds' if len(acted) == 1 else 'hold'}" if acted else ""


def provenance(report: Report) -> list[tuple[str, str]]:
    """List who, where, with what, against what, and what the chain says."""
    origin = report.origin
    rows = [
        ("Run by", ", ".join(origin.actor)),
        ("On host", ", ".join(origin.host)),
        *((f"Target {key.replace('_', ' ')}", str(origin.target[key])) for key in _target_keys(origin.target)),
        ("Started", origin.started_at),
        ("Ended", origin.ended_at),
        ("dbsec", ", ".join(origin.dbsec)),
        ("Revision", ", ".join(origin.revision)),
        ("Configuration, SHA-256", ", ".join(origin.config_digest)),
        ("Ticket", ", ".join(origin.ticket)),
        ("Evidence", report.integrity.text),
        ("Head of the chain", origin.head),
    ]
    return [(name, value) for name, value in rows if value]


def _target_keys(target: Mapping[str, object]) -> list[str]:
    first = [key for key in ("version", "database", "system_identifier") if key in target]
    return first + sorted(key for key in map(str, target) if key not in first)
