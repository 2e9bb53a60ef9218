"""The key that seals evidence, and the public one that whoever verifies is given."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dbsec import files
from dbsec.errors import EvidenceError


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """Load the key that seals evidence, or make one: ``evidence.key`` (0600, PKCS #8) and ``evidence.pub`` beside it.

    Keep the folder outside every report; give ``evidence.pub`` to whoever verifies.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "evidence.key"
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, TypeError, ValueError) as exc:
            raise EvidenceError(f"cannot read signing key '{path}'", hint=f"mv {path} {path}.old") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise EvidenceError(f"'{path}' is not an Ed25519 key", hint=f"mv {path} {path}.old")
        return key
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.write_atomic(path, private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    files.write_atomic(folder / "evidence.pub", public, mode=0o644)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a PEM public key. Errors: ``EvidenceError`` for another file."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise EvidenceError(f"cannot read public key '{path}'") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceError(f"'{path}' is not an Ed25519 public key")
    return key
