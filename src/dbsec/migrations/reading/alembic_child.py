"""A process of its own that runs ``upgrade()`` of Alembic's revisions offline and writes down the SQL.

Runs as a file, without dbsec: the project's code is on its path. stdin: JSON with ``paths``, ``names`` (to answer
with), ``project`` (folders for ``sys.path``) and ``out``, a file that gets one line of JSON per revision.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class Emitted:
    """A stream that keeps what is written, with the line of the revision that wrote it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sql: list[tuple[str, int]] = []

    def write(self, text: str) -> None:
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != self.path:
            frame = frame.f_back  # type: ignore[assignment]
        self.sql.append((text, frame.f_lineno if frame is not None else 1))

    def flush(self) -> None:
        """Do nothing: there is no file behind it."""


def main(question: TextIO) -> None:
    """Answer for each revision in turn, and flush: the next one may end the process."""
    asked = json.load(question)
    with Path(asked["out"]).open("w", encoding="utf-8") as out:
        try:
            import alembic.operations
            import alembic.runtime.environment
            import alembic.runtime.migration  # noqa: F401 - before the project's folders are on the path
        except ImportError as exc:
            out.write(json.dumps({"missing": str(exc)}))
            return
        _render_any_literal()
        sys.path[:0] = asked["project"]
        for path, name in zip(asked["paths"], asked["names"], strict=True):
            emitted = Emitted(path)
            error = _upgrade(path, emitted)
            out.write(json.dumps({"path": name, "sql": emitted.sql, "error": error}) + "\n")
            out.flush()


def _render_any_literal() -> None:
    """Render NULL where a value has no form in SQL (bulk_insert into columns without a type): values decide nothing."""
    from sqlalchemy.exc import CompileError
    from sqlalchemy.sql.compiler import SQLCompiler

    render = SQLCompiler.render_literal_value

    def rendered(self: SQLCompiler, value: Any, type_: Any) -> str:
        try:
            return render(self, value, type_)
        except (CompileError, NotImplementedError):  # hook: ok what SQLAlchemy raises
            return "NULL"

    SQLCompiler.render_literal_value = rendered  # type: ignore[method-assign]


def _upgrade(path: str, emitted: Emitted) -> dict[str, Any] | None:
    try:
        spec = importlib.util.spec_from_file_location(f"revision_{abs(hash(path))}", path)
        assert spec is not None
        assert spec.loader is not None
        with _offline(emitted):
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.upgrade()
    except BaseException as exc:  # noqa: BLE001 - whatever a revision does, sys.exit() too, the next one is still asked
        places = [place.lineno for place in traceback.extract_tb(exc.__traceback__) if place.filename == path]
        said = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        return {"line": places[-1] or 0 if places else 0, "said": f"{type(exc).__name__}: {said}"}
    return None


@contextlib.contextmanager
def _offline(emitted: Emitted) -> Iterator[None]:
    """Give ``op`` and ``context`` of Alembic what ``alembic upgrade --sql`` gives them."""
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # else each percent sign is doubled
        opts={"as_sql": True, "output_buffer": emitted, "literal_binds": True},
    )
    environment = EnvironmentContext(Config(), None, as_sql=True)  # type: ignore[arg-type]
    environment._migration_context = context
    with environment, Operations.context(context):
        yield


if __name__ == "__main__":
    main(sys.stdin)
