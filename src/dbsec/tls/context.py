"""TLS contexts made from keys in memory, and the alerts that end a handshake."""

from __future__ import annotations

import os
import ssl
from enum import IntEnum

from dbsec.tls.ca import KeyPair


class Alert(IntEnum):
    """Why the peer hung up. Source: RFC 8446, section 6."""

    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120

    @classmethod
    def of(cls, error: ssl.SSLError) -> Alert | None:
        """Read the alert that the peer sent; None where the handshake ended otherwise.

        OpenSSL calls it ``TLSV1_ALERT_UNKNOWN_CA`` or ``SSLV3_ALERT_...``, whatever the version in use.
        """
        return cls.__members__.get((error.reason or "").partition("ALERT_")[2])


def client_context(ca: bytes | None, client: KeyPair | None = None) -> ssl.SSLContext:
    """Make a client's context: ``ca`` (PEM) checks chain and host name, None trusts whoever answers.

    Built by hand, not by ``create_default_context``: its flags, and so the verify codes, change with Python's version.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=ca.decode())
    if client is not None:
        _load(context, client)
    return context


def server_context(pair: KeyPair) -> ssl.SSLContext:
    """Make a server's context that serves ``pair`` and asks for no client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, pair)
    return context


def _load(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Load through a file that lives in memory alone: Python takes paths only, and a key must not touch the disk."""
    fd = os.memfd_create("key")
    try:
        with open(fd, "wb", closefd=False) as stream:
            stream.write(pair.certificate + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
