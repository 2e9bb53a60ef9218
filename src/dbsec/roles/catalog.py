"""What a server's roles and rights are, read once into frozen records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString, NamedTuple

import psycopg

# Rights of members of an extension belong to it: they are left out everywhere.
_ROLES: LiteralString = """
SELECT rolname, rolcanlogin, rolsuper, rolinherit, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,
       rolconnlimit
  FROM pg_catalog.pg_roles ORDER BY rolname
"""
_SETTINGS: LiteralString = """
SELECT r.rolname, coalesce(d.datname, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
  FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
 ORDER BY 1, 2, 3
"""
_MEMBERS: LiteralString = """
SELECT g.rolname, m.rolname, b.rolname, b.oid = 10, a.admin_option,
       coalesce((to_jsonb(a) ->> 'inherit_option')::bool, m.rolinherit),
       coalesce((to_jsonb(a) ->> 'set_option')::bool, true)
  FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles g ON g.oid = a.roleid
  JOIN pg_catalog.pg_roles m ON m.oid = a.member JOIN pg_catalog.pg_roles b ON b.oid = a.grantor
 ORDER BY 1, 2, 3
"""
_OBJECTS: LiteralString = """
WITH wanted AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY (%(schemas)s)),
foreign_to_us AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'),
things (kind, schema, name, detail, word, leads, part, owner, acl, class, oid) AS (
  SELECT 'database', '', datname, '', 'DATABASE', true, false, datdba,
         coalesce(datacl, acldefault('d', datdba)), 'pg_database'::regclass, oid
    FROM pg_catalog.pg_database WHERE datname = current_database()
  UNION ALL
  SELECT 'schema', nspname, nspname, '', 'SCHEMA', true, false, nspowner,
         coalesce(nspacl, acldefault('n', nspowner)), 'pg_namespace'::regclass, oid
    FROM pg_catalog.pg_namespace JOIN wanted USING (oid, nspname)
  UNION ALL
  SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, nspname, relname, '',
         CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                      WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
         -- the sequence of a serial or identity column follows its table
         NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND relkind = 'S' AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass),
         relispartition, relowner,
         coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)),
         'pg_class'::regclass, c.oid
    FROM pg_catalog.pg_class c JOIN wanted w ON w.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL
  SELECT 'column', nspname, relname, attname, 'TABLE', false, relispartition, relowner, attacl,
         'pg_class'::regclass, c.oid
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = attrelid JOIN wanted w ON w.oid = relnamespace
   WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v', 'm', 'f')
  UNION ALL
  SELECT 'function', nspname, proname, pg_get_function_identity_arguments(p.oid), 'ROUTINE', true, false, proowner,
         coalesce(proacl, acldefault('f', proowner)), 'pg_proc'::regclass, p.oid
    FROM pg_catalog.pg_proc p JOIN wanted w ON w.oid = pronamespace
  UNION ALL
  -- row types follow their table, arrays and multiranges their element
  SELECT 'type', nspname, typname, '', CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, true, false, typowner,
         NULL, 'pg_type'::regclass, t.oid
    FROM pg_catalog.pg_type t JOIN wanted w ON w.oid = typnamespace LEFT JOIN pg_catalog.pg_class c ON c.oid = typrelid
   WHERE typtype IN ('b', 'c', 'd', 'e', 'r') AND coalesce(relkind, 'c') = 'c' AND typcategory <> 'A'
)
SELECT t.kind, t.schema, t.name, t.detail, t.word, t.leads, t.part, o.rolname,
       coalesce(g.rolname, ''), a.privilege_type, a.is_grantable, a.grantor = t.owner
  FROM things t JOIN pg_catalog.pg_roles o ON o.oid = t.owner LEFT JOIN LATERAL aclexplode(t.acl) a ON true
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
 WHERE (t.class, t.oid) NOT IN (SELECT classid, objid FROM foreign_to_us)
 ORDER BY array_position(ARRAY['database', 'schema', 'type', 'function', 'sequence', 'table', 'column'], t.kind),
          2, 3, 4, 9, 10
"""
_DEFAULTS: LiteralString = """
SELECT r.rolname, coalesce(n.nspname, ''), d.defaclobjtype::text, coalesce(g.rolname, ''), a.privilege_type,
       a.is_grantable
  FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
  LEFT JOIN LATERAL aclexplode(d.defaclacl) a ON true LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
 WHERE d.defaclobjtype IN ('r', 'S', 'f')
 ORDER BY 1, 2, 3, 4, 5
"""
_SELF: LiteralString = """
SELECT current_setting('server_version_num')::int / 10000, current_database(), session_user
"""


class Right(NamedTuple):
    """One privilege of one grantee (empty: PUBLIC)."""

    grantee: str
    privilege: str
    grantable: bool = False


@dataclass(frozen=True, slots=True)
class LiveRole:
    """A row of pg_roles; ``connection_limit`` is -1 where there is none."""

    name: str
    login: bool
    superuser: bool
    inherit: bool
    createdb: bool
    createrole: bool
    replication: bool
    bypassrls: bool
    connection_limit: int


@dataclass(frozen=True, slots=True)
class LiveSetting:
    """ALTER ROLE … [IN DATABASE …] SET; ``database`` is empty where it counts in all."""

    role: str
    database: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class LiveMembership:
    """A row of pg_auth_members; before 16 ``inherit`` is the member's attribute and ``set`` is always true."""

    role: str
    member: str
    grantor: str
    by_bootstrap: bool
    admin: bool
    inherit: bool
    set: bool


@dataclass(frozen=True, slots=True)
class Thing:
    """An object with an owner and rights. ``detail`` is a column's name or a function's argument types.

    ``leads`` is False where its owner follows another object; ``part`` marks partitions. ``rights`` holds what the
    owner granted; a right that a grantee handed on (``handed_on``) falls with the grant option that it came from.
    """

    kind: str
    schema: str
    name: str
    detail: str
    word: str
    leads: bool
    part: bool
    owner: str
    rights: frozenset[Right] = frozenset()
    handed_on: frozenset[Right] = frozenset()

    @property
    def label(self) -> str:
        """Name it for a person: ``app.users``, ``app.users.email``, ``app.f(bigint)``."""
        if self.kind in ("database", "schema"):
            return f"{self.kind} {self.name}"
        tail = {"column": f".{self.detail}", "function": f"({self.detail})"}.get(self.kind, "")
        return f"{self.schema}.{self.name}{tail}"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of it; ``things`` go from the database down to columns.

    ``defaults`` maps (role, schema or empty, kind) to what pg_default_acl holds; absent: what is built in.
    """

    major: int
    database: str
    session_user: str
    roles: dict[str, LiveRole]
    settings: tuple[LiveSetting, ...]
    memberships: tuple[LiveMembership, ...]
    things: tuple[Thing, ...]
    defaults: dict[tuple[str, str, str], frozenset[Right]]


def read(connection: psycopg.Connection[Any], schemas: Sequence[str]) -> Catalog:
    """Read roles, and the rights in these schemas of the present database. No locks beyond those of a SELECT."""
    major, database, session_user = connection.execute(_SELF).fetchone() or (0, "", "")
    roles = [LiveRole(*row) for row in connection.execute(_ROLES)]
    return Catalog(
        major,
        database,
        session_user,
        {role.name: role for role in roles},
        tuple(LiveSetting(*row) for row in connection.execute(_SETTINGS)),
        tuple(LiveMembership(*row) for row in connection.execute(_MEMBERS)),
        _things(connection.execute(_OBJECTS, {"schemas": list(schemas)})),
        _defaults(connection.execute(_DEFAULTS)),
    )


def _things(rows: psycopg.Cursor[Any]) -> tuple[Thing, ...]:
    found: dict[Thing, tuple[set[Right], set[Right]]] = {}
    for *thing, grantee, privilege, grantable, by_owner in rows:
        rights, handed_on = found.setdefault(Thing(*thing), (set(), set()))
        if privilege is not None:
            (rights if by_owner else handed_on).add(Right(grantee, privilege, grantable))
    return tuple(replace(t, rights=frozenset(r), handed_on=frozenset(h)) for t, (r, h) in found.items())


def _defaults(rows: psycopg.Cursor[Any]) -> dict[tuple[str, str, str], frozenset[Right]]:
    kinds = {"r": "tables", "S": "sequences", "f": "functions"}
    found: dict[tuple[str, str, str], set[Right]] = defaultdict(set)
    for role, schema, kind, grantee, privilege, grantable in rows:
        held = found[role, schema, kinds[kind]]
        if privilege is not None:
            held.add(Right(grantee, privilege, grantable))
    return {key: frozenset(rights) for key, rights in found.items()}
