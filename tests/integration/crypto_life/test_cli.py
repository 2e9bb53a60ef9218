"""The life of a key by the command line, as processes: plans change nothing, codes and JSON are those of the house."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from dbsec.crypto.life import rotation
from dbsec.journal import Edge
from dbsec.kms import KmsUnavailable, Patience, open_admin


@pytest.fixture
def dbsec(scene):
    config = scene.config()

    def run(*argv, code=0, stdin=None):
        command = [sys.executable, "-m", "dbsec", "crypto", *argv]
        if argv[0] != "inspect" or "--table" in argv or "--dsn" in argv:
            command += ["--config", str(config)] + ([] if "--dsn" in argv else ["--dsn", f"file:{scene.folder}/dsn"])
        done = subprocess.run(
            [*command, "--format", "json"], cwd=scene.folder, input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        secret = (scene.folder / "passphrase").read_text()
        assert secret not in done.stdout + done.stderr
        return (json.loads(done.stdout) if done.stdout else {}), done.stderr

    return run


def test_the_life_of_a_key(scene, dbsec):
    scene.fill(12)
    found, _ = dbsec("keys")
    assert (len(found["result"]), found["findings"]) == (4, [])
    assert "wrapped" not in found["result"][0]

    plan, _ = dbsec("rotate-dek", "--tenant", "acme")
    assert (plan["result"]["applied"], len(plan["result"]["keys"]), len(scene.keyring())) == (False, 1, 4)
    done, _ = dbsec("rotate-dek", "--tenant", "acme", "--apply")
    assert done["result"]["others_follow_within_s"] == 300
    new = done["result"]["keys"][0]["new"]

    plan, _ = dbsec("rewrap", "--rotate-kek")
    assert plan["result"] == {"applied": False, "stale": 0, "rotate_kek": True}
    done, _ = dbsec("rewrap", "--rotate-kek", "--apply")
    assert (done["result"]["rewrapped"], len(done["result"]["rotated"])) == (5, 2)

    plan, _ = dbsec("reencrypt", "app.users", "phone_enc")
    assert plan["result"]["remaining"] == 6
    done, _ = dbsec("reencrypt", "app.users", "phone_enc", "--verify", "--apply")
    result = done["result"]
    assert (result["changed"], result["remaining"], result["destroyed"]) == (6, 0, [])
    assert "may encrypt under it until" in result["retired"][0]["why"]
    assert new in scene.key_ids()
    scene.db.execute("UPDATE dbsec.keyring SET retired_at = now() - interval '1 day' WHERE state = 'retired'")
    done, _ = dbsec("reencrypt", "app.users", "phone_enc", "--destroy-retired", "--apply")
    assert done["result"]["destroyed"] == [done["result"]["retired"][0]["id"]]
    assert len(scene.phones()) == 12


def test_a_value_is_inspected_and_never_shown(scene, dbsec):
    scene.fill(4)
    value = scene.db.execute("SELECT phone_enc FROM app.users WHERE id = 2").fetchone()[0]
    shown, _ = dbsec("inspect", f"\\x{value.hex()}")
    assert (shown["result"]["what"], shown["result"]["plaintext_size"]) == ("AES-256-GCM by reference", 14)
    of_row, said = dbsec("inspect", "--table", "app.users", "--column", "phone_enc", "--key", "2", "--prove")
    told = of_row["result"]
    assert (told["key"]["tenant"], told["key"]["state"], told["opens"]) == ("acme", "active", True)
    assert scene.phone(2) not in json.dumps(of_row) + said
    by_stdin, _ = dbsec("inspect", "-", "--dsn", f"file:{scene.folder}/dsn", stdin=base64.b64encode(value).decode())
    assert by_stdin["result"]["key_id"] == told["key_id"]
    # moved to another row: it is one of ours, and does not open there
    scene.db.execute("UPDATE app.users SET phone_enc = %s WHERE id = 4", (value,))
    moved, _ = dbsec("inspect", "--table", "app.users", "--column", "phone_enc", "--key", "4", "--prove", code=1)
    assert moved["result"]["opens"] is False
    dbsec("inspect", "68656c6c6f", code=1)
    _, said = dbsec("inspect", "a secret in clear", code=2)
    assert "secret" not in said
    _, said = dbsec("inspect", "--table", "app.users", "--column", "phone_enc", "--key", "99", code=2)
    assert "there is no such row" in said


def test_a_tenant_is_shredded_only_by_its_name_twice(scene, dbsec):
    scene.fill(6)
    plan, _ = dbsec("shred", "--tenant", "acme")
    assert (plan["result"]["values_open"], plan["result"]["keys"]) == (3, 2)
    _, said = dbsec("shred", "--tenant", "acme", "--apply", code=2)
    assert "--confirm 'acme'" in said
    _, said = dbsec("shred", "--tenant", "acme", "--confirm", "globex", "--apply", code=2)
    assert len(scene.phones()) == 6
    done, _ = dbsec("shred", "--tenant", "acme", "--confirm", "acme", "--apply")
    assert done["result"]["outcome"] == "pass"
    again, _ = dbsec("shred", "--tenant", "acme", "--prove-only")
    assert {one["outcome"] for one in again["result"]["proofs"]} <= {"pass", "skip"}
    globex, _ = dbsec("shred", "--tenant", "globex", "--prove-only", code=1)
    assert "fail" in {one["outcome"] for one in globex["result"]["proofs"]}


def test_an_old_column_is_migrated(scene, dbsec):
    scene.db.execute("CREATE EXTENSION pgcrypto; ALTER TABLE app.users ADD old bytea")
    scene.db.execute(
        "INSERT INTO app.users (id, tenant, old) VALUES (1, 'acme', pgp_sym_encrypt('+1 2', 'an old key'))"
    )
    key = scene.folder / "old"
    key.touch(mode=0o600)
    key.write_text("an old key\n")
    asked = ("migrate-from", "pgcrypto", "app.users", "phone_enc", "--from", "old", "--old-key", f"file:{key}")
    plan, _ = dbsec(*asked)
    assert plan["result"]["remaining"] == 1
    done, _ = dbsec(*asked, "--apply")
    assert (done["result"]["changed"], done["result"]["verified"]["wrong"]) == (1, 0)
    assert scene.phones() == {1: "+1 2"}
    _, said = dbsec(*asked[:-1], "an old key", code=2)
    assert "by reference, never by value" in said


def test_a_rotation_whose_kms_is_away_is_broken_off_and_done_by_the_same_command(scene, dbsec, openbao_factory):
    bao = openbao_factory()
    for tenant in ("acme", "globex"):
        open_admin(bao.uri(tenant), environ={}).create()
    scene.kms_uri = bao.uri("{tenant}")
    scene.config()
    scene.fill(6)
    before, rows = scene.keyring(), scene.versions()
    first, second = rotation.candidates(scene.db)

    def away(step, edge):
        if (step, edge) == (f"rotate key {second.id}", Edge.BEFORE):
            bao.pause()

    hasty = scene.kms(Patience(timeout_s=0.5, within_s=0.5))
    try:
        # it goes away between two keys: the first is whole, the second untouched
        with pytest.raises(KmsUnavailable):
            list(rotation.rotate(scene.connect, hasty, [first, second], observer=away))
        between = scene.keyring()
        assert [row.id for row in between if row.state == "retired"] == [first.id]
        assert [row for row in between if row.id in {one.id for one in before} - {first.id}] == [
            row for row in before if row.id != first.id
        ]
        assert len(between) == len(before) + 1
        # it is away from the start
        again = ("rotate-dek", "--tenant", second.tenant, "--apply")
        broken, said = dbsec(*again, code=3)
        assert (broken["result"]["keys"], "did not answer" in said) == ([], True)
        assert scene.keyring() == between
    finally:
        bao.resume()
    done, _ = dbsec(*again)
    assert [(one["old"], one["generation"]) for one in done["result"]["keys"]] == [(second.id, 2)]
    states = [(row.tenant, str(row.state)) for row in scene.keyring() if row.purpose == "data"]
    assert sorted(states) == [(tenant, state) for tenant in ("acme", "globex") for state in ("active", "retired")]
    assert (scene.versions(), len(scene.phones())) == (rows, 6)
    bao.stop()
