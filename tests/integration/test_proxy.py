"""The proxy does to a real PostgreSQL session what each of its modes says."""

from __future__ import annotations

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from dbsec.errors import ConnectError
from dbsec.pg import connect
from dbsec.testing.proxy import Proxy
from dbsec.tls.ca import Authority
from dbsec.tls.wire import SSL_REQUEST


@pytest.fixture
def proxy(cluster):
    with Proxy(cluster.instance.port) as proxy:
        yield proxy


@pytest.fixture
def through(cluster, proxy):
    return cluster.admin.but(port=proxy.port, sslmode="disable")


def test_it_forwards_more_than_one_chunk(through, proxy):
    with connect(through) as one, connect(through) as two:
        assert len(one.execute("SELECT repeat('x', 1000000)").fetchone()[0]) == 1_000_000
        assert two.execute("SELECT length(%s)", ["y" * 500_000]).fetchone() == (500_000,)
    assert proxy.accepted == 2


def test_a_delay_counts_each_way(through, proxy):
    with connect(through) as session:
        proxy.delay(0.15)
        start = time.monotonic()
        session.execute("SELECT 1")
        assert time.monotonic() - start >= 0.3
        proxy.forward()
        start = time.monotonic()
        session.execute("SELECT 1")
        assert time.monotonic() - start < 0.15


def test_a_cut_resets_open_sessions_and_new_ones(through, proxy):
    with connect(through) as session:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    with pytest.raises(ConnectError):
        connect(through)
    proxy.forward()
    with connect(through) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_cut_is_a_reset_and_not_an_orderly_end(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(1) in (b"S", b"N")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_black_hole_holds_back_and_delivers_when_it_ends(through, proxy):
    with connect(through) as session, ThreadPoolExecutor(1) as pool:
        proxy.black_hole()
        asked = pool.submit(lambda: session.execute("SELECT 42").fetchone())
        with pytest.raises(TimeoutError):
            asked.result(timeout=0.3)
        with pytest.raises(ConnectError, match="timeout expired"):
            connect(through, timeout_s=2)
        proxy.forward()
        assert asked.result(timeout=10) == (42,)


def test_refused_tls_brings_prefer_down_to_clear_and_stops_require(cluster_factory):
    pair = Authority.create("proxy CA", days=1).issue_server(["localhost"])
    cluster = cluster_factory()
    cluster.instance.write("server.crt", pair.certificate)
    cluster.instance.write("server.key", pair.key)
    cluster.instance.configure({"ssl": "on"})
    cluster.instance.reload()
    with Proxy(cluster.instance.port) as proxy:
        prefers = cluster.admin.but(port=proxy.port, sslmode="prefer")
        assert _encrypted(prefers)
        proxy.refuse_tls()
        assert not _encrypted(prefers)
        with pytest.raises(ConnectError, match="does not support SSL"):
            connect(prefers.but(sslmode="require"))
        proxy.forward()
        assert _encrypted(prefers)


def _encrypted(conninfo):
    with connect(conninfo) as session:
        return session.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()[0]


def test_a_login_without_ssl_request_passes_where_tls_is_refused(through, proxy):
    proxy.refuse_tls()
    with connect(through) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_client_that_leaves_in_the_middle_harms_no_other(through, proxy):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(struct.pack(">I", 8))
    with connect(through) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_nothing_listens_after_it_ends(cluster):
    with Proxy(cluster.instance.port) as proxy:
        port = proxy.port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
