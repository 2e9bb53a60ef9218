"""Columns of pgcrypto, Fernet and SQLAlchemy-Utils become ours, compared row by row; pgcrypto is the real one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from dbsec.crypto.life import legacy, reencrypt
from dbsec.crypto.life.rewriting import Source, Unreadable
from dbsec.secret import Secret

CASES = json.loads((Path(__file__).parents[2] / "vectors/crypto_legacy.json").read_text())["cases"]
CIPHERS = ("aes128", "aes192", "aes256", "bf", "3des", "cast5")
TEXT = "+49 30 1234567 Zoë " * 40


@pytest.fixture
def pgcrypto(scene):
    scene.db.execute("CREATE EXTENSION pgcrypto")
    return scene


def made(scene, options, text=TEXT, function="pgp_sym_encrypt"):
    return scene.db.execute(f"SELECT {function}(%s, 'pass phrase', %s)", (text, options)).fetchone()[0]


@pytest.mark.pg(15, 17, 18)
def test_every_way_in_which_pgcrypto_writes_is_read(pgcrypto):
    read = legacy.reader("pgcrypto", [Secret("wrong"), Secret("pass phrase")])
    wrong = legacy.reader("pgcrypto", [Secret("pass phrase.")])
    clear: list[str] = []
    s2k = [
        f"s2k-mode={mode}, s2k-digest-algo={digest}"
        for mode, digest in itertools.product((0, 1, 3), ("md5", "sha1", "sha256"))
    ]
    more = [
        "",
        "compress-algo=1",
        "compress-algo=2",
        "sess-key=1",
        "disable-mdc=1",
        "unicode-mode=1",
        "s2k-count=65011712",
    ]
    more += ["disable-mdc=1, cipher-algo=bf", "sess-key=1, compress-algo=2, s2k-cipher-algo=aes256, cipher-algo=cast5"]
    for options in [*s2k, *more, *(f"cipher-algo={name}" for name in CIPHERS)]:
        value = made(pgcrypto, options)
        assert read(value).decode() == TEXT, options
        if TEXT.encode() in value:
            # no legacy provider in the server's OpenSSL: pgcrypto itself opens it with any passphrase
            clear.append(options)
            assert pgcrypto.db.execute("SELECT pgp_sym_decrypt(%s, 'any')", (value,)).fetchone() == (TEXT,)
            continue
        with pytest.raises(ValueError):  # noqa: PT011
            wrong(value)
    assert all("bf" in options or "cast5" in options for options in clear)
    print("in clear:", clear)
    for text in ("", "x", "y" * 191, "z" * 9000):
        assert read(made(pgcrypto, "", text)).decode() == text
    armored = pgcrypto.db.execute("SELECT armor(%s::bytea)", (made(pgcrypto, ""),)).fetchone()[0]
    assert read(armored).decode() == TEXT
    assert read(made(pgcrypto, "", b"\x00\xff", "pgp_sym_encrypt_bytea")) == b"\x00\xff"


def test_a_changed_message_of_pgcrypto_is_refused(pgcrypto):
    read, value = legacy.reader("pgcrypto", [Secret("pass phrase")]), made(pgcrypto, "", "short")
    assert read(value) == b"short"
    for at in range(len(value)):
        # the passphrase is stretched: with bit flips in its count each of these would take long
        if at not in range(4, 15):
            with pytest.raises(ValueError):  # noqa: PT011
                read(value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
        with pytest.raises(ValueError):  # noqa: PT011
            read(value[:at])


def migrated(scene, name, keys, padding="", column="phone_enc", origin="old", **more):
    reader = legacy.reader(name, [Secret(key) for key in keys], padding)
    work = reencrypt.plan(
        scene.db,
        scene.envelope(),
        scene.settings.of("app.users", column),
        source=Source(origin, reader),
        **more,
    )
    return reencrypt.run(scene.connect, work, verify=True)


def test_a_pgcrypto_column_becomes_ours_beside_it(pgcrypto):
    pgcrypto.db.execute("ALTER TABLE app.users ADD old bytea")
    pgcrypto.db.execute(
        "INSERT INTO app.users (id, tenant, old)"
        " SELECT g, 'acme', pgp_sym_encrypt('+49 30 ' || g, 'pass phrase') FROM generate_series(1, 25) g"
    )
    done = migrated(pgcrypto, "pgcrypto", ["pass phrase"], batch_rows=7)
    assert (done.changed, done.remaining, done.verified.rows, done.clean) == (25, 0, 25, True)
    assert pgcrypto.phones() == {n: f"+49 30 {n}" for n in range(1, 26)}
    assert migrated(pgcrypto, "pgcrypto", ["pass phrase"]).changed == 0
    assert pgcrypto.db.execute("SELECT count(phone_bidx) FROM app.users").fetchone() == (25,)


def test_a_column_may_be_replaced_in_place(pgcrypto):
    pgcrypto.db.execute(
        "INSERT INTO app.users (id, tenant, phone_enc)"
        " SELECT g, 'acme', pgp_sym_encrypt('+49 30 ' || g, 'pass phrase') FROM generate_series(1, 25) g"
    )
    pgcrypto.fill(2, first=26)
    done = migrated(pgcrypto, "pgcrypto", ["pass phrase"], origin="phone_enc", batch_rows=10)
    assert (done.changed, done.clean) == (25, True)
    assert pgcrypto.phones() == {n: f"+49 30 {n}" for n in range(1, 26)} | {n: pgcrypto.phone(n) for n in (26, 27)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['format']} {case['padding']}".strip())
def test_columns_of_python_libraries(scene, case):
    scene.db.execute("ALTER TABLE app.users ADD old text")
    for n, one in enumerate(case["values"], 1):
        scene.db.execute("INSERT INTO app.users (id, tenant, old) VALUES (%s, 'acme', %s)", (n, one["value"]))
    done = migrated(scene, case["format"], case["keys"], case["padding"])
    assert (done.changed, done.clean) == (len(case["values"]), True)
    assert scene.phones() == {n: one["plain"] for n, one in enumerate(case["values"], 1)}


def test_a_wrong_key_writes_nothing_and_says_which_row(scene):
    case = CASES[-1]
    scene.db.execute("ALTER TABLE app.users ADD old text")
    scene.db.execute("INSERT INTO app.users (id, tenant, old) VALUES (5, 'acme', %s)", (case["values"][0]["value"],))
    with pytest.raises(Unreadable, match=r"'app.users.old', row 5 is not what it is said to be"):
        migrated(scene, "fernet", ["A" * 43 + "="])
    assert scene.phones() == {}
