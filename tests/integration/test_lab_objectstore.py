"""The object store's start, where another server is quicker at one of its eight ports."""

from __future__ import annotations

import socket

import pytest
from tests.objectstore import Stores

from dbsec.lab import account, objectstore, ports
from dbsec.progress import Silent


@pytest.mark.parametrize("lost", [0, 7], ids=["s3", "filer.grpc"])
def test_a_port_that_is_taken_meanwhile_costs_a_second_start(server_root, monkeypatch, lost):
    chosen: list[list[int]] = []
    free = ports.free

    with socket.create_server((ports.LOOPBACK, free(1)[0])) as quicker:

        def late(count: int) -> list[int]:
            chosen.append(free(count))
            if len(chosen) == 1:
                chosen[0][lost] = quicker.getsockname()[1]
            return chosen[-1]

        monkeypatch.setattr(objectstore.ports, "free", late)
        stores = Stores(server_root, account.server_account(Silent()))
        try:
            store = stores.create()
            assert (len(chosen), store.port) == (2, chosen[1][0])
            assert [bucket["Name"] for bucket in store.boto().list_buckets()["Buckets"]] == [store.bucket]
        finally:
            stores.close()
        assert stores.running() == []
