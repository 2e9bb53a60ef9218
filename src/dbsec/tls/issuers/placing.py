"""A certificate and its key on the disk: two files that have to change as one."""

from __future__ import annotations

from pathlib import Path

from dbsec.errors import ConfigError, UsageError
from dbsec.tls.ca import KeyPair


def read(folder: Path, name: str) -> KeyPair:
    """Read ``NAME.crt`` and ``NAME.key``; a change that was killed half way is finished first.

    Errors: ``ConfigError``.
    """
    finish(folder, name)
    try:
        return KeyPair((folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes())
    except OSError as exc:
        raise ConfigError(f"cannot read the certificate '{folder / name}.crt' and its key: {exc.strerror}") from exc


def place(folder: Path, name: str, pair: KeyPair, *, replace: bool, owner: tuple[int, int] | None = None) -> None:
    """Write ``NAME.crt`` (0644) and ``NAME.key`` (0600).

    Both are on the disk under other names before the first is renamed, so that a kill -9 between the two renames loses
    neither; ``finish`` goes on. Errors: ``UsageError`` where there is one and it is not to be replaced.
    """
    finish(folder, name)
    there = [path for path in (folder / f"{name}.crt", folder / f"{name}.key") if path.exists()]
    if there and not replace:
        raise UsageError(f"'{there[0]}' is there, and is not overwritten", hint="dbsec tls ca renew, or another --out")
    pair.save(folder, _pending(name), owner=owner)
    finish(folder, name)


def finish(folder: Path, name: str) -> bool:
    """Rename what ``place`` had written whole; True where there was something. The certificate comes last."""
    key, certificate = folder / f"{_pending(name)}.key", folder / f"{_pending(name)}.crt"
    if not certificate.exists():
        return False  # the key is written first: alone it is of a pair that was never whole
    if key.exists():
        key.rename(folder / f"{name}.key")
    certificate.rename(folder / f"{name}.crt")
    return True


def _pending(name: str) -> str:
    return f".{name}.next"
