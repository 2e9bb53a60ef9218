"""Secrets: values that end, caches that outlive their source for a bounded time, and pools that follow."""

from dbsec.secrets.cache import AsyncCached, Cached
from dbsec.secrets.errors import SecretError, SecretMissing, SecretRefused, SecretUnavailable
from dbsec.secrets.freshness import Policy

__all__ = ["AsyncCached", "Cached", "Policy", "SecretError", "SecretMissing", "SecretRefused", "SecretUnavailable"]
