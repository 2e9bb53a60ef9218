"""``dbsec at-rest check``: every place judged, and what follows from it as findings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dbsec.backup.at_rest import places
from dbsec.backup.at_rest.cluster import ClusterHere
from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.places import Place
from dbsec.backup.at_rest.verdict import Verdict
from dbsec.findings import Finding, Severity

_REFS = ("NIST SP 800-53 SC-28(1)", "OWASP A02:2021")
NOT_PROTECTED = (
    "encryption at rest hides rows from whoever has the disk, not from root, a login, or a copy of the running machine"
)


@dataclass(frozen=True, slots=True)
class Checked:
    """The places of a cluster, and what is wrong with them."""

    data: str
    places: tuple[Place, ...]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the worst of all places."""
        seen = {place.seen.verdict for place in self.places}
        worst = (Verdict.CLEAR, Verdict.UNKNOWN, Verdict.ENCRYPTED)
        if any(one.severity is Severity.ERROR for one in self.findings):
            return Verdict.CLEAR
        return next((one for one in worst if one in seen), Verdict.MEMORY)

    def to_json(self) -> dict[str, Any]:
        """Shape: data, verdict, places (name, path, verdict, how, source, check, leak), does_not_protect."""
        told = [
            {
                "name": one.name,
                "path": one.path,
                "verdict": str(one.seen.verdict),
                "how": one.seen.how,
                "source": one.seen.source,
                "check": one.seen.check,
                "leak": one.leak,
            }
            for one in self.places
        ]
        return {"data": self.data, "verdict": str(self.verdict), "places": told, "does_not_protect": NOT_PROTECTED}


def check(cluster: ClusterHere, machine: Machine | None = None) -> Checked:
    """Look at all places of a cluster; reads only. Source: PostgreSQL, Encryption Options (Data Partition)."""
    eyes = machine or Machine()
    if cluster.server is not None and machine is None:
        eyes = replace(eyes, pid=cluster.server.pid)
    seen = (*places.data_places(cluster, eyes), *places.leaks(cluster, eyes))
    found = [one for place in seen for one in _judged(place)]
    return Checked(str(cluster.data), seen, (*found, *_more(cluster, eyes)))


def _judged(place: Place) -> list[Finding]:
    where = f"{place.name} '{place.path}'" if place.path else place.name
    if place.seen.verdict is Verdict.CLEAR:
        code, name = ("BAK202", "keep-leaks-encrypted") if place.leak else ("BAK201", "keep-data-encrypted")
        message = f"{where} is not encrypted: {place.seen.how}"
        fix = place.seen.check or "docs/at_rest_runbooks.md"
        return [Finding(code, name, Severity.ERROR, place.path or place.name, message, fix, _REFS)]
    if place.seen.verdict is Verdict.UNKNOWN:
        message = f"{where}: whether it is encrypted cannot be told: {place.seen.how}"
        fix = place.seen.check
        return [
            Finding("BAK203", "see-what-it-lies-on", Severity.WARNING, place.path or place.name, message, fix, _REFS)
        ]
    return []


def _more(cluster: ClusterHere, machine: Machine) -> list[Finding]:
    """What an encrypted disk does not mend: a folder that a group may read, texts of statements kept in it."""
    found = []
    try:
        mode = machine.reach(cluster.data).stat().st_mode & 0o777
    except OSError:
        mode = 0o700
    if mode & 0o077:
        message = f"the data directory has mode {mode:04o}: its group reads every row while the server runs"
        fix = f"chmod 700 {cluster.data}, unless a backup tool reads as that group"
        found.append(Finding("BAK204", "close-data-to-the-group", Severity.WARNING, str(cluster.data), message, fix))
    if "pg_stat_statements" in cluster.setting("shared_preload_libraries"):
        message = "pg_stat_statements keeps texts of statements; a utility's (CREATE ROLE … PASSWORD) with its literals"
        fix = "ALTER SYSTEM SET pg_stat_statements.track_utility = off, or save = off"
        found.append(
            Finding("BAK205", "keep-literals-out-of-statistics", Severity.WARNING, "pg_stat_statements", message, fix)
        )
    return found
