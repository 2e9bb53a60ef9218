"""Tools that send a file as one message of the simple query protocol: PostgreSQL makes it one transaction.

A single statement is then its own transaction, so that CREATE INDEX CONCURRENTLY runs if it is alone in its file.
Source: https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
"""

from __future__ import annotations

from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.tool import Prepared
from dbsec.migrations.script import Wrap


def one_message(text: str, _: str) -> Prepared:
    """Prepare such a file."""
    return Prepared(text, Wrap.FILE if len(lexer.cut(text)) > 1 else Wrap.NONE)
