"""The end of a tenant's data: its KEK is destroyed, and what that leaves is proven and told."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg

from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.life import proof, rows
from dbsec.crypto.life.proof import Proof
from dbsec.crypto.opening import Connect, keyring_connect, open_envelope, opened_kms
from dbsec.crypto.settings import CryptoSettings
from dbsec.crypto.store import KeyRow
from dbsec.errors import ApplyError, ConfigError, DbsecError, UsageError, reason
from dbsec.evidence import Outcome
from dbsec.journal import Journal, Observer, PostgresStore
from dbsec.kms import Description, KekState, Kms, KmsAdmin, KmsRefused, KmsUnavailable
from dbsec.kms.uri import TENANT
from dbsec.progress import Progress, Silent

_GONE = (KekState.DESTROYED, KekState.PENDING_DESTRUCTION)
_ESCROW = "copies of the KEK outside of the KMS (exports, escrow, backups of the KMS itself) open it still: end them"
_INDEXES = "blind indexes and deterministic values show which rows were equal, and nothing else any more"
_IN_CLEAR = "what stood in clear before it was encrypted is in WAL and backups of that time: dbsec migrate residue"


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be shredded. ``kek`` is None where the KMS has none any more; ``values`` were tried, some each."""

    tenant: str
    kek: Description | None
    keys: tuple[KeyRow, ...]
    values: int
    open: int
    delay: timedelta = timedelta()


@dataclass(slots=True)
class Shredded:
    """What was done. ``others_until``: other processes may serve what they have cached; ``at``: the KEK is gone."""

    tenant: str
    kek: str
    keys: int
    at: datetime
    note: str
    others_until: datetime
    proofs: list[Proof] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """FAIL beats ERROR, which beats PASS."""
        found = {one.outcome for one in self.proofs}
        return next((one for one in (Outcome.FAIL, Outcome.ERROR) if one in found), Outcome.PASS)


@dataclass(slots=True)
class Shredder:
    """Shreds tenants of one database. ``connect`` opens the tables' database; it must see all rows."""

    settings: CryptoSettings
    connect: Connect
    environ: Mapping[str, str]
    clock: Clock = SYSTEM

    def plan(self, tenant: str) -> Planned:
        """Look at what there is. Errors: ``UsageError`` where other tenants would be shredded too, or none is there."""
        self.refuse_shared()
        kms = self._kms()
        with closing(self._keyring()) as keyring, closing(self.connect()) as session:
            self._refuse_same_kek(keyring, tenant)
            keys = proof.alive(keyring, tenant)
            found = proof.samples(session, self.settings.declared, tenant)
            if not keys and not found:
                raise UsageError(f"nothing of tenant '{tenant}' is here", hint="dbsec crypto keys --dsn ...")
            told = _describe(kms, tenant)
            opened = sum(one.opens(self._envelope(self.connect)) for one in found) if told else 0
        delay = told.destroy_delay if told else timedelta()
        return Planned(tenant, told, tuple(keys), len(found), opened, delay)

    def shred(
        self,
        tenant: str,
        admin: KmsAdmin,
        *,
        envelopes: tuple[Envelope, ...] = (),
        restored: Connect | None = None,
        kek_is_gone: bool = False,
        progress: Progress | None = None,
        observer: Observer | None = None,
    ) -> Shredded:
        """Destroy the tenant's KEK, empty its rows of the keyring, end the caches of ``envelopes``, and prove it.

        It may be killed at any step: the same call does the rest. ``restored`` opens a backup that was restored: its
        own keyring and values are tried too. ``kek_is_gone``: somebody destroyed it before, and the KMS, which does not
        tell absent from forbidden, is believed. Errors: ``UsageError`` of ``plan``; ``KmsError``; ``JournalError``.
        """
        progress = progress or Silent()
        with closing(self._keyring()) as holder:
            holder.autocommit = True
            with PostgresStore(holder, f"crypto shred {tenant}") as store:
                journal = Journal(store, clock=self.clock, observer=observer)
                seen = journal.run("look", lambda: self._seen(tenant))
                done = self._run(tenant, admin, journal, seen, kek_is_gone, progress)
                for envelope in envelopes:
                    envelope.keyring.forget()
                before = seen["open"] if seen["keys"] else None
                done.proofs += self.prove(tenant, self.connect, "live", before=before)
                if restored is not None:
                    done.proofs += self.prove(tenant, restored, "restored backup")
                store.forget()
        return done

    def prove(self, tenant: str, connect: Connect, where: str, *, before: int | None = None) -> list[Proof]:
        """Try what a database still gives of a tenant: its DEKs at the KMS, its values, and those of others."""
        try:
            return self._proofs(tenant, connect, where, before)
        except (DbsecError, psycopg.Error) as exc:
            return [Proof(f"{where}: what it gives of the tenant", Outcome.ERROR, reason(exc))]

    def _proofs(self, tenant: str, connect: Connect, where: str, before: int | None) -> list[Proof]:
        live = connect is self.connect
        with closing(connect()) as session, closing(self._keyring() if live else connect()) as keyring:
            mine = proof.samples(session, self.settings.declared, tenant)
            others = proof.samples(session, self.settings.declared, tenant, but=True)
            keys = proof.alive(keyring, tenant)
        envelope = self._envelope(connect, own_keyring=not live)
        return [
            proof.kms_refuses(self._kms(), keys, where),
            proof.values_refuse(envelope, mine, where, before=before),
            proof.others_open(envelope, others, where),
        ]

    def _run(
        self,
        tenant: str,
        admin: KmsAdmin,
        journal: Journal,
        seen: Mapping[str, Any],
        kek_is_gone: bool,
        progress: Progress,
    ) -> Shredded:
        progress.step(f"{seen['keys']} keys of '{tenant}' under {seen['kek'] or 'a KEK that is gone'}")
        ended = self._destroyed(tenant, admin, journal, seen, kek_is_gone)
        progress.step(f"the KEK of '{tenant}' is destroyed")
        # the bytes that stood there, before they go: else the proof would be of our own mark
        tried = journal.run("unwrap", lambda: _as_json(self._unwrapped(tenant)))
        with closing(self._keyring()) as keyring:
            keyring.autocommit = True
            journal.run("empty", lambda: rows.destroy(keyring, [row.id for row in proof.alive(keyring, tenant)]))
        at, until = datetime.fromisoformat(ended["at"]), self.clock.now() + self.settings.ttl
        done = Shredded(tenant, seen["kek"], seen["keys"], at, ended["note"], until)
        done.proofs.append(Proof(tried["name"], Outcome(tried["outcome"]), tried["reason"]))
        done.left = _left(done, self.clock.now())
        return done

    def _seen(self, tenant: str) -> dict[str, Any]:
        found = self.plan(tenant)
        kek = found.kek.kek if found.kek else ""
        return {"kek": kek, "keys": len(found.keys), "open": found.open}

    def _destroyed(
        self, tenant: str, admin: KmsAdmin, journal: Journal, seen: Mapping[str, Any], kek_is_gone: bool
    ) -> Any:
        with journal.step("destroy the KEK") as step:
            if not step.done:
                told = _describe(self._kms(), tenant)
                if told is not None and seen["kek"] and told.kek != seen["kek"]:
                    raise ApplyError(f"the KEK of '{tenant}' is '{told.kek}' now, it was '{seen['kek']}'")
                step.result = self._end_of(told, admin, believed=kek_is_gone or step.interrupted)
        return step.result

    def _end_of(self, told: Description | None, admin: KmsAdmin, *, believed: bool) -> dict[str, str]:
        """Destroy, or take it as destroyed: by what the KMS says, or where a run that was killed has begun to."""
        if told is not None and told.state in _GONE:
            return {"at": rfc3339(self.clock.now() + _delay(told)), "note": f"it was {told.state} already"}
        try:
            ended = admin.destroy()
        except KmsRefused as exc:
            if told is None and believed:
                return {"at": rfc3339(self.clock.now()), "note": f"it was gone already, as the KMS says: {exc}"}
            hint = "an administrator's credentials by --admin; where it is gone already: --kek-is-gone"
            raise KmsRefused(exc.message, hint=exc.hint or hint) from exc
        return {"at": rfc3339(ended.at), "note": ended.note}

    def _unwrapped(self, tenant: str) -> Proof:
        with closing(self._keyring()) as keyring:
            found = proof.kms_refuses(self._kms(), proof.alive(keyring, tenant), "live, before its rows were emptied")
        if found.outcome is Outcome.ERROR:
            raise KmsUnavailable(found.reason, hint="the same command goes on where this one stopped")
        return found

    def refuse_shared(self) -> None:
        """Errors: ``UsageError`` where the settings name one KEK for all tenants."""
        if TENANT not in self.settings.kms:
            raise UsageError(
                "the KEK is shared: to destroy it would shred every tenant",
                hint=f"a KEK for each tenant: [crypto] kms with '{TENANT}' in it, then rotate-dek and reencrypt",
            )

    def _refuse_same_kek(self, keyring: psycopg.Connection[Any], tenant: str) -> None:
        """A template may still lead two tenants to one KEK: what wraps the rows is what counts."""
        own = {row.kek for row in proof.alive(keyring, tenant)}
        shared = sorted({row.tenant for row in rows.every(keyring) if row.kek in own and row.tenant != tenant})
        if shared:
            raise UsageError(f"the KEK of '{tenant}' wraps keys of {', '.join(map(repr, shared[:5]))} too")

    def _kms(self) -> Kms:
        return opened_kms(self.settings, self.environ, clock=self.clock)

    def _keyring(self) -> psycopg.Connection[Any]:
        return keyring_connect(self.settings, self.connect, self.environ)()

    def _envelope(self, connect: Connect, *, own_keyring: bool = False) -> Envelope:
        """Open what has nothing cached; a restored backup brings its own keyring."""
        settings = self.settings.model_copy(update={"keyring": ""}) if own_keyring else self.settings
        return open_envelope(settings, connect, self.environ, clock=self.clock)


def _describe(kms: Kms, tenant: str) -> Description | None:
    """Return what the KMS says; None where it has no such KEK. Errors: ``KmsUnavailable``."""
    try:
        return kms.describe({"tenant": tenant})
    except (KmsRefused, ConfigError):
        return None


def _delay(told: Description | None) -> timedelta:
    return told.destroy_delay if told is not None and told.state is KekState.PENDING_DESTRUCTION else timedelta()


def _left(done: Shredded, now: datetime) -> list[str]:
    left = [f"processes that have a key cached may serve until {done.others_until:%Y-%m-%d %H:%M:%S} UTC (their TTL)"]
    if done.at > now:
        left.append(
            f"the KMS ends the KEK at {done.at:%Y-%m-%d %H:%M} UTC; until then its administrator can take it back"
        )
    return [*left, f"KMS: {done.note}", _ESCROW, _INDEXES, _IN_CLEAR]


def _as_json(one: Proof) -> dict[str, str]:
    return {"name": one.name, "outcome": str(one.outcome), "reason": one.reason}
