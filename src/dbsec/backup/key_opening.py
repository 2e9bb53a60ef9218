"""Opens wrapped keys: the newest wraps first, then older ones, many in one call of the KMS."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbsec.backup.asking import unwrap_all
from dbsec.backup.errors import BackupError, KeyUnavailable, Tampered
from dbsec.backup.key_records import PRIMARY, KeyRecord, Wrap, epoch_proof, wrap_aad
from dbsec.backup.recipients import open_private
from dbsec.errors import DbsecError, NewerFormat
from dbsec.kms import Kms, KmsError, KmsRefused

if TYPE_CHECKING:
    from dbsec.backup.keys import BackupKeys

Try = tuple[Wrap, Kms | None]  # a wrap, and who is asked for it; None for a recipient's
_WRITES_ONLY = "this host only writes: it has no KMS"


@dataclass(slots=True)
class _Key:
    """A key that is not open yet: what can still be tried, and what was said to all tries before."""

    record: KeyRecord
    tries: list[Try]
    failures: list[DbsecError] = field(default_factory=list)


class Opening:
    """Opens keys of one repository for ``keys``."""

    def __init__(self, keys: BackupKeys) -> None:
        self._keys = keys
        self._left: dict[str, _Key] = {}
        self._done: dict[str, bytes | DbsecError] = {}

    def open_many(self, records: Iterable[KeyRecord]) -> dict[str, bytes | DbsecError]:
        """Open each; what failed stands where the key would.

        A page with bad wraps, which any writer can add, opens nothing, and closes nothing either: older ones follow.
        """
        for record in records:
            if record.system == self._keys.system:
                self._left[record.name] = _Key(record, self._tries(record))
            else:
                why = f"it is a key of the cluster {record.system}, not {self._keys.system}"
                self._done[record.name] = Tampered(record.name, why)
        while self._left:
            self._round()
        return self._done

    def _round(self) -> None:
        """Try the next wrap of each key that is left, all of a KMS in one call."""
        asked: dict[int, tuple[Kms, list[tuple[KeyRecord, Wrap]]]] = {}
        for key in list(self._left.values()):
            if not key.tries:
                self._done[key.record.name] = self._refusal(key)
                del self._left[key.record.name]
                continue
            wrap, kms = key.tries.pop(0)
            if kms is None:
                self._settle(key.record, self._by_recipient(key.record, wrap))
            else:
                asked.setdefault(id(kms), (kms, []))[1].append((key.record, wrap))
        for kms, items in asked.values():
            answers = unwrap_all(kms, [(w.wrapped, wrap_aad(r.name, self._keys.system)) for r, w in items])
            for (record, _), answer in zip(items, answers, strict=True):
                self._settle(record, answer if isinstance(answer, KmsError) else bytes(answer))

    def _settle(self, record: KeyRecord, answer: bytes | DbsecError) -> None:
        if isinstance(answer, bytes):
            self._done[record.name] = answer
            del self._left[record.name]
        else:
            self._left[record.name].failures.append(answer)

    def _tries(self, record: KeyRecord) -> list[Try]:
        tries: list[Try] = []
        for wrap in record.wraps + record.older:
            if wrap.of_recipient:
                tries.append((wrap, None))
                continue
            both = (self._keys.kms, self._keys.escrow)
            tries += [(wrap, kms) for kms in (both if wrap.holder == PRIMARY else both[::-1]) if kms is not None]
        return tries

    def _by_recipient(self, record: KeyRecord, wrap: Wrap) -> bytes | DbsecError:
        if not self._keys.reads:
            return KeyUnavailable(_WRITES_ONLY, refused=True)
        try:
            key = open_private(self._keys, wrap.holder).decrypt(wrap.wrapped, record.name)
            proof = epoch_proof(self._keys.content(), record.name, self._keys.system, key)
        except BackupError as exc:
            return exc
        if hmac.compare_digest(proof.encode(), record.proof.encode()):
            return key
        return Tampered(record.name, "no host of this repository has begun it")

    def _refusal(self, key: _Key) -> DbsecError:
        """Say why a key stays shut: what cannot be asked now comes before what was altered or refused."""
        if all(_refused(one) for one in key.failures):
            told = [*key.failures, *self._keys.rewraps.trouble.values()]
            for kind in (Tampered, NewerFormat):
                if (found := next((one for one in told if isinstance(one, kind)), None)) is not None:
                    return found
        return self._unavailable(key.record, key.failures)

    def _unavailable(self, record: KeyRecord, failures: Sequence[DbsecError]) -> KeyUnavailable:
        nothing = "it has no wrap" if self._keys.reads else _WRITES_ONLY
        said = "; ".join(dict.fromkeys(str(one) for one in failures)) or nothing
        refused = all(_refused(one) for one in failures)
        error = KeyUnavailable(f"the key '{record.name}' cannot be opened: {said}", refused=refused)
        error.__cause__ = failures[-1] if failures else None
        return error


def _refused(failure: DbsecError) -> bool:
    return isinstance(failure, KmsRefused | Tampered) or getattr(failure, "refused", False)


def opened_only(opened: Mapping[str, bytes | DbsecError]) -> dict[str, bytes]:
    """Return those that opened."""
    return {name: key for name, key in opened.items() if isinstance(key, bytes)}
