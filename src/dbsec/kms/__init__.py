"""Keys that wrap keys: one port, one URI a KEK, one file a provider; the KEK never leaves it."""

from dbsec.kms.batch import rewrap_many, unwrap_many, wrap_many
from dbsec.kms.errors import CircuitOpen, KmsError, KmsRefused, KmsUnavailable
from dbsec.kms.guarded import Breaker, Guarded
from dbsec.kms.opening import open_admin, open_kms
from dbsec.kms.port import Aad, Batched, Description, Destruction, KekState, Kms, KmsAdmin, Patience, aad_bytes
from dbsec.kms.schemes import Opening, Scheme
from dbsec.kms.uri import KmsUri

__all__ = [
    "Aad",
    "Batched",
    "Breaker",
    "CircuitOpen",
    "Description",
    "Destruction",
    "Guarded",
    "KekState",
    "Kms",
    "KmsAdmin",
    "KmsError",
    "KmsRefused",
    "KmsUnavailable",
    "KmsUri",
    "Opening",
    "Patience",
    "Scheme",
    "aad_bytes",
    "open_admin",
    "open_kms",
    "rewrap_many",
    "unwrap_many",
    "wrap_many",
]
