"""The change of release as the report shows it: the latency of its steps, and who answered how many requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbsec.clock import rfc3339
from dbsec.lab.load import Sample
from dbsec.lab.slo import buckets, percentile

_BUCKET_S = 0.5


@dataclass(frozen=True, slots=True)
class Steps:
    """What was sent while the steps ran; ``marks`` are their names and beginnings, ``green`` the new release's URL."""

    samples: Sequence[Sample]
    marks: Sequence[tuple[str, datetime]]
    end: datetime
    green: str

    def exhibits(self) -> list[dict[str, Any]]:
        """Return the plot and the table."""
        return [self._plot(), self._table()]

    def _plot(self) -> dict[str, Any]:
        t0 = self.marks[0][1]
        folded = buckets(self.samples, t0, _BUCKET_S)
        bands = [
            {"label": label, "kind": "", "from_s": (at - t0).total_seconds(), "to_s": (to - t0).total_seconds()}
            for label, at, to in self._spans()
        ]
        return {
            "type": "latency",
            "title": "Latency of both releases from expand to contract",
            "t0": rfc3339(t0),
            "bucket_s": folded.bucket_s,
            "requests": folded.requests,
            "failed": folded.failed,
            "p50_ms": folded.p50_ms,
            "p99_ms": folded.p99_ms,
            "max_ms": folded.max_ms,
            "slo_p99_ms": None,
            "bands": bands,
        }

    def _table(self) -> dict[str, Any]:
        rows = []
        for label, at, to in self._spans():
            own = [sample for sample in self.samples if at <= sample.at < to]
            green = sum(sample.to == self.green for sample in own)
            rows.append([label, len(own), green, sum(sample.failed for sample in own), round(p99_ms(own))])
        columns = ["step", "requests", "to green", "failed", "p99 in ms"]
        return {"type": "table", "title": "The steps of the change", "columns": columns, "rows": rows}

    def _spans(self) -> Iterator[tuple[str, datetime, datetime]]:
        ends = [*(at for _, at in self.marks[1:]), self.end]
        for (label, at), to in zip(self.marks, ends, strict=True):
            yield label, at, to


def p99_ms(samples: Sequence[Sample]) -> float:
    """Return the 99th percentile of what was answered, 0 where nothing was."""
    waits = sorted(sample.latency_ms for sample in samples if sample.latency_ms is not None)
    return percentile(waits, 0.99) if waits else 0.0
