"""A service that asks at a fixed rate, whether the answers come or not: point reads and updates of one table.

Run as ``python benchmarks/_service.py TABLE ROWS RATE SESSIONS`` with the DSN on the first line of stdin, until stdin
ends; then it prints one line of JSON: ``[[when, ms], ...]``. ``when`` is the monotonic time at which a request was due,
``ms`` from then to its answer: a request that waits behind a slow one counts its waiting, as its user does.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from itertools import count

import psycopg
from psycopg import sql

_UPDATES = 0.2


def main() -> None:
    """Serve until stdin ends."""
    table, rows, rate, sessions = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    dsn = sys.stdin.readline().strip()
    answers: list[tuple[float, float]] = []
    over, turns, begin = threading.Event(), count(), time.monotonic() + 0.5
    read = sql.SQL("SELECT payload, amount FROM {} WHERE id = %s").format(sql.SQL(table))
    write = sql.SQL("UPDATE {} SET touched = touched + 1 WHERE id = %s").format(sql.SQL(table))

    def serve(seed: int) -> None:
        rng = random.Random(seed)
        with psycopg.connect(dsn, autocommit=True, application_name="service@bench", prepare_threshold=1) as session:
            while not over.is_set():
                due = begin + next(turns) / rate
                if (pause := due - time.monotonic()) > 0:
                    time.sleep(pause)
                session.execute(write if rng.random() < _UPDATES else read, (rng.randint(1, rows),))
                answers.append((due, (time.monotonic() - due) * 1000))

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(sessions)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    json.dump(sorted(answers), sys.stdout)


if __name__ == "__main__":
    main()
