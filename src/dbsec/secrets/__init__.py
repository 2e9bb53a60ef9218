"""Secrets: values that end, caches that outlive their source for a bounded time, and pools that follow."""

from dbsec.secrets.cache import AsyncCached, Cached
from dbsec.secrets.errors import SecretError, SecretMissing, SecretRefused, SecretUnavailable
from dbsec.secrets.freshness import Policy
from dbsec.secrets.opening import open_secrets
from dbsec.secrets.provider import Lease, Provider, Value

__all__ = [
    "AsyncCached",
    "Cached",
    "Lease",
    "Policy",
    "Provider",
    "SecretError",
    "SecretMissing",
    "SecretRefused",
    "SecretUnavailable",
    "Value",
    "open_secrets",
]
