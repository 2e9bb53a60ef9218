"""Everything that must be refused in transit, one by one, each for its own reason, and each able to go red.

A case holds an attack, the machine reason for which it must be refused (X.509 verify code, TLS alert, SQLSTATE, a line
of the server's log), a login that must succeed before and after it, and the change that takes its control away.
"""

from collections.abc import Callable, Iterable
from functools import partial

from dbsec import discovery
from dbsec.evidence import Drill
from dbsec.tls.matrix import families, mariadb, pgbouncer
from dbsec.tls.matrix.bench import Bench, Server, recover
from dbsec.tls.matrix.case import Case, G, mutate, run
from dbsec.tls.matrix.mariadb.bench import MariaBench
from dbsec.tls.matrix.pooler import Pooler

__all__ = [
    "Bench",
    "Case",
    "MariaBench",
    "Pooler",
    "Server",
    "cases",
    "drills",
    "mariadb_cases",
    "mutate",
    "mutations",
    "pgbouncer_cases",
    "recover",
    "run",
]


def cases() -> tuple[Case[Bench], ...]:
    """Return those of PostgreSQL, in the order of the files in ``families``."""
    return tuple(case for found in discovery.constants_in(families, "CASES").values() for case in found)


def pgbouncer_cases() -> tuple[Case[Bench], ...]:
    """Return those of PgBouncer."""
    return tuple(case for found in discovery.constants_in(pgbouncer, "CASES").values() for case in found)


def mariadb_cases() -> tuple[Case[MariaBench], ...]:
    """Return those of MariaDB."""
    return tuple(case for found in discovery.constants_in(mariadb, "CASES").values() for case in found)


def drills(bench: Callable[[], G], chosen: Iterable[Case[G]]) -> tuple[Drill, ...]:
    """Make a drill of each case; ``bench`` is asked when a drill runs."""
    return tuple(Drill(one.control, one.title, partial(lambda case: run(case, bench()), one)) for one in chosen)


def mutations(bench: G, chosen: Iterable[Case[G]]) -> tuple[Drill, ...]:
    """Make a drill of each case whose control can be taken away: it passes where the case goes red."""
    return tuple(
        Drill(case.control, f"without its control: {case.title}", partial(mutate, case, bench))
        for case in chosen
        if case.weaken is not None
    )
