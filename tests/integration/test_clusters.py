"""Clusters for tests: private ones are told apart, and what a killed run left is stopped by the next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbsec.lab import account, ports
from dbsec.pg import connect
from dbsec.process import ProcessId
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters


@pytest.fixture
def make(server_root):
    def make():
        who = account.server_account(Silent())
        return Clusters(server_root, 17, account=who, free_port=lambda: ports.free(1)[0])

    return make


def test_two_clusters_are_two_servers(make):
    clusters = make()
    try:
        one, other = clusters.create(), clusters.create(log_statement="all")
        names = one.create_database("only_here"), other.create_database("only_there")
        for conninfo, setting in zip(names, ("none", "all"), strict=True):
            with connect(conninfo) as session:
                assert session.execute("SHOW log_statement").fetchone() == (setting,)
        assert len(clusters.running()) == 2
    finally:
        clusters.close()
    assert clusters.running() == []
    assert not one.instance.data.exists()


ANOTHER_RUN = """
import signal, sys
from pathlib import Path
from dbsec.lab import account, ports
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters
who = account.server_account(Silent())
cluster = Clusters(Path(sys.argv[1]), 17, account=who, free_port=lambda: ports.free(1)[0]).create()
print(cluster.instance.running().pid, cluster.instance.data.parent, flush=True)
signal.pause()
"""


def test_what_a_killed_run_left_is_stopped_and_deleted(make, server_root):
    run = subprocess.Popen([sys.executable, "-c", ANOTHER_RUN, server_root], stdout=subprocess.PIPE, text=True)
    with run:
        pid, folder = run.stdout.readline().split()
        server = ProcessId.of(int(pid))
        make()
        assert server.alive  # its run lives
        run.kill()
    make()
    assert not server.alive
    assert not Path(folder).exists()
