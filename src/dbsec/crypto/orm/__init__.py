"""Encrypted columns of SQLAlchemy 2: every path encrypts and decrypts with the row bound, or raises."""

from dbsec.crypto.binding import Field
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.lookup import BlindIndex, Normal
from dbsec.crypto.orm.attach import attach
from dbsec.crypto.orm.errors import UnboundParameter, Unsearchable
from dbsec.crypto.orm.plan import declared
from dbsec.crypto.orm.types import BlindIndexed, Encrypted, encrypted_column, index_column
from dbsec.crypto.scope import EVERY_TENANT, tenant_scope

__all__ = [
    "EVERY_TENANT",
    "BlindIndex",
    "BlindIndexed",
    "Encrypted",
    "EncryptedColumn",
    "Field",
    "Mode",
    "Normal",
    "UnboundParameter",
    "Unsearchable",
    "attach",
    "declared",
    "encrypted_column",
    "index_column",
    "tenant_scope",
]
