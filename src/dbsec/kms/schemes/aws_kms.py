"""``aws-kms://REGION/KEY``: a KEK in AWS KMS; KEY is ``alias/NAME``, a key id or an ARN.

A DEK is bound by the EncryptionContext, which is the AAD as it stands; CloudTrail shows it in clear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from dbsec.aws import Aws, AwsError, AwsRefused, AwsUnavailable, Settings, shared
from dbsec.errors import ConfigError
from dbsec.kms.errors import KmsRefused, KmsUnavailable
from dbsec.kms.port import NO_AAD, Aad, Description, Destruction, KekState
from dbsec.kms.schemes import Opening, Scheme

NAME = "aws-kms"
_ALIAS = re.compile(r"alias/[\w/-]{1,250}", re.ASCII)
_ID = re.compile(r"(mrk-)?[0-9a-f-]{32,36}")
_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:(key/.+|alias/.+)")
_PARAMETERS = ("endpoint", "ca", "credentials", "profile", "fips", "delete_after_days")
_STATES = {
    "Enabled": KekState.ENABLED,
    "PendingDeletion": KekState.PENDING_DESTRUCTION,
    "PendingReplicaDeletion": KekState.PENDING_DESTRUCTION,
}


class _Key:
    """A key by the name that the uri gives it, and errors in the words of a KMS."""

    def __init__(self, aws: Aws, name: str, region: str, delay: timedelta, *, real: bool, fips: bool) -> None:
        self._aws = aws
        self.name = name
        self.kek = f"{NAME}:{region}/{name}"
        self.delay = delay
        self._real = real
        self._fips = fips

    def ask(self, operation: str, wanted: str = "ResponseMetadata", **parameters: Any) -> Any:
        """Call an operation and return one part of its answer."""
        with self._told(operation):
            answer = self._aws.call(operation, **parameters)
        if wanted not in answer:
            raise KmsUnavailable(f"an answer to {operation} has no {wanted}", hint="does a proxy answer for AWS?")
        return answer[wanted]

    def metadata(self) -> dict[str, Any]:
        return dict(self.ask("describe_key", "KeyMetadata", KeyId=self.name))

    def description(self) -> Description:
        """Describe the key; any state in which it does not wrap is disabled."""
        told = self.metadata()
        notes = [] if told.get("KeySpec") == "SYMMETRIC_DEFAULT" else ["the key is not SYMMETRIC_DEFAULT"]
        if told.get("Origin", "AWS_KMS") != "AWS_KMS":
            notes.append(f"the key material comes from elsewhere ({told['Origin']}): AWS does not keep the only copy")
        return Description(
            NAME,
            self.kek,
            str(told.get("CurrentKeyMaterialId") or self._rotations(told["KeyId"])),
            _STATES.get(told["KeyState"], KekState.DISABLED),
            protection="hsm" if self._real else "software",
            fips=self._fips,
            destroy_delay=self.delay,
            notes=tuple(notes),
        )

    def _rotations(self, identifier: str) -> str:
        """Number the key material, where the endpoint does not name it; at most 100 rotations are told at once."""
        try:
            return str(1 + len(self.ask("list_key_rotations", "Rotations", KeyId=identifier)))
        except KmsRefused:
            return "1"

    @contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        try:
            yield
        except AwsUnavailable as exc:
            raise KmsUnavailable(exc.message, hint=exc.hint) from exc
        except AwsRefused as exc:
            hint = exc.hint or _HINTS.get(exc.code.removesuffix("Exception"), "")
            raise KmsRefused(f"'{self.kek}' refuses {operation}", cause_known=exc.answer, hint=hint) from exc
        except AwsError as exc:
            raise KmsUnavailable(exc.message) from exc


_HINTS = {
    "AccessDenied": "give the role a policy for this key: see docs/kms.md",
    "NotFound": "make the key, or correct region and name in the uri",
    "KMSInvalidState": "aws kms describe-key: is it pending deletion?",
    "Disabled": "aws kms enable-key",
}


class AwsKms:
    """Wraps by one key."""

    def __init__(self, key: _Key) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"<KEK {self._key.kek}>"

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap a DEK under the key's current material."""
        named = {"KeyId": self._key.name, "EncryptionContext": dict(aad)}
        return bytes(self._key.ask("encrypt", "CiphertextBlob", Plaintext=bytes(dek), **named))

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK. The key is named: else AWS would open whatever any key of the caller wrapped."""
        named = {"KeyId": self._key.name, "EncryptionContext": dict(aad)}
        return bytearray(self._key.ask("decrypt", "Plaintext", CiphertextBlob=wrapped, **named))

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the key's current material; it does not leave AWS for that."""
        done = self._key.ask(
            "re_encrypt",
            "CiphertextBlob",
            CiphertextBlob=wrapped,
            SourceKeyId=self._key.name,
            SourceEncryptionContext=dict(aad),
            DestinationKeyId=self._key.name,
            DestinationEncryptionContext=dict(aad),
        )
        return bytes(done)

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Ask AWS for the key."""
        return self._key.description()


class AwsKmsAdmin:
    """The life of one key."""

    def __init__(self, key: _Key) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"<admin of KEK {self._key.kek}>"

    def create(self) -> Description:
        """Make a key and the alias that the uri names. Errors: ``KmsRefused`` where the alias is there."""
        if not _ALIAS.fullmatch(self._key.name):
            raise KmsRefused("AWS chooses the id of a key itself", hint="name an alias in the uri: alias/NAME")
        if self._is_there():
            raise KmsRefused(f"there is a key '{self._key.kek}' already")
        form = {"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "Description": "dbsec"}
        identifier = self._key.ask("create_key", "KeyMetadata", **form)["KeyId"]
        try:
            self._key.ask("create_alias", AliasName=self._key.name, TargetKeyId=identifier)
        except KmsRefused:
            self._key.ask("schedule_key_deletion", KeyId=identifier, PendingWindowInDays=7)
            raise
        return self._key.description()

    def rotate(self) -> Description:
        """Make new key material, which wraps from now on; AWS allows it a limited number of times for a key."""
        self._key.ask("rotate_key_on_demand", KeyId=self._identifier())
        return self._key.description()

    def disable(self) -> Description:
        """Refuse wrap and unwrap; AWS takes up to a minute until it holds everywhere."""
        self._key.ask("disable_key", KeyId=self._identifier())
        return self._key.description()

    def enable(self) -> Description:
        """Take ``disable`` back; of a key that is pending deletion cancel that first."""
        self._key.ask("enable_key", KeyId=self._identifier())
        return self._key.description()

    def destroy(self) -> Destruction:
        """Schedule the deletion: the key is out of use at once, and gone after 7 to 30 days."""
        days = self._key.delay.days
        named = {"KeyId": self._identifier(), "PendingWindowInDays": days}
        at = self._key.ask("schedule_key_deletion", "DeletionDate", **named)
        note = f"out of use at once; until then 'aws kms cancel-key-deletion' brings it back ({days} days)"
        return Destruction(at.astimezone(UTC), note)

    def _identifier(self) -> str:
        """Return the key's id: what changes a key takes no alias."""
        return str(self._key.metadata()["KeyId"])

    def _is_there(self) -> bool:
        try:
            self._key.metadata()
        except KmsRefused as exc:
            if isinstance(exc.__cause__, AwsRefused) and exc.__cause__.code == "NotFoundException":
                return False
            raise
        return True


def _key(opening: Opening) -> _Key:
    """Read ``aws-kms://REGION/KEY?…``. Errors: ``ConfigError``."""
    uri = opening.uri
    uri.only(*_PARAMETERS)
    region, name = uri.host, uri.path.removeprefix("/")
    arn = _ARN.fullmatch(name)
    if not (arn or _ALIAS.fullmatch(name) or _ID.fullmatch(name)):
        raise ConfigError("an 'aws-kms:' uri names region and key", hint="write aws-kms://eu-central-1/alias/NAME")
    if arn and arn.group(1) != region:
        raise ConfigError(f"the key is in '{arn.group(1)}', the uri says '{region}'")
    ca, fips = uri.query.get("ca"), _flag(uri.query.get("fips", "false"))
    settings = Settings(
        region,
        opening.environ,
        endpoint=uri.query.get("endpoint", ""),
        ca=Path(ca) if ca else None,
        credentials=uri.query.get("credentials", ""),
        profile=uri.query.get("profile", "default"),
        timeout_s=opening.patience.timeout_s,
        fips=fips,
    )
    settings.keys()  # a wrong reference is told now, not at the first call
    delay = _delay(uri.query.get("delete_after_days", "30"))
    return _Key(shared("kms", settings), name, region, delay, real=not settings.endpoint, fips=fips)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"'fips={text}' is neither true nor false")
    return text == "true"


def _delay(text: str) -> timedelta:
    if not text.isascii() or not text.isdigit() or not 7 <= int(text) <= 30:
        raise ConfigError(f"'delete_after_days={text}' is not a number of days from 7 to 30")
    return timedelta(days=int(text))


def _open(opening: Opening) -> AwsKms:
    return AwsKms(_key(opening))


def _open_admin(opening: Opening) -> AwsKmsAdmin:
    return AwsKmsAdmin(_key(opening))


SCHEME = Scheme(NAME, _open, _open_admin)
