"""A real server as dbsec sees it: identity, sessions, standby."""

from __future__ import annotations

import psycopg
import pytest

from dbsec.errors import ConnectError, ProgramError
from dbsec.evidence import Control, Drill, Phase, Provenance, Recorder
from dbsec.lab import ports
from dbsec.pg import connect, facts, settle
from dbsec.pg.instance import Instance
from dbsec.secret import Secret

pytestmark = pytest.mark.pg(15, 17, 18)


def test_identity_and_sessions(database):
    with connect(database.conninfo) as one, connect(database.conninfo, application_name="identity@test"):
        who = facts.server(one)
        others = [s for s in facts.sessions(one) if s.application == "identity@test"]
    assert who.major == database.cluster.major
    assert who.database == database.conninfo.dbname
    assert [(s.network, s.encrypted) for s in others] == [(True, False)]


def test_wrong_password_is_refused_and_never_shown(database):
    with pytest.raises(ConnectError, match="password authentication failed") as refused:
        connect(database.conninfo.but(password=Secret("hunter2-wrong")))
    assert "hunter2" not in f"{refused.value!r} {refused.value.__cause__!r} {database.conninfo!r}"


def test_a_refusal_of_the_server_leaves_no_row_in_the_evidence(database, tmp_path):
    def attack():
        with connect(database.conninfo) as session:
            session.execute("CREATE TABLE users (phone text PRIMARY KEY)")
            session.execute("INSERT INTO users VALUES ('+4915112345678'), ('+4915112345678')")

    path = tmp_path / "evidence.jsonl"
    drill = Drill(Control("X", "t", "r"), "d", attack)
    with Recorder(path, Provenance("a", "h")) as recorder:
        line = recorder.run(drill, chapter="c", phase=Phase.AFTER)
    assert line["facts"] == {"error": "UniqueViolation", "sqlstate": "23505"}
    assert line["summary"].startswith("UniqueViolation 23505: duplicate key value violates")
    assert "4915112345678" not in path.read_text()


def test_standby_streams_and_its_configuration_holds_no_password(cluster_factory):
    primary = cluster_factory()
    data = primary.instance.data.parent / "standby"
    (port,) = ports.free(1)
    standby = Instance(primary.instance.binaries, data, port, data.with_suffix(".log"), primary.account)
    standby.clone(primary.admin, slot="standby1")
    standby.start()
    try:
        with connect(primary.admin) as admin:
            walsenders = [s for s in facts.sessions(admin) if s.backend == "walsender"]
        assert len(walsenders) == 1
        password = primary.admin.password.reveal()
        assert not [p for p in data.glob("*.conf") if password in p.read_text()]
    finally:
        standby.destroy()


def test_port_in_use_is_told_and_nothing_is_left_running(cluster, cluster_factory):
    with pytest.raises(ProgramError, match="did not start on port"):
        cluster_factory(port=str(cluster.instance.port))


def test_a_session_whose_statement_was_cut_off_takes_the_next_one(database):
    with connect(database.conninfo) as session:
        settle(session)  # an idle one is left alone
        # where an interrupt strikes between psycopg's sending and its waiting
        session.pgconn.send_query(b"SELECT pg_sleep(0.2); SELECT set_config('application_name', 'cut off', false)")
        with pytest.raises(psycopg.OperationalError, match="another command is already in progress"):
            session.execute("SELECT 1")
        settle(session)
        assert session.execute("SHOW application_name").fetchone() == ("cut off",)


def test_a_session_that_has_gone_is_not_waited_for(database):
    with connect(database.conninfo) as session:
        session.pgconn.send_query(b"SELECT pg_terminate_backend(pg_backend_pid())")
        settle(session)
        assert session.broken
