"""Controls, the drills that attack them, and the signed chain of what happened.

A line is canonical JSON ended by a newline; ``hash`` is SHA-256 over the line without ``hash``; ``prev`` is the hash of
the line before, 64 zeros in the first. The last line (``"kind": "seal"``) carries the count of lines before it, the
head hash and an Ed25519 signature over all else that it says, whose key lies outside the report.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dbsec import __version__, canonical, files
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import DbsecError, EvidenceError, EvidenceTampered, NewerFormat

FORMAT = 1
FIRST_PREV = "0" * 64
_SEAL_DOMAIN = b"dbsec evidence seal v1"


class Outcome(StrEnum):
    """The verdict on a control, never on the attack: a successful attack is FAIL."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    SKIP = "skip"


class Phase(StrEnum):
    """When a line was written: of the system as found, before the control, after it, or during the whole chapter."""

    BASELINE = "baseline"
    BEFORE = "before"
    AFTER = "after"
    DURING = "during"


@dataclass(frozen=True, slots=True)
class Control:
    """What must hold. ``risk`` is what happens where it does not; ``refs`` name OWASP, CIS or NIST items."""

    id: str
    title: str
    risk: str
    refs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a drill saw: the verdict, one sentence, and the facts that prove it (JSON values, no secret).

    ``exhibits`` are what the report shows beside it; shapes in ``dbsec.report.exhibits``.
    """

    outcome: Outcome
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    exhibits: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Drill:
    """One attack or rehearsal on one control. ``attack`` returns what it saw; what it raises becomes ERROR."""

    control: Control
    name: str
    attack: Callable[[], Observation]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who ran this, where, with which dbsec, against what, under which configuration and ticket."""

    actor: str
    host: str
    dbsec: str = __version__
    revision: str = ""
    config_digest: str = ""
    ticket: str = ""
    target: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def here(cls, *, revision: str = "", config: object = None, ticket: str = "") -> Provenance:
        """Describe this process; ``config`` is digested, never stored."""
        digest = hashlib.sha256(canonical.json_bytes(config)).hexdigest() if config is not None else ""
        return cls(_actor(), socket.gethostname(), __version__, revision, digest, ticket)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.geteuid()}"


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Fold outcomes: FAIL beats ERROR beats PASS; SKIP where nothing else is there."""
    seen = set(outcomes)
    for outcome in (Outcome.FAIL, Outcome.ERROR, Outcome.PASS):
        if outcome in seen:
            return outcome
    return Outcome.SKIP


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
        self._provenance = Provenance(**{**_fields(self._provenance), "target": dict(target)})

    def chapter(self, name: str, *, title: str, summary: str) -> None:
        """Open a chapter: the report shows the lines of one name together, in the order of these lines."""
        self._append({"kind": "chapter", "chapter": name, "title": title, "summary": summary})

    def run(self, drill: Drill, *, chapter: str, phase: Phase) -> dict[str, Any]:
        """Run one drill, record what it saw and return the line. An exception is an ERROR with its reason."""
        began = self._clock.now()
        start = self._clock.monotonic()
        try:
            seen = drill.attack()
            _as_read([dict(seen.facts), list(seen.exhibits)])
        except DbsecError as exc:
            seen = Observation(Outcome.ERROR, exc.message, {"error": type(exc).__name__, "hint": exc.hint})
        except Exception as exc:  # noqa: BLE001 an attack may fail in any way, and each is "could not tell"
            seen = Observation(Outcome.ERROR, f"{type(exc).__name__}: {exc}", {"error": type(exc).__name__})
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
                "public_key": _b64(_raw_public(key.public_key())),
                "sealed_at": rfc3339(self._clock.now()),
            },
            key,
        )

    def _append(self, body: dict[str, Any], key: Ed25519PrivateKey | None = None) -> dict[str, Any]:
        if self.lines and self.lines[-1]["kind"] == "seal":
            raise EvidenceError(f"'{self._path}' is sealed: nothing can be appended")
        line: dict[str, Any] = _as_read({"format": FORMAT, "prev": self._prev, **body, **_fields(self._provenance)})
        if key is not None:
            line["signature"] = _b64(key.sign(_seal_bytes(line)))
        line["hash"] = _line_hash(line)
        self._stream.write(canonical.json_bytes(line) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._prev = line["hash"]
        self._count += 1
        self.lines.append(line)
        return line


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found: how many lines, the head, and whether the signature was checked with a known key."""

    count: int
    head: str
    signed_by: str | None

    @property
    def summary(self) -> str:
        if self.signed_by is None:
            return f"consistent, unsigned: {self.count} lines, no public key was given"
        return f"authentic: {self.count} lines signed by Ed25519 key {self.signed_by[:12]}"


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of an evidence file as they stand, without verifying.

    Errors: ``EvidenceError`` for a file that cannot be read, ``EvidenceTampered`` for a line that is not a JSON object,
    ``NewerFormat``.
    """
    for _, line in _parsed(path):
        yield line


def _parsed(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    try:
        with path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                yield text, _parse(path, text, number)
    except OSError as exc:
        raise EvidenceError(f"cannot read '{path}': {exc.strerror}", hint="dbsec demo") from exc


def _parse(path: Path, text: bytes, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise EvidenceTampered(f"'{path}' is not JSON", line=number) from exc
    if not isinstance(line, dict):
        raise EvidenceTampered(f"'{path}' is not an object", line=number)
    if isinstance(line.get("format"), int) and line["format"] > FORMAT:
        raise NewerFormat(f"'{path}'", found=line["format"], known=FORMAT)
    return line


def verify(path: Path, public_key: Ed25519PublicKey | None = None) -> Verification:
    """Check chain, count and, with a key, the signature.

    Errors: ``EvidenceTampered`` for a line changed, dropped, reordered or cut, or another key; ``EvidenceError``.
    """
    prev, line, number, sealed = FIRST_PREV, dict[str, Any](), 0, False
    for number, (text, line) in enumerate(_parsed(path), 1):
        _verify_link(text, line, prev, number)
        if sealed:
            raise EvidenceTampered("something follows the seal", line=number)
        prev, sealed = str(line["hash"]), line.get("kind") == "seal"
    if not sealed:
        raise EvidenceTampered("the seal is missing: the end was cut, or the run did not finish", line=number + 1)
    return _verify_seal(line, number, public_key)


def _verify_link(text: bytes, line: Mapping[str, Any], prev: str, number: int) -> None:
    if line.get("prev") != prev:
        raise EvidenceTampered("does not follow the line before it: one was dropped, added or moved", line=number)
    # Other bytes of the same values (a key twice, 1e0 for 1.0, no newline) would show one thing and hash another.
    if text != _canonical_or_empty(line) + b"\n":
        raise EvidenceTampered("was changed: it is not canonical JSON and a newline", line=number)
    if line.get("hash") != _line_hash(line):
        raise EvidenceTampered("was changed: its hash is another", line=number)


def _verify_seal(seal: Mapping[str, Any], number: int, public_key: Ed25519PublicKey | None) -> Verification:
    count, head = number - 1, str(seal["prev"])
    if seal.get("count") != count or seal.get("head") != head:
        raise EvidenceTampered("the seal counts other lines than there are", line=number)
    if public_key is None:
        return Verification(count, head, None)
    raw = _raw_public(public_key)
    try:
        public_key.verify(base64.b64decode(str(seal.get("signature", ""))), _seal_bytes(seal))
    except (InvalidSignature, ValueError) as exc:
        raise EvidenceTampered("the signature is not of this public key", line=number) from exc
    return Verification(count, head, raw.hex())


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """Load the key that seals evidence, or make one: ``evidence.key`` (0600, PKCS #8) and ``evidence.pub`` beside it.

    Keep the folder outside every report; give ``evidence.pub`` to whoever verifies.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "evidence.key"
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, TypeError, ValueError) as exc:
            raise EvidenceError(f"cannot read signing key '{path}'", hint=f"mv {path} {path}.old") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise EvidenceError(f"'{path}' is not an Ed25519 key", hint=f"mv {path} {path}.old")
        return key
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.write_atomic(path, private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    files.write_atomic(folder / "evidence.pub", public, mode=0o644)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a PEM public key. Errors: ``EvidenceError`` for another file."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise EvidenceError(f"cannot read public key '{path}'") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceError(f"'{path}' is not an Ed25519 public key")
    return key


def _fields(provenance: Provenance) -> dict[str, Any]:
    return asdict(provenance)


def _line_hash(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical.json_bytes({k: v for k, v in line.items() if k != "hash"})).hexdigest()


def _as_read(value: Any) -> Any:
    """Return a value as a reader of its JSON gets it (keys are strings), so that both see one order of keys."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    canonical.json_bytes(plain)
    return plain


def _canonical_or_empty(line: Mapping[str, Any]) -> bytes:
    try:
        return canonical.json_bytes(line)
    except ValueError:  # NaN or half a surrogate pair: JSON to Python, but never written here
        return b""


def _seal_bytes(seal: Mapping[str, Any]) -> bytes:
    signed = {k: v for k, v in seal.items() if k not in ("signature", "hash")}
    return canonical.length_prefixed((_SEAL_DOMAIN, canonical.json_bytes(signed)))


def _raw_public(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
