"""Transit: nothing in clear, servers that prove who they are, client certificates where privileges are high."""

from __future__ import annotations

from collections.abc import Sequence

from dbsec.demo.chapter import Chapter
from dbsec.demo.stage import Stage
from dbsec.evidence import Drill
from dbsec.lab.site import SERVER_NAMES
from dbsec.pg import Conninfo
from dbsec.tls import drill, server_config

DRAIN_S = 5.0
