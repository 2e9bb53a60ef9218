"""What the reference deployment shows of this pillar: db/pg_hba.conf.example and a section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from dbsec.pg.hba import render
from dbsec.tls.posture import SETTINGS, hba

ADMIN = "postgres"

_HBA_HEADER = """\
pg_hba.conf of the reference deployment: dbsec writes these lines, and a test holds this file to them.

The first line that matches a connection decides, so order is meaning: certificates before passwords, refusals last.
A line names a group (+group), never a login: who may connect is decided by membership, and a login that was
rotated in needs no new line. A login matches the group of its own name; a superuser matches no group.

Before you copy it: narrow the addresses "all" to your networks, and keep one session open until a second one
has come back. "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL" shows mistakes before
the reload; after it, only the server's log does, and the old lines stay in force.
"""

_CONF_HEADER = """\
Encryption in transit: dbsec sets these by ALTER SYSTEM, and a test holds this section to them. All of them take a
reload, TLS itself included. A reload with a key that does not belong to the certificate is refused in the
server's log alone: compare the certificate that is served. How the files are made: db/ssl/README.md.
"""

_WHY: Mapping[str, str] = {
    "ssl": "offers TLS; that nobody comes without it is the business of pg_hba.conf (hostssl, hostnossl)",
    "ssl_cert_file": "relative to the data folder; for every name and address that clients dial (SAN)",
    "ssl_key_file": "mode 0600, owned by the server's account",
    "ssl_ca_file": "who signs client certificates; without it, clientcert=verify-full cannot hold",
    "ssl_min_protocol_version": "NIST SP 800-52r2 3.1; TLSv1.3 where every client has OpenSSL 1.1.1 or later",
    "password_encryption": "for passwords set from now on; old MD5 hashes stay until they are set anew",
}


def examples() -> dict[str, str]:
    """Return the texts by file name: the whole of pg_hba.conf, this pillar's section of postgresql.conf."""
    return {
        "pg_hba.conf.example": render(hba(admin=ADMIN), header=_HBA_HEADER),
        "postgresql.conf.example": _section(),
    }


def _section() -> str:
    header = "".join(f"# {line}\n" for line in _CONF_HEADER.splitlines())
    return header + "".join(f"\n# {_WHY[name]}\n{name} = '{value}'\n" for name, value in SETTINGS.items())
