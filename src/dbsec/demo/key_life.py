"""The keys are changed while the service works: a new DEK, a new version of each KEK, and every row brought to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from dbsec import files
from dbsec.demo.by_command import Command
from dbsec.demo.chapter import Seen
from dbsec.demo.release_exhibits import p99_ms
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import TTL_S, admin_uri, key_uri
from dbsec.evidence import Control, Observation, Outcome

ROTATED = Control(
    "ENC-ROTATION",
    "Keys are rotated while the service works, and no request fails",
    "a key that cannot be changed without an outage is never changed",
    ("NIST SP 800-57 5.3.5", "NIST SP 800-53 SC-12"),
)
_CONFIG = """
[crypto]
kms = "{kms}"
ttl = "{ttl_s}s"

[[crypto.columns]]
table = "app.users"
column = "phone_enc"
field = "app.users.phone"
tenant = "tenant_id"
index = {{ column = "phone_bidx" }}

[[crypto.columns]]
table = "app.users"
column = "email_enc"
field = "app.users.email"
mode = "deterministic"
tenant = "tenant_id"
"""
_OPTIONS = ("--config", "crypto.toml", "--apply")
_KEYS: LiteralString = """
SELECT count(*) FILTER (WHERE k.state = 'active'), count(*) FILTER (WHERE k.state = 'retired'),
       count(*) FILTER (WHERE k.kek_version = '1')
  FROM dbsec.keyring k WHERE purpose = 'data'
"""
_OLD: LiteralString = """
SELECT count(*) FROM app.users u WHERE NOT EXISTS (SELECT FROM dbsec.keyring k WHERE k.state = 'active'
   AND k.tenant = u.tenant_id::text AND k.purpose = 'data' AND int4send(k.id::int) = substr(u.phone_enc, 3, 4))
"""


@dataclass
class KeyLife:
    """``home`` holds the token of the service, by which DEKs are wrapped; KEKs are rotated by their administrator."""

    stage: Stage
    command: Command
    home: Path
    traffic: ReleaseTraffic

    def run(self) -> Iterator[Seen]:
        """Rotate the DEKs, rotate and rewrap under the KEKs, reencrypt every phone."""
        token = f"file:{self.home / 'kms.token'}"
        kms = f"{key_uri(self.stage)}&token={token}"
        files.write_atomic(self.home / "crypto.toml", _CONFIG.format(kms=kms, ttl_s=TTL_S))
        self.traffic.mark("rotate the DEKs")
        self.command.run("crypto rotate-dek", "--context=app.users", *_OPTIONS)
        self.traffic.mark("rotate and rewrap under the KEKs")
        self.command.run("crypto rewrap", "--rotate-kek", "--admin", admin_uri(self.stage), *_OPTIONS)
        self.traffic.mark("reencrypt every phone")
        self.command.run("crypto reencrypt", "app.users", "phone_enc", "--verify", *_OPTIONS)
        self.traffic.serve()
        yield ROTATED, "new DEKs, new KEK versions, every phone under them", self._judged()

    def _judged(self) -> Observation:
        steps = self.traffic.steps()
        failed = sum(sample.failed for sample in steps.samples)
        with self.stage.admin() as admin:
            active, retired, old_kek = admin.execute(_KEYS).fetchone() or (0, 0, 0)
            (old_rows,) = admin.execute(_OLD).fetchone() or (0,)
        facts = {"active": active, "retired": retired, "under_old_kek": old_kek, "rows_under_old_dek": old_rows}
        facts |= {"requests": len(steps.samples), "failed": failed}
        summary = f"{active} new DEKs, {old_kek} under an old KEK, {old_rows} phones under an old DEK; "
        summary += f"{len(steps.samples):,} requests, {failed} failed, p99 {p99_ms(steps.samples):.0f} ms"
        fine = steps.samples and not failed and active == retired > 0 and not old_kek and not old_rows
        return Observation(Outcome.PASS if fine else Outcome.FAIL, summary, facts)
