"""Writes the chain: one line an act, durable before the next begins, sealed in the end."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbsec import canonical, files
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import DbsecError, EvidenceError, reason
from dbsec.evidence.line import FIRST_PREV, FORMAT, b64, line_hash, raw_public, seal_bytes
from dbsec.evidence.model import Control, Drill, Observation, Outcome, Phase, Provenance
from dbsec.log import Redactor

# A server quotes the values of the row here, and some errors of ours quote the server.
_DETAIL = re.compile(r"\s*\bDETAIL:.*", re.DOTALL)


class Recorder:
    """Appends lines to one evidence file and seals it; one writer at a time.

    Locks: flock on ``PATH.lock`` from open to close. Errors: ``EvidenceError`` where another run holds it.
    """

    def __init__(self, path: Path, provenance: Provenance, *, clock: Clock = SYSTEM) -> None:
        self._path = path
        self._provenance = provenance
        self._clock = clock
        self._prev = FIRST_PREV
        self._count = 0
        self._open = ExitStack()
        self.lines: list[dict[str, Any]] = []

    def __enter__(self) -> Recorder:
        lock = self._path.with_name(f".{self._path.name}.lock")
        if not self._open.enter_context(files.locked(lock, blocking=False)):
            raise EvidenceError(f"another run writes '{self._path}'", hint="wait for it, or choose another --out")
        self._stream = self._open.enter_context(self._path.open("wb"))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()

    def about(self, target: Mapping[str, Any]) -> None:
        """Set the target (system identifier, version, database) of the lines to come."""
        self._provenance = replace(self._provenance, target=dict(target))

    def chapter(self, name: str, *, title: str, summary: str) -> None:
        """Open a chapter: the report shows the lines of one name together, in the order of these lines."""
        self._append({"kind": "chapter", "chapter": name, "title": title, "summary": summary})

    def run(self, drill: Drill, *, chapter: str, phase: Phase) -> dict[str, Any]:
        """Run one drill, record what it saw and return the line. An exception is an ERROR with its reason, redacted."""
        began = self._clock.now()
        start = self._clock.monotonic()
        try:
            seen = drill.attack()
            canonical.as_read([dict(seen.facts), list(seen.exhibits)])
        except Exception as exc:  # noqa: BLE001 an attack may fail in any way, and each is "could not tell"
            seen = _failure(exc)
        return self.record(
            drill.control,
            drill.name,
            seen,
            chapter=chapter,
            phase=phase,
            started_at=rfc3339(began),
            seconds=self._clock.monotonic() - start,
        )

    def record(
        self,
        control: Control,
        drill: str,
        seen: Observation,
        *,
        chapter: str,
        phase: Phase,
        started_at: str = "",
        seconds: float = 0.0,
    ) -> dict[str, Any]:
        """Append a line for something that was observed elsewhere."""
        return self._append(
            {
                "kind": "observation",
                "chapter": chapter,
                "control": control.id,
                "title": control.title,
                "risk": control.risk,
                "refs": list(control.refs),
                "drill": drill,
                "phase": str(phase),
                "outcome": str(seen.outcome),
                "summary": seen.summary,
                "facts": dict(seen.facts),
                "exhibits": [dict(e) for e in seen.exhibits],
                "started_at": started_at or rfc3339(self._clock.now()),
                "seconds": round(seconds, 6),
            }
        )

    def seal(self, key: Ed25519PrivateKey) -> None:
        """Write the signed last line; nothing can be appended after it."""
        self._append(
            {
                "kind": "seal",
                "count": self._count,
                "head": self._prev,
                "public_key": b64(raw_public(key.public_key())),
                "sealed_at": rfc3339(self._clock.now()),
            },
            key,
        )

    def _append(self, body: dict[str, Any], key: Ed25519PrivateKey | None = None) -> dict[str, Any]:
        if self.lines and self.lines[-1]["kind"] == "seal":
            raise EvidenceError(f"'{self._path}' is sealed: nothing can be appended")
        line: dict[str, Any] = canonical.as_read(
            {"format": FORMAT, "prev": self._prev, **body, **asdict(self._provenance)}
        )
        if key is not None:
            line["signature"] = b64(key.sign(seal_bytes(line)))
        line["hash"] = line_hash(line)
        self._stream.write(canonical.json_bytes(line) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._prev = line["hash"]
        self._count += 1
        self.lines.append(line)
        return line


def _failure(exc: Exception) -> Observation:
    """Say why a drill could not tell, without a value of the data or a credential: the line is signed and published."""
    redact = Redactor().redact
    facts = {"error": type(exc).__name__}
    # The ground knows no driver: an error of psycopg is told by what it has.
    primary = getattr(getattr(exc, "diag", None), "message_primary", None)
    if isinstance(exc, DbsecError):
        said = _DETAIL.sub("", exc.message)
        facts["hint"] = redact(exc.hint)
    elif primary:
        facts["sqlstate"] = str(getattr(exc, "sqlstate", ""))
        said = f"{facts['error']} {facts['sqlstate']}: {primary}"
    else:
        said = f"{facts['error']}: {reason(exc)}"
    return Observation(Outcome.ERROR, redact(said), facts)
