"""A new KEK for a repository: every key is wrapped anew, and no object of data is touched.

Pages of new wraps are added until no key lacks one; what is there already is skipped, so that a run that was broken off
is simply run again.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dbsec.backup.asking import Item, rewrap_all, unwrap_all, wrap_all
from dbsec.backup.key_notes import REKEYS, put_note, shredded
from dbsec.backup.key_opening import opened_only
from dbsec.backup.key_records import ESCROW, PRIMARY, KeyRecord, Wrap, wrap_aad
from dbsec.backup.keys import BackupKeys
from dbsec.backup.repository import Repository
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import DbsecError
from dbsec.kms import Description, Kms, KmsError, KmsRefused, KmsUnavailable
from dbsec.progress import Progress, Silent

PAGE: Final = 1000


class Targets:
    """Who holds the keys from now on: a KMS, and its escrow where there is one."""

    def __init__(self, kms: Kms, escrow: Kms | None = None) -> None:
        self.kms = kms
        self.escrow = escrow
        self.holders: dict[str, Kms] = {PRIMARY: kms} | ({ESCROW: escrow} if escrow is not None else {})
        self._told: dict[tuple[str, str], Description] = {}

    def told(self, role: str, record: KeyRecord) -> Description:
        """Return what a KMS says of its KEK for a key's period; asked once. Errors: ``KmsError``."""
        at = (role, record.period)
        if at not in self._told:
            self._told[at] = self.holders[role].describe(wrap_aad(record.name, record.system))
        return self._told[at]

    @property
    def keks(self) -> list[str]:
        """Name those that were asked."""
        return sorted({f"{role} {told.kek} version {told.version}" for (role, _), told in self._told.items()})


@dataclass(frozen=True, slots=True)
class Stale:
    """A key, and the holders that have no newest wrap of it."""

    record: KeyRecord
    roles: tuple[str, ...]


@dataclass(slots=True)
class Survey:
    """What a rekey finds. ``bad``: keys that cannot be read or tried, with the reason."""

    keys: int = 0
    kept: int = 0
    for_recipient: int = 0
    shredded: int = 0
    stale: list[Stale] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Rekeyed:
    """What a rekey has done; ``failed`` are keys that stay as they were, with the reason."""

    rewrapped: int
    kept: int
    for_recipient: int
    shredded: int
    keks: list[str]
    failed: list[tuple[str, str]]
    note: str = ""


def survey(keys: BackupKeys, targets: Targets, *, progress: Progress | None = None) -> Survey:
    """Find the keys that ``targets`` do not hold under their newest version; nothing is written.

    A wrap's word for it is not enough, for two KMS may call their KEKs by one name: each is opened.
    Errors: ``KmsError`` where a KEK is not there or not reached; those of the store.
    """
    (progress or Silent()).step("reading the keys")
    keys.rewraps.refresh()
    gone, found = shredded(keys.store), Survey()
    found.bad += [(name, str(exc)) for name, exc in keys.rewraps.trouble.items()]
    ours: list[KeyRecord] = []
    for name, record in keys.records().items():
        found.keys += 1
        if isinstance(record, DbsecError):
            found.bad.append((name, str(record)))
        elif record.period in gone:
            found.shredded += 1
        elif record.wraps and all(wrap.of_recipient for wrap in record.wraps):
            found.for_recipient += 1
        else:
            ours.append(record)
    for record, lacking in _lacking(ours, targets).items():
        if lacking:
            found.stale.append(Stale(record, lacking))
        else:
            found.kept += 1
    return found


def rekey(
    repository: Repository, targets: Targets, *, progress: Progress | None = None, clock: Clock = SYSTEM
) -> Rekeyed:
    """Wrap every key for ``targets``, those of the recipients too; the keys of ``repository`` open what is there.

    Each new wrap is unwrapped and compared before it is put. Killed or without a KMS at any point, another run does
    the rest. Errors: ``KmsUnavailable``; those of ``survey`` and of the store.
    """
    progress = progress or Silent()
    keys = repository.keys
    found = survey(keys, targets, progress=progress)
    run, done, failed = keys.rewraps.new_run(clock.now()), 0, list(found.bad)
    for number, at in enumerate(range(0, len(found.stale), PAGE)):
        wraps, trouble = _rewrapped(keys, targets, found.stale[at : at + PAGE])
        if wraps:
            keys.rewraps.put(run, number, wraps)
        done += len(wraps)
        progress.count("keys rewrapped", done, len(found.stale))
        if (away := next((exc for exc in trouble.values() if isinstance(exc, KmsUnavailable)), None)) is not None:
            hint = "the same command goes on where this one stopped"
            raise KmsUnavailable(f"{done:,} of {len(found.stale):,} keys are rewrapped: {away}", hint=hint) from away
        failed += [(name, str(exc)) for name, exc in trouble.items()]
    result = Rekeyed(done, found.kept, found.for_recipient, found.shredded, targets.keks, failed)
    told: dict[str, object] = {"what": "rekey", "run": run, "rewrapped": done, "kept": found.kept}
    told |= {"failed": failed[:1000], "keks": result.keks}
    result.note = put_note(repository_under(repository, targets), REKEYS, clock.now(), told)
    return result


def repository_under(repository: Repository, targets: Targets) -> Repository:
    """Open the same repository by its new holders alone. Errors: those of ``BackupKeys.opened``."""
    keys = repository.keys.under(kms=targets.kms, escrow=targets.escrow)
    return Repository(repository.store, repository.system, keys, keys.content())


def _lacking(records: Sequence[KeyRecord], targets: Targets) -> dict[KeyRecord, tuple[str, ...]]:
    """Tell which holders have no newest wrap of each key: by what the wrap says, and by opening it."""
    lacking: dict[KeyRecord, list[str]] = {record: [] for record in records}
    for role, kms in targets.holders.items():
        claimed: dict[KeyRecord, Wrap] = {}
        for record in records:
            if (wrap := _newest(record, role, targets.told(role, record))) is not None:
                claimed[record] = wrap
            else:
                lacking[record].append(role)
        answers = unwrap_all(kms, [_item(record, wrap.wrapped) for record, wrap in claimed.items()])
        for record, answer in zip(claimed, answers, strict=True):
            if isinstance(answer, KmsUnavailable):
                raise answer
            if isinstance(answer, KmsError):
                lacking[record].append(role)
    return {record: tuple(roles) for record, roles in lacking.items()}


def _newest(record: KeyRecord, role: str, told: Description) -> Wrap | None:
    return next((w for w in record.wraps if (w.holder, w.kek, w.version) == (role, told.kek, told.version)), None)


def _rewrapped(
    keys: BackupKeys, targets: Targets, page: Iterable[Stale]
) -> tuple[dict[str, list[Wrap]], dict[str, DbsecError]]:
    """Make new wraps of some keys; returns them by name, and what went wrong instead."""
    stale = {one.record.name: one for one in page}
    opened = keys.open_many(one.record for one in stale.values())
    if shut := [stale[name].record for name, key in opened.items() if isinstance(key, DbsecError)]:
        # what was begun under the new KEK, and lacks an escrow
        opened |= opened_only(keys.under(kms=targets.kms, escrow=targets.escrow).open_many(shut))
    trouble: dict[str, DbsecError] = {
        name: KmsUnavailable(str(exc)) if getattr(exc, "refused", None) is False else exc
        for name, exc in opened.items()
        if isinstance(exc, DbsecError)
    }
    made: dict[str, dict[str, Wrap]] = {name: {} for name in opened_only(opened)}
    for role in targets.holders:
        wanted = {name: key for name, key in opened_only(opened).items() if role in stale[name].roles}
        for name, wrapped in _wrapped(targets, role, stale, wanted).items():
            if isinstance(wrapped, KmsError):
                trouble[name] = wrapped
            else:
                told = targets.told(role, stale[name].record)
                made[name][role] = Wrap(role, told.kek, told.version, wrapped)
    done = {name: _joined(stale[name].record, new) for name, new in made.items() if name not in trouble}
    return done, trouble


def _joined(record: KeyRecord, new: Mapping[str, Wrap]) -> list[Wrap]:
    """Return the newest wraps of a key: the new ones, and those of other holders that stay."""
    stay = [wrap for wrap in record.wraps if wrap.holder not in new and not wrap.of_recipient]
    return [*new.values(), *stay]


def _wrapped(
    targets: Targets, role: str, stale: Mapping[str, Stale], keys: Mapping[str, bytes]
) -> dict[str, bytes | KmsError]:
    """Wrap keys for one holder and prove each: an older version is rewrapped within the KMS, where it takes it."""
    kms, done = targets.holders[role], dict[str, bytes | KmsError]()
    older = {name: wrap for name in keys if (wrap := _same_kek(targets, role, stale[name].record)) is not None}
    items = [_item(stale[name].record, wrap.wrapped) for name, wrap in older.items()]
    for name, answer in zip(older, rewrap_all(kms, items), strict=True):
        if not isinstance(answer, KmsRefused):  # a wrap that names this KEK and is not of it
            done[name] = answer
    new = [name for name in keys if name not in done]
    made = wrap_all(kms, [_item(stale[name].record, keys[name]) for name in new])
    done |= dict(zip(new, made, strict=True))
    proven = {name: wrapped for name, wrapped in done.items() if isinstance(wrapped, bytes)}
    back = unwrap_all(kms, [_item(stale[name].record, wrapped) for name, wrapped in proven.items()])
    for name, key in zip(proven, back, strict=True):
        if isinstance(key, KmsError):
            done[name] = key
        elif not hmac.compare_digest(bytes(key), keys[name]):
            done[name] = KmsRefused(f"the KMS gave another key back for '{name}'")
    return done


def _same_kek(targets: Targets, role: str, record: KeyRecord) -> Wrap | None:
    told = targets.told(role, record)
    return next((wrap for wrap in record.wraps if (wrap.holder, wrap.kek) == (role, told.kek)), None)


def _item(record: KeyRecord, raw: bytes) -> Item:
    return raw, wrap_aad(record.name, record.system)
