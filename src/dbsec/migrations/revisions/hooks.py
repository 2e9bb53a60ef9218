"""Stands between Alembic and its revisions, and between SQLAlchemy and the driver."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg

from dbsec.errors import ApplyError
from dbsec.findings import Finding, Severity
from dbsec.journal import PostgresStore, forget, jobs
from dbsec.migrations.revisions.done import Done
from dbsec.migrations.revisions.options import LOG, Options
from dbsec.migrations.revisions.revision import Machine, Revision
from dbsec.migrations.runner import linting
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Script, Unread
from dbsec.pg import Conninfo, connect, own
from dbsec.secret import Secret

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep

# The hooks take such a statement out of Alembic's transaction by themselves.
_MENDED = frozenset({"concurrently-in-transaction"})


class Hooks:
    """Stands between Alembic and its revisions, and between SQLAlchemy and the driver, while the block runs."""

    def __init__(self, migration: MigrationContext, raw: psycopg.Connection[Any], options: Options) -> None:
        self._migration = migration
        self._raw = raw
        self._options = options
        self._now: Revision | None = None
        self._scripts: Mapping[str, Script] = {}
        self._machine = Machine(
            migration, raw, options.limits, self._watch, options.told, options.progress, options.clock
        )

    def __enter__(self) -> None:
        migration = self._migration
        # Alembic has no public place for these three; autocommit_block() of its own does the same to _transaction.
        migration._transaction_per_migration = True
        self._steps = migration._migrations_fn
        migration._migrations_fn = cast(Any, self._guarded_steps)
        self._block = migration.autocommit_block
        migration.autocommit_block = self._autocommit_block  # type: ignore[method-assign]
        self._listen("listen")

    def __exit__(self, *_: object) -> None:
        self._listen("remove")
        self._migration._migrations_fn = self._steps
        del self._migration.autocommit_block

    def _listen(self, act: str) -> None:
        from sqlalchemy import event

        assert self._migration.connection is not None
        engine = self._migration.connection.engine
        for name, hook in (
            ("do_execute", self._do_execute),
            ("do_executemany", self._do_executemany),
            ("do_execute_no_params", self._do_execute_no_params),
        ):
            getattr(event, act)(engine, name, hook)

    def _do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        run = functools.partial(context.dialect.do_execute, cursor, statement, parameters, context)
        return self._on(cursor, statement, run, plain=not parameters)

    def _do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        run = functools.partial(context.dialect.do_executemany, cursor, statement, parameters, context)
        return self._on(cursor, statement, run, plain=False)

    def _do_execute_no_params(self, cursor: Any, statement: str, context: Any) -> bool:
        run = functools.partial(context.dialect.do_execute_no_params, cursor, statement, context)
        return self._on(cursor, statement, run, plain=True)

    def _on(self, cursor: Any, statement: str, run: Callable[[], None], *, plain: bool) -> bool:
        if self._now is None or cursor.connection is not self._raw:
            return False
        return self._now.on(statement, run, plain=plain)

    @contextmanager
    def _autocommit_block(self) -> Iterator[None]:
        with self._now.autocommit_block(self._block) if self._now else self._block():
            yield

    def _watch(self) -> psycopg.Connection[Any]:
        info = self._raw.info
        return connect(Conninfo(info.get_parameters(), Secret(info.password) if info.password else None))

    def _guarded_steps(self, heads: Any, migration: MigrationContext) -> Iterable[MigrationStep]:
        from alembic.runtime.migration import RevisionStep, StampStep

        assert self._steps is not None
        assert migration.connection is not None
        steps = list(self._steps(heads, migration))
        migration.connection.commit()  # what read the heads, and may have made alembic_version
        lasting = self._lasting()
        up = [step for step in steps if isinstance(step, RevisionStep) and step.is_upgrade]
        scripts = self._read([step.revision.path for step in up]) if up else []
        if scripts and self._options.lint is not None:
            self._lint(scripts, self._options.lint)
        self._scripts = {script.path: script for script in scripts}
        for step in steps:
            if isinstance(step, RevisionStep):
                step.migration_fn = self._guarded_step(step, lasting=lasting)
            elif isinstance(step, StampStep) and lasting:
                # whoever stamps has seen to it by hand
                forget(self._raw, [job for one in (*step.from_, *step.to_) for job in _jobs(migration, one)])
                self._raw.commit()
        return steps

    def _guarded_step(self, step: RevisionStep, *, lasting: bool) -> Callable[..., None]:
        act, path = step.migration_fn, step.revision.path
        job, opposite = _jobs(self._migration, step.revision.revision)[:: 1 if step.is_upgrade else -1]

        @functools.wraps(act)
        def run(**kwargs: Any) -> None:
            self._machine.rollback()
            done = Done(path, PostgresStore(self._raw, job) if lasting else None)
            try:
                script = self._scripts.get(path) if step.is_upgrade else None
                self._now = Revision(self._machine, path, done, script)
                self._now.run(functools.partial(act, **kwargs))
                if lasting:
                    forget(self._raw, [opposite])
            finally:
                self._now = None
                done.close()

        return run

    def _lasting(self) -> bool:
        """Tell whether schema dbsec is there and ours to use."""
        try:
            own.require(self._raw, 1)
        except ApplyError as exc:
            LOG.info("a revision with CONCURRENTLY that is killed is not resumed: %s", exc)
            return False
        finally:
            self._raw.rollback()
        return True

    def _read(self, paths: Sequence[str]) -> list[Script]:
        """Read the SQL of revisions as they run offline; those that ask the database are left out, and told."""
        from dbsec.migrations.reading import alembic as revisions

        assert self._migration.script is not None
        scripts, unread = revisions.read(str(self._migration.script.dir), paths)
        self._not_linted(unread)
        left_out = {missed.path for missed in unread}
        return [script for script in scripts if script.path not in left_out]

    def _not_linted(self, unread: Sequence[Unread]) -> None:
        for missed in unread:
            LOG.warning("not linted; the guards judge each statement when it comes: %s", missed)
        if unread and self._options.all_linted:
            raise ApplyError(f"nothing was run: not linted: {unread[0]}", hint=unread[0].hint or "all_linted=False")

    def _begun(self) -> Set[str]:
        """Name the files of revisions of which a part was committed."""
        if not self._lasting():
            return frozenset()
        known = {job.name for job in jobs(self._raw)}
        self._raw.rollback()
        assert self._migration.script is not None
        every = self._migration.script.walk_revisions()
        return {one.path for one in every if _jobs(self._migration, one.revision)[0] in known}

    def _lint(self, scripts: Sequence[Script], lowest: Severity) -> None:
        schema = from_catalog(self._raw)
        self._raw.rollback()
        today = self._options.clock.now().date()
        linted = linting.judged(scripts, schema, major=schema.major or 0, waived=self._options.waivers, today=today)
        self._not_linted(linted.unread)
        counted = {lowest, Severity.ERROR}
        begun = self._begun()
        refused = [one for one in linted.findings if one.severity in counted and not _is_mended(one, begun)]
        for one in linted.findings:
            LOG.log(logging.ERROR if one in refused else logging.INFO, "%s", _told(one))
        if refused:
            more = f"; and {len(refused) - 1} more" if len(refused) > 1 else ""
            hint = refused[0].fix or f"dbsec migrate rules {refused[0].code}"
            raise ApplyError(f"nothing was run: {_told(refused[0])}{more}", hint=hint)


def _is_mended(finding: Finding, begun: Set[str]) -> bool:
    """Tell what the hooks see to: a statement in the wrong place, or what an earlier attempt has left or done."""
    if finding.name in _MENDED or linting.builds_what_is_there(finding):
        return True
    return linting.is_taken(finding) and finding.where.get("file") in begun


def _jobs(migration: MigrationContext, revision: str) -> tuple[str, str]:
    """Name the journals of a revision: up, down."""
    table = ".".join(filter(None, (migration.version_table_schema, migration.version_table)))
    return f"{table} {revision} up", f"{table} {revision} down"


def _told(finding: Finding) -> str:
    where = finding.where
    return f"{where.get('file', '')}:{where.get('line', 0)}: {finding.code} {finding.name}: {finding.message}"
