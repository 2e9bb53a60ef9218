"""What the server must not let in: a login in clear, an old version of TLS, a password that is kept as MD5."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
from psycopg import sql

from dbsec.clock import SYSTEM
from dbsec.errors import ConnectError
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.tls.context import Alert
from dbsec.tls.drill import PLAINTEXT, REFUSED_BY_HBA, SCRAM, first_answer
from dbsec.tls.matrix.bench import Bench
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason
from dbsec.tls.probe import Request
from dbsec.tls.prober.greeting import Protocol, Target, greeted
from dbsec.tls.prober.hello import Offer, client_hello, first_flight
from dbsec.tls.prober.suites import GROUPS, Version, offered
from dbsec.tls.stranger import refusal
from dbsec.tls.wire import exactly

OLD_VERSIONS = (Version.TLS_1_0, Version.TLS_1_1)
PROTOCOL_VERSION = Reason("alert", "protocol_version")
_ROLE_PREFIX = "dbsec_drill_"
_OPEN_HBA = "host all all all scram-sha-256\n"
_MD5_HBA = "host all all all md5\n"
_ALL_SUITES = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"


def _good(bench: Bench) -> str | None:
    return refusal(bench.service)


def _in_clear(bench: Bench) -> Attempt:
    answer = first_answer(bench.service, tls=False)
    reasons = frozenset({Reason("sqlstate", answer.sqlstate)}) if answer.sqlstate else frozenset()
    return Attempt(answer.request is None, reasons, {"message": answer.message})


def _old_version(version: Version, bench: Bench) -> Attempt:
    return handshake_by(version, Target(bench.service.address, bench.service.port, Protocol.POSTGRES))


def handshake_by(version: Version, target: Target) -> Attempt:
    """Offer one version with every suite that it has; nothing on this side can refuse it."""
    sock, tls = greeted(target)
    with sock:
        if not tls:
            raise ConnectError(f"the server at {target.host}:{target.port} offers no TLS")
        sock.sendall(client_hello(Offer(version, offered(version), tuple(GROUPS))))
        answer = first_flight(partial(exactly, sock))
    taken = answer.suite is not None and answer.version == version
    known = answer.alert in list(Alert)
    reasons = {Reason("alert", Alert(answer.alert).name.lower())} if known and answer.alert is not None else set()
    return Attempt(not taken, frozenset(reasons), {"version": version.label})


@contextmanager
def _old_versions(bench: Bench) -> Iterator[Bench]:
    with bench.changed(settings={"ssl_min_protocol_version": "TLSv1", "ssl_ciphers": _ALL_SUITES}) as weak:
        yield weak


@contextmanager
def _open(bench: Bench) -> Iterator[Bench]:
    with bench.changed(hba=_OPEN_HBA) as weak:
        yield weak


@contextmanager
def _md5_allowed(bench: Bench) -> Iterator[Bench]:
    with bench.changed(hba=_MD5_HBA) as weak:
        yield weak


def _md5_role(bench: Bench) -> Attempt:
    """Let a role in the service's groups log in by the right password, of which the server keeps an MD5 hash."""
    assert bench.admin is not None
    password = Secret(secrets.token_hex(16))
    with connect(bench.admin) as admin, _role(admin, bench.service, password) as name:
        # the attacker's own client: it does what the server asks for
        login = bench.service.but(password=password, user=name, require_auth=None, channel_binding=None)
        answer = first_answer(login)
        said = refusal(login)
        admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(password.reveal())))
        by_scram = refusal(login)
    asked = answer.request.name.lower() if answer.request is not None else "nothing"
    facts = {"asked_for": asked, "libpq": said or "logged in", "same_password_by_scram": by_scram or "logged in"}
    # The role logs in once its hash is of SCRAM: then nothing but the hash was the reason.
    right = said is not None and by_scram is None and answer.request is Request.SASL
    return Attempt(said is not None, frozenset({_NO_MD5}) if right else frozenset(), facts)


_NO_MD5 = Reason("answer", "SCRAM is asked for, which an MD5 hash cannot prove")


@contextmanager
def _role(admin: psycopg.Connection[tuple[object, ...]], like: Conninfo, password: Secret) -> Iterator[str]:
    """Make a login with an MD5 hash, a member of what the service is a member of; it ends with the block."""
    for (left,) in admin.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (_ROLE_PREFIX,)):
        _drop(admin, str(left))
    name = f"{_ROLE_PREFIX}{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    hashed = "md5" + hashlib.md5((password.reveal() + name).encode(), usedforsecurity=False).hexdigest()
    until = f"{SYSTEM.now().year + 1}-12-31"  # it is dropped at once; this is for a drill that is killed
    admin.execute(sql.SQL("SET password_encryption = 'scram-sha-256'"))
    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} VALID UNTIL {}")
    admin.execute(statement.format(role, sql.Literal(hashed), sql.Literal(until)))
    try:
        for (group,) in admin.execute(_GROUPS_OF, (like.user,)).fetchall():
            admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(str(group)), role))
        yield name
    finally:
        _drop(admin, name)


_GROUPS_OF = """
SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
 WHERE r.rolname = %s
"""


def _drop(admin: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


CASES: tuple[Case[Bench], ...] = (
    Case(
        "plaintext",
        PLAINTEXT,
        "a login in clear",
        _in_clear,
        _good,
        lambda _: (Reason("sqlstate", REFUSED_BY_HBA),),
        weaken=_open,
        weaken_needs=frozenset({Need.ADMIN, Need.SERVER}),
    ),
    *(
        Case(
            f"version-{version.label}",
            PLAINTEXT,
            f"a handshake by {version.label}",
            partial(_old_version, version),
            _good,
            lambda _: (PROTOCOL_VERSION,),
            weaken=_old_versions,
            weaken_needs=frozenset({Need.ADMIN, Need.SERVER}),
        )
        for version in OLD_VERSIONS
    ),
    Case(
        "md5-role",
        SCRAM,
        "a role whose password is kept as MD5",
        _md5_role,
        _good,
        lambda _: (_NO_MD5,),
        frozenset({Need.ADMIN}),
        _md5_allowed,
        frozenset({Need.SERVER}),
    ),
)
