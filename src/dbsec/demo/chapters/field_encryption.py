"""Field encryption: what is read, moved, altered or stolen in the database without the keys is of no use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dbsec.demo import plaintext
from dbsec.demo.by_command import Command
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.email_change import EmailChange
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import TOKEN
from dbsec.evidence import Drill

_GONE = replace(plaintext.GONE, id="ENC-PLAINTEXT")


def drills(stage: Stage) -> Sequence[Drill]:
    """Read, move, alter and steal what names people."""
    return [Drill(_GONE, "look for one e-mail address in every file", lambda: plaintext.look(stage, "email"))]


def harden(stage: Stage) -> Iterator[Seen]:
    """Encrypt e-mail addresses too, so that they are still found."""
    if stage.service is None or stage.load is None or stage.keys is None:
        return
    home = stage.lab.folder / "migrations"
    env = {**stage.keys.settings, TOKEN: f"file:{home / 'kms.token'}", "APP_DSN": f"file:{home / 'migrator.dsn'}"}
    traffic = ReleaseTraffic(stage.load, stage.progress, stage.service.base_url)
    command = Command(home, stage.deployment, env)
    yield from EmailChange(stage, command, home / "encrypt_phone", stage.keys, traffic).run()


CHAPTER = Chapter(
    name="field_encryption",
    order=50,
    title="Field encryption",
    summary=(
        "Phones and e-mail addresses are encrypted by the service under keys of each tenant, which the database never "
        "has: bound to tenant, column and row, found by equality, refused when moved or altered."
    ),
    drills=drills,
    harden=harden,
    before="migration",
)
