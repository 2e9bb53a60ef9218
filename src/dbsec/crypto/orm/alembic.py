"""How Alembic writes encrypted columns into a migration: by what the database needs, and nothing of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from dbsec.crypto.orm.types import DOMAINS, BlindIndexed, Encrypted

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext


def render_item(type_: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write the type of a column; in env.py: ``context.configure(..., render_item=render_item)``.

    A migration must run when the models have changed long ago, so it names the domain and no class of ours.
    """
    if type_ == "type" and isinstance(obj, Encrypted) and obj.domain:
        autogen_context.imports.add("from sqlalchemy.dialects import postgresql")
        return f'postgresql.DOMAIN("{DOMAINS[obj.mode]}", sa.LargeBinary(), schema="dbsec", create_type=False)'
    if type_ == "type" and isinstance(obj, BlindIndexed | Encrypted):
        return "sa.BigInteger()" if isinstance(obj, BlindIndexed) and obj.how.integer else "sa.LargeBinary()"
    return False
