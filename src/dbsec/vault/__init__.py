"""A client of OpenBao and HashiCorp Vault, shared by what keeps keys, certificates and secrets there."""

from dbsec.vault.answers import Body, part
from dbsec.vault.auth import AppRole, Auth, Token, TokenAuth
from dbsec.vault.client import Vault
from dbsec.vault.errors import VaultError, VaultNotFound, VaultRefused, VaultUnavailable
from dbsec.vault.settings import Settings
from dbsec.vault.shared import shared

__all__ = [
    "AppRole",
    "Auth",
    "Body",
    "Settings",
    "Token",
    "TokenAuth",
    "Vault",
    "VaultError",
    "VaultNotFound",
    "VaultRefused",
    "VaultUnavailable",
    "part",
    "shared",
]
