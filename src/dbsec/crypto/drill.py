"""The attacks on field encryption: each must succeed while the data lies in clear, and come to nothing after."""

from __future__ import annotations

from dbsec.crypto import attacks, theft
from dbsec.crypto.attacked import Answer, CryptoTarget, People
from dbsec.crypto.attacks import still_found
from dbsec.evidence import Control, Drill

__all__ = ["FOUND", "Answer", "CryptoTarget", "People", "drills", "still_found"]

_AT_REST = ("OWASP A02:2021", "NIST SP 800-53 SC-28(1)")

READ = Control(
    "ENC-READ",
    "Who reads the table reads no phone and no e-mail address",
    "one injected SELECT, one curious administrator, one copy of the table gives everybody's away",
    (*_AT_REST, "CWE-312"),
)
STOLEN = Control(
    "ENC-STOLEN",
    "A stolen copy of the database opens nothing without the KMS",
    "a backup, a disk or a replica is lost, and keys lie in it beside what they open",
    (*_AT_REST, "NIST SP 800-57 5.3", "CWE-321"),
)
ALTERED = Control(
    "ENC-ALTERED",
    "A value that was altered in the database is refused, not shown",
    "whoever can write the table decides whose phone gets the password reset",
    ("OWASP A08:2021", "NIST SP 800-38D", "NIST SP 800-53 SI-7", "CWE-353"),
)
MOVED = Control(
    "ENC-MOVED",
    "A value is good in its own row, column and tenant only",
    "encryption that binds nothing lets a thief copy an unreadable value to where the service reads it to him",
    ("OWASP A08:2021", "NIST SP 800-53 SI-7", "CWE-345"),
)
PLAINTEXT = Control(
    "ENC-PLAINTEXT-WRITE",
    "No plaintext gets into an encrypted column",
    "one script or one old release writes in clear, and nobody notices",
    (*_AT_REST, "NIST SP 800-53 SI-10"),
)
FOUND = Control(
    "ENC-FOUND",
    "A user is still found by phone and by e-mail address",
    "encryption that breaks the look-up is switched off again",
    ("NIST SP 800-53 CM-4",),
)


def drills(target: CryptoTarget) -> tuple[Drill, ...]:
    """Return every drill of this pillar; each works on users that it makes, and deletes them."""
    return (
        Drill(READ, "read the table with a stolen login", lambda: attacks.stolen_select(target)),
        Drill(STOLEN, "open stolen rows at home", lambda: theft.table_alone(target)),
        Drill(STOLEN, "open stolen rows with the stolen keyring", lambda: theft.table_and_keyring(target)),
        Drill(STOLEN, "open rows with altered wrapped keys", lambda: theft.altered_keyring(target)),
        *(_altered(target, part) for part in attacks.PARTS),
        Drill(MOVED, "phone into another row", lambda: attacks.moved(target, target.phone, to_other_tenant=False)),
        Drill(MOVED, "phone to another tenant", lambda: attacks.moved(target, target.phone, to_other_tenant=True)),
        Drill(MOVED, "e-mail to another tenant", lambda: attacks.moved(target, target.email, to_other_tenant=True)),
        Drill(MOVED, "lead the look-up of a phone to somebody else", lambda: attacks.redirected(target)),
        Drill(PLAINTEXT, "write a phone in clear with psql", lambda: attacks.plaintext_by_hand(target)),
    )


def _altered(target: CryptoTarget, part: str) -> Drill:
    return Drill(ALTERED, f"flip one bit of the {part}", lambda: attacks.altered(target, part))
