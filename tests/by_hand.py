"""Runs db/pitr/open_sealed.py as somebody would who has Python and cryptography, and nothing of dbsec."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "db" / "pitr" / "open_sealed.py"
NEEDED = ("cryptography", "cffi", "_cffi_backend")
_RUN = """import runpy, sys
sys.path.append(sys.argv.pop(1))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")"""


def run(folder: Path, *argv: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run it with ``argv``: no environment, no site-packages but a folder with what cryptography is made of."""
    packages = folder / "packages"
    if not packages.exists():
        packages.mkdir()
        for name in NEEDED:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            found = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
            (packages / found.name).symlink_to(found)
    command = [sys.executable, "-I", "-S", "-c", _RUN, packages, SCRIPT, *argv]
    return subprocess.run([*map(str, command)], env={}, capture_output=True, check=False, cwd=folder)
