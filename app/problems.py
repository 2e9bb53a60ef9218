"""Every error as RFC 9457 problem+json: what the caller can act on, never SQL, a stack or a value it sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from starlette.exceptions import HTTPException

from dbsec.kms import KmsUnavailable

LOG = logging.getLogger("app")


class Problem(Exception):
    """Ends a request with this answer. ``kind`` is the last part of its type URI."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def response(self) -> Response:
        """Write it. Shape: type, title, status, detail, then the members of this kind. Source: RFC 9457, section 3."""
        body = {
            "type": f"urn:dbsec:app:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        return Response(
            json.dumps(body), status_code=self.status, headers=self.headers, media_type="application/problem+json"
        )


def unavailable(**members: Any) -> Problem:
    """Say that the database is away; the caller may try again."""
    detail = "the database does not answer"
    return Problem(503, "database-unavailable", detail, headers={"Retry-After": "1"}, members=members)


def violated(exc: IntegrityError) -> str:
    """Return the name of the constraint that a write broke."""
    return (exc.orig.diag.constraint_name or "") if isinstance(exc.orig, psycopg.Error) else ""


def install(app: FastAPI) -> None:
    """Answer each kind of exception as a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(DBAPIError, _on_database)
    app.add_exception_handler(KmsUnavailable, _on_kms)
    app.add_exception_handler(Exception, _on_bug)


async def _on_problem(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, Problem)
    return exc.response()


async def _on_invalid(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    # place and reason only: pydantic's own errors repeat the input, which holds phones and keys
    errors = [{"at": "/".join(str(part) for part in e["loc"]), "detail": e["msg"]} for e in exc.errors()]
    return Problem(422, "invalid-request", "the request is not valid", members={"errors": errors}).response()


async def _on_http(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    kind = HTTPStatus(exc.status_code).phrase.lower().replace(" ", "-")
    return Problem(exc.status_code, kind, exc.detail, headers=exc.headers).response()


async def _on_database(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, DBAPIError)
    # the server's text may quote a row ("Key (phone)=(...) already exists"), so the log gets class and SQLSTATE
    state = getattr(exc.orig, "sqlstate", None)
    LOG.error("database error %s, SQLSTATE %s", type(exc.orig).__name__, state)
    if isinstance(exc, OperationalError | InterfaceError) or exc.connection_invalidated:
        return unavailable().response()
    return _internal().response()


async def _on_kms(_: Request, exc: Exception) -> Response:
    LOG.error("%s", exc)
    return Problem(503, "keys-unavailable", "the keys cannot be had", headers={"Retry-After": "1"}).response()


async def _on_bug(_: Request, __: Exception) -> Response:
    return _internal().response()


def _internal() -> Problem:
    return Problem(500, "internal", "this is our fault, and it is in our log")
