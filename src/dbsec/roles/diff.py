"""The difference between the model and a server, as a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from dbsec.errors import ConfigError
from dbsec.roles import catalog
from dbsec.roles.catalog import Catalog, Thing
from dbsec.roles.desired import Model
from dbsec.roles.grants import check_targets, default_changes, object_changes
from dbsec.roles.plan import Change, Plan, change
from dbsec.roles.principals import membership_changes, role_changes, setting_changes


def plan(connection: psycopg.Connection[Any], model: Model) -> Plan:
    """Say what would make the server as the model says; changes nothing and is safe on production.

    Needs a role that may read the catalogs, which every role may. Errors: ``ConfigError`` where the model names an
    object that is not there, another database, or what this version cannot do.
    """
    with connection.transaction():
        # names in our queries must mean the catalog, whatever the database or the role has set
        connection.execute("SET LOCAL search_path = pg_catalog")
        return compare(model, catalog.read(connection, list(model.schemas)))


def compare(model: Model, live: Catalog) -> Plan:
    """Judge what was read; a pure function."""
    if live.database != model.database.name:
        raise ConfigError(
            f"the model is of database '{model.database.name}', this is '{live.database}'",
            hint=f"connect to '{model.database.name}'",
        )
    check_targets(model, live)
    return Plan(tuple(_changes(model, live)), model)


def _changes(model: Model, live: Catalog) -> Iterator[Change]:
    # what we take from ourselves comes last: everything before needs it
    roles = list(role_changes(model, live))
    yield from (c for c in roles if c.object != live.session_user)
    yield from membership_changes(model, live)
    yield from setting_changes(model, live)
    yield from _schema_changes(model, live)
    yield from default_changes(model, live)
    yield from object_changes(model, live)
    yield from (c for c in roles if c.object == live.session_user)


def _schema_changes(model: Model, live: Catalog) -> Iterator[Change]:
    present = {t.name for t in live.things if t.kind == "schema"}
    for name, owner in model.owned_schemas.items():
        if name not in present:
            create = SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(Identifier(name), Identifier(owner))
            yield change("create-schema", name, create, SQL("DROP SCHEMA {}").format(Identifier(name)), "is not there")
            empty = Thing("schema", name, name, "", "SCHEMA", True, False, owner)
            yield from object_changes(model, _only(live, empty))


def _only(live: Catalog, thing: Thing) -> Catalog:
    return Catalog(live.major, live.database, live.session_user, live.roles, (), (), (thing,), {})
