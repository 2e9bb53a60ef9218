"""The contract of a KMS, as claims: each is a function of a ``Bench`` and yields what does not hold.

For a provider of your own: fill a ``Provider`` and run every claim of ``CLAIMS`` that it does not say it lacks.
The claims make, rotate, disable and destroy KEKs of tenants that they name themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dbsec.testing import kms_claims, kms_life
from dbsec.testing.kms_bench import Bench, Provider

__all__ = ["CLAIMS", "Bench", "Provider", "check"]

_LIVING = (
    kms_claims.round_trip,
    kms_claims.wrong_aad,
    kms_claims.flipped_bits,
    kms_claims.truncation,
    kms_claims.tenants,
    kms_claims.many,
    kms_claims.threads,
    kms_claims.fork,
    kms_claims.described,
    kms_claims.silent,
    kms_claims.away,
)
_LIFE = (kms_life.rotation, kms_life.disabled, kms_life.destroyed, kms_life.absent)

CLAIMS: dict[str, Callable[[Bench], Iterator[str]]] = {claim.__name__: claim for claim in (*_LIVING, *_LIFE)}


def check(claim: str, provider: Provider) -> list[str]:
    """Return what does not hold of a claim, nothing where all does."""
    return list(CLAIMS[claim](Bench(provider)))
