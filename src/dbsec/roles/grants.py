"""Owners and rights of objects: what the model asks for, and the statements that lead there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from psycopg.sql import SQL, Composable, Identifier

from dbsec.errors import ConfigError
from dbsec.roles.catalog import Catalog, Right, Thing
from dbsec.roles.changes import PUBLIC, Change, change, listed, role_name, words
from dbsec.roles.desired import ColumnGrant, FunctionGrant, Model, SchemaGrant, SequenceGrant, TableGrant

_GRANT_WORDS = {"database": "DATABASE", "schema": "SCHEMA", "sequence": "SEQUENCE", "function": "ROUTINE"}


@dataclass(slots=True)
class _Revoked:
    """What was taken on whole tables: the server takes the same privilege on their columns with it."""

    table: set[tuple[str, str, str, str]] = field(default_factory=set)


def wanted_owner(thing: Thing, model: Model) -> str:
    """Return who shall own a thing; its present owner where the model does not say."""
    if thing.kind == "database":
        return model.database.owner or thing.owner
    return model.owned_schemas.get(thing.schema, thing.owner)


def wanted_rights(thing: Thing, model: Model) -> frozenset[Right]:
    """Return the rights beside the owner's that a thing shall have."""
    if thing.kind == "database":
        connect = {Right(name, "CONNECT") for name in model.database.connect}
        return frozenset(connect | {Right(name, "TEMPORARY") for name in model.database.temporary})
    if thing.schema not in model.owned_schemas:
        return frozenset(r for r in thing.rights if r.privilege != "CREATE")
    return frozenset(
        Right(to, privilege)
        for grant in model.grants
        if grant.schema_ == thing.schema and _covers(grant, thing)
        for to in grant.to
        for privilege in grant.privileges
    )


def _covers(grant: SchemaGrant | TableGrant | SequenceGrant | FunctionGrant | ColumnGrant, thing: Thing) -> bool:
    match grant:
        case SchemaGrant():
            return thing.kind == "schema"
        case ColumnGrant():
            return thing.kind == "column" and thing.name == grant.table and thing.detail in grant.columns
        case TableGrant():
            whole = "*" in grant.names and thing.name not in grant.names
            return thing.kind == "table" and grant.covers(thing.name) and not (whole and thing.part)
        case SequenceGrant():
            return thing.kind == "sequence" and grant.covers(thing.name)
        case FunctionGrant():
            return thing.kind == "function" and grant.covers(thing.name)


def check_targets(model: Model, live: Catalog) -> None:
    """Refuse grants on what is not there, and MAINTAIN before 17. Errors: ``ConfigError``."""
    present = {(t.kind, t.schema, t.name) for t in live.things}
    columns = {(t.schema, t.name, t.detail) for t in live.things if t.kind == "column"}
    for number, grant in enumerate(model.grants):
        kind = {"tables": "table", "sequences": "sequence", "functions": "function"}.get(grant.on, "")
        for name in getattr(grant, "names", ()):
            if name != "*" and (kind, grant.schema_, name) not in present:
                raise ConfigError(f"key 'grants.{number}.names': there is no {kind} '{grant.schema_}.{name}'")
        if isinstance(grant, ColumnGrant):
            for column in grant.columns:
                if (grant.schema_, grant.table, column) not in columns:
                    label = f"{grant.schema_}.{grant.table}.{column}"
                    raise ConfigError(f"key 'grants.{number}.columns': there is no column '{label}'")
    for rule in (*model.grants, *model.default_privileges):
        if "MAINTAIN" in rule.privileges and live.major < 17:
            raise ConfigError(f"privilege MAINTAIN needs PostgreSQL 17, this is {live.major}")


def object_changes(model: Model, live: Catalog) -> Iterator[Change]:
    """Hand over what has another owner and make rights exact; the objects that need locks on live tables come last."""
    revoked = _Revoked()
    managed = [t for t in live.things if t.kind in ("database", "schema") or t.schema in model.owned_schemas]
    moving = [t for t in managed if t.kind == "table" and t.owner != wanted_owner(t, model)]
    moved = {(t.schema, t.name) for t in moving}
    late = [t for t in managed if t.kind in ("table", "column", "sequence") and (t.schema, t.name) in moved]
    for thing in managed:
        if thing not in late:
            yield from _thing_changes(thing, model, revoked)
    yield from _lock(moving)
    for thing in late:
        yield from _thing_changes(thing, model, revoked)


def _lock(moving: list[Thing]) -> Iterator[Change]:
    """Take the locks in one statement before the first change under them, so that they are held for as little."""
    tables = [Identifier(t.schema, t.name) for t in moving if t.word in ("TABLE", "VIEW")]
    if not tables:
        return
    statement = SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(SQL(", ").join(tables))
    yield change("lock", f"{len(tables)} tables", statement, None, "ALTER … OWNER needs it, for milliseconds")


def _thing_changes(thing: Thing, model: Model, revoked: _Revoked) -> Iterator[Change]:
    owner = wanted_owner(thing, model)
    if thing.owner != owner and thing.leads:
        alter = SQL("ALTER {} {} OWNER TO {}").format(words(thing.word), named(thing), Identifier(owner))
        back = SQL("ALTER {} {} OWNER TO {}").format(words(thing.word), named(thing), Identifier(thing.owner))
        yield change("owner", thing.label, alter, back, f"belongs to '{thing.owner}'")
    # ALTER … OWNER gives the old owner's own rights to the new one
    rights = {r._replace(grantee=owner) if r.grantee == thing.owner else r for r in thing.rights}
    present = {r for r in rights if r.grantee != owner and not _fell(thing, r, revoked)}
    wanted = {r for r in wanted_rights(thing, model) if r.grantee != owner}
    yield from _rights_changes(thing, present, wanted, revoked)


def _fell(thing: Thing, right: Right, revoked: _Revoked) -> bool:
    return thing.kind == "column" and (thing.schema, thing.name, right.grantee, right.privilege) in revoked.table


def _rights_changes(thing: Thing, present: set[Right], wanted: set[Right], revoked: _Revoked) -> Iterator[Change]:
    extra, missing = _by_grantee(present - wanted), _by_grantee(wanted - present)
    for (grantee, grantable), privileges in extra.items():
        if thing.kind == "table":
            revoked.table |= {(thing.schema, thing.name, grantee, p) for p in privileges}
        reason = f"{grantee or 'PUBLIC'} shall not have it" + (" to hand on" if grantable else "")
        take, back = _revoke(thing, grantee, privileges), _grant(thing, grantee, privileges, grantable)
        yield change("revoke", thing.label, take, back, reason)
    # a right with grant option was taken whole above, and is given again without
    for (grantee, _), privileges in missing.items():
        give, back = _grant(thing, grantee, privileges), _revoke(thing, grantee, privileges)
        yield change("grant", thing.label, give, back, f"'{grantee}' needs it")


def _by_grantee(rights: set[Right]) -> Mapping[tuple[str, bool], set[str]]:
    found: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for right in sorted(rights):
        found[right.grantee, right.grantable].add(right.privilege)
    return found


def named(thing: Thing) -> Composable:
    """Name a thing as ALTER and GRANT take it."""
    if thing.kind in ("database", "schema"):
        return Identifier(thing.name)
    name = Identifier(thing.schema, thing.name)
    return SQL("{}({})").format(name, words(thing.detail)) if thing.kind == "function" else name


def _on(thing: Thing, privileges: set[str]) -> Composable:
    word = words(_GRANT_WORDS.get(thing.kind, "TABLE"))
    if thing.kind == "column":
        each = [SQL("{} ({})").format(words(p), Identifier(thing.detail)) for p in sorted(privileges)]
        return SQL("{} ON {} {}").format(SQL(", ").join(each), word, named(thing))
    return SQL("{} ON {} {}").format(listed(privileges), word, named(thing))


def _grant(thing: Thing, grantee: str, privileges: set[str], grantable: bool = False) -> Composable:
    option = words(" WITH GRANT OPTION" if grantable else "")
    return SQL("GRANT {} TO {}{}").format(_on(thing, privileges), role_name(grantee), option)


def _revoke(thing: Thing, grantee: str, privileges: set[str]) -> Composable:
    # CASCADE takes what a grantee handed on: such a right is not the owner's gift and cannot be taken alone
    return SQL("REVOKE {} FROM {} CASCADE").format(_on(thing, privileges), role_name(grantee))


def default_changes(model: Model, live: Catalog) -> Iterator[Change]:
    """Make the default privileges of the model's roles exact; functions of an owner are nobody's to execute."""
    wanted: dict[tuple[str, str, str], set[Right]] = defaultdict(set)
    for rule in model.default_privileges:
        wanted[rule.for_, rule.schema_ or "", rule.on] |= {
            Right(to, privilege) for to in rule.to for privilege in rule.privileges
        }
    present = {key: rights for key, rights in live.defaults.items() if key[0] in model.roles}
    for name, role in model.roles.items():
        if role.kind == "owner":
            present.setdefault((name, "", "functions"), frozenset({Right(PUBLIC, "EXECUTE")}))
    for key in sorted(present.keys() | wanted.keys()):
        held = {r for r in present.get(key, ()) if r.grantee != key[0]}
        yield from _default_statements(key, held, wanted.get(key, set()))


def _default_statements(key: tuple[str, str, str], held: set[Right], wanted: set[Right]) -> Iterator[Change]:
    role, schema, kind = key
    where = SQL(" IN SCHEMA {}").format(Identifier(schema)) if schema else SQL("")
    head = SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {}{}").format(Identifier(role), where)
    label = f"future {kind} of {role}" + (f" in {schema}" if schema else "")

    def statement(verb: str, privileges: set[str], word: str, grantee: str) -> Composable:
        parts = (head, words(verb), listed(privileges), words(kind.upper()), words(word), role_name(grantee))
        return SQL("{} {} {} ON {} {} {}").format(*parts)

    for (grantee, _), privileges in _by_grantee(held - wanted).items():
        take, back = (statement(v, privileges, w, grantee) for v, w in (("REVOKE", "FROM"), ("GRANT", "TO")))
        yield change("default", label, take, back, f"{grantee or 'PUBLIC'} shall not have it")
    for (grantee, _), privileges in _by_grantee(wanted - held).items():
        give, back = (statement(v, privileges, w, grantee) for v, w in (("GRANT", "TO"), ("REVOKE", "FROM")))
        yield change("default", label, give, back, f"'{grantee}' needs it on what comes later")
