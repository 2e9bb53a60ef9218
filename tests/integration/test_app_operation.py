"""Health, metrics, log, flags and configuration of the reference service."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from dbsec import process
from dbsec.errors import ProgramError
from dbsec.lab.deployment import deployment_folder
from dbsec.pg import Conninfo


def test_health_says_who_and_over_what(deployed: Any) -> None:
    health = deployed.service.health()
    assert (health["status"], health["release"], health["generation"], health["draining"]) == ("ok", "blue", 1, 0)
    assert health["tls"] == {"ssl": False, "version": None, "cipher": None}
    assert health["prepared_statements"] is True
    names = deployed.rows("SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()")
    assert ("orders@blue",) in names


def test_metrics_name_routes_and_no_tenant(deployed: Any) -> None:
    deployed.as_big.get(f"/v1/users/{deployed.big.user_ids[0]}")
    text = deployed.service.client().get("/metrics").text
    assert 'app_requests_total{method="GET",route="/v1/users/{user_id}",status="200"}' in text
    assert 'app_pool_connections{state="idle"}' in text
    assert str(deployed.big.id) not in text
    assert deployed.big.slug not in text


def test_no_phone_and_no_key_is_in_the_log(deployed: Any) -> None:
    deployed.as_big.get("/v1/users", params={"phone": deployed.big.phones[0]})
    log = deployed.service.log
    assert "startup complete" in log
    assert deployed.conninfo.password is not None
    for text in (deployed.big.phones[0][1:], deployed.big.api_key.reveal(), deployed.conninfo.password.reveal()):
        assert text not in log


def test_flags_are_read_again_and_a_bad_file_changes_nothing(
    own_database: Conninfo, start_service: Any, tmp_path: Any
) -> None:
    flags = tmp_path / "flags.json"
    flags.write_text('{"dual_write": true}')
    service = start_service(own_database, APP_FLAGS=str(flags))
    assert service.health()["flags"] == {"dual_write": True, "read_switch": False}
    flags.write_text('{"read_switch": true}')
    assert service.hang_up()["flags"] == {"dual_write": False, "read_switch": True}
    for bad in ('{"drop_table": true}', '{"read_switch": 1}', "[]", "{"):
        flags.write_text(bad)
        assert service.hang_up()["flags"] == {"dual_write": False, "read_switch": True}
    service.stop()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "APP_SESSION_KEY is not set"),
        ({"APP_SESSION_KEY": "hunter2-in-clear"}, "given by reference, never by value"),
        ({"APP_SESSION_KEY": "env:SHORT", "SHORT": "hunter2"}, "under 32 bytes"),
        ({"APP_DSN": "env:DSN", "DSN": "host=x hunter2"}, "not one that libpq reads"),
        ({"APP_RATE_PER_S": "0"}, "it must be 1 to"),
    ],
)
def test_a_bad_configuration_stops_the_start_and_is_not_quoted(
    environ: dict[str, str], said: str, tmp_path: Any
) -> None:
    good = {"APP_SESSION_KEY": "env:KEY", "KEY": "k" * 32, "APP_DSN": "env:DSN", "DSN": "host=127.0.0.1"}
    told = {**good, **environ} if environ else {}
    argv = [sys.executable, "-m", "uvicorn", "app.main:app", "--app-dir", str(deployment_folder()), "--port", "1"]
    with pytest.raises(ProgramError, match="ended with 3") as stopped:
        process.run(argv, cwd=tmp_path, env=told)
    assert said in str(stopped.value)
    assert "hunter2" not in str(stopped.value)
