"""Alembic under the guards: a real project, whose revisions never make the service wait."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, pool

from dbsec import process, retry
from dbsec.errors import ApplyError, ConfigError, GaveUp, UsageError
from dbsec.migrations import guard
from dbsec.migrations.alembic import Options
from dbsec.migrations.runner.failures import BlockingRefused, LockNotTaken
from dbsec.migrations.runner.limits import Limits
from dbsec.pg import connect, own
from dbsec.progress import Silent

_ENV = """
from alembic import context
from sqlalchemy import create_engine, pool
from dbsec.migrations.alembic import run_migrations

config = context.config
bind = config.attributes.get("bind") or create_engine(config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
run_migrations(context, bind, options=config.attributes.get("options"))
"""
_REVISION = """
import sqlalchemy as sa
from alembic import op
revision = {name!r}
down_revision = {after!r}


def upgrade():
{up}


def downgrade():
{down}
"""
SETUP = """
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint);
INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 1000) n;
"""


class Project:
    """An Alembic project of its own, on one database."""

    def __init__(self, folder: Path, database) -> None:
        self.folder = folder
        self.conninfo = database.conninfo
        self.log = database.cluster.log
        (folder / "alembic/versions").mkdir(parents=True)
        (folder / "alembic/env.py").write_text(_ENV)
        ini = folder / "alembic.ini"
        ini.touch(0o600)
        ini.write_text(f"[alembic]\nscript_location = {folder}/alembic\nsqlalchemy.url = {self.url()}\n")
        self._last: str | None = None

    def url(self, driver: str = "psycopg") -> str:
        to, password = self.conninfo, self.conninfo.password.reveal()
        return (
            f"postgresql+{driver}://{to.user}:{password}@127.0.0.1:{to.port}/{to.dbname}?application_name=alembic@test"
        )

    def revision(self, name: str, up: str, down: str = "pass") -> Path:
        path = self.folder / f"alembic/versions/{name}.py"
        bodies = {
            key: textwrap.indent(textwrap.dedent(body).strip(), "    ") for key, body in (("up", up), ("down", down))
        }
        path.write_text(_REVISION.format(name=name, after=self._last, **bodies))
        self._last = name
        return path

    def config(self, options: Options | None = None, **attributes) -> Config:
        config = Config(self.folder / "alembic.ini")
        quick = Options(limits=Limits(give_up_s=20), wait_s=20, progress=Silent())
        config.attributes.update({"options": options or quick, **attributes})
        return config

    def upgrade(self, options: Options | None = None, to: str = "head", **attributes) -> None:
        command.upgrade(self.config(options, **attributes), to)

    def downgrade(self, to: str) -> None:
        command.downgrade(self.config(), to)

    def process(self, log: Path) -> process.ProcessId:
        return process.spawn(self.argv("upgrade", "head"), cwd=self.folder, log=log)

    def argv(self, *words: str) -> list[str | Path]:
        return [sys.executable, "-m", "alembic", "-c", self.folder / "alembic.ini", *words]

    @property
    def heads(self) -> list[str]:
        with connect(self.conninfo) as admin:
            if admin.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
                return []
            return [name for (name,) in admin.execute("SELECT version_num FROM alembic_version")]

    def rows(self, query: str):
        with connect(self.conninfo) as admin:
            return admin.execute(query).fetchall()

    def columns(self, table: str) -> list[str]:
        query = (
            f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        return [name for (name,) in self.rows(query)]

    def valid_indexes(self) -> list[str]:
        query = """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                    WHERE i.indisvalid AND c.relnamespace = 'public'::regnamespace AND NOT i.indisprimary"""
        return sorted(name for (name,) in self.rows(query))


@pytest.fixture
def project(database, tmp_path) -> Project:
    with connect(database.conninfo) as admin:
        admin.execute(SETUP)
    return Project(tmp_path, database)


@contextmanager
def idle_reader(project: Project, query: str = "SELECT FROM users"):
    """A session of the service that has read and forgotten to commit."""
    with connect(project.conninfo, application_name="service@blue") as reader:
        reader.execute("BEGIN")
        reader.execute(query)
        yield reader
        if not reader.closed and not reader.broken:
            reader.execute("ROLLBACK")


@contextmanager
def nobody_waits(project: Project):
    """Watch pg_locks all the time: no session may ever wait for a relation, whoever it is; ours neither."""
    ended, waited = threading.Event(), []

    def watch() -> None:
        query = """SELECT a.application_name, l.relation::regclass::text, l.mode FROM pg_locks l
                     JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND l.locktype = 'relation'"""
        with connect(project.conninfo, application_name="watch@test") as watcher:
            while not ended.is_set():
                waited.extend(watcher.execute(query).fetchall())

    def reads() -> None:
        with connect(project.conninfo, application_name="service@blue") as service:
            while not ended.is_set():
                service.execute("SELECT count(*) FROM users")
                service.execute("SELECT count(*) FROM orders")

    threads = [threading.Thread(target=watch), threading.Thread(target=reads)]
    for thread in threads:
        thread.start()
    try:
        yield waited
    finally:
        ended.set()
        for thread in threads:
            thread.join()


# --- what runs


@pytest.mark.pg(15, 17, 18)
def test_a_safe_revision_runs_and_goes_back(project):
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))", "op.drop_column('users', 'phone')")
    project.upgrade()
    assert (project.heads, project.columns("users")) == (["a1"], ["id", "name", "phone"])
    project.downgrade("base")
    assert (project.heads, project.columns("users")) == ([], ["id", "name"])


@pytest.mark.pg(15, 17, 18)
def test_a_dangerous_revision_is_refused_before_anything_ran(project, caplog):
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    bad = project.revision("a2", "op.create_index('users_name', 'users', ['name'])")
    with pytest.raises(ApplyError, match=r"nothing was run: .*a2.py:9: MIG\d+ index-without-concurrently") as refused:
        project.upgrade()
    assert "CREATE INDEX CONCURRENTLY" in refused.value.hint
    assert (project.heads, project.columns("users")) == ([], ["id", "name"])
    bad.write_text(
        bad.read_text().replace(
            "op.create_index", "# dbsec: allow MIG101 users until 2099-01-31 because it is small\n    op.create_index"
        )
    )
    project.upgrade()
    assert project.heads == ["a2"]


@pytest.mark.pg(17)
def test_what_the_linter_was_not_asked_for_is_refused_by_the_statement(project):
    with connect(project.conninfo) as admin:
        admin.execute("INSERT INTO users (name) SELECT repeat('x', 200) FROM generate_series(1, 20000)")
    project.revision("a1", "op.add_column('orders', sa.Column('note', sa.Text))")
    project.revision(
        "a2", "op.execute('COMMENT ON TABLE users IS $$x$$')\nop.create_index('users_name', 'users', ['name'])"
    )
    quick = Limits(give_up_s=20)
    with pytest.raises(BlockingRefused, match=r"a2.py:10' is not run: MIG"):
        project.upgrade(Options(limits=quick, lint=None))
    assert (project.heads, project.valid_indexes()) == (["a1"], [])
    project.upgrade(Options(limits=quick.model_copy(update={"allow_blocking": True}), lint=None))
    assert project.valid_indexes() == ["users_name"]


CONCURRENTLY = "op.create_index('users_name', 'users', ['name'], postgresql_concurrently=True)"


@pytest.mark.pg(15, 17, 18)
def test_concurrently_runs_outside_the_transaction(project):
    project.revision("a1", CONCURRENTLY)
    project.revision("a2", "op.add_column('users', sa.Column('phone', sa.Text))")
    project.upgrade()
    assert (project.heads, project.valid_indexes()) == (["a2"], ["users_name"])


def test_concurrently_in_an_autocommit_block_leaves_no_invalid_index_behind(project):
    with connect(project.conninfo) as admin:
        admin.execute("INSERT INTO users (name) VALUES ('user 1')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            admin.execute("CREATE UNIQUE INDEX CONCURRENTLY users_name ON users (name)")
        admin.execute("DELETE FROM users WHERE id = 1")
    assert project.valid_indexes() == []
    unique = CONCURRENTLY.replace("postgresql_", "unique=True, postgresql_")
    project.revision("a1", f"with op.get_context().autocommit_block():\n    {unique}")
    project.upgrade()
    assert (project.heads, project.valid_indexes()) == (["a1"], ["users_name"])


def test_python_moves_rows_with_a_session_and_bulk_insert(project):
    project.revision(
        "a1",
        """
        table = op.create_table('kinds', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.Text))
        op.bulk_insert(table, [{'id': 1, 'name': '100 % "sure"'}, {'id': 2, 'name': "it's"}])
        from sqlalchemy.orm import Session
        bind = op.get_bind()
        names = bind.execute(sa.text("SELECT name FROM users WHERE id <= :most"), {'most': 2}).scalars().all()
        with Session(bind) as session:
            rows = [{'id': 10 + n, 'name': name} for n, name in enumerate(sorted(names))]
            session.execute(table.insert().returning(table.c.id), rows)
            session.commit()
        op.execute(sa.text("INSERT INTO kinds VALUES (99, :name)").bindparams(name='last'))
        op.execute("UPDATE kinds SET name = name || '%' WHERE name LIKE 'la%'")
    """,
    )
    project.upgrade()
    found = [(1, '100 % "sure"'), (2, "it's"), (10, "user 1"), (11, "user 2"), (99, "last%")]
    assert project.rows("SELECT * FROM kinds ORDER BY id") == found


# --- who waits


@pytest.mark.pg(15, 17, 18)
def test_an_idle_reader_is_named_and_makes_nobody_wait(project):
    project.revision(
        "a1",
        """
        op.add_column('orders', sa.Column('note', sa.Text))
        op.add_column('users', sa.Column('phone', sa.Text))
    """,
    )
    told, running = [], threading.Event()

    def tell(found) -> None:
        told.extend(found)
        running.set()

    options = Options(limits=Limits(give_up_s=20), told=tell, progress=Silent())
    with nobody_waits(project) as waited:
        with idle_reader(project) as reader:
            upgrade = threading.Thread(target=project.upgrade, args=[options])
            upgrade.start()
            assert running.wait(20)
            assert {(one.pid, one.application_name, str(one.table)) for one in told} == {
                (reader.info.backend_pid, "service@blue", "public.users")
            }
            assert project.columns("orders") == ["id", "user_id"]
            assert waited == []
        upgrade.join()
    assert (project.heads, project.columns("users")) == (["a1"], ["id", "name", "phone"])


def test_a_reader_that_never_ends_is_told_and_nothing_is_left(project):
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    limits = Limits(give_up_s=0.5)
    named = pytest.raises(LockNotTaken, match=r"pid \d+ .*\(service@blue\)")
    with nobody_waits(project) as waited, idle_reader(project), named:
        project.upgrade(Options(limits=limits, progress=Silent()))
    assert waited == []
    assert (project.heads, project.columns("users")) == ([], ["id", "name"])
    project.upgrade()
    assert project.heads == ["a1"]


def test_what_only_the_server_knows_is_not_queued_for(project):
    """Nobody foretells this lock: it is waited for in slices of milliseconds."""
    project.revision(
        "a1",
        """
        op.execute(
            "DO $$ DECLARE t text; BEGIN SELECT relname INTO t FROM pg_class WHERE relname LIKE 'use_s';"
            " EXECUTE format('ALTER TABLE %I ADD COLUMN phone text', t); END $$"
        )
        """,
    )
    before = _lock_timeouts(project)
    with idle_reader(project):
        upgrade = threading.Thread(target=project.upgrade, args=[Options(limits=Limits(give_up_s=20), lint=None)])
        upgrade.start()
        retry.wait_until(lambda: _lock_timeouts(project) >= before + 2, within_s=20, what="two attempts")
    upgrade.join()
    assert project.columns("users") == ["id", "name", "phone"]


def _lock_timeouts(project) -> int:
    return project.log.read_text().count("canceling statement due to lock timeout")


ASKS = "op.get_bind().execute(sa.text('SELECT 1')).one()"  # so that nobody can read its SQL in advance


def test_a_revision_that_nobody_could_read_makes_nobody_wait_either(project):
    project.revision(
        "a1",
        f"""
        {ASKS}
        op.execute("COMMENT ON TABLE orders IS 'a lock that disturbs nobody'")
        op.add_column('users', sa.Column('phone', sa.Text))
        op.add_column('orders', sa.Column('note', sa.Text))
        """,
    )
    with pytest.raises(ApplyError, match=r"nothing was run: not linted: .*a1.py:9: .* asks the database"):
        project.upgrade(Options(all_linted=True, progress=Silent()))
    told = threading.Event()
    options = Options(limits=Limits(give_up_s=20), told=lambda _: told.set(), progress=Silent())
    with nobody_waits(project) as waited:
        with idle_reader(project):
            upgrade = threading.Thread(target=project.upgrade, args=[options])
            upgrade.start()
            assert told.wait(20)
            assert waited == []
        upgrade.join()
    assert project.columns("orders")[-1] == "note"


def test_a_revision_that_swallows_the_refusal_begins_again_all_the_same(project):
    swallows = """
        try:
            op.add_column('users', sa.Column('phone', sa.Text))
        except Exception:
            pass
    """
    project.revision("a1", f"{ASKS}\n{textwrap.dedent(swallows)}")
    told = threading.Event()
    options = Options(limits=Limits(give_up_s=20), told=lambda _: told.set(), progress=Silent())
    with idle_reader(project):
        upgrade = threading.Thread(target=project.upgrade, args=[options])
        upgrade.start()
        retry.wait_until(lambda: told.is_set() or not upgrade.is_alive(), within_s=20, what="the blocker's name")
        assert upgrade.is_alive()
    upgrade.join()
    assert project.columns("users")[-1] == "phone"


# --- two at once, and kills


def test_two_upgrades_at_once_run_each_revision_once(project, tmp_path):
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    project.revision("a2", CONCURRENTLY)
    project.revision("a3", "op.execute('CREATE TABLE once (id int)')")
    runs = [project.process(tmp_path / f"{n}.log") for n in range(2)]
    for n, run in enumerate(runs):
        retry.wait_until(lambda run=run: not run.alive, within_s=60, what="an upgrade")
        assert "Traceback" not in (tmp_path / f"{n}.log").read_text()
    assert (project.heads, project.valid_indexes()) == (["a3"], ["users_name"])


def test_another_upgrade_that_does_not_end_is_named(project):
    from dbsec.migrations.runner.alone import LOCK

    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    with connect(project.conninfo, application_name="other@test") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        with pytest.raises(GaveUp, match="other@test"):
            project.upgrade(Options(wait_s=0.2, progress=Silent()))
        command.current(project.config())  # who only looks waits for nobody
    assert project.heads == []


HALVES = f"""
    op.add_column('users', sa.Column('phone', sa.Text))
    op.execute("UPDATE users SET phone = 'x' WHERE id = 1")
    {CONCURRENTLY}
    op.add_column('users', sa.Column('mail', sa.Text))
    op.execute("UPDATE users SET phone = phone || 'y' WHERE id = 1")
"""


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_kill_at_any_statement_is_resumed_by_the_next_upgrade(project, tmp_path, at):
    """At 3 the kill comes after CREATE INDEX CONCURRENTLY has ended and before anybody knows."""
    with connect(project.conninfo) as admin:
        own.install(admin)
    project.revision("a1", HALVES)
    killer = f"""
import os, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine
count = 0
@event.listens_for(Engine, "after_cursor_execute")
def kill(conn, cursor, statement, *rest):
    global count
    count += statement.startswith(("ALTER", "UPDATE users", "CREATE INDEX"))
    if count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    env = project.folder / "alembic/env.py"
    env.write_text(killer + _ENV)
    run = project.process(tmp_path / "1.log")
    retry.wait_until(lambda: not run.alive, within_s=60, what="the kill")
    assert project.heads == []
    env.write_text(_ENV)
    project.upgrade(Options(lint=None, progress=Silent()))
    assert (project.heads, project.columns("users")) == (["a1"], ["id", "name", "phone", "mail"])
    assert project.rows("SELECT phone FROM users WHERE id = 1") == [("xy",)]
    assert project.valid_indexes() == ["users_name"]
    assert project.rows("SELECT count(*) FROM dbsec.journal") == [(0,)]


def test_a_kill_between_concurrently_and_its_record_is_resumed(project, tmp_path):
    killer = """
import os, signal
from dbsec.journal import Journal
seen = []
def die(self, step, edge):
    seen.append(str(edge))
    if seen.count("after-effect") == 2:  # the first is that of the transaction before
        os.kill(os.getpid(), signal.SIGKILL)
Journal._observe = die
"""
    with connect(project.conninfo) as admin:
        own.install(admin)
    project.revision("a1", HALVES)
    env = project.folder / "alembic/env.py"
    env.write_text(
        killer
        + _ENV.replace('attributes.get("options")', 'attributes.get("options", Options(lint=None))').replace(
            "import run_migrations", "import Options, run_migrations"
        )
    )
    run = project.process(tmp_path / "1.log")
    retry.wait_until(lambda: not run.alive, within_s=60, what="the kill")
    assert (project.heads, project.valid_indexes()) == ([], ["users_name"]), (tmp_path / "1.log").read_text()
    env.write_text(_ENV)
    project.upgrade()
    assert (project.heads, project.columns("users")[-1]) == (["a1"], "mail")


def test_a_kill_while_concurrently_waits_leaves_nothing_that_stays(project, tmp_path):
    project.revision("a1", CONCURRENTLY)
    with connect(project.conninfo) as writer:
        writer.execute("BEGIN; INSERT INTO users (name) VALUES ('x')")
        run = project.process(tmp_path / "1.log")
        building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
        retry.wait_until(lambda: project.rows(building) == [(1,)], within_s=60, what="the build to wait")
        os.kill(run.pid, signal.SIGKILL)
        gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'alembic@test'"
        retry.wait_until(lambda: project.rows(gone) == [(0,)], within_s=60, what="the server to notice the kill")
        assert project.valid_indexes() == []
        writer.execute("ROLLBACK")
    project.upgrade()
    assert (project.heads, project.valid_indexes()) == (["a1"], ["users_name"])


@pytest.fixture
def half(project, tmp_path):
    """A revision of which the first transaction is committed, and that was killed then."""
    with connect(project.conninfo) as admin:
        own.install(admin)
    path = project.revision("a1", HALVES)
    text = path.read_text()
    path.write_text(text.replace("    op.add_column('users', sa.Column('mail', sa.Text))", "    raise SystemExit(9)"))
    with pytest.raises(SystemExit):
        project.upgrade(Options(lint=None, progress=Silent()))
    path.write_text(text)
    assert (project.heads, project.columns("users")) == ([], ["id", "name", "phone"])
    return path


def test_a_half_applied_revision_must_not_be_edited_where_it_was_applied(project, half):
    half.write_text(half.read_text().replace("'phone', sa.Text", "'phone', sa.String(9)"))
    with pytest.raises(ApplyError, match="applied up to statement 3, and statement 1 reads otherwise now"):
        project.upgrade(Options(lint=None, progress=Silent()))
    half.write_text(half.read_text().replace("'phone', sa.String(9)", "'phone', sa.Text").replace("'mail'", "'post'"))
    project.upgrade(Options(lint=None, progress=Silent()))
    assert project.columns("users") == ["id", "name", "phone", "post"]


def test_who_stamps_has_seen_to_it_by_hand(project, half):
    with connect(project.conninfo) as admin:
        admin.execute("ALTER TABLE users ADD COLUMN mail text")
    command.stamp(project.config(), "a1")
    assert project.rows("SELECT count(*) FROM dbsec.journal") == [(0,)]
    command.stamp(project.config(), "base")


def test_without_schema_dbsec_nothing_is_committed_halfway(project):
    project.revision("a1", HALVES)
    with pytest.raises(ApplyError, match="would be committed halfway") as refused:
        project.upgrade(Options(lint=None, progress=Silent()))
    assert "dbsec db install" in refused.value.hint
    assert project.columns("users") == ["id", "name"]


# --- how it is written


def test_an_env_of_ones_own_is_guarded_too(project):
    (project.folder / "alembic/env.py").write_text(
        """
from alembic import context
from sqlalchemy import create_engine, pool
from dbsec.migrations.alembic import guarded

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, compare_type=True)
    with guarded(context, options=context.config.attributes["options"]), context.begin_transaction():
        context.run_migrations()
"""
    )
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    project.revision("a2", "op.create_index('users_name', 'users', ['name'])")
    with pytest.raises(ApplyError, match="nothing was run"):
        project.upgrade()
    project.upgrade(to="a1")
    assert project.heads == ["a1"]


def test_offline_alembic_writes_what_it_would_write(project, capsys):
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    command.upgrade(project.config(), "head", sql=True)
    assert "ALTER TABLE users ADD COLUMN phone TEXT;" in capsys.readouterr().out
    assert project.heads == []


def test_another_driver_and_a_transaction_of_others_are_refused(project):
    project.revision("a1", "op.add_column('users', sa.Column('phone', sa.Text))")
    with pytest.raises(ConfigError, match="the connection is of driver 'pysqlite'") as refused:
        project.upgrade(bind=create_engine("sqlite://", poolclass=pool.NullPool))
    assert "postgresql+psycopg" in refused.value.hint
    engine = create_engine(project.url(), poolclass=pool.NullPool)
    with engine.begin() as connection, pytest.raises(UsageError, match="in no transaction"):
        project.upgrade(bind=connection)
    with engine.connect() as connection:
        project.upgrade(bind=connection)
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.exec_driver_sql(held).scalar() == 0
        check = "SHOW client_connection_check_interval"
        assert connection.exec_driver_sql(check).scalar() == "0"
    assert project.heads == ["a1"]


def test_commit_as_text_is_refused(project):
    project.revision("a1", "op.execute('COMMIT')\nop.execute('CREATE TABLE once (id int)')")
    with pytest.raises(UsageError, match="ends Alembic's own transaction") as refused:
        project.upgrade(Options(lint=None, progress=Silent()))
    assert "autocommit_block" in refused.value.hint
    assert project.heads == []


def test_an_autocommit_block_takes_one_statement_at_a_time_and_gives_it_its_limits(project):
    project.revision(
        "a1",
        """
        with op.get_context().autocommit_block():
            op.execute("UPDATE users SET name = current_setting('statement_timeout') WHERE id = 1")
            op.add_column('users', sa.Column('phone', sa.Text))
            assert op.get_bind().execute(sa.text("SELECT name FROM users WHERE id = 1")).scalar() == '1min'
            op.execute("ALTER TABLE users ADD mail text; ALTER TABLE orders ADD note text")
        """,
    )
    with pytest.raises(UsageError, match="sends several statements"):
        project.upgrade(Options(lint=None, progress=Silent()))
    assert project.columns("users") == ["id", "name", "phone"]


@pytest.mark.pg(15, 17)
def test_the_hooks_satisfy_the_guard_in_the_database(project):
    policy = guard.Policy(max_table_size=0, lock_timeout="5ms", transaction_timeout="100ms")
    with connect(project.conninfo) as admin:
        guard.install(admin, policy)
        own.install(admin)
    project.revision("a1", f"op.add_column('users', sa.Column('phone', sa.Text))\n{CONCURRENTLY}")
    project.upgrade()
    assert (project.heads, project.valid_indexes()) == (["a1"], ["users_name"])
