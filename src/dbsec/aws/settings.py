"""Which AWS, with whose credentials, and how long it is waited for."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbsec.errors import ConfigError
from dbsec.secret import Secret, resolve

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")
_ENDPOINT = re.compile(r"https://[^/?#@\s]+|http://(127\.0\.0\.1|localhost)(:\d+)?")


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key with its secret; a session token where it is temporary."""

    id: str
    secret: Secret
    token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """One region, or ``endpoint`` in its place; http only on loopback.

    ``credentials`` is a reference (``file:`` or ``env:``) to text in the form of ``~/.aws/credentials``, of which
    ``profile`` is read. Without it AWS_ACCESS_KEY_ID and its like are taken from ``environ``; without these boto3 finds
    them its own way (role of the instance, of the pod, single sign-on) and renews them.
    """

    region: str
    environ: Mapping[str, str] = field(repr=False, compare=False)
    endpoint: str = ""
    ca: Path | None = None
    credentials: str = ""
    profile: str = "default"
    timeout_s: float = 2.0
    fips: bool = False

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise ConfigError(f"'{self.region}' is no region of AWS", hint="for example eu-central-1")
        if self.endpoint and not _ENDPOINT.fullmatch(self.endpoint):
            raise ConfigError("the endpoint is no https:// address", hint="http:// is for 127.0.0.1 alone")
        if self.ca is not None and not self.ca.is_file():
            raise ConfigError(f"CA file '{self.ca}' is not there", hint=f"ls -l {self.ca}")

    def keys(self) -> Keys | None:
        """Read the access key now; None leaves it to boto3. Errors: ``ConfigError``."""
        if self.credentials:
            return _of_profile(resolve(self.credentials, environ=self.environ), self.profile)
        if "AWS_ACCESS_KEY_ID" not in self.environ:
            return None
        return _keys({name.lower(): value for name, value in self.environ.items()}, "the environment")


def _of_profile(text: Secret, profile: str) -> Keys:
    parsed = configparser.RawConfigParser()
    try:
        parsed.read_string(text.reveal())
        found = dict(parsed[profile])
    except (configparser.Error, KeyError):
        raise ConfigError(f"the credentials have no profile '{profile}'", hint=f"write [{profile}] into them") from None
    return _keys(found, f"profile '{profile}'")


def _keys(found: Mapping[str, str], where: str) -> Keys:
    try:
        token = found.get("aws_session_token")
        secret = Secret(found["aws_secret_access_key"])
        return Keys(found["aws_access_key_id"], secret, Secret(token) if token else None)
    except KeyError as exc:
        raise ConfigError(f"{where} has no {exc.args[0]}") from None
