"""What a server offers on the wire, without a password and without cryptography: PostgreSQL, MySQL/MariaDB, PgBouncer.

A ClientHello offers every code point at once, the server takes one, and the next ClientHello leaves that one out: as
many handshakes as there are answers, whatever the TLS library of this machine can speak itself.
"""

from dbsec.tls.prober.enumeration import Probe, probe, served
from dbsec.tls.prober.greeting import Protocol
from dbsec.tls.prober.policy import POLICIES, Policy, judge, policy

__all__ = ["POLICIES", "Policy", "Probe", "Protocol", "judge", "policy", "probe", "served"]
