"""One key of a Transit mount: where it is, what the server says of it, and errors in the words of a KMS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dbsec.errors import ConfigError
from dbsec.kms.errors import KmsError, KmsRefused, KmsUnavailable
from dbsec.kms.port import Description, KekState
from dbsec.kms.schemes import Opening
from dbsec.vault import Body, Vault, VaultError, VaultNotFound, VaultRefused, VaultUnavailable, part
from dbsec.vault.query import PARAMETERS, namespace, open_vault

SCHEME_NAME = "vault-transit"
_PATH = re.compile(r"/((?:\w[\w.-]*/)+)(\w(?:[\w.-]*\w)?)", re.ASCII)
_LOOSE = {
    "exportable": "the key is exportable: whoever may read {mount}/export has the KEK itself",
    "allow_plaintext_backup": "a plaintext backup of the key is allowed: whoever may read {mount}/backup has the KEK",
}


@dataclass(frozen=True, slots=True)
class TransitKey:
    """A key by name, and the client that reaches it."""

    vault: Vault
    mount: str
    name: str
    namespace: str = ""

    @property
    def kek(self) -> str:
        """Its public name: the same from every host, and nothing of the credential in it."""
        return f"{SCHEME_NAME}:{'/'.join(filter(None, (self.namespace, self.mount, self.name)))}"

    def to(self, verb: str) -> str:
        """Return the path of an operation with the key, as ``transit/encrypt/NAME``."""
        return f"{self.mount}/{verb}/{self.name}"

    @property
    def itself(self) -> str:
        """The path of the key as an object, as ``transit/keys/NAME``."""
        return self.to("keys")

    def told(self) -> Body:
        """Return what the server says of the key."""
        try:
            with self.asking("describe"):
                told: Body = part(self.vault.read(self.itself), "data")
        except KmsRefused as exc:
            if isinstance(exc.__cause__, VaultNotFound):
                raise KmsRefused(f"there is no key '{self.kek}'", hint=self.making(self.name)) from exc
            raise
        return told

    def description(self) -> Description:
        """Describe the key as the port has it."""
        told = self.told()
        notes = [text.format(mount=self.mount) for name, text in _LOOSE.items() if told.get(name)]
        if not told.get("derived"):
            notes.append("the key is not derived: what a DEK is bound to would be ignored, so nothing is wrapped")
        state = KekState.DISABLED if told.get("soft_deleted") else KekState.ENABLED
        version = str(told.get("latest_version", "1"))
        return Description(SCHEME_NAME, self.kek, version, state, protection="software", notes=tuple(notes))

    def making(self, name: str) -> str:
        """Return the command that makes such a key."""
        return f"bao write -f {self.mount}/keys/{name} type=aes256-gcm96 derived=true"

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn the client's errors into those of a KMS."""
        try:
            yield
        except VaultError as exc:
            raise self.as_kms_error(exc, what) from exc

    def as_kms_error(self, exc: VaultError, what: str) -> KmsError:
        """Tell the same error in the words of a KMS."""
        if isinstance(exc, VaultUnavailable):
            return KmsUnavailable(exc.message, hint=exc.hint)
        answer = exc.answer if isinstance(exc, VaultRefused) else "not found"
        denied = isinstance(exc, VaultRefused) and exc.denied
        hint = f"give the token a policy for {self.mount}/*/{self.name}: see docs/kms.md" if denied else exc.hint
        return KmsRefused(f"'{self.kek}' refuses to {what}", cause_known=answer, hint=hint)


def of_uri(opening: Opening) -> TransitKey:
    """Read ``vault-transit://host:port/MOUNT/KEY?ca=…&token=file:…``. Errors: ``ConfigError``."""
    uri = opening.uri
    uri.only(*PARAMETERS)
    found = _PATH.fullmatch(uri.path)
    if not uri.host or found is None:
        raise ConfigError(
            "a 'vault-transit:' uri names host, mount and key",
            hint="write vault-transit://host:8200/transit/KEY?ca=/path/ca.pem&token=file:/path",
        )
    mount, name = found.groups()
    timeout_s = opening.patience.timeout_s
    vault = open_vault(SCHEME_NAME, uri.host, uri.query, environ=opening.environ, timeout_s=timeout_s)
    return TransitKey(vault, mount.rstrip("/"), name, namespace(uri.query))
