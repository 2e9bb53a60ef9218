"""What a table is made of, as far as an online rewrite must make it again; and what of it it cannot, which refuses it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, LiteralString

import psycopg

from dbsec import canonical
from dbsec.errors import ApplyError
from dbsec.migrations.expand_contract import definitions
from dbsec.migrations.expand_contract.definitions import Definitions
from dbsec.migrations.names import Name

# One row a reason: what it is, and its name.
_REFUSALS: LiteralString = """
WITH t AS (SELECT c.*, n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE c.oid = %(oid)s)
SELECT 'it is no plain table', relkind::text FROM t WHERE relkind <> 'r' OR relispartition OR reloftype <> 0
UNION ALL SELECT 'it is not permanent', relname FROM t WHERE relpersistence <> 'p'
UNION ALL SELECT 'its access method is not heap', relname FROM t JOIN pg_catalog.pg_am a ON a.oid = relam
   WHERE amname <> 'heap'
UNION ALL SELECT 'tablespace of its own', c.relname FROM pg_catalog.pg_class c WHERE c.reltablespace <> 0
   AND c.oid IN (SELECT %(oid)s UNION SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = %(oid)s)
UNION ALL SELECT 'inheritance', inhrelid::pg_catalog.regclass::text FROM pg_catalog.pg_inherits
   WHERE %(oid)s IN (inhparent, inhrelid)
UNION ALL SELECT DISTINCT 'view or rule', r.ev_class::pg_catalog.regclass::text FROM pg_catalog.pg_depend d
   JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
   WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = %(oid)s
UNION ALL SELECT DISTINCT 'function or column that uses its rows as a type',
     pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
   FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type y ON y.oid = d.refobjid
   JOIN t ON y.oid = t.reltype OR y.typelem = t.reltype
   WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype <> 'i'
UNION ALL SELECT DISTINCT 'function that reads it by its number', pg_catalog.pg_describe_object(classid, objid, 0)
   FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjid = %(oid)s
     AND classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION ALL SELECT 'policy of another table', pg_catalog.pg_describe_object(d.classid, d.objid, 0)
   FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid = d.objid AND p.polrelid <> %(oid)s
   WHERE d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.refobjid = %(oid)s
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT 'publication', pubname FROM pg_catalog.pg_publication_tables JOIN t
   ON schemaname = nspname AND tablename = relname
UNION ALL SELECT 'extension', refobjid::text FROM pg_catalog.pg_depend WHERE deptype = 'e' AND objid = %(oid)s
   AND classid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT 'security label', label FROM pg_catalog.pg_seclabels WHERE objoid = %(oid)s
UNION ALL SELECT 'constraint that is not valid', conname FROM pg_catalog.pg_constraint
   WHERE conrelid = %(oid)s AND NOT convalidated
UNION ALL SELECT 'foreign key to itself', conname FROM pg_catalog.pg_constraint
   WHERE conrelid = %(oid)s AND confrelid = %(oid)s
UNION ALL SELECT 'foreign key with a partitioned table', k.conname FROM pg_catalog.pg_constraint k
   JOIN pg_catalog.pg_class c ON c.oid IN (k.conrelid, k.confrelid) AND c.relkind = 'p'
   WHERE k.contype = 'f' AND %(oid)s IN (k.conrelid, k.confrelid)
UNION ALL SELECT 'deferrable key', conname FROM pg_catalog.pg_constraint
   WHERE conrelid = %(oid)s AND contype IN ('p', 'u', 'x') AND condeferrable
UNION ALL SELECT 'index that is INVALID', indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index
   WHERE indrelid = %(oid)s AND NOT indisvalid
UNION ALL SELECT 'index to cluster by', indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index
   WHERE indrelid = %(oid)s AND indisclustered
UNION ALL SELECT 'right that its owner did not grant', a.grantee::pg_catalog.regrole::text
   FROM t, pg_catalog.aclexplode(relacl) a WHERE a.grantor <> relowner
UNION ALL SELECT 'no primary key', '' FROM t WHERE NOT EXISTS
   (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %(oid)s AND contype = 'p')
"""
_OID: LiteralString = "SELECT pg_catalog.to_regclass(%s)::oid::bigint"
_TABLE: LiteralString = """
SELECT pg_catalog.pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity, relreplident::text,
       coalesce(reloptions, '{}'), pg_catalog.obj_description(oid, 'pg_class'),
       (SELECT coalesce(reloptions, '{}') FROM pg_catalog.pg_class m WHERE m.oid = c.reltoastrelid)
FROM pg_catalog.pg_class c WHERE oid = %s
"""
_COLUMNS: LiteralString = """
SELECT attname, pg_catalog.format_type(atttypid, atttypmod), attnotnull, attidentity::text, attgenerated::text,
       coalesce(attstattarget, -1), coalesce(attoptions, '{}'),
       pg_catalog.pg_get_serial_sequence(%(name)s, attname)
FROM pg_catalog.pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEY: LiteralString = """
SELECT a.attname FROM pg_catalog.pg_index i, pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(num, n),
       pg_catalog.pg_attribute a
WHERE i.indrelid = %s AND i.indisprimary AND k.n <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = k.num
ORDER BY k.n
"""
_GRANTS: LiteralString = """
SELECT '', privilege_type, CASE grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(grantee) END, is_grantable
FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(relacl, pg_catalog.acldefault('r', relowner))) WHERE c.oid = %(oid)s
UNION ALL
SELECT attname, privilege_type, CASE grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(grantee) END, is_grantable
FROM pg_catalog.pg_attribute, pg_catalog.aclexplode(attacl) WHERE attrelid = %(oid)s AND NOT attisdropped
ORDER BY 1, 2, 3
"""
_TRIGGERS: LiteralString = """
SELECT tgname, pg_catalog.pg_get_triggerdef(oid), tgenabled::text FROM pg_catalog.pg_trigger
WHERE tgrelid = %s AND NOT tgisinternal AND tgname NOT LIKE 'zz_dbsec_shadow%%' ORDER BY tgname
"""
_POLICIES: LiteralString = """
SELECT polname, polpermissive, polcmd::text, pg_catalog.pg_get_expr(polqual, polrelid),
       pg_catalog.pg_get_expr(polwithcheck, polrelid),
       ARRAY(SELECT CASE r WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(r)::text END FROM pg_catalog.unnest(polroles) r)
FROM pg_catalog.pg_policy WHERE polrelid = %s ORDER BY polname
"""
_INCOMING: LiteralString = """
SELECT n.nspname, c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid), k.convalidated
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE k.confrelid = %s AND k.contype = 'f' ORDER BY 1, 2, 3
"""
_OUTGOING: LiteralString = """
SELECT n.nspname, c.relname, k.conname FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE k.conrelid = %s AND k.contype = 'f' ORDER BY 3
"""
_COMMENTS: LiteralString = """
SELECT 'INDEX', c.relname, d.description FROM pg_catalog.pg_description d JOIN pg_catalog.pg_index i ON i.indexrelid = d.objoid
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT 'CONSTRAINT', k.conname, d.description FROM pg_catalog.pg_description d JOIN pg_catalog.pg_constraint k
ON k.oid = d.objoid WHERE k.conrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
UNION ALL SELECT 'TRIGGER', k.tgname, d.description FROM pg_catalog.pg_description d JOIN pg_catalog.pg_trigger k
ON k.oid = d.objoid WHERE k.tgrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
UNION ALL SELECT 'POLICY', k.polname, d.description FROM pg_catalog.pg_description d JOIN pg_catalog.pg_policy k
ON k.oid = d.objoid WHERE k.polrelid = %(oid)s AND d.classoid = 'pg_catalog.pg_policy'::pg_catalog.regclass
ORDER BY 1, 2
"""
_STATISTICS: LiteralString = """
SELECT stxname, pg_catalog.pg_get_statisticsobjdef(oid) FROM pg_catalog.pg_statistic_ext WHERE stxrelid = %s ORDER BY 1
"""
_REPLICA_INDEX: LiteralString = """
SELECT c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %s AND i.indisreplident
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything by its catalog's words; rows as the queries above have them. ``exact``: indexes and constraints."""

    table: Name
    owner: str
    row_security: bool
    forced: bool
    replica: str
    options: tuple[str, ...]
    toast_options: tuple[str, ...]
    comment: str | None
    columns: tuple[tuple[Any, ...], ...]
    key: tuple[str, ...]
    grants: tuple[tuple[Any, ...], ...]
    triggers: tuple[tuple[Any, ...], ...]
    policies: tuple[tuple[Any, ...], ...]
    incoming: tuple[tuple[Any, ...], ...]
    outgoing: tuple[tuple[Any, ...], ...]
    comments: tuple[tuple[Any, ...], ...]
    statistics: tuple[tuple[Any, ...], ...]
    replica_index: str
    exact: Definitions
    oid: int

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are written: a generated one is computed."""
        return tuple(name for name, _, _, _, generated, *_ in self.columns if not generated)

    @property
    def digest(self) -> str:
        """What the table looked like: a rewrite goes on only with the table for which it was begun."""
        told: Mapping[str, Any] = {
            **{name: value for name, value in asdict(self).items() if name not in ("exact", "oid")},
            "exact": repr(self.exact),
            "oid": self.oid,
        }
        return hashlib.sha256(canonical.json_bytes(canonical.as_read(told))).hexdigest()[:16]


def read(connection: psycopg.Connection[Any], table: Name) -> Facts:
    """Read a table. Errors: ``ApplyError`` where it is not there."""
    row = connection.execute(_OID, (str(table),)).fetchone()
    if row is None or row[0] is None:
        raise ApplyError(f"there is no table '{table}' in this database")
    oid = int(row[0])
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")  # definitions come with every schema written out

        def rows(query: LiteralString) -> tuple[tuple[Any, ...], ...]:
            named = {"oid": oid, "name": str(table)} if "%(oid)s" in query else (oid,)
            return tuple(tuple(found) for found in connection.execute(query, named))

        ((owner, secured, forced, replica, options, comment, toast),) = rows(_TABLE)
        index = rows(_REPLICA_INDEX)
        return Facts(
            table,
            owner,
            secured,
            forced,
            replica,
            tuple(options),
            tuple(toast or ()),
            comment,
            rows(_COLUMNS),
            tuple(name for (name,) in rows(_KEY)),
            rows(_GRANTS),
            rows(_TRIGGERS),
            rows(_POLICIES),
            rows(_INCOMING),
            rows(_OUTGOING),
            rows(_COMMENTS),
            rows(_STATISTICS),
            index[0][0] if index else "",
            definitions.from_catalog(connection, table),
            oid,
        )


def refusals(connection: psycopg.Connection[Any], table: Name) -> list[str]:
    """Say what of a table an online rewrite does not make again; VACUUM FULL in a window needs none of it."""
    row = connection.execute(_OID, (str(table),)).fetchone()
    if row is None or row[0] is None:
        raise ApplyError(f"there is no table '{table}' in this database")
    found = connection.execute(_REFUSALS, {"oid": int(row[0])})
    return [f"{what}: '{name}'" if name else str(what) for what, name in found]
