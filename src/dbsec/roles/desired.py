"""The role model as ``roles.toml`` says it: who owns, who has which rights, who connects, and with which limits."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from dbsec.errors import ConfigError, NewerFormat

FORMAT = 1
# Names that a dynamic secrets engine makes and deletes by itself: they inherit from a group and are never ours.
DYNAMIC_PREFIX = "v-"
REFUSED = {
    "pg_read_all_data": "it reads every table, pg_authid with its password hashes too",
    "pg_write_all_data": "it writes every table of every schema, the audit trail too",
    "pg_execute_server_program": "it runs any program as the server's account, which is superuser",
    "pg_read_server_files": "it reads any file of the server's account, keys and password hashes too",
    "pg_write_server_files": "it writes any file of the server's account, which is superuser",
}
# Stored by the server as a quoted list, so that what is written and what is read back are not the same text.
_LIST_SETTINGS = ("search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_$-]{0,62}$")]
TablePrivilege = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"]
ColumnPrivilege = Literal["SELECT", "INSERT", "UPDATE", "REFERENCES"]
SequencePrivilege = Literal["USAGE", "SELECT", "UPDATE"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Membership(_Strict):
    """``inherit``: the rights count at once; ``set``: SET ROLE is allowed; ``admin``: may hand it on."""

    role: Name
    inherit: bool = True
    set: bool = True
    admin: bool = False


class Role(_Strict):
    """An owner owns, a group has rights, a login connects; with ``login = false`` not before it is opened."""

    kind: Literal["owner", "group", "login"]
    purpose: str = Field(min_length=1)
    login: bool | None = None
    connection_limit: int | None = Field(default=None, ge=1)
    attributes: tuple[Literal["createdb", "createrole", "replication", "bypassrls"], ...] = ()
    settings: Mapping[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]*$")], str] = Field(
        default_factory=dict
    )
    member_of: tuple[Membership, ...] = ()

    @model_validator(mode="after")
    def _only_logins_connect(self) -> Self:
        given = [n for n in ("login", "connection_limit", "settings") if n in self.model_fields_set]
        if self.kind != "login" and given:
            raise ValueError(f"'{given[0]}' counts at login only, and a {self.kind} never logs in")
        return self

    @field_validator("settings")
    @classmethod
    def _no_lists(cls, settings: Mapping[str, str]) -> Mapping[str, str]:
        for name in settings:
            if name in _LIST_SETTINGS:
                raise ValueError(
                    f"'{name}' is a list, which a role setting here cannot hold: qualify the names instead"
                )
        return settings

    @property
    def can_login(self) -> bool:
        return self.kind == "login" and self.login is not False

    @property
    def inherits(self) -> bool:
        """Return the attribute INHERIT; before PostgreSQL 16 it decides for all memberships of the role."""
        return all(m.inherit for m in self.member_of)


class Database(_Strict):
    """PUBLIC loses CONNECT and TEMPORARY; whoever is named here has them."""

    name: Name
    owner: Name | None = None
    connect: tuple[Name, ...] = ()
    temporary: tuple[Name, ...] = ()


class Schema(_Strict):
    """With an owner, the schema and all in it is handed over and every right in it is as the grants say.

    Without one only CREATE is taken from everybody but its present owner (``public``).
    """

    owner: Name | None = None


class SchemaGrant(_Strict):
    on: Literal["schema"]
    to: tuple[Name, ...] = Field(min_length=1)
    schema_: Name = Field(alias="schema")
    privileges: tuple[Literal["USAGE", "CREATE"], ...] = Field(min_length=1)


class _Named(_Strict):
    to: tuple[Name, ...] = Field(min_length=1)
    schema_: Name = Field(alias="schema")
    names: tuple[Name | Literal["*"], ...] = Field(min_length=1)
    except_: tuple[Name, ...] = Field(default=(), alias="except")

    def covers(self, name: str) -> bool:
        """Tell whether an object of this name is meant; ``*`` is every one that is not excepted."""
        return (name in self.names or "*" in self.names) and name not in self.except_


class TableGrant(_Named):
    """Tables, views and materialised views; ``*`` leaves partitions out: they are read through their parent."""

    on: Literal["tables"]
    privileges: tuple[TablePrivilege, ...] = Field(min_length=1)


class SequenceGrant(_Named):
    """Sequences of their own or of ``serial`` columns; an identity column needs none of these."""

    on: Literal["sequences"]
    privileges: tuple[SequencePrivilege, ...] = Field(min_length=1)


class FunctionGrant(_Named):
    """Functions, procedures and aggregates; a name covers all of its overloads."""

    on: Literal["functions"]
    privileges: tuple[Literal["EXECUTE"], ...] = ("EXECUTE",)


class ColumnGrant(_Strict):
    on: Literal["columns"]
    to: tuple[Name, ...] = Field(min_length=1)
    schema_: Name = Field(alias="schema")
    table: Name
    columns: tuple[Name, ...] = Field(min_length=1)
    privileges: tuple[ColumnPrivilege, ...] = Field(min_length=1)


Grant = Annotated[SchemaGrant | TableGrant | SequenceGrant | FunctionGrant | ColumnGrant, Field(discriminator="on")]


class DefaultPrivilege(_Strict):
    """Rights on what ``for`` creates later, in one schema or, without one, everywhere."""

    for_: Name = Field(alias="for")
    schema_: Name | None = Field(default=None, alias="schema")
    on: Literal["tables", "sequences", "functions"]
    privileges: tuple[TablePrivilege | SequencePrivilege | Literal["EXECUTE"], ...] = Field(min_length=1)
    to: tuple[Name, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        kinds: dict[str, set[str]] = {
            "tables": {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"},
            "sequences": {"USAGE", "SELECT", "UPDATE"},
            "functions": {"EXECUTE"},
        }
        if wrong := set(self.privileges) - kinds[self.on]:
            raise ValueError(f"{sorted(wrong)[0]} is not a privilege on {self.on}")
        return self


class Model(_Strict):
    """All of ``roles.toml``. What is not in it and lies in a schema with an owner is taken away by a plan."""

    format: int
    database: Database
    schemas: Mapping[Name, Schema]
    roles: Mapping[Name, Role]
    grants: tuple[Grant, ...] = ()
    default_privileges: tuple[DefaultPrivilege, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read and check a file. Errors: ``ConfigError`` with file and key, ``NewerFormat``."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(f"cannot read '{path}': {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"'{path}' is not TOML: {exc}") from exc
        if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise NewerFormat(f"'{path}'", found=raw["format"], known=FORMAT)
        return cls.of(raw, where=str(path))

    @classmethod
    def of(cls, raw: Mapping[str, Any], *, where: str = "roles.toml") -> Model:
        """Check what a TOML parser returned. Errors: ``ConfigError``."""
        try:
            model = cls.model_validate(raw)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            # pydantic begins its own messages with a capital
            said = said if said is not first["msg"] else f"{said[:1].lower()}{said[1:]}"
            raise ConfigError(f"'{where}', key '{key}': {said}") from exc
        for key, problem in _problems(model):
            raise ConfigError(f"'{where}', key '{key}': {problem}")
        return model

    @property
    def owned_schemas(self) -> dict[str, str]:
        """Return schema -> owner for those whose objects are all handed over."""
        return {name: schema.owner for name, schema in self.schemas.items() if schema.owner}


def _problems(model: Model) -> Iterator[tuple[str, str]]:
    yield from _unknown_names(model)
    for name, role in model.roles.items():
        for membership in role.member_of:
            if membership.role in REFUSED:
                yield f"roles.{name}.member_of", f"'{membership.role}' is never granted: {REFUSED[membership.role]}"
        if name in _ancestors(model, name):
            yield f"roles.{name}.member_of", f"'{name}' is a member of itself by way of its groups"
    for number, grant in enumerate(model.grants):
        if not model.schemas.get(grant.schema_, Schema()).owner:
            yield f"grants.{number}.schema", f"'{grant.schema_}' is not a schema with an owner in [schemas]"
        elif model.owned_schemas[grant.schema_] in grant.to:
            yield f"grants.{number}.to", f"'{model.owned_schemas[grant.schema_]}' owns it and needs no grant"
    for number, rule in enumerate(model.default_privileges):
        if rule.schema_ is not None and rule.schema_ not in model.owned_schemas:
            yield f"default_privileges.{number}.schema", f"'{rule.schema_}' is not a schema with an owner in [schemas]"
        elif rule.for_ in rule.to:
            yield f"default_privileges.{number}.to", f"'{rule.for_}' owns it and needs no grant"


def _unknown_names(model: Model) -> Iterator[tuple[str, str]]:
    for key, name in _mentions(model):
        if name not in model.roles and not (key.endswith("member_of") and name.startswith("pg_")):
            yield key, f"role '{name}' is not in [roles]"
        elif key.endswith((".owner", ".for")) and model.roles[name].kind != "owner":
            yield key, f"role '{name}' is a {model.roles[name].kind}; only an owner owns"


def _mentions(model: Model) -> Iterator[tuple[str, str]]:
    if model.database.owner:
        yield "database.owner", model.database.owner
    for key in ("connect", "temporary"):
        for name in getattr(model.database, key):
            yield f"database.{key}", name
    for name, owner in model.owned_schemas.items():
        yield f"schemas.{name}.owner", owner
    for name, role in model.roles.items():
        for membership in role.member_of:
            yield f"roles.{name}.member_of", membership.role
    for number, grant in enumerate(model.grants):
        for name in grant.to:
            yield f"grants.{number}.to", name
    for number, rule in enumerate(model.default_privileges):
        yield f"default_privileges.{number}.for", rule.for_
        for name in rule.to:
            yield f"default_privileges.{number}.to", name


def _ancestors(model: Model, name: str) -> set[str]:
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        role = model.roles.get(ahead.pop())
        fresh = {m.role for m in role.member_of} - seen if role else set()
        seen |= fresh
        ahead += fresh
    return seen
