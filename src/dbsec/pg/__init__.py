"""Talk to a PostgreSQL server, run one, and read its catalog once."""

from dbsec.pg.connect import connect, settle
from dbsec.pg.conninfo import Conninfo

__all__ = ["Conninfo", "connect", "settle"]
