"""Who may what, drawn: roles, groups and objects as a graph, and the matrix of effective rights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbsec.roles.catalog import Catalog
from dbsec.roles.desired import ColumnGrant, Model, TableGrant

_LETTERS = {
    "SELECT": "S",
    "INSERT": "I",
    "UPDATE": "U",
    "DELETE": "D",
    "TRUNCATE": "T",
    "REFERENCES": "R",
    "TRIGGER": "G",
    "MAINTAIN": "M",
}
_LEGEND = "S select, I insert, U update, D delete, T truncate, R references, G trigger, M maintain, small: some columns"
_WRITE = {"INSERT", "UPDATE", "DELETE"}
_HARMFUL = {"TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"}
_EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class _Link:
    member: str
    role: str
    inherit: bool
    set: bool


@dataclass(slots=True)
class _Access:
    """``rights``: object -> role -> privileges; those on single columns in small letters.

    ``replicating``: who reads every byte of every table by the replication protocol, whatever the rights say.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    links: list[_Link] = field(default_factory=list)
    replicating: set[str] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)
    rights: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))


def exhibit(source: Model | Catalog, *, title: str = "Who may what") -> dict[str, Any]:
    """Draw a model or a live server as a graph: logins, groups, owners, tables. Shape: ``report.exhibits.graph``."""
    access = _access(source)
    merged = _merged(access)
    nodes = [{"id": name, "label": name, "kind": kind} for name, kind in access.kinds.items()]
    nodes += [{"id": label, "label": label, "kind": "object"} for label in merged]
    if "superuser" in access.kinds.values():
        nodes.append({"id": _EVERYTHING, "label": _EVERYTHING, "kind": "object"})
    edges = [*_membership_edges(access), *_right_edges(access, merged)]
    used = {end for edge in edges for end in (edge["from"], edge["to"])}
    return {"type": "graph", "title": title, "nodes": [n for n in nodes if n["id"] in used], "edges": edges}


def matrix(source: Model | Catalog, *, title: str = "Effective rights on tables") -> dict[str, Any]:
    """List what each role may do with each table, rights of its groups included. Shape: ``report.exhibits.table``."""
    access = _access(source)
    objects = sorted(access.rights)
    rows = [[name, kind, *(_cell(access, name, o) for o in objects)] for name, kind in access.kinds.items()]
    rows.sort(key=lambda row: (["superuser", "login", "group", "owner"].index(row[1]), row[0]))
    return {"type": "table", "title": f"{title} ({_LEGEND})", "columns": ["role", "kind", *objects], "rows": rows}


def _access(source: Model | Catalog) -> _Access:
    return _of_model(source) if isinstance(source, Model) else _of_catalog(source)


def _of_model(model: Model) -> _Access:
    access = _Access({name: role.kind for name, role in model.roles.items()})
    access.replicating = {name for name, role in model.roles.items() if "replication" in role.attributes}
    for name, role in model.roles.items():
        access.links += [_Link(name, m.role, m.inherit, m.set) for m in role.member_of]
        for membership in role.member_of:
            access.kinds.setdefault(membership.role, "group")
    for grant in model.grants:
        if isinstance(grant, TableGrant):
            for name in {*grant.names, *_named_tables(model, grant)}:
                _note(access, f"{grant.schema_}.{name}", grant.to, grant.privileges)
        elif isinstance(grant, ColumnGrant):
            _note(access, f"{grant.schema_}.{grant.table}", grant.to, [p.lower() for p in grant.privileges])
    access.owners = {label: model.owned_schemas[label.partition(".")[0]] for label in access.rights}
    return access


def _named_tables(model: Model, wide: TableGrant) -> set[str]:
    """Return the tables that other grants name and that a grant on ``*`` covers too."""
    tables = (g for g in model.grants if isinstance(g, TableGrant | ColumnGrant) and g.schema_ == wide.schema_)
    names = {n for g in tables for n in (g.names if isinstance(g, TableGrant) else (g.table,))}
    return {name for name in names if name != "*" and wide.covers(name)}


def _note(access: _Access, label: str, to: Iterable[str], privileges: Iterable[str]) -> None:
    for role in to:
        access.rights[label][role] |= set(privileges)


def _of_catalog(live: Catalog) -> _Access:
    access = _Access(replicating={name for name, role in live.roles.items() if role.replication})
    for thing in live.things:
        if thing.kind in ("table", "column"):
            label = f"{thing.schema}.{thing.name}"
            access.owners[label] = thing.owner
            held = access.rights[label]
            for right in thing.rights | thing.handed_on:
                if right.grantee != thing.owner:
                    privilege = right.privilege if thing.kind == "table" else right.privilege.lower()
                    held[right.grantee or "PUBLIC"].add(privilege)
    access.links = [_Link(m.member, m.role, m.inherit, m.set) for m in live.memberships]
    owners = set(access.owners.values())
    grantees = {role for held in access.rights.values() for role in held}
    groups = {link.role for link in access.links if not link.member.startswith("pg_")}
    for name, role in live.roles.items():
        kind = "superuser" if role.superuser and role.login else "login" if role.login else "group"
        kind = "owner" if kind == "group" and name in owners else kind
        if not name.startswith("pg_") or name in groups:
            access.kinds[name] = kind
    access.kinds.update({name: "group" for name in grantees if name == "PUBLIC"})
    access.links = [link for link in access.links if link.member in access.kinds and link.role in access.kinds]
    return access


def _merged(access: _Access) -> Mapping[str, list[str]]:
    """Put objects with one owner and the same rights under one label, so that the picture stays small."""
    alike: dict[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], list[str]] = defaultdict(list)
    for label in sorted(access.rights):
        held = tuple(sorted((role, tuple(sorted(p))) for role, p in access.rights[label].items()))
        alike[access.owners.get(label, ""), held].append(label)
    return {_joined(labels): labels for labels in alike.values()}


def _joined(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"


def _membership_edges(access: _Access) -> Iterator[dict[str, str]]:
    for link in access.links:
        label = "inherits" if link.inherit else "SET ROLE" if link.set else "member"
        yield {"from": link.member, "to": link.role, "label": label, "kind": "" if link.inherit else "weak"}
    for name, kind in access.kinds.items():
        if kind == "superuser":
            yield {"from": name, "to": _EVERYTHING, "label": "superuser", "kind": "danger"}


def _right_edges(access: _Access, merged: Mapping[str, list[str]]) -> Iterator[dict[str, str]]:
    for label, objects in merged.items():
        owner = access.owners.get(objects[0], "")
        if owner in access.kinds:
            danger = access.kinds[owner] in ("login", "superuser")
            yield {"from": owner, "to": label, "label": "owns", "kind": "danger" if danger else ""}
        for role, privileges in sorted(access.rights[objects[0]].items()):
            danger = bool(privileges & _HARMFUL) or role == "PUBLIC"
            yield {"from": role, "to": label, "label": _short(privileges), "kind": "danger" if danger else ""}


def _short(privileges: set[str]) -> str:
    said = ["read"] if "SELECT" in privileges else []
    said += ["write"] if privileges >= _WRITE else sorted(p.lower() for p in privileges & _WRITE)
    said += sorted(privileges & _HARMFUL)
    return ", ".join(said) or ", ".join(f"{p} some columns" for p in sorted(privileges))


def _cell(access: _Access, role: str, label: str) -> str:
    if access.kinds[role] == "superuser":
        return "all"
    if role in access.replicating:
        return "all, by replication"
    acting = _acting(access, role)
    if access.owners.get(label) in acting:
        return "owner"
    held = {p for name in (*acting, "PUBLIC") for p in access.rights[label].get(name, ())}
    whole = "".join(letter for privilege, letter in _LETTERS.items() if privilege in held)
    small = "".join(letter.lower() for p, letter in _LETTERS.items() if p.lower() in held and p not in held)
    if not whole and access.owners.get(label) in _acting(access, role, by_set=True):
        return "owner, by SET ROLE"
    return whole + small


def _acting(access: _Access, role: str, *, by_set: bool = False) -> set[str]:
    """Return the roles whose rights count for a role, at once or after SET ROLE."""
    seen, ahead = {role}, [role]
    while ahead:
        name = ahead.pop()
        mine = (link for link in access.links if link.member == name)
        fresh = {link.role for link in mine if link.inherit or (by_set and link.set)} - seen
        seen |= fresh
        ahead += fresh
    return seen
