"""Where the reference deployment lies: inside the wheel, or at the root of a checkout."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from dbsec.errors import LabError


def deployment_folder() -> Path:
    """Return the folder that holds ``app/`` and ``db/``."""
    packaged = Path(str(resources.files("dbsec"))) / "_deployment"
    checkout = Path(__file__).resolve().parents[3]
    for folder in (packaged, checkout):
        if (folder / "app").is_dir() and (folder / "db").is_dir():
            return folder
    raise LabError("the reference deployment (app/ and db/) is not there", hint="pip install --force-reinstall dbsec")
