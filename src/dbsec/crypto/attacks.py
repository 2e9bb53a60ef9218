"""What a thief does with a database that he can read and write: the service must not show what he made of it.

The users are made through the service, altered by a superuser and read through the service: the row of nobody else is
touched. Each attack first sees that the service shows the user, and in the end that it shows the user again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from psycopg import errors

from dbsec.crypto.attacked import (
    Answer,
    CryptoTarget,
    canaries,
    change,
    in_clear,
    listed,
    must_show,
    put,
    spare_phone,
    statement,
    stored,
    value_of,
)
from dbsec.crypto.columns import EncryptedColumn
from dbsec.errors import LabError
from dbsec.evidence import Observation, Outcome
from dbsec.pg import connect

_SAMPLE = 1000
# Where a bit is flipped: of the last byte, and of a byte counted from the first.
PARTS: Mapping[str, int] = {"tag": -1, "nonce": 6, "ciphertext": 18, "key id": 5}
_FLIP = 1


def stolen_select(target: CryptoTarget) -> Observation:
    """Read phones and e-mail addresses with a stolen login; PASS where none of them can be read."""
    with canaries(target, target.tenants[0]) as (admin, (mine,)):
        columns = [stored(target, admin, column) for column in (target.phone, target.email)]
        with connect(target.thief(), application_name="psql") as thief:
            query = statement(target, "SELECT {columns} FROM {table} LIMIT %s", columns=listed(columns))
            rows = thief.execute(query, [_SAMPLE]).fetchall()
            query = statement(target, "SELECT {columns} FROM {table} WHERE id = %s", columns=listed(columns))
            shown = thief.execute(query, [mine.id]).fetchone()
    phones, emails = (sum(in_clear(row[at]) for row in rows) for at in (0, 1))
    facts = {"rows": len(rows), "phones_in_clear": phones, "emails_in_clear": emails, "columns": columns}
    cells = [[name, as_psql(value)] for name, value in zip(columns, shown or (), strict=True)]
    table = {"type": "table", "title": "What psql shows of one user", "columns": ["column", "value"], "rows": cells}
    if not rows:
        return Observation(Outcome.ERROR, "the table is empty: nothing to read", facts)
    readable = phones + emails
    summary = f"{phones:,} phones and {emails:,} e-mail addresses of {len(rows):,} users are read in clear"
    return Observation(Outcome.FAIL if readable else Outcome.PASS, summary, facts, [table])


def altered(target: CryptoTarget, part: str) -> Observation:
    """Flip one bit of a phone as it is stored, and read the user through the service; PASS where it shows no phone."""
    with canaries(target, target.tenants[0]) as (admin, (mine,)):
        must_show(target, mine)
        name = stored(target, admin, target.phone)
        old = value_of(target, admin, name, mine.id)
        new = spare_phone() if isinstance(old, str) else _flipped(old, PARTS[part])
        with put(target, admin, name, {mine.id: new}):
            seen = target.people.read(mine.tenant, mine.id)
        must_show(target, mine)
    written = [new] if isinstance(new, str) else []
    what = f"one bit of the {part}" if isinstance(old, bytes) else "the phone"
    return judged(seen, [mine.phone, *written], f"{what} was altered in the database")


def moved(target: CryptoTarget, column: EncryptedColumn, *, to_other_tenant: bool) -> Observation:
    """Write one user's value into another user's row; PASS where the service does not show it there."""
    home, other = target.tenants
    with canaries(target, home, other if to_other_tenant else home) as (admin, (mine, theirs)):
        for user in (mine, theirs):
            must_show(target, user)
        name = stored(target, admin, column)
        value = value_of(target, admin, name, mine.id)
        # in clear, a phone stands once in a tenant: the thief gives its owner another one first
        first = {mine.id: spare_phone()} if isinstance(value, str) and column is target.phone else {}
        with put(target, admin, name, {**first, theirs.id: value}):
            seen = target.people.read(theirs.tenant, theirs.id)
        for user in (mine, theirs):
            must_show(target, user)
    where = "into a row of another tenant" if to_other_tenant else "into another row"
    return judged(seen, [mine.of(column), theirs.of(column)], f"'{name}' was moved {where}")


def redirected(target: CryptoTarget) -> Observation:
    """Let a look-up by one user's phone lead to another user; PASS where the other one is not returned for it."""
    home = target.tenants[0]
    with canaries(target, home, home) as (admin, (mine, theirs)):
        found = target.people.find(home, phone=mine.phone)
        if found != [mine.id]:
            raise LabError("the service does not find a user by its phone")
        encrypted = stored(target, admin, target.phone) == target.phone.column
        name = target.phone.index[0] if encrypted and target.phone.index else stored(target, admin, target.phone)
        value = value_of(target, admin, name, mine.id)
        instead = spare_phone() if isinstance(value, str) else secrets.token_bytes(len(value))
        with put(target, admin, name, {mine.id: instead, theirs.id: value}):
            seen = target.people.find(home, phone=mine.phone)
        if target.people.find(home, phone=mine.phone) != [mine.id]:
            raise LabError("the service does not find a user again by its phone")
    facts = {"status": seen.status} if isinstance(seen, Answer) else {"found": len(seen)}
    if isinstance(seen, list) and theirs.id in seen:
        return Observation(Outcome.FAIL, "the phone of one user leads to another one", facts)
    return Observation(Outcome.PASS, "a look-up by phone returns nobody who has another phone", facts)


def plaintext_by_hand(target: CryptoTarget) -> Observation:
    """Write a phone in clear with psql, in a transaction that is rolled back; PASS where the database refuses it."""
    with canaries(target, target.tenants[0]) as (admin, (mine,)):
        name = stored(target, admin, target.phone)
        value = spare_phone() if name != target.phone.column else spare_phone().encode()
        try:
            with admin.transaction(force_rollback=True):
                admin.execute(change(target, name), [value, mine.id])
        except errors.CheckViolation as exc:
            said = exc.diag.message_primary or ""
            return Observation(Outcome.PASS, f"refused by {exc.sqlstate}: {said}", {"sqlstate": exc.sqlstate})
    return Observation(Outcome.FAIL, f"a phone in clear was written into '{name}' (rolled back by the drill)")


def still_found(target: CryptoTarget) -> Observation:
    """Look a user up by phone and by e-mail address; PASS where each finds that user alone, in its own tenant alone."""
    home, other = target.tenants
    with canaries(target, home) as (_, (mine,)):
        by_phone = target.people.find(home, phone=mine.phone)
        by_email = target.people.find(home, email=mine.email)
        elsewhere = target.people.find(other, phone=mine.phone)
    right = (by_phone, by_email, elsewhere) == ([mine.id], [mine.id], [])
    summary = "a user is found by phone and by e-mail address" if right else "a user is not found as before"
    return Observation(Outcome.PASS if right else Outcome.FAIL, summary)


def judged(seen: Answer, secret: Sequence[str], what: str) -> Observation:
    """Judge what the service answered after an attack on what it shows: an error, without any of the values."""
    facts = {"status": seen.status, "answer": seen.text[:300]}
    if any(value in seen.text for value in secret) or seen.person:
        hidden = {**facts, "answer": "a user, as if nothing had happened"}
        return Observation(Outcome.FAIL, f"{what}, and the service shows it as true", hidden)
    if seen.status < 500:
        return Observation(Outcome.ERROR, f"{what}, and the service answers {seen.status}", facts)
    return Observation(Outcome.PASS, f"{what}: the service answers {seen.status} and shows no value", facts)


def as_psql(value: object) -> str:
    """Return a value as psql shows it, the end of a long one left out."""
    text = "\\x" + value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 48 else text[:47] + "…"


def _flipped(value: bytes, at: int) -> bytes:
    changed = bytearray(value)
    changed[at] ^= _FLIP
    return bytes(changed)
