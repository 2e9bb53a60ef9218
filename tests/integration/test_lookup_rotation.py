"""A lookup key rotates under writers of two releases: UNIQUE holds, every row is found, and the way back works."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from psycopg import errors
from tests.lookup_rotation import BIDX, SIV, Fleet, House
from typer.testing import CliRunner

from dbsec.cli.commands.crypto import COMMAND
from dbsec.crypto import generations as gen
from dbsec.pg import connect

SEEDS = [f"seed{n}@example.org" for n in range(300)]


@pytest.fixture(params=[SIV, BIDX], ids=["deterministic", "blind index"])
def house(request, database, tmp_path):
    made = House(database.conninfo, tmp_path, request.param)
    with connect(database.conninfo) as session:
        for email in SEEDS:
            made.insert(session, made.stages["A"], email)
    return made


def _all_found(house, stage, emails):
    with connect(house.conninfo) as session:
        for email in emails:
            assert len(house.find(session, stage, email)) == 1, (stage.name, email)


@pytest.mark.pg(15, 18)
def test_no_value_comes_in_twice_and_none_is_lost_while_two_releases_write(house):
    contested = [*SEEDS[:3], *(f"wanted{n}@example.org" for n in range(200))]
    with Fleet(house, contested) as fleet:
        assert house.write()[2:] != []
        house.run("expand")
        fleet.work()
        list(fleet.roll_to(house.stages["B"]))
        house.backfill()
        _all_found(house, house.stages["B"], SEEDS[:50])
        for _ in fleet.roll_to(house.stages["C"]):
            _all_found(house, house.stages["C"], SEEDS[:50])
        house.run("contract_before")
        fleet.work()
        for _ in fleet.roll_to(house.stages["D"]):
            _all_found(house, house.stages["D"], SEEDS[:50])
        house.run("contract")
        fleet.work()
    rows = Counter(house.emails(house.new))
    assert max(rows.values()) == 1, "a value is in the table twice"
    won = sum((service.won for service in fleet.services), Counter())
    assert set(won.values()) <= {1}
    assert {email for email in contested if rows[email]} == set(won) | set(SEEDS[:3])
    assert not set(won) & set(SEEDS)
    # each stage has refused a duplicate at least once: otherwise nothing was tried
    refused = sum((service.refused for service in fleet.services), Counter())
    assert set(refused) == {"A", "B", "C", "D"}
    private = {email for service in fleet.services for email in service.private}
    assert set(rows) == private | set(won) | set(SEEDS)
    with connect(house.conninfo) as session:
        columns = session.execute(
            b"SELECT attname, attnotnull FROM pg_attribute "
            b"WHERE attrelid = 'app.users'::regclass AND attnum > 0 AND NOT attisdropped"
        ).fetchall()
        kept = session.execute(b"SELECT conname FROM pg_constraint WHERE contype = 'u'").fetchall()
    found = dict(columns)
    assert found[gen.lookup_column(house.new)] is True
    assert gen.lookup_column(house.old) not in found
    assert [name for (name,) in kept if "users_tenant" in name] == [f"users_tenant_{gen.lookup_column(house.new)}_key"]


def test_without_the_first_contract_an_old_value_refuses_its_next_owner(house):
    """What the file is for: a release that knows the new column alone leaves the old one as it was."""
    house.write()
    house.run("expand")
    house.backfill()
    last, both = house.stages["D"], house.stages["C"]
    with connect(house.conninfo) as session:
        (number,) = house.find(session, last, SEEDS[0])
        house.update(session, last, number, "moved@example.org")
        with pytest.raises(errors.UniqueViolation):
            house.insert(session, both, SEEDS[0])
        session.rollback()
        house.run("contract_before")
        house.insert(session, both, SEEDS[0])
        session.commit()
        # the way back would let the two meet again: it says so by failing, and changes nothing
        with pytest.raises(errors.UniqueViolation):
            house.run("contract_before", down=True)
    assert Counter(house.emails(house.new))[SEEDS[0]] == 1


def test_the_way_back_from_the_middle_and_on_again(house):
    house.write()
    house.run("expand")
    house.run("expand")
    house.backfill()
    house.run("contract_before")
    with connect(house.conninfo) as session:
        house.insert(session, house.stages["C"], "between@example.org")
    house.run("contract_before", down=True)
    with connect(house.conninfo) as session, pytest.raises(errors.UniqueViolation):
        house.insert(session, house.stages["A"], "between@example.org")
    house.run("expand", down=True)
    _all_found(house, house.stages["A"], [*SEEDS[:20], "between@example.org"])
    with connect(house.conninfo) as session, pytest.raises(errors.UniqueViolation):
        house.insert(session, house.stages["A"], SEEDS[0])
    house.run("expand")
    house.backfill(again=True)
    _all_found(house, house.stages["C"], [*SEEDS[:20], "between@example.org"])


def test_a_release_that_does_not_know_the_new_column_leaves_nothing_stale(house):
    house.write()
    house.run("expand")
    house.backfill()
    with connect(house.conninfo) as session:
        (number,) = house.find(session, house.stages["C"], SEEDS[5])
        house.update(session, house.stages["A"], number, "changed@example.org")
        assert house.find(session, house.stages["C"], SEEDS[5]) == []
        query = f"SELECT {gen.lookup_column(house.new)} FROM app.users WHERE id = %s"
        assert session.execute(query.encode(), [number]).fetchone() == (None,)
    house.backfill(again=True)
    _all_found(house, house.stages["C"], ["changed@example.org"])


def test_a_row_that_was_tampered_with_is_named_before_the_old_column_goes(house):
    """The verification decrypts and compares; a swapped new value is a finding."""
    house.write()
    house.run("expand")
    house.backfill()
    column = gen.lookup_column(house.new)
    with connect(house.conninfo) as session:
        session.execute(f"UPDATE app.users SET {column} = '\\x00'::bytea WHERE id = 3".encode())
    assert house.verified().wrong == 1
    # and so is a ciphertext that was moved to another row: it stands for nobody any more
    with connect(house.conninfo) as session:
        session.execute(b"UPDATE app.users SET email_enc = '\\xd511'::bytea WHERE id = 4")
    assert house.verified().off == 2


def test_the_command_prints_the_steps_and_writes_the_files(house, monkeypatch, tmp_path):
    monkeypatch.setenv("PLAN_DSN", house.conninfo.text())
    column = gen.lookup_column(house.old)
    index = f'index = {{ column = "{column}", bits = 128, normal = "casefold" }}' if house.old.index else ""
    config = tmp_path / "dbsec.toml"
    config.write_text(
        f'[[crypto.columns]]\ntable = "app.users"\ncolumn = "email_enc"\nfield = "app.users.email"\n'
        f'mode = "{house.old.mode}"\ntenant = "tenant_id"\n{index}\n'
        '[[crypto.columns]]\ntable = "app.users"\ncolumn = "tax_enc"\nfield = "app.users.tax"\nmode = "deterministic"\n'
    )
    common = ["plan", "app.users.email_enc", "--rotate-lookup", "--config", str(config)]
    told = CliRunner().invoke(COMMAND, common)
    assert told.exit_code == 0, told.output
    assert f"{column}_g2" in told.stdout
    assert "'app.users.tax'" in told.stdout
    assert "generation = 2" in told.stdout
    folder = tmp_path / "migrations"
    folder.mkdir()
    more = ["--dsn", "env:PLAN_DSN", "--python", "a.b:fill", "--check", "a.b:agree", "--folder", str(folder)]
    written = CliRunner().invoke(COMMAND, [*common, *more, "--format", "json"])
    assert written.exit_code == 0, written.output
    result = json.loads(written.stdout)["result"]
    assert result["to"] == {"column": f"{column}_g2", "generation": 2}
    assert sorted(result["files"]) == sorted(str(path) for path in folder.iterdir())
    assert any("contract_before" in name for name in result["files"])
    missing = CliRunner().invoke(COMMAND, [*common, "--folder", str(folder)])
    assert missing.exit_code != 0
