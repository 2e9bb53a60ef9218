#!/usr/bin/env python3
"""Opens a repository of dbsec by hand (docs/restore_by_hand.md). Needs Python 3.11, cryptography, tar; zstd or 3.14."""
# ruff: noqa: T201

import argparse
import base64
import contextlib
import functools
import hashlib
import hmac
import json
import shutil
import struct
import subprocess
import sys
from itertools import chain
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

OF_PYTHON = "import shutil as s, sys, compression.zstd as z; s.copyfileobj(z.open(sys.stdin.buffer), sys.stdout.buffer)"
ZSTD = ["zstd", "-dcq"] if shutil.which("zstd") else [sys.executable, "-I", "-c", OF_PYTHON]
UNPACK = {"zstd": ZSTD, "gzip": ["gzip", "-dc"], "": ["cat"]}
HPKE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def lp(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


@functools.cache
def keks_of(path: str, passphrase: str) -> dict:
    """Open a KEK file of dbsec: its KEKs by version."""
    told = json.loads(Path(path).read_bytes())
    n, r, p, salt = (told["scrypt"][name] for name in ("n", "r", "p", "salt"))
    secret, salt, most = passphrase.encode(), base64.b64decode(salt), 256 * n * r
    both = hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=most, dklen=64)
    cipher, keks = AESGCM(both[:32]), {}
    for one in told["versions"]:
        bound = lp(b"dbsec/file-kek/1", told["name"].encode(), b"%d" % one["version"])
        keks[one["version"]] = AESGCM(cipher.decrypt(*map(base64.b64decode, (one["nonce"], one["kek"])), bound))
    return keks


class Repository:
    """A repository in a folder. ``keys``: those that were opened elsewhere, by name without ``keys/`` and ``.json``."""

    def __init__(self, folder: Path, kek: str, passphrase: str, keys: dict) -> None:
        self.folder, self.kek, self.passphrase, self.keys = folder, kek, passphrase, keys
        told = json.loads((folder / "repository.json").read_bytes())
        self.system, self.segment_bytes = told["system"], told["segment_bytes"]

    def record(self, name: str) -> dict:
        """Read a key's object, newer wraps before its own: those of the pages."""
        told, full = json.loads((self.folder / f"keys/{name}.json").read_bytes()), f"keys/{name}.json"
        if (told["name"], told["system"], told["format"]) != (full, self.system, 1):
            sys.exit(f"{full} holds '{told['name']}' of the cluster {told['system']}")
        pages = sorted(self.folder.glob("keys/rewraps/*/*"), reverse=True)
        newer = (json.loads(page.read_bytes())["wraps"].get(full, []) for page in pages)
        return {**told, "wraps": [*chain.from_iterable(newer), *told["wraps"]]}

    def aad(self, name: str) -> tuple[dict, bytes]:
        """Return what the wraps of a key are bound to, as a map and as bytes."""
        month = f"{name[7:11]}-{name[11:13]}" if name.startswith("epochs/") else "all"
        told = {"dbsec": "backup key", "name": f"keys/{name}.json", "system": str(self.system), "tenant": month}
        return told, lp(*(part.encode() for pair in sorted(told.items()) for part in pair))

    def key(self, name: str) -> bytes:
        for wrap in () if name in self.keys else self.record(name)["wraps"]:
            with contextlib.suppress(InvalidTag, FileNotFoundError, KeyError):
                self.keys.setdefault(name, self.unwrap(name, wrap["holder"], base64.b64decode(wrap["wrapped"])))
        return self.keys.get(name) or sys.exit(f"no key that was given opens '{name}'")

    def unwrap(self, name: str, holder: str, wrapped: bytes) -> bytes:
        told, context = self.aad(name)
        if not holder.startswith("x25519:"):
            keks = keks_of(self.kek.replace("{tenant}", told["tenant"]), self.passphrase) if self.kek else {}
            return keks[int.from_bytes(wrapped[1:5], "big")].decrypt(wrapped[5:17], wrapped[17:], context)
        private, full = X25519PrivateKey.from_private_bytes(self.key(f"recipients/{holder[7:]}")), told["name"].encode()
        key = HPKE.decrypt(wrapped, private, b"dbsec/1/backup recipient\0" + full)
        proof = hmac.digest(self.key("content"), lp(b"dbsec/1/backup epoch", full, b"%d" % self.system, key), "sha256")
        if proof.hex() != self.record(name).get("proof"):
            raise KeyError("no host of this repository has begun it")
        return key

    @functools.lru_cache(maxsize=2)  # noqa: B019 - there is one repository
    def open(self, name: str) -> bytes:
        """Return the plaintext of an object, every frame of it proven."""
        raw = (self.folder / name).read_bytes()
        magic, version, cipher, header_bytes, frame_bytes, _ = struct.unpack_from(">4sBBHII", raw)
        text, start, step = raw[48 : 48 + header_bytes], 80 + header_bytes, frame_bytes + 16
        told = json.loads(text)
        known = (magic, version, cipher, told["format"]) == (b"\xd5STM", 1, 1, 1)
        if not known or (told["name"], told["system"]) != (name, self.system):
            sys.exit(f"'{name}' holds '{told['name']}' of the cluster {told['system']}, or is of a later format")
        info, key = lp(b"dbsec/1/stream", raw[:16], text), self.key(f"epochs/{told['epoch']}")
        both = HKDF(hashes.SHA256(), 64, raw[16:48], info).derive(key)
        if not hmac.compare_digest(both[32:], raw[start - 32 : start]):
            sys.exit(f"'{name}' was altered, or is under another key")
        gcm, frames = AESGCM(both[:32]), range(start, max(len(raw), start + 1), step)
        nonces = [index.to_bytes(11, "big") + bytes([at == frames[-1]]) for index, at in enumerate(frames)]
        try:
            done = b"".join([gcm.decrypt(nonces[i], raw[at : at + step], None) for i, at in enumerate(frames)])
        except (InvalidTag, ValueError):
            sys.exit(f"'{name}' was altered or cut")
        if told["codec"] == "zstd":
            done = subprocess.run(ZSTD, input=done, stdout=subprocess.PIPE, check=True).stdout
        return done if len(done) == told["plain_bytes"] else sys.exit(f"'{name}' has not {told['plain_bytes']} bytes")

    def base(self, backup: str, folder: Path) -> None:
        """Unpack a base backup; a tablespace goes beside its folder, and is linked."""
        told = json.loads(self.open(f"base/{backup}/backup"))
        for archive in told["archives"]:
            target = Path(f"{folder}.{archive['oid']}") if archive["oid"] else folder
            target.mkdir(mode=0o700)
            (self.ranges if told["layout"] == "ranges" else self.tar)(archive, target)
        (folder / "backup_manifest").write_bytes(b"".join(map(self.open, told["manifest"])))
        for space in told["tablespaces"]:
            (folder / "tablespace_map").unlink(missing_ok=True)  # it leads to the old places
            (link := folder / f"pg_tblspc/{space['oid']}").unlink(missing_ok=True)
            link.symlink_to(Path(f"{folder}.{space['oid']}").resolve())
        print(f"'{folder}': of {told['stopped']}, PostgreSQL {told['server_version']}, parent '{told['parent']}'")

    def tar(self, archive: dict, target: Path) -> None:
        tar = subprocess.Popen(["tar", "-xpf", "-", "-C", target], stdin=subprocess.PIPE)
        with subprocess.Popen(UNPACK[archive["packed"]], stdin=subprocess.PIPE, stdout=tar.stdin) as unpacked:
            for name in archive["objects"]:
                unpacked.stdin.write(self.open(name))
        tar.stdin.close()
        if unpacked.returncode or tar.wait():
            sys.exit(f"'{target}' is not whole")

    def ranges(self, archive: dict, target: Path) -> None:
        for line in b"".join(map(self.open, archive["members"])).splitlines():
            path, kind, mode, size, _, to, _, parts = json.loads(line)
            (target / path if kind == "d" else (target / path).parent).mkdir(mode=0o700, parents=True, exist_ok=True)
            if kind == "l":
                (target / path).symlink_to(to)
            elif kind == "f":
                with (target / path).open("xb") as stream:
                    (target / path).chmod(mode & 0o777)
                    stream.truncate(size)
                    for number, at, offset, length in parts:
                        stream.seek(offset)
                        stream.write(self.open(archive["objects"][number])[at : at + length])

    def wal(self, backup: str, folder: Path) -> None:
        """Write the WAL from a backup's start on, where a plain cp finds it. A hole ends it: cp could not tell."""
        told = json.loads(self.open(f"base/{backup}/backup"))
        (high, low), per_log = told["start_lsn"].split("/"), (1 << 32) // self.segment_bytes
        first = ((int(high, 16) << 32) + int(low, 16)) // self.segment_bytes
        last, found = {f"{told['timeline']:08X}": first - 1}, {}
        for path in sorted(path for path in self.folder.glob("wal/[0p]*/**/*") if path.is_file()):
            found.setdefault(path.name if len(path.name) == 24 else path.parent.name, []).append(path)
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, paths in sorted(found.items()):
            number, plain, whole = int(name[8:16], 16) * per_log + int(name[16:], 16), b"", len(paths[0].name) == 24
            if int(name[:8], 16) < told["timeline"] or number < first:
                continue
            if number != last.get(name[:8], number - 1) + 1:
                sys.exit(f"WAL is missing before '{name}'")
            for path in paths[:1] if whole else paths:  # the names of pieces tell from where to where they go
                if whole or int(path.name[:8], 16) == len(plain):
                    plain += self.open(str(path.relative_to(self.folder)))
            last[name[:8]] = number if whole else -2  # nothing may follow what is not full
            (folder / name).write_bytes(plain.ljust(self.segment_bytes, b"\0"))
        for path in self.folder.glob("wal/history/*.history"):
            (folder / path.name).write_bytes(self.open(f"wal/history/{path.name}"))

    def ask(self) -> None:
        """Print what another KMS is to be asked: each wrap, what it is bound to, and that as the KMS takes it."""
        for path in [self.folder / "keys/content.json", *self.folder.glob("keys/*/*.json")]:
            name = str(path.relative_to(self.folder / "keys")).removesuffix(".json")
            told, context = self.aad(name)
            for wrap in self.record(name)["wraps"]:
                print(json.dumps({"key": name, **wrap, "aad": told, "context": base64.b64encode(context).decode()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path, help="its folder: copy a bucket first")
    parser.add_argument("--kek", default="", help="KEK file; {tenant} in it is the month")
    parser.add_argument("--passphrase", type=Path, help="file with its passphrase")
    parser.add_argument("--keys", type=Path, help="file with lines NAME HEX: epochs/…, recipients/…, content")
    parser.add_argument("act", choices=("ask", "open", "base", "wal"))
    parser.add_argument("of", nargs="*", help="open: NAME; base and wal: BACKUP FOLDER")
    told = parser.parse_args()
    given = [line.split() for line in told.keys.read_text().splitlines()] if told.keys else []
    passphrase = told.passphrase.read_text().removesuffix("\n") if told.passphrase else ""
    repository = Repository(told.repository, told.kek, passphrase, {name: bytes.fromhex(key) for name, key in given})
    sys.stdout.buffer.write(getattr(repository, told.act)(*told.of[:1], *map(Path, told.of[1:])) or b"")


if __name__ == "__main__":
    main()
