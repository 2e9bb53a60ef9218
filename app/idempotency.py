"""Writes that a client may send twice: the first answer is stored in the transaction of the write, and replayed."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import Header, Response
from pydantic import BaseModel
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.problems import Problem
from app.tables import IdempotencyKey
from dbsec import canonical

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]

_KEPT = text("interval '24 hours'")
_PURGED_AT_ONCE = 10


def once(
    session: Session,
    tenant: UUID,
    key: str | None,
    path: str,
    body: BaseModel,
    write: Callable[[], dict[str, Any]],
    *,
    secret: bytes,
) -> Response:
    """Run ``write`` and answer 201 with what it returns; for a key that was used, answer as then without writing.

    What ``write`` returns is stored in clear: it names the new row and holds nothing personal. Of the request an HMAC
    under ``secret`` is stored, for a phone is soon guessed from a plain hash.
    Locks: the row of the key; a concurrent request with the same key waits for the first one's commit.
    Errors: ``Problem`` 422 where the key came with another request.
    """
    if key is None:
        return _answer(201, json.dumps(write()))
    told = canonical.length_prefixed([path.encode(), canonical.json_bytes(body.model_dump())])
    digest = hmac.digest(secret, told, "sha256")
    if not _claim(session, tenant, key, digest):
        return _replay(session, tenant, key, digest)
    answer = json.dumps(write())
    mine = (IdempotencyKey.tenant_id == tenant, IdempotencyKey.key == key)
    session.execute(update(IdempotencyKey).where(*mine).values(status=201, response=answer))
    _purge(session, tenant)
    return _answer(201, answer)


def _claim(session: Session, tenant: UUID, key: str, digest: bytes) -> bool:
    claim = insert(IdempotencyKey).values(tenant_id=tenant, key=key, request_hash=digest).on_conflict_do_nothing()
    return session.execute(claim.returning(IdempotencyKey.key)).first() is not None


def _replay(session: Session, tenant: UUID, key: str, digest: bytes) -> Response:
    wanted = (IdempotencyKey.tenant_id == tenant, IdempotencyKey.key == key)
    row = session.execute(select(IdempotencyKey).where(*wanted)).scalar_one_or_none()
    if row is None or row.status is None or row.response is None:
        raise Problem(409, "idempotency-key-expired", "the key has just expired: send the request again")
    if row.request_hash != digest:
        raise Problem(422, "idempotency-key-reused", "this Idempotency-Key came with another request before")
    return _answer(row.status, row.response, **{"Idempotency-Replayed": "true"})


def _purge(session: Session, tenant: UUID) -> None:
    # A few with each write: the table stays as long as a day, without a job; SKIP LOCKED, so writers never wait here.
    old = (
        select(IdempotencyKey.key)
        .where(IdempotencyKey.tenant_id == tenant, IdempotencyKey.created_at < func.now() - _KEPT)
        .limit(_PURGED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.tenant_id == tenant, IdempotencyKey.key.in_(old)))


def _answer(status: int, body: str, **headers: str) -> Response:
    return Response(body, status_code=status, headers=headers, media_type="application/json")
