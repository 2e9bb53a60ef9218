"""What the cache of decrypted values saves: reading one inline value of 64 bytes, with it and without.

An inline value asks the KMS each time it is read: here a KEK file, which is in the process, and OpenBao over TLS on
this machine, which is the least that a network costs. Beside them a value by reference with a warm keyring, which asks
nobody: it needs no cache, and is what to choose where many values are read. All take turns in each round, and the
least of the rounds counts.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from itertools import repeat
from pathlib import Path

from _bench import ROOT, arguments, last_line
from rich.console import Console
from rich.table import Table

from dbsec.crypto import Envelope, Field, Keyring, MemoryKeyStore
from dbsec.crypto.value_cache import ValueCache
from dbsec.kms import Kms, open_admin, open_kms
from dbsec.lab import account
from dbsec.progress import Silent

PHONE = Field("app.users", "phone")
TENANT = "tenant-0042"
PLAIN = bytes(64)
TURN_NS = 3_000_000
HIT, FILE, BAO, REFERENCE = "kept (a hit)", "inline, KEK file", "inline, OpenBao Transit", "by reference, warm keyring"
Act = Callable[[], bytes]


def file_kek(folder: Path) -> Kms:
    """Make a KEK file."""
    passphrase = folder / "passphrase"
    passphrase.write_text("a passphrase of the benchmark")
    passphrase.chmod(0o600)
    uri = f"file-kek:{folder}/kek.json?passphrase=file:{passphrase}"
    open_admin(uri, environ={}).create()
    return open_kms(uri, environ={})


@contextmanager
def transit(folder: Path) -> Iterator[Kms]:
    """Start OpenBao as the tests do, with one key."""
    sys.path.append(str(ROOT))
    from tests.openbao import Servers

    folder.chmod(0o755)
    servers = Servers(folder, account.server_account(Silent()))
    try:
        uri = servers.create().uri("bench")
        open_admin(uri, environ={}).create()
        yield open_kms(uri, environ={})
    finally:
        servers.close()


def read_inline(kms: Kms, cache: ValueCache | None = None) -> Act:
    """Encrypt a value inline, and return what reads it."""
    envelope = Envelope(Keyring(MemoryKeyStore(), kms), value_cache=cache)
    blob = envelope.encrypt_inline(PLAIN, PHONE, tenant=TENANT, row=1234)
    return partial(envelope.decrypt, blob, PHONE, tenant=TENANT, row=1234)


def read_by_reference(kms: Kms) -> Act:
    """Encrypt a value by reference, and return what reads it."""
    envelope = Envelope(Keyring(MemoryKeyStore(), kms))
    blob = envelope.encrypt(PLAIN, PHONE, tenant=TENANT, row=1234)
    return partial(envelope.decrypt, blob, PHONE, tenant=TENANT, row=1234)


def measured(acts: dict[str, Act], rounds: int) -> dict[str, float]:
    """Return microseconds of each, the least of all rounds."""
    best = dict.fromkeys(acts, float("inf"))
    times = {}
    for name, act in acts.items():
        if act() != PLAIN:
            raise SystemExit(f"{name} does not come back")
        times[name] = max(1, round(TURN_NS / _turn(act, 3)))
    for _ in range(rounds):
        for name, act in acts.items():
            best[name] = min(best[name], _turn(act, times[name]))
    return {name: ns / 1000 for name, ns in best.items()}


def _turn(act: Act, times: int) -> float:
    gc.disable()
    try:
        start = time.perf_counter_ns()
        for _ in repeat(None, times):
            act()
        return (time.perf_counter_ns() - start) / times
    finally:
        gc.enable()


def main() -> None:
    """Start what must run, measure, show."""
    asked = arguments(__doc__ or "")
    rounds = 60 if asked.quick else 300
    with ExitStack() as stack:
        local = file_kek(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        remote = stack.enter_context(transit(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        cache = ValueCache(ttl=timedelta(hours=1))
        acts = {
            HIT: read_inline(remote, cache),
            REFERENCE: read_by_reference(local),
            FILE: read_inline(local),
            BAO: read_inline(remote),
        }
        best = measured(acts, rounds)
        if cache.misses != 1:
            raise SystemExit("what was timed as a hit was none")
    table = Table(title=f"reading one value of 64 bytes, least of {rounds} rounds", title_justify="left")
    for column in ("", "µs", "times a hit"):
        table.add_column(column, justify="left" if not column else "right")
    for name, us in best.items():
        table.add_row(name, f"{us:.1f}", f"{us / best[HIT]:.1f}")
    Console().print(table)
    last_line(
        asked.json,
        hit_us=round(best[HIT], 2),
        by_reference_ratio_to_hit=round(best[REFERENCE] / best[HIT], 2),
        file_kek_ratio_to_hit=round(best[FILE] / best[HIT], 1),
        openbao_ratio_to_hit=round(best[BAO] / best[HIT], 1),
    )


if __name__ == "__main__":
    main()
