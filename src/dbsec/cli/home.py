"""Where labs, keys and journals live; needs nothing of the lab."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return ``DBSEC_HOME``, or ``.dbsec`` here; for root below a closed folder ``/var/lib/dbsec`` instead.

    PostgreSQL runs as another account than root, which must be able to reach its data.
    """
    if given := os.environ.get("DBSEC_HOME"):
        return Path(given).absolute()
    here = Path.cwd() / ".dbsec"
    closed = os.geteuid() == 0 and any(not p.stat().st_mode & 0o001 for p in here.parents)
    return Path("/var/lib/dbsec") / str(Path.cwd()).strip("/").replace("/", "-") if closed else here
