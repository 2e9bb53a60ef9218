"""What whoever runs a migration is told while it waits, and what can be pasted after a contract."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from dbsec.migrations.runner.down import down
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.settings import Settings
from dbsec.pg import connect, own

SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.users (id bigint PRIMARY KEY, email text NOT NULL, phone text);
CREATE FUNCTION app.trim_phone() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN NEW.phone := btrim(NEW.phone); RETURN NEW; END';
CREATE TRIGGER trims BEFORE INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION app.trim_phone();
"""
EXPAND = "-- dbsec: phase expand\nALTER TABLE app.users ADD COLUMN x text;\n"
CONTRACT = """-- dbsec: phase contract
ALTER TABLE app.users ADD CONSTRAINT kept CHECK (id > 0) NOT VALID;
ALTER TABLE app.users DROP CONSTRAINT kept;
DROP TRIGGER trims ON app.users;
DROP FUNCTION app.trim_phone();
ALTER TABLE app.users DROP COLUMN phone;
"""


class Heard:
    """Keeps what is told, and says when a word was in it."""

    def __init__(self, word: str) -> None:
        self.lines: list[str] = []
        self.word = word
        self.there = threading.Event()

    def step(self, text: str) -> None:
        self.lines.append(text)
        if self.word in text:
            self.there.set()

    def count(self, text: str, done: int, total: int) -> None:
        return


def test_who_is_waited_for_is_named_once_with_what_ends_it(database: Any, tmp_path: Path) -> None:
    with connect(database.conninfo) as admin:
        admin.execute(SETUP.encode())
        own.install(admin)
    (tmp_path / "001_x.sql").write_text(EXPAND)
    heard = Heard("waits for")
    target = Target(tmp_path, lambda: connect(database.conninfo), Settings(), gates=False, progress=heard)
    with connect(database.conninfo, autocommit=False, application_name="report@7") as report:
        report.execute("SELECT count(*) FROM app.users")
        running = threading.Thread(target=up, args=(target, Asked()))
        running.start()
        assert heard.there.wait(20), heard.lines
        report.rollback()
    running.join()
    (said,) = [line for line in heard.lines if "waits for" in line]
    assert "report@7" in said
    assert "pg_terminate_backend(" in said


def test_the_way_forward_is_sql_that_runs_as_it_is_printed(database: Any, tmp_path: Path) -> None:
    with connect(database.conninfo) as admin:
        admin.execute(SETUP.encode())
        own.install(admin)
    (tmp_path / "001_gone.sql").write_text(CONTRACT)
    target = Target(tmp_path, lambda: connect(database.conninfo), Settings(), gates=False)
    up(target, Asked())
    forward = down(target, Asked()).forward
    assert forward is not None
    assert "kept" not in forward.sql()
    with connect(database.conninfo) as admin:
        admin.execute(forward.sql().encode())
        admin.execute("INSERT INTO app.users VALUES (1, 'a@example.org', ' +49 ')")
        assert admin.execute("SELECT phone FROM app.users").fetchall() == [("+49",)]
