"""The end of a month of backups: its KEK is destroyed, and that nothing of it opens any more is proven.

Objects under a compliance lock stay where they are, as ciphertext without a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from dbsec.backup.errors import KeyUnavailable, StillNeeded
from dbsec.backup.key_notes import BEGUN, DONE, SHREDS, put_note, shred_stem, shredding
from dbsec.backup.key_records import KeyRecord
from dbsec.backup.repository import Repository
from dbsec.backup.shred_plan import GONE, Plan, plan
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import DbsecError, UsageError
from dbsec.evidence import Outcome
from dbsec.kms import KmsAdmin, KmsRefused
from dbsec.progress import Progress, Silent

_PERIOD: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
AdminOf = Callable[[str, str], KmsAdmin]  # role, period -> the administrator of that KEK
_LEFT: Final = (
    "processes that have opened a key of the month keep it until they end: restart what fetches and restores",
    "copies of the KEK outside of the KMS (exports, backups of the KMS itself) open the month still: end them",
    "what was restored from the month's backups is in clear where it was restored",
)


@dataclass(slots=True)
class Shredded:
    """What was done. ``at``: when the KEKs are gone; ``open``: keys of the month that still open; ``unknown``: that
    could not be tried; ``left``: what this does not reach."""

    period: str
    keks: list[str]
    epochs: int
    objects: int
    at: datetime
    open: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.open:
            return Outcome.FAIL
        return Outcome.ERROR if self.unknown else Outcome.PASS


def check_period(period: str, now: datetime) -> None:
    """Refuse what is no month that is over: the present one still seals. Errors: ``UsageError``."""
    if not _PERIOD.fullmatch(period):
        raise UsageError(f"'{period[:20]}' is no month", hint="write it as 2026-11")
    if period >= f"{now:%Y-%m}":
        raise UsageError(f"'{period}' is not over: its KEK still seals", hint="shred it next month")


def refuse(found: Plan, *, break_chains: bool, others_gone: bool = False) -> None:
    """Refuse a plan that would shred other months, nothing at all, or what is needed.

    ``others_gone``: the KEKs of older wraps are destroyed already, which nobody here can tell.

    Errors: ``UsageError``; ``StillNeeded``.
    """
    if found.shared:
        hint = "[backup] kms and escrow with '{tenant}' in them, for the months to come"
        raise UsageError(f"month '{found.period}' cannot be shredded: {'; '.join(found.shared)}", hint=hint)
    if not found.epochs:
        raise UsageError(f"no epoch of '{found.period}' is here", hint="dbsec backup keys")
    if found.others and not others_gone:
        why = f"older wraps name {', '.join(map(repr, found.others))}: nothing is shredded while these live"
        raise UsageError(f"month '{found.period}': {why}", hint="destroy them at their KMS, then --other-keks-are-gone")
    if found.needed and not break_chains:
        hint = "dbsec backup expire first; or --break-chains, and they are lost"
        raise StillNeeded(f"month '{found.period}' is needed: {'; '.join(found.needed)}", hint=hint)


def shred(
    repository: Repository,
    period: str,
    admin_of: AdminOf,
    *,
    break_chains: bool = False,
    kek_is_gone: bool = False,
    others_gone: bool = False,
    progress: Progress | None = None,
    clock: Clock = SYSTEM,
) -> Shredded:
    """Destroy the KEKs of a month, of the escrow too, and try every key of it afterwards. Not to be undone.

    Killed at any point, the same call does the rest. ``kek_is_gone``: somebody destroyed a KEK before, and the KMS,
    which does not tell absent from forbidden, is believed. Errors: those of ``refuse``; ``KmsError``; of the store.
    """
    progress = progress or Silent()
    check_period(period, clock.now())
    begun = shredding(repository.store, period, BEGUN)
    found = plan(repository, period, progress=progress)
    refuse(found, break_chains=break_chains or begun, others_gone=others_gone or begun)
    names = [told.kek for told in found.keks.values() if told is not None]
    done = Shredded(period, names, len(found.epochs), found.objects, clock.now())
    if not begun:
        _note(repository, done, BEGUN, clock)
    for role, told in found.keks.items():
        progress.step(f"destroying the KEK of '{period}' ({role})")
        if told is not None and told.state in GONE:
            continue
        try:
            ended = admin_of(role, period).destroy()
        except KmsRefused:
            if told is None and (begun or kek_is_gone):
                continue
            raise
        done.at = max(done.at, ended.at)
        done.left.append(f"{role}: {ended.note}")
    _try_all(repository, found, done)
    done.left += [f"older wraps name '{kek}', of which you said that it is gone" for kek in found.others]
    if done.at > clock.now():
        done.left.append(f"until {rfc3339(done.at)} the administrator of the KMS can take it back")
    done.left += _LEFT
    if done.outcome is Outcome.PASS:
        done.note = _note(repository, done, DONE, clock)
    return done


def _try_all(repository: Repository, found: Plan, done: Shredded) -> None:
    """Ask KMS and escrow for every key of the month, with nothing in memory from before."""
    keys = repository.keys.under(kms=repository.keys.kms, escrow=repository.keys.escrow)
    records = [one for one in keys.records().values() if isinstance(one, KeyRecord) and one.name in found.epochs]
    for name, key in keys.open_many(records).items():
        if not isinstance(key, DbsecError):
            done.open.append(name)
        elif isinstance(key, KeyUnavailable) and not key.refused:
            done.unknown.append(f"{name}: {key}")


def _note(repository: Repository, done: Shredded, step: str, clock: Clock) -> str:
    told = {"what": "shred", "step": step, "period": done.period, "keks": done.keks, "epochs": done.epochs}
    told |= {"objects": done.objects, "gone_at": rfc3339(done.at)}
    return put_note(repository, SHREDS, clock.now(), told, stem=shred_stem(done.period, step))
