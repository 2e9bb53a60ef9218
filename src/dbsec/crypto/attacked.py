"""Who is attacked: the service as its callers know it, its table, and users that a drill makes and deletes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from dbsec.crypto.columns import EncryptedColumn
from dbsec.errors import LabError
from dbsec.kms import Kms
from dbsec.pg import Conninfo, connect

_NAME = "dbsec drill"
_PHONE = re.compile(rb"\+[1-9][0-9]{6,14}\Z")
_EMAIL = re.compile(rb"[^@\s]+@[^@\s]+\.[^@\s]+\Z")
_COLUMNS: LiteralString = """
SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answers: ``text`` is all of it, ``person`` what it shows of a user, if anything."""

    status: int
    text: str
    person: Mapping[str, str]


class People(Protocol):
    """The service as its callers know it. Errors: any, where it does not answer at all."""

    def add(self, tenant: str, *, phone: str, email: str) -> int:
        """Create a user and return its id."""

    def read(self, tenant: str, user: int) -> Answer:
        """Read a user by id."""

    def find(self, tenant: str, **by: str) -> Answer | list[int]:
        """Look users up by ``phone`` or ``email``: their ids, or the answer that is an error."""


@dataclass(frozen=True, slots=True)
class CryptoTarget:
    """Who is let at the service and its database, and how the columns are declared.

    ``admin`` is a superuser's DSN, ``thief`` one that may read the table. ``people`` is the service as its callers know
    it, ``tenants`` are two that it serves. ``phone`` and ``email`` name the columns as they are in the end; in clear,
    they have the name of their field. ``kms`` has the service's right, ``stranger`` asks the same KMS without one.
    """

    admin: Callable[[], Conninfo]
    thief: Callable[[], Conninfo]
    people: People
    tenants: tuple[str, str]
    phone: EncryptedColumn
    email: EncryptedColumn
    kms: Callable[[], Kms]
    stranger: Callable[[], Kms]


@dataclass(frozen=True, slots=True)
class Canary:
    """A user that the drill made."""

    id: int
    tenant: str
    phone: str
    email: str

    def of(self, column: EncryptedColumn) -> str:
        """Return what the column holds of it, in clear."""
        return str(getattr(self, column.field.column))


@contextmanager
def canaries(target: CryptoTarget, *tenants: str) -> Iterator[tuple[psycopg.Connection[Any], list[Canary]]]:
    """Make one user in each of these tenants, give a superuser's session, and delete the users in the end.

    Errors: ``LabError`` where one of them stays.
    """
    made: list[Canary] = []
    with connect(target.admin(), application_name=_NAME) as session:
        try:
            for tenant in tenants:
                made.append(_made(target.people, tenant))
            yield session, made
        finally:
            ids = [one.id for one in made]
            gone = session.execute(statement(target, "DELETE FROM {table} WHERE id = ANY (%s)"), [ids]).rowcount
            if gone != len(ids):
                raise LabError(f"{len(ids) - gone} users of a drill are not where they were made")


def _made(people: People, tenant: str) -> Canary:
    phone, email = spare_phone(), f"drill-{secrets.token_hex(8)}@example.org"
    return Canary(people.add(tenant, phone=phone, email=email), tenant, phone, email)


def spare_phone() -> str:
    """Return a phone that nobody has: +999 is not assigned (ITU-T E.164)."""
    return f"+999{secrets.randbelow(10**11):011}"


def must_show(target: CryptoTarget, user: Canary) -> None:
    """Errors: ``LabError`` where the service does not show the user as it was made: an error would prove nothing."""
    seen = target.people.read(user.tenant, user.id)
    if (seen.person.get("phone"), seen.person.get("email")) != (user.phone, user.email):
        raise LabError(f"the service does not show a user that was made for the drill: {seen.status}")


@contextmanager
def put(target: CryptoTarget, admin: psycopg.Connection[Any], name: str, values: Mapping[int, Any]) -> Iterator[None]:
    """Write values into a column of the canaries, and put back what stood there, the last one first."""
    before = {user: value_of(target, admin, name, user) for user in values}
    try:
        for user, value in values.items():
            admin.execute(change(target, name), [value, user])
        yield
    finally:
        for user in reversed(values):
            admin.execute(change(target, name), [before[user], user])


def stored(target: CryptoTarget, session: psycopg.Connection[Any], column: EncryptedColumn) -> str:
    """Return which column has the values now: the one in clear for as long as it is there."""
    names = {row[0] for row in session.execute(_COLUMNS, [target.phone.table])}
    return column.field.column if column.field.column in names else column.column


def value_of(target: CryptoTarget, session: psycopg.Connection[Any], name: str, user: int) -> Any:
    """Read one value as it is stored."""
    query = statement(target, "SELECT {columns} FROM {table} WHERE id = %s", columns=listed([name]))
    found = session.execute(query, [user]).fetchone()
    if found is None:
        raise LabError("a user of the drill is gone")
    return found[0]


def in_clear(value: object) -> bool:
    """Tell whether a stored value is a phone or an e-mail address; among random bytes there is an @ now and then."""
    raw = value.encode() if isinstance(value, str) else value
    if not isinstance(raw, bytes) or not (_PHONE.match(raw) or _EMAIL.match(raw)):
        return False
    with suppress(UnicodeDecodeError):
        return raw.decode().isprintable()
    return False


def change(target: CryptoTarget, name: str) -> Composed:
    """Return the statement that writes one value of one row."""
    return statement(target, "UPDATE {table} SET {columns} = %s WHERE id = %s", columns=listed([name]))


def statement(target: CryptoTarget, query: LiteralString, **parts: Composed) -> Composed:
    """Return a statement on the table that is attacked."""
    return SQL(query).format(table=Identifier(*target.phone.table.split(".")), **parts)


def listed(names: Sequence[str]) -> Composed:
    """Return columns as they stand in a statement."""
    return SQL(", ").join(Identifier(name) for name in names)
