"""The examples of docs/encrypted_columns.md, run in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import create_engine
from tests.envelopes import Bench

from dbsec.pg import connect, own

PAGE = Path(__file__).parents[2] / "docs/encrypted_columns.md"


def test_the_examples_of_the_page_run(database: Any, tmp_path: Path) -> None:
    model, *rest = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with connect(database.conninfo) as admin:
        own.install(admin)
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect(database.conninfo, autocommit=False))
    names: dict[str, Any] = {
        "__name__": "page",
        "engine": engine,
        "envelope": Bench(tmp_path).envelope,
        "tenant_id": uuid4(),
        "connect": lambda: connect(database.conninfo),
    }
    exec(compile(model, "page", "exec", dont_inherit=True), names)
    names["Base"].metadata.create_all(engine)
    for example in rest:
        exec(compile(example, "page", "exec", dont_inherit=True), names)
    assert len(rest) == 2
    engine.dispose()
