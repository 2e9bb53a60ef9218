"""The application: ``python -m uvicorn app.main:app --app-dir FOLDER_THAT_HOLDS_APP``, told by ``APP_*`` variables."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping

import anyio.to_thread
from fastapi import FastAPI

from app import health, login, orders, problems, users
from app.limits import BodyCap
from app.metrics import Measured, Metrics, PoolCollector
from app.service import Service
from dbsec import log
from dbsec.errors import DbsecError

THREADS = 200


def create_app(environ: Callable[[], Mapping[str, str]] = lambda: os.environ) -> FastAPI:
    """Build the application; ``environ`` is read when it starts, so that importing it needs nothing."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _log_safely()
        service = _start(environ())
        app.state.service = service
        pool = PoolCollector(service.database)
        app.state.metrics.registry.register(pool)
        # a request that waits for the database holds a thread: with 40, some 13 a second would stop /healthz as well
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.reload)
        yield
        app.state.metrics.registry.unregister(pool)
        await asyncio.to_thread(service.close)

    app = FastAPI(title="orders", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.metrics = Metrics()
    app.add_middleware(BodyCap)
    app.add_middleware(Measured, metrics=app.state.metrics)
    problems.install(app)
    for router in (login.ROUTER, users.ROUTER, orders.ROUTER, health.ROUTER):
        app.include_router(router)
    return app


def _start(environ: Mapping[str, str]) -> Service:
    try:
        service = Service.from_environ(environ)
    except DbsecError as exc:
        # without its cause: uvicorn prints the chain, and a cause may quote what was being read
        raise RuntimeError(f"{exc.message} ({exc.hint})" if exc.hint else exc.message) from None
    service.database.open()
    return service


def _log_safely() -> None:
    """Send all logs through dbsec's redactor; no access log, since its lines hold phones and cursors."""
    log.to_stream(sys.stderr, level=logging.INFO)
    logging.getLogger("psycopg.pool").setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


app = create_app()
