"""The load of ``secrets_cache.py`` on one cache: run in the environment of that cache, prints one line of JSON.

100 threads read a secret every 10 ms; the backend takes 100 ms, and fails from second 2 to second 4.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

THREADS = 100
PAUSE_S = 0.01
BACKEND_S = 0.1
TTL_S = 1.0
OUTAGE_S = (2.0, 4.0)


class Backend:
    """Counts its calls, takes its time, and is away for a while."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        self.up = True

    def __call__(self) -> str:
        with self._lock:
            self.calls += 1
            number = self.calls
        time.sleep(BACKEND_S)
        if not self.up:
            raise OSError("the backend is away")
        return f"secret {number}"


def load(read: Callable[[], Any], backend: Backend, *, last_s: float) -> dict[str, float]:
    """Read in all threads; returns calls, failures, and percentiles in microseconds of the reads after 1 s."""
    found: list[list[tuple[float, float, bool]]] = [[] for _ in range(THREADS)]
    begin = time.perf_counter()

    def reader(mine: list[tuple[float, float, bool]]) -> None:
        while (started := time.perf_counter()) < begin + last_s:
            whole = True
            try:
                read()
            except Exception:  # noqa: BLE001 (counted)
                whole = False
            mine.append((started - begin, time.perf_counter() - started, whole))
            time.sleep(PAUSE_S)

    gc.disable()
    threads = [threading.Thread(target=reader, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for up, at in zip((False, True), OUTAGE_S, strict=True):
        time.sleep(max(0.0, begin + at - time.perf_counter()))
        backend.up = up
    for thread in threads:
        thread.join()
    reads = [one for mine in found for one in mine]
    warm = sorted(took * 1e6 for at, took, whole in reads if whole and at > 1)
    return {
        "reads": len(reads),
        "backend_calls": backend.calls,
        "failed_reads": sum(1 for *_, whole in reads if not whole),
        "hit_p50_us": warm[len(warm) // 2] if warm else 0.0,
        "hit_p99_us": warm[int(len(warm) * 0.99)] if warm else 0.0,
        "hit_max_us": warm[-1] if warm else 0.0,
    }


def cachetools(backend: Backend) -> Callable[[], Any]:
    """Give a TTLCache with a lock, as its page shows it."""
    from cachetools import TTLCache, cached

    return cached(TTLCache(8, TTL_S), lock=threading.Lock())(backend)


def aws_secretsmanager_caching(backend: Backend) -> Callable[[], Any]:
    """Give AWS's own library on a client that answers as Secrets Manager does."""
    from types import SimpleNamespace

    from aws_secretsmanager_caching import SecretCache, SecretCacheConfig

    def describe_secret(**_: object) -> dict[str, Any]:
        return {"VersionIdsToStages": {backend(): ["AWSCURRENT"]}}

    def get_secret_value(**_: object) -> dict[str, str]:
        return {"SecretString": backend()}

    client = SimpleNamespace(
        describe_secret=describe_secret,
        get_secret_value=get_secret_value,
        meta=SimpleNamespace(config=SimpleNamespace(user_agent_extra="")),
    )
    cache = SecretCache(SecretCacheConfig(secret_refresh_interval=TTL_S), client)
    return lambda: cache.get_secret_string("db")


PEERS = {"cachetools": cachetools, "aws-secretsmanager-caching": aws_secretsmanager_caching}

if __name__ == "__main__":
    source = Backend()
    print(json.dumps(load(PEERS[sys.argv[1]](source), source, last_s=float(sys.argv[2]))))
