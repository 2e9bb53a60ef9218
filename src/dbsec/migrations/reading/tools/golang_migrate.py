"""golang-migrate: <number>_name.up.sql, sent in one message, which is one transaction where it has more than one
statement."""

from __future__ import annotations

import re

from dbsec.migrations.reading.tool import Tool
from dbsec.migrations.reading.tools._message import one_message

TOOL = Tool("golang-migrate", one_message, named=re.compile(r"(?:^|/)\d+_[^/]*\.up\.sql\Z"))
