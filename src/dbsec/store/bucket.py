"""What only S3's own client tells: versions and locks of a bucket and its objects. Without boto3 it is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import reason
from dbsec.secret import resolve
from dbsec.store.errors import StoreRefused, StoreUnavailable

_NO_LOCK = "ObjectLockConfigurationNotFoundError"


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a bucket does with what is deleted. None: not known, and ``why`` not.

    ``retention`` is the lock that new objects get by default, as "COMPLIANCE 30 days", or "".
    """

    versioned: bool | None = None
    locks: bool | None = None
    retention: str = ""
    why: str = ""


def ask_bucket(url: str, *, environ: Mapping[str, str]) -> Bucket:
    """Ask the bucket of an ``s3:`` url. What it does not tell is None; no error but ``ConfigError`` of a reference."""
    parts = urlsplit(url)
    if parts.scheme != "s3":
        return Bucket(why=f"a '{parts.scheme}:' store is not asked")
    try:
        client = _client(dict(parse_qsl(parts.query)), environ)
    except ModuleNotFoundError:
        return Bucket(why="boto3 is not installed: pip install 'dbsec[aws]'")
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        versioned = client.get_bucket_versioning(Bucket=parts.netloc).get("Status") == "Enabled"
    except (BotoCoreError, ClientError) as exc:
        return Bucket(why=_code(exc))
    try:
        told = client.get_object_lock_configuration(Bucket=parts.netloc)["ObjectLockConfiguration"]
    except (BotoCoreError, ClientError) as exc:
        code = _code(exc)
        return Bucket(versioned, False) if code == _NO_LOCK else Bucket(versioned, None, why=code)
    rule = told.get("Rule", {}).get("DefaultRetention", {})
    return Bucket(versioned, told.get("ObjectLockEnabled") == "Enabled", _rule(rule))


@dataclass(frozen=True, slots=True)
class Lock:
    """Why an object cannot be deleted, and until when: None is until somebody ends it, or not known."""

    why: str
    until: datetime | None = None

    def __str__(self) -> str:
        return f"{self.why} until {rfc3339(self.until)}" if self.until else self.why


class Locks:
    """Asks for the locks of objects, one by one; safe in threads.

    A bucket with locks keeps versions: there a delete of a locked object succeeds, and only hides it.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, clock: Clock = SYSTEM) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._clock = clock

    def of(self, name: str) -> Lock | None:
        """Return the lock of an object; None where it has none now, or is not there. Errors: ``StoreUnavailable``."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            told = self._client.head_object(Bucket=self._bucket, Key=f"{self._prefix}{name}")
        except (BotoCoreError, ClientError) as exc:
            code = _code(exc)
            if code in ("404", "NoSuchKey", "NotFound"):
                return None
            raise StoreUnavailable(f"the lock of '{name}' is not known: {code}") from exc
        if told.get("ObjectLockLegalHoldStatus") == "ON":
            return Lock("under a legal hold")
        until = told.get("ObjectLockRetainUntilDate")
        if until is None or until <= self._clock.now():
            return None
        return Lock(f"locked ({told.get('ObjectLockMode', 'RETENTION')})", until.astimezone(UTC))


def locks_of(url: str, *, environ: Mapping[str, str], clock: Clock = SYSTEM) -> Locks | None:
    """Return who tells the locks of a store's objects; None where it has none.

    Errors: ``StoreRefused`` where it is not known whether it has: to delete there may hide what cannot be deleted.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        return None
    bucket = ask_bucket(url, environ=environ)
    if bucket.locks is None:
        raise StoreRefused(f"whether the bucket has object locks is not known: {bucket.why}", hint="dbsec backup init")
    if not bucket.locks:
        return None
    return Locks(_client(dict(parse_qsl(parts.query)), environ), parts.netloc, parts.path.strip("/"), clock)


def _rule(rule: Mapping[str, Any]) -> str:
    units = [f"{rule[unit]} {unit.lower()}" for unit in ("Days", "Years") if rule.get(unit)]
    return " ".join([str(rule["Mode"]), *units]) if rule.get("Mode") else ""


def _code(exc: Exception) -> str:
    return str(getattr(exc, "response", {}).get("Error", {}).get("Code", "")) or reason(exc)


def _client(query: Mapping[str, str], environ: Mapping[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    told = {
        f"aws_{name}": resolve(query[name], environ=environ).reveal()
        for name in ("access_key_id", "secret_access_key")
        if name in query
    }
    path, once = {"addressing_style": "path"}, {"total_max_attempts": 1}
    config = Config(s3=path, retries=once, connect_timeout=5, read_timeout=10)
    return boto3.client(
        "s3",
        endpoint_url=query.get("endpoint"),
        region_name=query.get("region", "us-east-1"),
        verify=query.get("ca", True),
        config=config,
        **told,
    )
