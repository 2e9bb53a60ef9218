"""Field encryption: what is read, moved, altered or stolen in the database without the keys is of no use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dbsec.crypto import BlindIndex, EncryptedColumn, Field, Mode
from dbsec.crypto.drill import FOUND, CryptoTarget, still_found
from dbsec.crypto.drill import drills as attacks
from dbsec.demo import plaintext
from dbsec.demo.by_command import Command
from dbsec.demo.callers import Callers
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.email_change import EmailChange
from dbsec.demo.key_life import KeyLife
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import TOKEN, key_uri
from dbsec.errors import LabError
from dbsec.evidence import Drill
from dbsec.kms import Kms, open_kms

# as the service declares them
PHONE = EncryptedColumn(
    "app.users", "phone_enc", Field("app.users", "phone"), tenant="tenant_id", index=("phone_bidx", BlindIndex())
)
EMAIL = EncryptedColumn(
    "app.users", "email_enc", Field("app.users", "email"), mode=Mode.DETERMINISTIC, tenant="tenant_id"
)
_GONE = replace(plaintext.GONE, id="ENC-PLAINTEXT")


def drills(stage: Stage) -> Sequence[Drill]:
    """Read, move, alter and steal what names people, and look for it on every disk."""
    residue = Drill(_GONE, "look for one e-mail address in every file", lambda: plaintext.look(stage, "email"))
    return [*attacks(_target(stage)), residue]


def harden(stage: Stage) -> Iterator[Seen]:
    """Encrypt e-mail addresses too, rotate every key, and see that people are still found."""
    if stage.service is None or stage.load is None or stage.keys is None:
        return
    home = stage.lab.folder / "migrations"
    env = {**stage.keys.settings, TOKEN: f"file:{home / 'kms.token'}", "APP_DSN": f"file:{home / 'migrator.dsn'}"}
    traffic = ReleaseTraffic(stage.load, stage.progress, stage.service.base_url)
    command = Command(home, stage.deployment, env)
    yield from EmailChange(stage, command, home / "encrypt_phone", stage.keys, traffic).run()
    rotated = ReleaseTraffic(stage.load, stage.progress, stage.service.base_url, stage.service.base_url)
    yield from KeyLife(stage, command, home, rotated).run()
    yield FOUND, "a user by phone and by e-mail address, in its own tenant alone", still_found(_target(stage))


def _target(stage: Stage) -> CryptoTarget:
    tenants = [str(tenant.id) for tenant in stage.dataset.tenants[:2]] if stage.dataset else ["", ""]
    return CryptoTarget(
        admin=lambda: stage.login("admin"),
        thief=lambda: stage.login("service"),
        people=Callers(stage),
        tenants=(tenants[0], tenants[1]),
        phone=PHONE,
        email=EMAIL,
        kms=lambda: _kms(stage),
        stranger=lambda: open_kms(f"{key_uri(stage)}&token=env:STRANGER", environ={"STRANGER": "no token of ours"}),
    )


def _kms(stage: Stage) -> Kms:
    if stage.keys is None:
        raise LabError("the tenants have no keys yet")
    return open_kms(f"{stage.keys.uri}&token=env:TOKEN", environ={"TOKEN": stage.keys.token.reveal()})


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
