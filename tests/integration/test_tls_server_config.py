"""A posture applied to a running server: proven where it holds, and undone to the last byte where it does not."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dbsec.clock import SYSTEM
from dbsec.errors import ApplyError, ConfigError, UsageError
from dbsec.pg import Conninfo, connect, facts
from dbsec.pg.hba import HbaLine
from dbsec.progress import Silent
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.testing.proxy import Proxy
from dbsec.tls import posture, probe
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.posture import Posture
from dbsec.tls.probe import Reason, Served, TlsRefusal
from dbsec.tls.server_config import Applied, apply
from dbsec.tls.server_plan import Plan, plan
from dbsec.tls.sessions import Drained, drain_plaintext, md5_roles

pytestmark = [pytest.mark.pg(15, 17, 18)]
AUTHORITY = Authority.create("the site's CA")
GOOD, ANOTHER = (AUTHORITY.issue_server(["localhost", "127.0.0.1"]) for _ in range(2))
OPEN = (HbaLine("host", ("all", "replication"), ("all",), "127.0.0.1/32", "md5"),)
CLOSED = posture.hba(admin="postgres")
FILES = ("server.crt", "server.key", "root.crt", "pg_hba.conf", "postgresql.auto.conf")


def wanted(*, certificate: KeyPair = GOOD, hba: tuple[HbaLine, ...] = CLOSED, **settings: str) -> Posture:
    return Posture(certificate, AUTHORITY.certificate, AUTHORITY.certificate, hba, {**posture.SETTINGS, **settings})


@dataclass(frozen=True)
class Server:
    """A server under change, and how its superuser comes in now."""

    cluster: Cluster
    admin: Conninfo
    folder: DataFolder

    def plan(self, aim: Posture) -> Plan:
        with connect(self.admin) as connection:
            return plan(connection, self.folder, aim)

    def apply(self, aim: Posture) -> Applied:
        return apply(self.admin, self.folder, self.plan(aim), within_s=0.5)

    def served(self) -> Served | TlsRefusal:
        port = self.cluster.instance.port
        return probe.certificate("127.0.0.1", port, server_name="localhost", ca=AUTHORITY.certificate)

    def state(self) -> dict[str, set[bytes]]:
        """Return the lines of each file; the order of ALTER SYSTEM's own has no meaning."""
        return {name: set((self.folder.read(name) or b"absent").splitlines()) for name in FILES}


@pytest.fixture(scope="module")
def fresh(cluster_factory: Callable[..., Cluster]) -> Server:
    """A server without TLS, never touched by a test that succeeds."""
    cluster = cluster_factory()
    return Server(cluster, cluster.admin, DataFolder(cluster.instance.data))


@pytest.fixture(scope="module")
def encrypted(cluster_factory: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server on which the posture is in force; tests of refusals leave it so."""
    cluster = cluster_factory()
    server = Server(cluster, cluster.admin, DataFolder(cluster.instance.data))
    server.apply(wanted())
    ca = AUTHORITY.save(tmp_path_factory.mktemp("site"))
    return replace(server, admin=cluster.admin.but(sslmode="verify-full", sslrootcert=ca))


def test_planning_changes_nothing_and_shows_no_secret(fresh: Server) -> None:
    before = fresh.state()
    planned = fresh.plan(wanted())
    assert fresh.state() == before
    assert planned.certificate_old is None
    assert {c.name: (c.old, c.new, c.own) for c in planned.settings}["ssl"] == ("off", "on", None)
    shown = planned.render()
    assert "setting      ssl: off -> on" in shown
    assert "+hostnossl  all,replication  all" in shown
    assert "PRIVATE" not in shown + repr(planned)


def test_it_is_switched_on_by_reload_and_proven(cluster_factory: Callable[..., Cluster]) -> None:
    cluster = cluster_factory()
    server = Server(cluster, cluster.admin, DataFolder(cluster.instance.data))
    before = cluster.instance.running()
    with connect(cluster.admin) as in_clear:  # a session from before lives on
        done = server.apply(wanted())
        assert in_clear.execute("SELECT 1").fetchone() == (1,)
    assert done.served_after_s < 0.5
    assert isinstance(seen := server.served(), Served)
    assert (seen.fingerprint, seen.protocol) == (GOOD.fingerprint, "TLSv1.3")
    key = cluster.instance.data / "server.key"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_uid) == (0o600, cluster.account.uid)
    assert cluster.instance.running() == before, "no restart"


def test_what_is_in_force_needs_no_change(encrypted: Server) -> None:
    planned = encrypted.plan(wanted())
    assert planned.empty
    assert planned.render() == "nothing to change\n"
    assert encrypted.apply(wanted()).plan == planned


def test_a_new_certificate_is_served_without_ending_a_session(encrypted: Server) -> None:
    with connect(encrypted.admin) as session:
        encrypted.apply(wanted(certificate=ANOTHER))
        assert isinstance(seen := encrypted.served(), Served)
        assert seen.fingerprint == ANOTHER.fingerprint
        encrypted.apply(wanted())
        assert session.execute("SELECT 1").fetchone() == (1,)


BAD = {
    "ciphers that are none": (wanted(certificate=ANOTHER, ssl_ciphers="NONSENSE"), "is not served within"),
    "a certificate for another host": (
        wanted(certificate=AUTHORITY.issue_server(["elsewhere.test"])),
        "Hostname mismatch",
    ),
    "a certificate of another CA": (
        wanted(certificate=Authority.create("another").issue_server(["localhost"])),
        "unable to get local issuer certificate",
    ),
    "a method that is none": (wanted(hba=(replace(OPEN[0], method="nonsense"), *CLOSED)), "pg_hba.conf line"),
    "an hba that locks the administrator out": (wanted(hba=posture.hba(admin="somebody_else")), "rejects connection"),
    "an hba that lets nobody in": (wanted(hba=CLOSED[-2:]), "rejects connection"),
    "a value that is none": (wanted(ssl_min_protocol_version="TLSv9"), "invalid value"),
    "a setting that needs a restart": (wanted(max_connections="61"), "not in force: max_connections"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_hold_is_undone_on_a_server_without_tls(fresh: Server, name: str) -> None:
    is_undone(fresh, *BAD[name])


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_hold_is_undone_on_a_hardened_server(encrypted: Server, name: str) -> None:
    is_undone(encrypted, *BAD[name])


def is_undone(server: Server, aim: Posture, said: str) -> None:
    before, served = server.state(), server.served()
    with pytest.raises(ApplyError, match="was rolled back") as refused:
        server.apply(aim)
    assert said in refused.value.message
    assert server.state() == before
    assert server.served() == served
    with connect(server.admin) as back:
        assert not [s for s in facts.settings(back, list(aim.settings)).values() if s.pending_restart]


class Meddled(DataFolder):
    """A folder where, in the same moment, somebody else puts another key."""

    def write(self, name: str, data: bytes, *, mode: int | None = None) -> None:
        super().write(name, GOOD.key if data == ANOTHER.key else data, mode=mode)


def test_a_key_of_another_certificate_is_found_on_the_wire(encrypted: Server) -> None:
    meddled = replace(encrypted, folder=Meddled(encrypted.folder.path))
    is_undone(meddled, wanted(certificate=ANOTHER), "another certificate is served")
    assert "values mismatch" in encrypted.cluster.log.read_text()


@pytest.mark.parametrize(
    ("aim", "said"),
    [
        (wanted(certificate=KeyPair(GOOD.certificate, ANOTHER.key)), "KEY_VALUES_MISMATCH"),
        (wanted(certificate=KeyPair(GOOD.certificate, b"no key")), "do not go together"),
        (replace(wanted(), client_ca=b"no certificate"), "the CA that the server shall trust"),
        (wanted(ssl_nonsense="on"), "no setting 'ssl_nonsense'"),
    ],
)
def test_what_cannot_hold_is_said_before_anything_is_touched(fresh: Server, aim: Posture, said: str) -> None:
    before = fresh.state()
    with pytest.raises(ConfigError) as refused:
        fresh.plan(aim)
    assert said in refused.value.message
    assert fresh.state() == before


def test_a_setting_of_the_site_comes_back_as_it_was(fresh: Server) -> None:
    with connect(fresh.admin) as admin:
        admin.execute("ALTER SYSTEM SET password_encryption = 'md5'")
        admin.execute("SELECT pg_reload_conf()")
    try:
        with pytest.raises(ApplyError, match="was rolled back"):
            fresh.apply(BAD["ciphers that are none"][0])
        assert b"password_encryption = 'md5'" in (fresh.folder.read("postgresql.auto.conf") or b"")
    finally:
        with connect(fresh.admin) as admin:
            admin.execute("ALTER SYSTEM RESET password_encryption")
            admin.execute("SELECT pg_reload_conf()")


def test_an_interrupted_change_is_undone_too(fresh: Server) -> None:
    class Interrupted(Silent):
        def step(self, text: str) -> None:
            if "pg_hba.conf" in text:
                raise KeyboardInterrupt

    before = fresh.state()
    with pytest.raises(KeyboardInterrupt):
        apply(fresh.admin, fresh.folder, fresh.plan(wanted()), progress=Interrupted())
    assert fresh.state() == before
    assert isinstance(seen := fresh.served(), TlsRefusal)
    assert seen.reason is Reason.NO_TLS


class FullDisk(DataFolder):
    """A folder on a disk that is full again when the old key shall come back."""

    def restore(self, name: str, data: bytes | None) -> None:
        if name == "server.key":
            Path("/dev/full").write_bytes(b"x")
        super().restore(name, data)


def test_a_file_that_does_not_come_back_is_named_and_all_else_comes_back(fresh: Server) -> None:
    before = fresh.state()
    full = replace(fresh, folder=FullDisk(fresh.folder.path))
    try:
        with pytest.raises(ApplyError, match=r"'server\.key' is not back \(\[Errno 28\] No space left") as refused:
            full.apply(BAD["an hba that lets nobody in"][0])
        assert "rejects connection" in refused.value.message, "the cause is told too"
        assert refused.value.message.count("is not back") == 1
        assert {n for n, lines in fresh.state().items() if lines != before[n]} == {"server.key"}
        with connect(fresh.admin) as back:
            assert facts.settings(back, ["ssl"])["ssl"].value == "off", "the settings before are in force"
    finally:
        fresh.folder.restore("server.key", None)
    assert fresh.state() == before


def test_where_the_connection_is_lost_files_come_back_and_settings_are_named(fresh: Server) -> None:
    before = fresh.state()
    with Proxy(fresh.cluster.instance.port) as proxy:

        class Cut(Silent):
            def step(self, text: str) -> None:
                if "pg_hba.conf" in text:
                    proxy.cut()

        planned = fresh.plan(wanted())
        with pytest.raises(ApplyError, match="it did not hold") as refused:
            apply(fresh.admin.but(port=proxy.port), fresh.folder, planned, progress=Cut(), within_s=2)
    try:
        assert "setting 'ssl' is not back" in refused.value.message
        changed = {n for n, lines in fresh.state().items() if lines != before[n]}
        assert changed == {"postgresql.auto.conf"}
    finally:
        with connect(fresh.admin) as admin:
            admin.execute("ALTER SYSTEM RESET ALL")
            admin.execute("SELECT pg_reload_conf()")


def test_a_plan_that_has_aged_is_not_carried_out(encrypted: Server) -> None:
    aged = encrypted.plan(wanted(certificate=ANOTHER))
    encrypted.apply(wanted(hba=(replace(CLOSED[0], comment="another"), *CLOSED[1:])))
    before = encrypted.state()
    with pytest.raises(ApplyError, match="not as it was when the plan was made"):
        apply(encrypted.admin, encrypted.folder, aged)
    assert encrypted.state() == before


def test_another_servers_folder_is_refused(fresh: Server, tmp_path: Path) -> None:
    with connect(fresh.admin) as admin, pytest.raises(UsageError, match="is not the data folder of this server"):
        plan(admin, DataFolder(tmp_path), wanted())


def test_a_link_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "server.crt").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="is a link"):
        DataFolder(tmp_path).read("server.crt")


# Sessions


@pytest.fixture
def mixed(cluster_factory: Callable[..., Cluster]) -> Iterator[Cluster]:
    """A server in transition: TLS is there, plaintext is still taken."""
    cluster = cluster_factory()
    Server(cluster, cluster.admin, DataFolder(cluster.instance.data)).apply(
        wanted(hba=posture.hba(admin="postgres", networks=("127.0.0.1/32",), transitional=True))
    )
    yield cluster
    cluster.instance.stop()


def test_sessions_in_clear_leave_or_are_ended_and_are_counted(mixed: Cluster) -> None:
    in_clear, over_tls = mixed.admin.but(sslmode="disable"), mixed.admin.but(sslmode="require")
    with ExitStack() as stack:
        clear = [stack.enter_context(connect(in_clear)) for _ in range(8)]
        safe = [stack.enter_context(connect(over_tls)) for _ in range(2)]
        replica = stack.enter_context(connect(in_clear.but(replication="true")))
        leaving = threading.Timer(0.3, stack_of(clear[:3]).close)
        leaving.start()
        with connect(in_clear) as admin:  # in clear itself, and not to be counted
            began = SYSTEM.monotonic()
            drained = drain_plaintext(admin, deadline_s=1.0)
            assert 1.0 <= SYSTEM.monotonic() - began < 5
            assert [s.backend for s in facts.sessions(admin) if not s.encrypted] == []
        leaving.join()
        assert drained == Drained(already_encrypted=2, left_by_themselves=3, terminated=6)
        assert [c.execute("SELECT 1").fetchone() for c in safe] == [(1,), (1,)]
        for ended in (*clear[3:], replica):
            with pytest.raises(psycopg.errors.AdminShutdown):
                ended.execute("SELECT 1")


def stack_of(connections: Iterable[psycopg.Connection[Any]]) -> ExitStack:
    stack = ExitStack()
    for connection in connections:
        stack.callback(connection.close)
    return stack


def test_a_drain_ends_as_soon_as_all_have_left(mixed: Cluster) -> None:
    with connect(mixed.admin.but(sslmode="require")) as admin:
        began = SYSTEM.monotonic()
        assert drain_plaintext(admin, deadline_s=30) == Drained(0, 0, 0)
        assert SYSTEM.monotonic() - began < 1


def test_md5_hashes_are_found_by_role(mixed: Cluster) -> None:
    with connect(mixed.admin) as admin:
        for scheme, role in (("md5", "old one"), ("scram-sha-256", "new")):
            admin.execute(sql.SQL("SET password_encryption = {}").format(scheme))
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            admin.execute(statement.format(sql.Identifier(role), Secret("a password").reveal()))
        admin.execute("CREATE ROLE without LOGIN")
        assert md5_roles(admin) == ["old one"]
