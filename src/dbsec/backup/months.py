"""The KEKs of the months to come: where a KEK is one for each month, somebody must have made the next one in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from dbsec.backup.key_records import ALWAYS
from dbsec.kms import Description, KekState, Kms, KmsAdmin, KmsRefused


def periods(now: datetime, ahead: int) -> list[str]:
    """Return what a repository needs a KEK for: "all", this month and some that follow."""
    first = now.year * 12 + now.month - 1
    return [ALWAYS, *(f"{month // 12:04d}-{month % 12 + 1:02d}" for month in range(first, first + ahead + 1))]


def lacking(kms: Kms, wanted: Iterable[str]) -> list[str]:
    """Return the periods whose KEK is not there or does not wrap. Errors: ``KmsUnavailable``."""
    found = []
    for period in wanted:
        try:
            if kms.describe({"tenant": period}).state is not KekState.ENABLED:
                found.append(period)
        except KmsRefused:
            found.append(period)
    return found


def create(admin_of: Callable[[str], KmsAdmin], wanted: Iterable[str]) -> list[Description]:
    """Make the KEKs of periods. Errors: ``KmsRefused`` for one that is there, and destroyed or disabled."""
    return [admin_of(period).create() for period in wanted]
