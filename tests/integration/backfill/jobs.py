"""A backfill as a process of its own, for tests that kill it: ``faults.Job`` and ``python -m`` run what is here."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from dbsec import backfill
from dbsec.backfill import Job, Limits
from dbsec.journal import Observer
from dbsec.pg import Conninfo, connect


def walk(folder: Path, observer: Observer | None, workers: int = 1) -> None:
    """Walk the table that bears the folder's name; its ``dsn`` tells where."""
    opened = partial(connect, Conninfo.parse((folder / "dsn").read_text()))
    sizes = {"batch_rows": 5, "batch_rows_min": 5, "batch_rows_max": 5}
    job = Job(name=folder.name, table=f'app."{folder.name}"', key=("id",), set="n = n + 1", **sizes)
    backfill.run(opened, job, workers=workers, observer=observer, limits=Limits(ranges=4 * workers, range_batches=1))


if __name__ == "__main__":
    walk(Path(sys.argv[1]), None, workers=2)
