"""SoftHSM for the tests: one token in a folder of its own."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from dbsec import files, process
from dbsec.errors import ProgramMissing

_MODULES = ("usr/lib/softhsm/libsofthsm2.so",)
TOKEN = "dbsec"


@dataclass(frozen=True)
class SoftHsm:
    """A module and a token with the label ``dbsec``."""

    module: Path
    folder: Path
    pin: str

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    def add(self, token: str) -> None:
        """Make another token, with the same pin; the module sees it when it is started again."""
        init = ["softhsm2-util", "--init-token", "--free", "--label", token, "--so-pin", secrets.token_hex(8)]
        env = {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"), "PATH": os.environ["PATH"]}
        process.run([*init, "--pin", self.pin, "--module", self.module], cwd=self.folder, env=env)

    def uri(self, label: str, *, token: str = TOKEN, pin: Path | None = None) -> str:
        """Return the uri of the KEK of that label."""
        return f"pkcs11:token={token};object={label}?module-path={self.module}&pin-source=file:{pin or self.pin_file}"


def start(folder: Path, unpacked: Path) -> SoftHsm:
    """Make a token. The module reads where its tokens lie once in a process, from ``SOFTHSM2_CONF``.

    Errors: ``ProgramMissing``.
    """
    roots = [Path("/"), unpacked]
    module = next((root / name for root in roots for name in _MODULES if (root / name).exists()), None)
    if module is None:
        raise ProgramMissing("SoftHSM is not installed", hint="make setup-extra")
    made = SoftHsm(module, folder, secrets.token_hex(8))
    made.tokens.mkdir()
    files.write_atomic(made.pin_file, made.pin)
    settings = folder / "softhsm2.conf"
    files.write_atomic(
        settings, f"directories.tokendir = {made.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    os.environ["SOFTHSM2_CONF"] = str(settings)
    made.add(TOKEN)
    return made
