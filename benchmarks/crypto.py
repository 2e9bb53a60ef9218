"""What encrypting one value costs: dbsec beside tink, aws-encryption-sdk, SQLAlchemy-Utils, Fernet, pgcrypto, Transit.

Time is told in multiples of "raw": one AESGCM object, called again and again from a Python loop with a fixed nonce and
no AAD. That is what the cipher itself costs from Python, and nobody may use it so. dbsec is the public Envelope with
its keys cached, each value bound to tenant, column and row: a value a call ("single"), or 2,000 (or 1 MB) of them
("bulk"). Libraries run in environments of their own. pgcrypto is asked for several values in one query over a local
connection, Transit by hvac over TLS: a call for each value, and as many in one call as OpenBao takes.
All take turns in each round, and each one's fastest round counts.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import Any

import hvac
import psycopg
from _bench import ROOT, arguments, last_line, peer
from _sides import SIDES, Asked, Make, Way, one_by_one
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console
from rich.table import Table

from dbsec.crypto import Envelope, Field, Keyring, MemoryKeyStore
from dbsec.kms import open_admin, open_kms
from dbsec.lab import account, ports
from dbsec.pg import connect
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

SIZES = (16, 64, 1024, 16384)
ACTS = ("encrypt", "decrypt")
TURN_NS = 1_500_000
JUDGED = RAW, SINGLE, BULK = "raw AESGCM", "dbsec single", "dbsec bulk"
MEASURED = 64
PHONE, TENANT, FIRST = Field("app.users", "phone"), "tenant-0042", 1_000_000
Best = dict[tuple[str, str, int], float]  # name, act, bytes of plaintext -> nanoseconds a value


def raw(size: int) -> Way:
    """Make the unit of all ratios; its ciphertext would need the nonce beside it."""
    cipher, nonce, plain = AESGCM(bytes(range(32))), bytes(12), bytes(size)
    encrypt, decrypt, encrypted = cipher.encrypt, cipher.decrypt, cipher.encrypt(nonce, plain, None)

    def encrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            encrypt(nonce, plain, None)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            decrypt(nonce, encrypted, None)

    return Way(encrypt_n, decrypt_n, len(nonce) + len(encrypted))


def fernet(size: int) -> Way:
    """Make what many projects write themselves."""
    cipher = Fernet(Fernet.generate_key())
    return one_by_one(cipher.encrypt, cipher.decrypt, bytes(size))


def envelope(folder: Path) -> Envelope:
    """Open the Envelope of a service: a keyring in memory, its DEKs wrapped by a KEK file."""
    passphrase = folder / "passphrase"
    passphrase.write_text("a passphrase of the benchmark")
    passphrase.chmod(0o600)
    uri = f"file-kek:{folder}/kek.json?passphrase=file:{passphrase}"
    open_admin(uri, environ={}).create()
    return Envelope(Keyring(MemoryKeyStore(), open_kms(uri, environ={})))


def single(ours: Envelope, size: int) -> Way:
    """Make the calls with one value, each of a row of its own."""
    plain = bytes(size)
    blobs = [ours.encrypt(plain, PHONE, tenant=TENANT, row=row) for row in range(FIRST, FIRST + 500)]

    def encrypt_n(n: int) -> None:
        for row in range(FIRST, FIRST + n):
            ours.encrypt(plain, PHONE, tenant=TENANT, row=row)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n // len(blobs)):
            for row, blob in enumerate(blobs, FIRST):
                ours.decrypt(blob, PHONE, tenant=TENANT, row=row)

    return Way(encrypt_n, decrypt_n, len(blobs[0]), step=len(blobs))


def bulk(ours: Envelope, size: int) -> Way:
    """Make the calls with the values of many rows."""
    plains = [bytes(size)] * min(2000, (1 << 20) // size)
    rows = range(FIRST, FIRST + len(plains))
    blobs = ours.encrypt_many(plains, PHONE, tenant=TENANT, rows=rows)

    def encrypt_n(n: int) -> None:
        for _ in repeat(None, n // len(plains)):
            ours.encrypt_many(plains, PHONE, tenant=TENANT, rows=rows)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n // len(plains)):
            ours.decrypt_many(blobs, PHONE, tenant=TENANT, rows=rows)

    return Way(encrypt_n, decrypt_n, len(blobs[0]), step=len(plains))


def by_pgcrypto(session: psycopg.Connection[Any], options: str, step: int, size: int) -> Way:
    """Make pgp_sym_encrypt and pgp_sym_decrypt over several values in one query."""
    key, plains = "a passphrase of the benchmark", [bytes(size)] * step
    of_many = "SELECT array_agg({}(v, %s, %s)) FROM unnest(%s::bytea[]) v"

    def encrypted() -> list[bytes]:
        row = session.execute(of_many.format("pgp_sym_encrypt_bytea").encode(), (key, options, plains)).fetchone()
        assert row is not None
        return list(row[0])

    def decrypted() -> list[bytes]:
        row = session.execute(of_many.format("pgp_sym_decrypt_bytea").encode(), (key, options, blobs)).fetchone()
        assert row is not None
        return list(row[0])

    blobs = encrypted()
    assert decrypted() == plains
    return Way(
        lambda n: [encrypted() for _ in range(n // step)],
        lambda n: [decrypted() for _ in range(n // step)],
        len(blobs[0]),
        step,
    )


@contextmanager
def postgres(folder: Path) -> Iterator[dict[str, Make]]:
    """Start PostgreSQL 17, and make pgcrypto's ways: as most use it, and without stretching the passphrase."""
    folder.chmod(0o755)
    clusters = Clusters(folder, 17, account=account.server_account(Silent()), free_port=lambda: ports.free(1)[0])
    try:
        with connect(clusters.create().admin) as session:
            session.execute("CREATE EXTENSION pgcrypto")
            yield {
                "pgcrypto": partial(by_pgcrypto, session, "cipher-algo=aes256", 8),
                "pgcrypto, s2k-mode=0": partial(by_pgcrypto, session, "cipher-algo=aes256, s2k-mode=0", 50),
            }
    finally:
        clusters.close()


def by_transit(client: hvac.Client, size: int) -> Way:
    """Make a call for each value."""
    transit, plain = client.secrets.transit, base64.b64encode(bytes(size)).decode()
    return one_by_one(
        lambda value: transit.encrypt_data("bench", plaintext=value)["data"]["ciphertext"],
        lambda value: transit.decrypt_data("bench", ciphertext=value)["data"]["plaintext"],
        plain,
    )


def by_transit_in_bulk(client: hvac.Client, size: int) -> Way:
    """Make calls with 499 values, which is the most that OpenBao's defaults take in one request, or 256 KB."""
    transit, step = client.secrets.transit, min(499, (1 << 18) // size)
    plains = [{"plaintext": base64.b64encode(bytes(size)).decode()}] * step

    def encrypted() -> list[dict[str, str]]:
        return [
            {"ciphertext": one["ciphertext"]}
            for one in transit.encrypt_data("bench", batch_input=plains)["data"]["batch_results"]
        ]

    def decrypted() -> Any:
        return transit.decrypt_data("bench", batch_input=blobs)["data"]["batch_results"]

    blobs = encrypted()
    assert decrypted()[-1]["plaintext"] == plains[-1]["plaintext"]
    return Way(
        lambda n: [encrypted() for _ in range(n // step)],
        lambda n: [decrypted() for _ in range(n // step)],
        len(blobs[0]["ciphertext"]),
        step,
    )


@contextmanager
def openbao(folder: Path) -> Iterator[dict[str, Make]]:
    """Start OpenBao as the tests do, and make Transit's ways."""
    sys.path.append(str(ROOT))
    from tests.openbao import Servers

    folder.chmod(0o755)
    servers = Servers(folder, account.server_account(Silent()))
    try:
        server = servers.create()
        token = server.token_file.read_text().strip()
        client = hvac.Client(server.address, token=token, verify=str(server.ca))
        client.secrets.transit.create_key("bench", key_type="aes256-gcm96")
        yield {
            "Transit by hvac": partial(by_transit, client),
            "Transit, 499 a call": partial(by_transit_in_bulk, client),
        }
    finally:
        servers.close()


class Peer:
    """A library in its own environment, asked over a pipe; it times itself."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        argv: list[str | Path] = [peer(name) / "python", "-W", "ignore", Path(__file__).with_name("_sides.py"), name]
        child = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert child.stdin is not None
        assert child.stdout is not None
        stack.callback(child.stdin.close)
        self._questions, self._answers = child.stdin, child.stdout
        self.names: list[str] = json.loads(self._answers.readline())

    def ask(self, *question: str | int) -> tuple[int, int, int]:
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        nanoseconds, times, made = json.loads(self._answers.readline())
        return nanoseconds, times, made


def measured(sides: list[Asked | Peer], rounds: int) -> tuple[Best, dict[str, int]]:
    """Let all take turns; returns each one's least nanoseconds a value, and its bytes over a plaintext of 64.

    What is judged takes more turns than what stands beside it.
    """
    asked = [(side, (name, act, size)) for size, act in product(SIZES, ACTS) for side in sides for name in side.names]
    judged = [one for one in asked if one[1][0] in JUDGED and one[1][2] == MEASURED] * 4
    best: Best = {}
    over: dict[str, int] = {}
    for turn in range(rounds + 2):
        for side, key in asked + judged:
            nanoseconds, times, made = side.ask(*key, max(1, round(TURN_NS / best.get(key, TURN_NS))))
            found = nanoseconds / times
            best[key] = (
                min(found, best[key]) if turn > 1 else found
            )  # two turns warm up, and tell how many fit into one
            over[key[0]] = made - key[2] if key[2] == MEASURED else over.get(key[0], 0)
    return best, over


def show(best: Best, over: dict[str, int], rounds: int) -> dict[str, dict[str, float]]:
    """Print a line a way, in multiples of raw; returns them by name."""
    table = Table(title=f"time of a value / raw AESGCM, least of {rounds} rounds", title_justify="left")
    for column in ("", *(f"{act[:3]} {size}" for act in ACTS for size in SIZES), "bytes over 64"):
        table.add_column(column, justify="right" if column else "left")
    ratios = {
        name: {f"{act}_{size}B": best[name, act, size] / best[RAW, act, size] for act in ACTS for size in SIZES}
        for name in over
    }
    for name in sorted(ratios, key=lambda name: ratios[name]["encrypt_64B"]):
        shown = [f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}" for ratio in ratios[name].values()]
        table.add_row(name, *shown, str(over[name]))
    table.add_section()
    table.add_row("raw, ns", *(f"{best[RAW, act, size]:.0f}" for act in ACTS for size in SIZES))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return ratios


def main() -> None:
    """Start what must run, measure, show."""
    asked = arguments(__doc__ or "")
    rounds = 25 if asked.quick else 120
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = envelope(folder)
        makes: dict[str, Make] = {RAW: raw, SINGLE: partial(single, ours), BULK: partial(bulk, ours)}
        makes["Fernet"] = fernet
        for start in (postgres, openbao):
            made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            makes |= stack.enter_context(start(made))
        sides: list[Asked | Peer] = [Asked(makes), *(Peer(name, stack) for name in SIDES)]
        best, over = measured(sides, rounds)
    ratios = show(best, over, rounds)
    last_line(
        asked.json,
        **{
            f"{way}_{act}_{MEASURED}B_ratio_to_raw_aesgcm": round(ratios[name][f"{act}_{MEASURED}B"], 2)
            for way, name in (("bulk", BULK), ("single", SINGLE))
            for act in ACTS
        },
        bytes_over_plaintext=over,
        ratios_to_raw_aesgcm={name: {key: round(one, 2) for key, one in of.items()} for name, of in ratios.items()},
    )


if __name__ == "__main__":
    main()
