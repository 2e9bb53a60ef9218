"""What the tests of the runner kill: the runner in a process of its own, on a folder that names its server."""

from __future__ import annotations

from pathlib import Path

from dbsec.journal import Observer
from dbsec.migrations.runner.down import down, resume
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect

DSN = "dsn.txt"  # in the folder of a life; the migrations lie beside it
PATIENT = Asked(wait_s=30)  # the server notices a killed runner when it next writes to it


def target(folder: Path, observer: Observer | None = None) -> Target:
    conninfo = Conninfo.parse((folder / DSN).read_text())
    return Target(folder, lambda: connect(conninfo), Settings(), gates=False, observer=observer)


def fills(folder: Path, observer: Observer | None) -> None:
    """Go on to the end of a release with a backfill, then all the way back."""
    forwards(folder, observer)
    backwards(folder, observer)


def forwards(folder: Path, observer: Observer | None) -> None:
    """Go on where a killed run stopped, then to the end."""
    what = target(folder, observer)
    ended = resume(what, PATIENT)
    assert not ended.obstacles, ended.obstacles
    done = up(what, PATIENT)
    assert not done.obstacles, done.obstacles


def forgets(folder: Path, observer: Observer | None) -> None:
    """Go on without what the journal knows: the guard, broken on purpose."""
    with target(folder).connect() as connection:
        connection.execute("DELETE FROM dbsec.journal")
    forwards(folder, observer)


def backwards(folder: Path, observer: Observer | None) -> None:
    """Go back by all that is applied."""
    what = target(folder, observer)
    ended = resume(what, PATIENT)
    assert not ended.obstacles, ended.obstacles
    done = down(what, Asked(to=0, wait_s=30))
    assert not done.obstacles, done.obstacles
