"""Controls, the drills that attack them, and the signed chain of what happened.

A line is canonical JSON ended by a newline; ``hash`` is SHA-256 over the line without ``hash``; ``prev`` is the hash of
the line before, 64 zeros in the first. The last line (``"kind": "seal"``) carries the count of lines before it, the
head hash and an Ed25519 signature over all else that it says, whose key lies outside the report.
"""

from dbsec.evidence.keys import load_public_key, signing_key
from dbsec.evidence.line import FORMAT
from dbsec.evidence.model import Control, Drill, Observation, Outcome, Phase, Provenance, worst
from dbsec.evidence.recorder import Recorder
from dbsec.evidence.verification import Verification, read, verify

__all__ = [
    "FORMAT",
    "Control",
    "Drill",
    "Observation",
    "Outcome",
    "Phase",
    "Provenance",
    "Recorder",
    "Verification",
    "load_public_key",
    "read",
    "signing_key",
    "verify",
    "worst",
]
