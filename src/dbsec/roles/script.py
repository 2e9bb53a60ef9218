"""``roles.sql``: the model as a script for psql, for a server that dbsec does not reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg.sql import SQL, Composable, Identifier, Literal

from dbsec.roles.changes import words
from dbsec.roles.desired import ColumnGrant, FunctionGrant, Membership, Model, SchemaGrant, SequenceGrant, TableGrant
from dbsec.roles.diff import ADVISORY_LOCK
from dbsec.roles.principals import attributes, membership_options, wanted_role

_HEADER = """\
-- Roles and rights of database {database}. Made from roles.toml by dbsec: change that file, not this one.
--
--   psql -X -d {database} -f roles.sql        as a superuser; all of it or nothing; again as often as you like
--
-- It gives what roles.toml says and takes back what these roles and PUBLIC have beyond that in the schemas that it
-- names. It knows nothing of roles that roles.toml does not name. PostgreSQL 15 to 18.
-- It hands tables over, which needs ACCESS EXCLUSIVE for a moment: it gives up after 200 ms of waiting. Run it again.

\\set ON_ERROR_STOP on
BEGIN;
SET LOCAL search_path = pg_catalog;
SET LOCAL lock_timeout = '200ms';
SET LOCAL statement_timeout = '60s';
SET LOCAL client_min_messages = warning;
SELECT pg_advisory_xact_lock({lock}) \\g /dev/null
SELECT current_setting('server_version_num')::int >= 160000 AS has_membership_options \\gset
"""
# psql runs each row of the answer as a statement of its own
_OWN_RELATIONS = """\
SELECT format('ALTER TABLE %I.%I OWNER TO %I', n.nspname, c.relname, {owner})
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = {schema} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND c.relowner <> quote_ident({owner})::regrole
   -- the sequence of a column follows its table; what belongs to an extension stays with it
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                     AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
 ORDER BY 1 \\gexec"""
_OWN_ROUTINES = """\
SELECT format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, {owner})
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = {schema} AND p.proowner <> quote_ident({owner})::regrole
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1 \\gexec"""
_OWN_TYPES = """\
SELECT format('ALTER TYPE %I.%I OWNER TO %I', n.nspname, t.typname, {owner})
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
 WHERE n.nspname = {schema} AND t.typowner <> quote_ident({owner})::regrole AND t.typtype IN ('b', 'c', 'd', 'e', 'r')
   AND coalesce(c.relkind, 'c') = 'c' AND t.typcategory <> 'A'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
 ORDER BY 1 \\gexec"""
_EACH_RELATION = """\
SELECT format({act}, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = {schema} AND c.relkind = ANY ({kinds}) AND {which}
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1 \\gexec"""
_EACH_ROUTINE = """\
SELECT format({act}, p.oid::regprocedure)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = {schema} AND {which}
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1 \\gexec"""
_RELKINDS = {"TABLE": ["r", "p", "v", "m", "f"], "SEQUENCE": ["S"]}


def render_sql(model: Model) -> str:
    """Write the whole script for psql: ``\\gexec`` stands where the catalog has to be asked."""
    parts: list[str] = [_HEADER.format(database=model.database.name, lock=ADVISORY_LOCK)]
    for title, lines in (
        ("roles", _roles(model)),
        ("memberships", _memberships(model)),
        ("settings, which count from the next login on", _settings(model)),
        ("the database", _database(model)),
        ("schemas and owners", _schemas(model)),
        ("rights", _rights(model)),
        ("rights on what comes later", _defaults(model)),
    ):
        parts.append("\n".join([f"-- {title}", *lines, ""]))
    return "\n".join([*parts, "COMMIT;\n"])


def _sql(template: str, *args: Composable, **named: Composable) -> str:
    return SQL(template).format(*args, **named).as_string()


def _names(names: Sequence[str]) -> Composable:
    return SQL(", ").join(Identifier(name) for name in names)


def _roles(model: Model) -> Iterator[str]:
    for name, role in model.roles.items():
        missing = "SELECT 'CREATE ROLE {0}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {1}) \\gexec"
        yield f"-- {role.purpose}"
        yield _sql(missing, Identifier(name), Literal(name))
        limit = words("" if role.connection_limit else " CONNECTION LIMIT -1")
        yield _sql("ALTER ROLE {} {}{};", Identifier(name), attributes(wanted_role(name, role)), limit)


def _memberships(model: Model) -> Iterator[str]:
    asked = [(name, m) for name, role in model.roles.items() for m in role.member_of]
    yield "\\if :has_membership_options"
    yield from (_membership(name, m, 16) for name, m in asked)
    yield "\\else"
    yield from (_membership(name, m, 15) for name, m in asked)
    yield "\\endif"


def _membership(member: str, asked: Membership, major: int) -> str:
    return _sql("GRANT {} TO {}{};", Identifier(asked.role), Identifier(member), membership_options(asked, major))


def _settings(model: Model) -> Iterator[str]:
    for name, role in model.roles.items():
        if role.kind == "login":
            yield _sql("ALTER ROLE {} RESET ALL;", Identifier(name))
        for setting, value in role.settings.items():
            parameter = SQL(".").join(Identifier(part) for part in setting.split("."))
            yield _sql("ALTER ROLE {} SET {} = {};", Identifier(name), parameter, Literal(value))


def _database(model: Model) -> Iterator[str]:
    name = Identifier(model.database.name)
    if model.database.owner:
        yield _sql("ALTER DATABASE {} OWNER TO {};", name, Identifier(model.database.owner))
    yield _sql(
        "REVOKE ALL ON DATABASE {} FROM PUBLIC, {} CASCADE;", name, _names(_grantees(model, model.database.owner))
    )
    for privilege, roles in (("CONNECT", model.database.connect), ("TEMPORARY", model.database.temporary)):
        if roles:
            yield _sql("GRANT {} ON DATABASE {} TO {};", words(privilege), name, _names(roles))


def _grantees(model: Model, owner: str | None) -> list[str]:
    return [name for name in model.roles if name != owner]


def _schemas(model: Model) -> Iterator[str]:
    for name, schema in model.schemas.items():
        if schema.owner is None:
            yield _sql(
                "REVOKE CREATE ON SCHEMA {} FROM PUBLIC, {} CASCADE;", Identifier(name), _names(list(model.roles))
            )
            continue
        owner = Identifier(schema.owner)
        yield _sql("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {};", Identifier(name), owner)
        yield _sql("ALTER SCHEMA {} OWNER TO {};", Identifier(name), owner)
        for query in (_OWN_TYPES, _OWN_ROUTINES, _OWN_RELATIONS):
            yield _sql(query, owner=Literal(schema.owner), schema=Literal(name))


def _rights(model: Model) -> Iterator[str]:
    for schema, owner in model.owned_schemas.items():
        roles = _names(_grantees(model, owner))
        yield _sql("REVOKE ALL ON SCHEMA {} FROM PUBLIC, {} CASCADE;", Identifier(schema), roles)
        for kind in ("TABLE", "SEQUENCE", "ROUTINE"):
            yield _each(kind, schema, SQL("REVOKE ALL ON {} FROM PUBLIC, {} CASCADE"), roles, SQL("true"))
    for grant in model.grants:
        yield from _grant(grant)


def _each(kind: str, schema: str, act: SQL, roles: Composable, which: Composable) -> str:
    """Write a query that runs ``act`` on every object of a kind; the first blank of ``act`` is the object."""
    name = words(f"{kind} %s" if kind == "ROUTINE" else f"{kind} %I.%I")
    statement, where = Literal(act.format(name, roles).as_string()), Literal(schema)
    if kind == "ROUTINE":
        return _sql(_EACH_ROUTINE, act=statement, schema=where, which=which)
    return _sql(_EACH_RELATION, act=statement, schema=where, which=which, kinds=Literal(_RELKINDS[kind]))


def _grant(grant: SchemaGrant | TableGrant | SequenceGrant | FunctionGrant | ColumnGrant) -> Iterator[str]:
    privileges, to = words(", ".join(grant.privileges)), _names(grant.to)
    match grant:
        case SchemaGrant():
            yield _sql("GRANT {} ON SCHEMA {} TO {};", privileges, Identifier(grant.schema_), to)
        case ColumnGrant():
            each = SQL(", ").join(SQL("{} ({})").format(words(p), _names(grant.columns)) for p in grant.privileges)
            yield _sql("GRANT {} ON TABLE {} TO {};", each, Identifier(grant.schema_, grant.table), to)
        case FunctionGrant():
            yield _each("ROUTINE", grant.schema_, _giving(grant), to, _meant(grant, SQL("p.proname")))
        case TableGrant() | SequenceGrant():
            yield from _on_relations(grant, "TABLE" if grant.on == "tables" else "SEQUENCE")


def _on_relations(grant: TableGrant | SequenceGrant, kind: str) -> Iterator[str]:
    if "*" in grant.names:
        # a partition is read through its parent, where the policies are
        which = SQL("NOT c.relispartition AND {}").format(_meant(grant, SQL("c.relname")))
        yield _each(kind, grant.schema_, _giving(grant), _names(grant.to), which)
    for name in grant.names:
        if name != "*" and grant.covers(name):
            target = SQL("{} {}").format(words(kind), Identifier(grant.schema_, name))
            yield _giving(grant).format(target, _names(grant.to)).as_string() + ";"


def _giving(grant: TableGrant | SequenceGrant | FunctionGrant) -> SQL:
    return SQL("GRANT " + ", ".join(grant.privileges) + " ON {} TO {}")


def _meant(grant: TableGrant | SequenceGrant | FunctionGrant, column: SQL) -> Composable:
    wide = [] if "*" in grant.names else [SQL("{} = ANY ({})").format(column, Literal(list(grant.names)))]
    less = [SQL("{} <> ALL ({})").format(column, Literal(list(grant.except_)))] if grant.except_ else []
    return SQL(" AND ").join([*wide, *less]) if wide or less else SQL("true")


def _defaults(model: Model) -> Iterator[str]:
    for name, role in model.roles.items():
        if role.kind == "owner":
            head = "ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
            yield _sql(head, Identifier(name))
    for rule in model.default_privileges:
        where = SQL(" IN SCHEMA {}").format(Identifier(rule.schema_)) if rule.schema_ else SQL("")
        head = "ALTER DEFAULT PRIVILEGES FOR ROLE {}{} GRANT {} ON {} TO {};"
        privileges, kind = words(", ".join(rule.privileges)), words(rule.on.upper())
        yield _sql(head, Identifier(rule.for_), where, privileges, kind, _names(rule.to))
