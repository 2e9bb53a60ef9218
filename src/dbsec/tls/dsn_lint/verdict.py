"""Which bad servers a client would accept, by what its driver does with its parameters; tests ask the drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from dbsec.tls.dsn_lint.dsn import Driver, Dsn, Spelling


class Bad(StrEnum):
    """A server that a careful client turns away from. ``ASKS_PASSWORD`` has a good certificate."""

    NO_TLS = "no TLS"
    SELF_SIGNED = "self-signed"
    UNKNOWN_CA = "unknown CA"
    EXPIRED = "expired"
    WRONG_HOST = "another host name"
    ASKS_PASSWORD = "asks for the password in clear"  # noqa: S105 this is no password


ALL = frozenset(Bad)
_ANY_CERTIFICATE = frozenset({Bad.SELF_SIGNED, Bad.UNKNOWN_CA, Bad.EXPIRED, Bad.WRONG_HOST})
_ASKS = frozenset({Bad.ASKS_PASSWORD})
_NONE: frozenset[Bad] = frozenset()


def accepted(dsn: Dsn) -> frozenset[Bad]:
    """Name them; nothing over a Unix socket. A mode that the driver does not know is one that it refuses to start with.

    A file of roots that the DSN does not name (``~/.postgresql/root.crt``) is taken not to be there: on another machine
    it will not be.
    """
    return _NONE if dsn.local else _RULES[dsn.driver](dsn)


def _libpq(dsn: Dsn) -> frozenset[Bad]:
    """Source: PostgreSQL, "SSL Support", table 32.1: require with a root file is verify-ca."""
    said, root = dsn.params.get("sslmode", "prefer"), dsn.params.get("sslrootcert", "")
    asks = _NONE if _never_in_clear(dsn) else _ASKS
    if said in ("disable", "allow", "prefer"):
        # a refused certificate makes prefer try again in clear
        return _ANY_CERTIFICATE | {Bad.NO_TLS} | asks
    if said == "require":
        return asks | (frozenset({Bad.WRONG_HOST}) if root and root != "system" else _ANY_CERTIFICATE)
    if said == "verify-ca":
        return asks | {Bad.WRONG_HOST}
    return asks if said == "verify-full" else _NONE


def _never_in_clear(dsn: Dsn) -> bool:
    """Whether the password is given in no other way than SCRAM. Source: libpq's require_auth, channel_binding."""
    if dsn.params.get("channel_binding") == "require":
        return True
    wanted = [one.strip() for one in dsn.params.get("require_auth", "").split(",") if one.strip()]
    if not wanted:
        return False
    return "!password" in wanted if wanted[0].startswith("!") else "password" not in wanted


def _asyncpg(dsn: Dsn) -> frozenset[Bad]:
    """It knows neither require_auth nor channel binding, and gives its password in clear to whoever asks."""
    said = dsn.params.get("ssl") or dsn.params.get("sslmode", "prefer")
    root = dsn.params.get("sslrootcert", "")
    if said == "True":  # a context of Python's own: the system's CAs, and the host name
        return _ASKS
    if said == "False":
        said = "disable"
    if said in ("disable", "allow", "prefer"):
        return ALL
    if said == "require":
        return _ASKS | (frozenset({Bad.WRONG_HOST}) if root else _ANY_CERTIFICATE)
    if said == "verify-ca":
        return _ASKS | {Bad.WRONG_HOST}
    return _ASKS if said == "verify-full" else _NONE


def _pymysql(dsn: Dsn) -> frozenset[Bad]:
    """Without parameters TLS is used where it is offered, and nothing is checked.

    In a call ``ssl_ca`` alone checks nothing either; through SQLAlchemy's URL it checks chain and name.
    """
    params = dsn.params
    given = {name for name in params if name.startswith("ssl_") and name != "ssl_disabled"}
    if _true(params.get("ssl_disabled", "")) or not given | (params.keys() & {"ssl"}):
        return ALL
    if "ssl" in params:
        return _ASKS  # a context or a dictionary that is made elsewhere
    if dsn.spelling is Spelling.URL:
        checks, names = "ssl_ca" in given, params.get("ssl_check_hostname", "true") not in ("false", "0")
    else:
        names = _true(params.get("ssl_verify_identity", "")) and "ssl_ca" in given
        checks = names or _true(params.get("ssl_verify_cert", ""))
    if not checks:
        return _ASKS | _ANY_CERTIFICATE
    return _ASKS if names else _ASKS | {Bad.WRONG_HOST}


def _pgjdbc(dsn: Dsn) -> frozenset[Bad]:
    """``ssl=true`` is verify-full; the default is prefer. It gives its password in clear over TLS to whoever asks."""
    params = {name.lower(): value for name, value in dsn.params.items()}
    if "sslmode" not in params and _true(params.get("ssl", "")):
        return _ASKS
    said = params.get("sslmode", "prefer")
    if said in ("disable", "allow", "prefer"):
        return ALL
    if said == "require":
        return _ASKS | _ANY_CERTIFICATE
    return _ASKS | ({Bad.WRONG_HOST} if said == "verify-ca" else _NONE)


def _connector_j(dsn: Dsn) -> frozenset[Bad]:
    said = {name.lower(): value for name, value in dsn.params.items()}.get("sslmode", "PREFERRED").upper()
    if said in ("DISABLED", "PREFERRED"):
        return ALL
    if said == "REQUIRED":
        return _ASKS | _ANY_CERTIFICATE
    return _ASKS | ({Bad.WRONG_HOST} if said == "VERIFY_CA" else _NONE)


def _mariadb_j(dsn: Dsn) -> frozenset[Bad]:
    said = {name.lower(): value for name, value in dsn.params.items()}.get("sslmode", "disable").lower()
    if said in ("disable", "disabled"):
        return ALL
    if said in ("trust", "required"):
        return _ASKS | _ANY_CERTIFICATE
    return _ASKS | ({Bad.WRONG_HOST} if said in ("verify-ca", "verify_ca") else _NONE)


def _true(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")


_RULES: Mapping[Driver, Callable[[Dsn], frozenset[Bad]]] = {
    Driver.LIBPQ: _libpq,
    Driver.ASYNCPG: _asyncpg,
    Driver.PYMYSQL: _pymysql,
    Driver.PGJDBC: _pgjdbc,
    Driver.CONNECTOR_J: _connector_j,
    Driver.MARIADB_J: _mariadb_j,
}
