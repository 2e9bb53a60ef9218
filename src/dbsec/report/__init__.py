"""Evidence, told: reads ``evidence.jsonl`` and writes the page, the Markdown and the JSON, and nothing of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsec import discovery, files
from dbsec.errors import EvidenceError, EvidenceTampered
from dbsec.progress import Progress, Silent

if TYPE_CHECKING:  # evidence brings cryptography, and findings are told without it
    from dbsec.report import model

__all__ = ["Built", "build"]


@dataclass(frozen=True, slots=True)
class Built:
    """The files that were written, and the model that they show."""

    paths: tuple[Path, ...]
    report: model.Report


def build(evidence: Path, out: Path, *, progress: Progress | None = None) -> Built:
    """Write every format of the report into ``out``.

    The signature is not needed. Evidence that does not verify (an unfinished run, a changed line) is shown as far as
    it can be read, and the report says so above its verdict. Errors: ``EvidenceError``, ``NewerFormat``.
    """
    from dbsec.report import formats, reading

    say = progress or Silent()
    say.step("report: reading the evidence")
    lines, integrity = _read(evidence)
    if not lines:
        raise EvidenceError(f"'{evidence}' holds no evidence", hint="name a report's folder, or its evidence.jsonl")
    report = reading.report_of(lines, integrity)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = []
    for format_ in discovery.constants_in(formats, "FORMAT").values():
        say.step(f"report: writing {format_.file}")
        files.write_atomic(out / format_.file, format_.render(report))
        paths.append(out / format_.file)
    return Built(tuple(paths), report)


def _read(path: Path) -> tuple[list[dict[str, Any]], model.Integrity]:
    from dbsec import evidence as chain
    from dbsec.report import model

    lines: list[dict[str, Any]] = []
    try:
        for line in chain.read(path):
            lines.append(line)  # one by one: those before a bad line are kept
        chain.verify(path)
        return lines, model.Integrity(
            True, f"{len(lines):,} lines, each bound to the one before; signature not checked here"
        )
    except EvidenceTampered as exc:
        return lines, model.Integrity(False, str(exc))
