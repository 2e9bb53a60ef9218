"""Application-level encryption: envelopes under a KMS, keys by reference, values bound to tenant, column and row."""

from dbsec.crypto.binding import UNBOUND, Field, RowId
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import CryptoError, DecryptionFailed, KeyExhausted, KeyMissing, ModeRefused, Unbound
from dbsec.crypto.keyring import Keyring, Profile
from dbsec.crypto.lookup import BlindIndex, Normal
from dbsec.crypto.opening import open_envelope
from dbsec.crypto.postgres_store import PostgresKeyStore
from dbsec.crypto.settings import CryptoSettings
from dbsec.crypto.store import KeyRow, KeyState, KeyStore, MemoryKeyStore, NewKey, Purpose

__all__ = [
    "UNBOUND",
    "BlindIndex",
    "CryptoError",
    "CryptoSettings",
    "DecryptionFailed",
    "EncryptedColumn",
    "Envelope",
    "Field",
    "KeyExhausted",
    "KeyMissing",
    "KeyRow",
    "KeyState",
    "KeyStore",
    "Keyring",
    "MemoryKeyStore",
    "Mode",
    "ModeRefused",
    "NewKey",
    "Normal",
    "PostgresKeyStore",
    "Profile",
    "Purpose",
    "RowId",
    "Unbound",
    "open_envelope",
]
