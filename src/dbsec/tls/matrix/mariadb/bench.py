"""What MariaDB's matrix is run against: logins and the CA; an administrator for accounts that are thrown away."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from dbsec.secret import Secret
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.matrix.case import Need
from dbsec.tls.matrix.mariadb.login import Login, connect

_PREFIX = "dbsec_drill_"
# Its being there is the note that clear logins are allowed for the time of a case.
_OPEN = f"{_PREFIX}open"


@dataclass(frozen=True, slots=True)
class MariaBench:
    """``service``: whose holder is attacked; ``mtls``: a login that needs a client certificate, without it;
    ``admin``: may create users, and set variables; ``revoked``: a certificate of ``mtls`` on the server's list.
    """

    service: Login
    authority: Authority | None = None
    mtls: Login | None = None
    admin: Login | None = None
    revoked: KeyPair | None = None

    @property
    def offers(self) -> frozenset[Need]:
        """Name what is at hand."""
        has = {
            Need.AUTHORITY: self.authority,
            Need.MTLS: self.mtls,
            Need.ADMIN: self.admin,
            Need.REVOKED: self.revoked,
        }
        return frozenset(need for need, what in has.items() if what is not None)

    @contextmanager
    def account(self, like: Login, *, demand: str = "NONE", name: str = "") -> Iterator[Login]:
        """Make an account that has ``REQUIRE demand`` and no rights; it ends with the block."""
        assert self.admin is not None
        name, password = name or f"{_PREFIX}{secrets.token_hex(4)}", Secret(secrets.token_hex(16))
        with closing(connect(self.admin)) as admin:
            make = f"CREATE USER %s@'%%' IDENTIFIED BY %s REQUIRE {demand}"  # our own word
            admin.cursor().execute(make, (name, password.reveal()))
            try:
                yield like.but(user=name, password=password, dbname="")
            finally:
                admin.cursor().execute("DROP USER %s@'%%'", (name,))

    @contextmanager
    def in_clear(self) -> Iterator[Login]:
        """Let logins in clear in, and yield one of nobody; what was is put back, by the next drill if not by this."""
        assert self.admin is not None
        with closing(connect(self.admin)) as admin:
            closed = _is_closed(admin)
            # its name is the note: only where there is something to put back
            with self.account(self.service, name=_OPEN if closed else "") as login:
                try:
                    if closed:
                        admin.cursor().execute("SET GLOBAL require_secure_transport = OFF")
                    yield login
                finally:
                    if closed:
                        admin.cursor().execute("SET GLOBAL require_secure_transport = ON")


def recover(bench: MariaBench) -> bool:
    """Put back what a drill that was killed has left; True where there was something."""
    if bench.admin is None:
        return False
    with closing(connect(bench.admin)) as admin:
        left = _left(admin)
        for user, host in left:
            if user == _OPEN:
                admin.cursor().execute("SET GLOBAL require_secure_transport = ON")
            admin.cursor().execute("DROP USER %s@%s", (user, host))
    return bool(left)


def _is_closed(admin: Any) -> bool:
    cursor = admin.cursor()
    cursor.execute("SELECT @@require_secure_transport")
    return bool(cursor.fetchone()[0])


def _left(admin: Any) -> list[tuple[str, str]]:
    cursor = admin.cursor()
    cursor.execute("SELECT User, Host FROM mysql.user WHERE LEFT(User, %s) = %s", (len(_PREFIX), _PREFIX))
    return [(str(user), str(host)) for user, host in cursor.fetchall()]
