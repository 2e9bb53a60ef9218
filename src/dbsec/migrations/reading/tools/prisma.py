"""Prisma: <14 digits>_name/migration.sql, sent in one message, which is one transaction where it has more than one
statement."""

from __future__ import annotations

import re

from dbsec.migrations.reading.tool import Tool
from dbsec.migrations.reading.tools._message import one_message

TOOL = Tool("prisma", one_message, named=re.compile(r"(?:^|/)\d{14}_[^/]+/migration\.sql\Z"))
