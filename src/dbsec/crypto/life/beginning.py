"""Before anything is encrypted: the KEKs that the settings name are there, and wrap and unwrap."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dbsec.crypto import dek as deks
from dbsec.errors import ApplyError
from dbsec.kms import Kms, KmsAdmin, KmsRefused

AdminOf = Callable[[str], KmsAdmin]


@dataclass(frozen=True, slots=True)
class Kek:
    """The KEK of a tenant ("" is that of all). ``kek`` is its public name, empty while it is not there."""

    tenant: str
    kek: str
    protection: str = ""
    notes: tuple[str, ...] = ()
    made: bool = False


def look(kms: Kms, tenants: Sequence[str]) -> Iterator[Kek]:
    """Ask for each tenant's KEK; one that the KMS does not show has no name. Errors: ``KmsUnavailable``."""
    for tenant in tenants:
        try:
            told = kms.describe({"tenant": tenant} if tenant else {})
        except KmsRefused:
            yield Kek(tenant, "")
        else:
            yield Kek(tenant, told.kek, told.protection, told.notes)


def make(kms: Kms, admin_of: AdminOf, found: Sequence[Kek]) -> Iterator[Kek]:
    """Make the KEKs that are not there, and prove each by wrapping and unwrapping a key that is thrown away.

    Running it again changes nothing. Errors: ``KmsError``; ``ApplyError`` where another key comes back.
    """
    for one in found:
        if not one.kek:
            admin_of(one.tenant).create()
        _prove(kms, one.tenant)
        (told,) = look(kms, [one.tenant])
        yield Kek(one.tenant, told.kek, told.protection, told.notes, made=not one.kek)


def _prove(kms: Kms, tenant: str) -> None:
    aad = {"dbsec": "probe/1", **({"tenant": tenant} if tenant else {})}
    probe = deks.fresh()
    back = kms.unwrap(kms.wrap(probe, aad), aad)
    same = hmac.compare_digest(probe, back)
    deks.erase(probe)
    deks.erase(back)
    if not same:
        raise ApplyError(f"the KEK of '{tenant}' gives another key back than it was given")
