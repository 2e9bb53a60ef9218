"""What a client's DSN would accept: read out of files, judged by what its driver does, with the DSN that refuses."""

from dbsec.tls.dsn_lint.dsn import Driver, Dsn, parse
from dbsec.tls.dsn_lint.finding import CHECKS, judge
from dbsec.tls.dsn_lint.reading import Unread, read
from dbsec.tls.dsn_lint.verdict import Bad, accepted

__all__ = ["CHECKS", "Bad", "Driver", "Dsn", "Unread", "accepted", "judge", "parse", "read"]
