"""Roles themselves: which exist, with which attributes, settings and memberships."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Composable, Identifier, Literal

from dbsec.errors import ConfigError
from dbsec.roles.catalog import Catalog, LiveMembership, LiveRole
from dbsec.roles.changes import Change, change, words
from dbsec.roles.desired import DYNAMIC_PREFIX, Membership, Model, Role

_BUILT_IN = LiveRole("", False, False, True, False, False, False, False, -1)
_FLAGS = {
    "login": "LOGIN",
    "superuser": "SUPERUSER",
    "inherit": "INHERIT",
    "createdb": "CREATEDB",
    "createrole": "CREATEROLE",
    "replication": "REPLICATION",
    "bypassrls": "BYPASSRLS",
}


def wanted_role(name: str, role: Role) -> LiveRole:
    """Return the row of pg_roles that the model asks for."""
    has = {flag: flag in role.attributes for flag in ("createdb", "createrole", "replication", "bypassrls")}
    return LiveRole(
        name=name,
        login=role.can_login,
        superuser=False,
        inherit=role.inherits,
        connection_limit=role.connection_limit or -1,
        **has,
    )


def role_changes(model: Model, live: Catalog) -> Iterator[Change]:
    """Create what is missing and set each attribute that differs; a role of the model is never superuser."""
    for name, role in model.roles.items():
        wanted, present = wanted_role(name, role), live.roles.get(name)
        target = Identifier(name)
        if present is None:
            yield change(
                "create-role",
                name,
                SQL("CREATE ROLE {} {}").format(target, attributes(wanted)),
                SQL("DROP ROLE {}").format(target),
                f"{role.kind}: {role.purpose}",
            )
        elif present != wanted:
            yield change(
                "alter-role",
                name,
                SQL("ALTER ROLE {} {}").format(target, attributes(wanted, besides=present)),
                SQL("ALTER ROLE {} {}").format(target, attributes(present, besides=wanted)),
                f"{role.kind}: {role.purpose}",
            )


def attributes(wanted: LiveRole, *, besides: LiveRole | None = None) -> SQL:
    """Write the attributes of a role, or those alone that differ from another row."""
    known = besides or _BUILT_IN
    said = [
        key if getattr(wanted, flag) else f"NO{key}"
        for flag, key in _FLAGS.items()
        if besides is None or getattr(wanted, flag) != getattr(known, flag)
    ]
    if wanted.connection_limit != known.connection_limit:
        said.append(f"CONNECTION LIMIT {wanted.connection_limit}")
    return words(" ".join(said))


def setting_changes(model: Model, live: Catalog) -> Iterator[Change]:
    """Set what the model says for a role and reset all else, also what counts in one database only.

    A role may change its own settings, so that a plan is what brings a timeout back.
    """
    present = {(s.role, s.database, s.name): s.value for s in live.settings if s.role in model.roles}
    wanted = {(r, "", name): value for r, role in model.roles.items() for name, value in role.settings.items()}
    for key in sorted(present.keys() - wanted.keys()):
        reason = "the model has no such setting"
        yield change("setting", _setting_label(*key), _setting(*key, None), _setting(*key, present[key]), reason)
    for key, value in wanted.items():
        if present.get(key) != value:
            reason = f"was {present[key]!r}" if key in present else "was not set"
            before = _setting(*key, present.get(key))
            yield change("setting", _setting_label(*key), _setting(*key, value), before, reason)


def _setting_label(role: str, database: str, name: str) -> str:
    return f"{role} in {database}: {name}" if database else f"{role}: {name}"


def _setting(role: str, database: str, name: str, value: str | None) -> Composable:
    where = SQL(" IN DATABASE {}").format(Identifier(database)) if database else SQL("")
    parameter = SQL(".").join(Identifier(part) for part in name.split("."))
    if value is None:
        return SQL("ALTER ROLE {}{} RESET {}").format(Identifier(role), where, parameter)
    return SQL("ALTER ROLE {}{} SET {} = {}").format(Identifier(role), where, parameter, Literal(value))


def membership_changes(model: Model, live: Catalog) -> Iterator[Change]:
    """Make the memberships of the model's roles exactly those of the model; dynamic members (``v-*``) are left alone.

    Errors: ``ConfigError`` where the model needs an option that PostgreSQL 15 does not have.
    """
    wanted = {(m.role, name): m for name, role in model.roles.items() for m in role.member_of}
    if live.major < 16:
        _fit_for_15(model)
    settled: set[tuple[str, str]] = set()
    for row in live.memberships:
        if not _ours(row, model):
            continue
        asked = wanted.get((row.role, row.member))
        if asked and row.by_bootstrap and (row.admin, row.inherit, row.set) == _options(asked):
            settled.add((row.role, row.member))
        elif asked is None or not row.by_bootstrap or live.major < 16:
            yield _leave(row, live.major)
    for (role, member), asked in wanted.items():
        if (role, member) not in settled:
            yield _join(asked, member, live.major)


def _ours(row: LiveMembership, model: Model) -> bool:
    if row.member.startswith(DYNAMIC_PREFIX):
        return False
    return row.member in model.roles or row.role in model.roles


def _options(asked: Membership) -> tuple[bool, bool, bool]:
    return asked.admin, asked.inherit, asked.set


def _fit_for_15(model: Model) -> None:
    for name, role in model.roles.items():
        for membership in role.member_of:
            key = f"key 'roles.{name}.member_of', role '{membership.role}'"
            if not membership.set:
                raise ConfigError(f"{key}: PostgreSQL 15 has no membership without SET ROLE; set = false needs 16")
            if membership.inherit != role.inherits:
                raise ConfigError(f"{key}: before PostgreSQL 16 'inherit' is one for all memberships of a role")


def _join(asked: Membership, member: str, major: int) -> Change:
    grant = SQL("GRANT {} TO {}{}").format(Identifier(asked.role), Identifier(member), membership_options(asked, major))
    back = SQL("REVOKE {} FROM {}").format(Identifier(asked.role), Identifier(member))
    how = "inherits its rights" if asked.inherit else "may SET ROLE to it" if asked.set else "is named with it"
    return change("membership", f"{asked.role} <- {member}", grant, back, f"'{member}' {how}")


def membership_options(asked: Membership, major: int) -> SQL:
    """Write the options of a GRANT of membership for a version."""
    if major < 16:
        return words(" WITH ADMIN OPTION" if asked.admin else "")
    said = [f"{k} {str(v).upper()}" for k, v in zip(("ADMIN", "INHERIT", "SET"), _options(asked), strict=True)]
    return words(" WITH " + ", ".join(said))


def _leave(row: LiveMembership, major: int) -> Change:
    # what the member handed on falls with it; before 16 a membership has one row, whoever granted it
    by = SQL(" GRANTED BY {}").format(Identifier(row.grantor)) if major >= 16 else SQL("")
    revoke = SQL("REVOKE {} FROM {}{} CASCADE").format(Identifier(row.role), Identifier(row.member), by)
    held = Membership(role=row.role, inherit=row.inherit, set=row.set, admin=row.admin)
    back = SQL("GRANT {} TO {}{}").format(Identifier(row.role), Identifier(row.member), membership_options(held, major))
    return change("membership", f"{row.role} <- {row.member}", revoke, back, "the model has no such membership")
