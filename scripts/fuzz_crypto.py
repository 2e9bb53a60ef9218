"""Coverage-guided fuzzing of what reads a column's bytes; the same claims as tests/unit/test_crypto_fuzz.py, for hours.

    pip install --target /tmp/atheris --no-deps atheris   # wheels for CPython 3.11 and newer, on x86-64 Linux and macOS
    PYTHONPATH=/tmp/atheris python scripts/fuzz_crypto.py -max_total_time=180

Arguments are those of libFuzzer. A finding ends the run and leaves a file ``crash-…`` whose name is an argument again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dbsec.crypto", "dbsec.canonical", "dbsec.kms.schemes"]):
    from dbsec.crypto import DecryptionFailed, Envelope, Field, Keyring, MemoryKeyStore
    from dbsec.crypto.format import parse
    from dbsec.kms.kek_file import Cost
    from dbsec.kms.schemes.file_kek import FileKek, FileKekAdmin

from dbsec.secret import Secret

_PHONE = Field("app.users", "phone")


def _opened(folder: Path) -> Envelope:
    """Return an envelope over a real KEK file, without the guard around it: what the file's reader raises is seen."""
    passphrase = Secret("a passphrase of the fuzzer")
    FileKekAdmin(folder / "kek.json", lambda: passphrase, cost=Cost(2**14)).create()
    return Envelope(Keyring(MemoryKeyStore(), FileKek(folder / "kek.json", lambda: passphrase)))


class Target:
    """Feeds bytes to the parser, to decrypt and to a page, as they are and spliced into a valid value."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._valid = [
            envelope.encrypt(b"a value", _PHONE, tenant="acme", row=1),
            envelope.encrypt_deterministic(b"a value", _PHONE, tenant="acme"),
            envelope.encrypt_inline(b"a value", _PHONE, tenant="acme", row=1),
            envelope.encrypt(b"a value", _PHONE, tenant="globex", row=1),
        ]

    def __call__(self, blob: bytes) -> None:
        self._parse(blob)
        self._refused(blob)
        if len(blob) > 3:
            value = self._valid[blob[0] % len(self._valid)]
            start, end = sorted((blob[1] % len(value), blob[2] % len(value)))
            self._refused(value[:start] + blob[3:] + value[end:])

    def _parse(self, blob: bytes) -> None:
        try:
            parsed = parse(blob)
        except ValueError:
            return
        assert parsed.header + parsed.body == blob

    def _refused(self, blob: bytes) -> None:
        if blob in self._valid:
            return
        for act in (
            lambda: self._envelope.decrypt(blob, _PHONE, tenant="acme", row=1),
            lambda: self._envelope.decrypt_many([self._valid[0], blob], _PHONE, tenant="acme", rows=[1, 1]),
        ):
            try:
                act()
            except DecryptionFailed:
                continue
            raise AssertionError("it was accepted")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Target(_opened(Path(folder)))
        atheris.Setup(sys.argv, target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
