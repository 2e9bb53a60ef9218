"""What the hardening cost the service: its requests judged by chapter against the objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dbsec.clock import rfc3339
from dbsec.config import SloSettings
from dbsec.demo.chapter import Audience
from dbsec.evidence import Control, Observation, Outcome, Phase, Recorder
from dbsec.lab.load import Sample
from dbsec.lab.slo import Slo, buckets, judge

CHAPTER = "service"
SERVICE = Control(
    "SLO-SERVICE",
    "The service keeps its objectives while it is hardened",
    "a control that costs an outage is switched off again",
    ("OWASP API4:2023",),
)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a chapter: ``before``, ``apply`` or ``after``."""

    chapter: str
    kind: str
    start: datetime
    end: datetime

    @property
    def label(self) -> str:
        return self.chapter if self.kind == "before" else f"{self.chapter}: {_WORDS[self.kind]}"


_WORDS = {"apply": "harden", "after": "after"}


def record(
    recorder: Recorder, samples: Sequence[Sample], spans: Sequence[Span], settings: SloSettings, audience: Audience
) -> None:
    """Write a line for each chapter and one for the whole run, with the latency plot."""
    if not spans:
        return
    slo = Slo(settings.availability, settings.p99_ms)
    recorder.chapter(CHAPTER, title="The service meanwhile", summary="An open-loop load ran through all chapters.")
    for name in dict.fromkeys(span.chapter for span in spans):
        own = [span for span in spans if span.chapter == name]
        seen = _observation(samples, slo, own[0].start, own[-1].end)
        audience.line(recorder.record(SERVICE, f"load during {name}", seen, chapter=CHAPTER, phase=Phase.DURING))
    whole = _observation(samples, slo, spans[0].start, spans[-1].end, [_plot(samples, spans, slo)])
    audience.line(recorder.record(SERVICE, "load during the whole run", whole, chapter=CHAPTER, phase=Phase.DURING))


def _observation(
    samples: Sequence[Sample], slo: Slo, start: datetime, end: datetime, exhibits: Sequence[Mapping[str, Any]] = ()
) -> Observation:
    verdict = judge(samples, slo, start, end)
    summary = (
        f"{verdict.requests:,} requests, {verdict.failed} failed, "
        f"p50 {verdict.p50_ms:.0f} ms, p99 {verdict.p99_ms:.0f} ms (objective {slo.p99_ms:.0f} ms)"
    )
    facts = {**asdict(verdict), "slo_availability": slo.availability, "slo_p99_ms": slo.p99_ms}
    return Observation(Outcome.PASS if verdict.met else Outcome.FAIL, summary, facts, exhibits)


def _plot(samples: Sequence[Sample], spans: Sequence[Span], slo: Slo) -> dict[str, Any]:
    t0 = spans[0].start
    folded = buckets([s for s in samples if s.at < spans[-1].end], t0, 1.0)

    def at(moment: datetime) -> float:
        return round((moment - t0).total_seconds(), 3)

    return {
        "type": "latency",
        "title": "Latency of the service while it was attacked and hardened",
        "t0": rfc3339(t0),
        "bucket_s": folded.bucket_s,
        "requests": folded.requests,
        "failed": folded.failed,
        "p50_ms": folded.p50_ms,
        "p99_ms": folded.p99_ms,
        "max_ms": folded.max_ms,
        "slo_p99_ms": slo.p99_ms,
        "bands": [{"label": s.label, "kind": s.kind, "from_s": at(s.start), "to_s": at(s.end)} for s in spans],
    }
