"""The key that seals evidence, and the public one that whoever verifies is given."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dbsec import files
from dbsec.errors import EvidenceError

_PEM = serialization.Encoding.PEM


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """Load the key that seals evidence, or make one: ``evidence.key`` (0600, PKCS #8) and ``evidence.pub`` beside it.

    Keep the folder outside every report; give ``evidence.pub`` to whoever verifies. It is written again where it is
    lost or of another key.
    """
    files.make_folder(folder, mode=0o700)
    path, public = folder / "evidence.key", folder / "evidence.pub"
    key = _loaded(path) if path.exists() else _made(path)
    text = key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if not public.exists() or public.read_bytes() != text:
        files.write_atomic(public, text, mode=0o644)
    return key


def _loaded(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, TypeError, ValueError) as exc:
        raise EvidenceError(f"cannot read signing key '{path}'", hint=f"mv {path} {path}.old") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise EvidenceError(f"'{path}' is not an Ed25519 key", hint=f"mv {path} {path}.old")
    return key


def _made(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    files.write_atomic(path, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
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
