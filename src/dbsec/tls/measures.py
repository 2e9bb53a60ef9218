"""What is watched of encryption in transit: days to the next end, sessions by protection, contradictions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from dbsec.metrics import Sample
from dbsec.tls.status import Status, clear_paths

_DAY_S = 86400.0


def samples(seen: Status, findings: int, *, now: datetime) -> list[Sample]:
    """Measure a status; names end in their unit."""
    return list(_samples(seen, findings, now))


def _samples(seen: Status, findings: int, now: datetime) -> Iterator[Sample]:
    for place, one in enumerate(seen.wire.chain):
        days = (one.not_after - now).total_seconds() / _DAY_S
        labels = {"subject": one.subject, "place": "leaf" if place == 0 else "chain"}
        yield Sample("dbsec_tls_certificate_days", days, "Days until a served certificate ends.", labels)
    if (until := seen.configured.crl_next_update) is not None:
        days = (until - now).total_seconds() / _DAY_S
        yield Sample("dbsec_tls_crl_days", days, "Days until the revocation list's nextUpdate.")
    for name in sorted({"in clear", *seen.protections()}):
        count = seen.protections().get(name, 0)
        yield Sample("dbsec_tls_sessions", count, "Network sessions by protection.", {"protection": name})
    paths = len(list(clear_paths(seen.configured.rules)))
    yield Sample("dbsec_tls_clear_paths", paths, "Lines of pg_hba.conf that let a login in clear begin.")
    yield Sample("dbsec_tls_findings", findings, "Contradictions and dates that near.")
