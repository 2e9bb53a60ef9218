"""PostgreSQL in the lab: a primary and its streaming standby."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import retry
from dbsec.errors import LabError, ProgramError
from dbsec.lab import ports
from dbsec.lab.site import Site
from dbsec.lab.state import ServerRecord
from dbsec.pg import Conninfo, connect, facts
from dbsec.pg.binaries import PROVEN, Binaries
from dbsec.pg.hba import HbaLine, render
from dbsec.pg.instance import STOP_LADDER, Instance
from dbsec.secret import Secret

SUPERUSER = "postgres"
STANDBY_SLOT = "standby1"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_preload_libraries": "pg_stat_statements",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "wal_level": "replica",
    "max_wal_senders": "8",
    "wal_keep_size": "64MB",
    "max_slot_wal_keep_size": "2GB",  # a standby that is gone must not fill the disk
    "archive_mode": "on",  # switching it on needs a restart; the command is changed by reload
    "archive_command": "/bin/true",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """How the lab's PostgreSQL greets its clients: settings, hba, files in the data folder, and the admin's TLS.

    ``files`` are name -> bytes (0600). ``admin`` are libpq parameters of the superuser's own connections.
    """

    hba: str
    settings: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    admin: Mapping[str, str] = field(default_factory=dict)


def encrypted_profile(site: Site) -> Profile:
    """Return what ``lab up`` starts with: TLS by the lab's CA, SCRAM, and nothing in clear."""
    pair = site.certificate()
    anyone = HbaLine("hostssl", ("all",), ("all",), f"{ports.LOOPBACK}/32", "scram-sha-256")
    standby = HbaLine("hostssl", ("replication",), (SUPERUSER,), f"{ports.LOOPBACK}/32", "scram-sha-256")
    return Profile(
        hba=render([anyone, standby], header="the lab: TLS and SCRAM, loopback only"),
        settings={
            "ssl": "on",
            "ssl_cert_file": "server.crt",
            "ssl_key_file": "server.key",
            "ssl_min_protocol_version": "TLSv1.2",
        },
        files={"server.crt": pair.certificate, "server.key": pair.key},
        admin={"sslmode": "verify-full", "sslrootcert": str(site.ca_path)},
    )


@dataclass(frozen=True, slots=True)
class Cluster:
    """The running pair; ``admin`` is the superuser's way into the primary as it was started."""

    primary: Instance
    standby: Instance
    admin: Conninfo


def start(site: Site, binaries: Binaries, profile: Profile, *, port: int, standby_port: int) -> Cluster:
    """Start the primary, clone the standby from it, and wait until it streams.

    Errors: ``LabError`` for a port in use, with the end of the log for all else that stops a start.
    """
    if not binaries.runnable_by(site.account):
        binaries = binaries.copied_to(site.programs / f"postgresql-{binaries.version}")
    password = Secret((site.folder / "secrets/postgres").read_text().strip())
    logs = site.folder / "logs"
    primary = Instance(binaries, site.folder / "primary", port, logs / "primary.log", site.account, site.mark)
    primary.init(superuser=SUPERUSER, password=password, durable=False)
    for name, data in profile.files.items():
        primary.write(name, data)
    primary.write("pg_hba.conf", profile.hba)
    primary.configure({**_SETTINGS, **profile.settings, "port": str(port), "cluster_name": "primary"})
    _start(site, primary, "primary")
    admin = Conninfo.local(port, user=SUPERUSER, dbname="postgres", password=password, **profile.admin)
    standby = Instance(binaries, site.folder / "standby", standby_port, logs / "standby.log", site.account, site.mark)
    standby.clone(admin.but(dbname=None), slot=STANDBY_SLOT)
    standby.configure({"cluster_name": "standby"})
    _start(site, standby, "standby")
    retry.wait_until(lambda: streams(admin), within_s=20, what="the standby to stream from the primary")
    return Cluster(primary, standby, admin)


def streams(admin: Conninfo) -> bool:
    """Tell whether a standby streams from this primary."""
    with connect(admin) as connection:
        return any(s.backend == "walsender" for s in facts.sessions(connection))


def _start(site: Site, instance: Instance, name: str) -> None:
    if ports.taken(instance.port):
        raise LabError(f"port {instance.port} is in use", hint="choose another --port, or none")
    try:
        pid = instance.start()
    except ProgramError as exc:
        raise LabError(f"{name}: {exc}", hint=_known_cause(exc.tail, instance.log)) from exc
    proven = "" if instance.binaries.major in PROVEN else ", unproven"
    version = f"{instance.binaries.version} ({instance.binaries.source}{proven})"
    site.state.record(
        ServerRecord(name, pid.pid, pid.started, {"sql": instance.port}, str(instance.log), version, STOP_LADDER)
    )


def _known_cause(tail: str, log: Path) -> str:
    if "No space left on device" in tail:
        return "free some disk space, or set DBSEC_HOME to a larger file system"
    if "could not bind" in tail or "Address already in use" in tail:
        return "choose another --port, or none"
    return f"see {log}"
