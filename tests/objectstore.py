"""SeaweedFS for the tests: a real S3 with TLS and SigV4 below one folder, stopped by pid; killed runs' are swept."""

from __future__ import annotations

import itertools
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from dbsec import files
from dbsec.lab import lab, objectstore
from dbsec.lab.site import Site
from dbsec.lab.state import State
from dbsec.process import Account, ProcessId
from dbsec.tls.ca import Authority

_NUMBERS = itertools.count()
_SELF = ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)


@dataclass(frozen=True)
class S3:
    """A running store. ``bucket`` has object lock and versioning; ``environ`` holds its key for ``url``."""

    site: Site
    environ: dict[str, str]

    @property
    def endpoint(self) -> str:
        return str(self.site.state.facts["objectstore"]["address"])

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def bucket(self) -> str:
        return str(self.site.state.facts["objectstore"]["bucket"])

    @property
    def ca(self) -> Path:
        return self.site.ca_path

    def url(self, prefix: str = "", *, bucket: str = "", endpoint: str = "", **more: str) -> str:
        """Return the url of a prefix; a new one where none is told."""
        told = {
            "endpoint": endpoint or self.endpoint,
            "region": "us-east-1",
            "ca": str(self.ca),
            "access_key_id": "env:S3_KEY",
            "secret_access_key": "env:S3_SECRET",
            **more,
        }
        folder = prefix or f"t-{secrets.token_hex(4)}"
        return f"s3://{bucket or self.bucket}/{folder}?{urlencode(told, safe='/:')}"

    def boto(self) -> Any:
        """Return a client of boto3 with the same key."""
        import boto3  # brings botocore, which most tests never need
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            verify=str(self.ca),
            aws_access_key_id=self.environ["S3_KEY"],
            aws_secret_access_key=self.environ["S3_SECRET"],
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        )

    def plain_bucket(self) -> str:
        """Make a bucket without versioning and object lock."""
        name = f"plain-{secrets.token_hex(4)}"
        self.boto().create_bucket(Bucket=name)
        return name


class Stores:
    """Makes stores below one folder and stops them all."""

    def __init__(self, root: Path, account: Account) -> None:
        self._root = root
        self._account = account
        self._made: list[S3] = []
        self._sweep()

    def create(self) -> S3:
        site = self._site(self._root / f"s3-{_SELF.pid}-{_SELF.started}-{next(_NUMBERS)}")
        made = S3(site, {})
        self._made.append(made)
        objectstore.start(site)
        lines = Path(site.state.facts["objectstore"]["credentials"]).read_text().splitlines()
        told = dict(line.split(" = ", 1) for line in lines if " = " in line)
        made.environ.update(S3_KEY=told["aws_access_key_id"], S3_SECRET=told["aws_secret_access_key"])
        return made

    def running(self) -> list[ProcessId]:
        """Return the servers that are up: what the reaper must spare."""
        records = [record for made in self._made for record in made.site.state.servers.values()]
        return [record.process for record in records if record.process.alive]

    def close(self) -> None:
        for made in self._made:
            lab.down(made.site.folder)

    def _site(self, folder: Path) -> Site:
        mode = 0o700 if self._account.is_current else 0o711
        programs = self._root / "programs"
        files.make_folder(folder, mode=mode)
        files.make_folder(programs, mode=0o755)
        authority = Authority.create("CA of a test's S3", days=2)
        site = Site(folder, programs, self._account, authority, State(folder, secrets.token_hex(16)))
        site.state.tell(account=self._account.name)
        files.make_folder(folder / "secrets", mode=mode)
        for name in ("logs", "tmp"):
            site.subfolder(name)
        files.write_atomic(site.ca_path, authority.certificate, mode=0o644)
        return site

    def _sweep(self) -> None:
        """Stop and delete what a killed run left: the folder's name tells whose it was."""
        for folder in self._root.glob("s3-*-*-*"):
            _, pid, started, _ = folder.name.split("-")
            if not ProcessId(int(pid), int(started)).alive:
                lab.down(folder)
