"""Numbers for Prometheus: gauges that are measured when they are asked for, as text or as a file for node_exporter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import files
from dbsec.errors import ProgramMissing

try:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
except ModuleNotFoundError as exc:
    raise ProgramMissing(
        "metrics need 'prometheus_client', which is not installed", hint="pip install 'dbsec[backup]'"
    ) from exc


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value. ``name`` ends in its unit; samples of one name have the same labels and the same help."""

    name: str
    value: float
    help: str
    labels: dict[str, str] = field(default_factory=dict)


def text(samples: Iterable[Sample]) -> str:
    """Write samples in Prometheus' text format, version 0.0.4."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for sample in samples:
        if sample.name not in gauges:
            gauges[sample.name] = Gauge(sample.name, sample.help, list(sample.labels), registry=registry)
        gauge = gauges[sample.name]
        (gauge.labels(**sample.labels) if sample.labels else gauge).set(sample.value)
    return generate_latest(registry).decode()


def write(path: Path, samples: Iterable[Sample]) -> None:
    """Replace a file of node_exporter's textfile collector (``NAME.prom``), whole and readable by everyone.

    Errors: ``OSError``.
    """
    files.write_atomic(path, text(samples), mode=0o644)
