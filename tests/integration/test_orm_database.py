"""What the database itself refuses, whoever writes, and what Alembic says of encrypted columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from psycopg import errors
from sqlalchemy import BigInteger, Column, MetaData, Table, create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from tests.orm_bed import ACME, Base, shop

from dbsec.crypto.orm import Encrypted, Field
from dbsec.crypto.orm.alembic import render_item
from dbsec.errors import ApplyError
from dbsec.pg import connect, own

REFUSED = {
    "text": b"a phone number that is longer than the least length",
    "nothing": b"",
    "one byte": b"\xd5",
    "short": b"\xd5\x11" + bytes(31),
    "another magic": b"\xd6\x11" + bytes(40),
    "another version": b"\xd5\x21" + bytes(40),
    "another algorithm": b"\xd5\x14" + bytes(80),
    "short inline": b"\xd5\x13" + bytes(61),
}
ACCEPTED = {
    "encrypted": (b"\xd5\x11" + bytes(32), b"\xd5\x13" + bytes(62), None),
    "encrypted_deterministic": (b"\xd5\x12" + bytes(20), None),
}


@pytest.fixture
def admin(database: Any) -> Iterator[psycopg.Connection[Any]]:
    with connect(database.conninfo) as admin:
        own.install(admin)
        for domain in ACCEPTED:
            admin.execute(f"CREATE TABLE t_{domain} (v dbsec.{domain})".encode())
        yield admin


@pytest.mark.pg(15, 17, 18)
def test_the_domains_take_what_is_encrypted_and_nothing_else(admin: psycopg.Connection[Any]) -> None:
    for domain, values in ACCEPTED.items():
        insert = f"INSERT INTO t_{domain} VALUES (%s)".encode()
        others = [value for name, good in ACCEPTED.items() if name != domain for value in good if value]
        for bad in (*REFUSED.values(), *others):
            with pytest.raises(errors.CheckViolation):
                admin.execute(insert, [bad])
        for value in values:
            admin.execute(insert, [value])
        assert admin.execute(f"SELECT count(*) FROM t_{domain}".encode()).fetchone() == (len(values),)


def test_the_domains_stop_copy_update_and_sql_text(admin: psycopg.Connection[Any]) -> None:
    admin.execute("INSERT INTO t_encrypted VALUES (%s)", [b"\xd5\x11" + bytes(32)])
    for act in ("INSERT INTO t_encrypted VALUES ('+49 170')", "UPDATE t_encrypted SET v = '+49 170'"):
        with pytest.raises(errors.CheckViolation):
            admin.execute(act.encode())
    for form in ("", " (FORMAT binary)"):
        with pytest.raises(errors.CheckViolation):
            _copy(admin, f"COPY t_encrypted FROM STDIN{form}")


def _copy(admin: psycopg.Connection[Any], statement: str) -> None:
    with admin.cursor().copy(statement.encode()) as copy:
        copy.set_types(["bytea"])
        copy.write_row([b"plaintext that is long enough to pass a look at its length"])


def test_dbsec_is_not_uninstalled_from_under_encrypted_columns(admin: psycopg.Connection[Any]) -> None:
    with pytest.raises(ApplyError, match="t_encrypted"):
        own.uninstall(admin)
    assert admin.execute("SELECT v FROM t_encrypted").fetchall() == []


def test_plaintext_of_raw_sql_is_refused_in_a_session_of_ours_too(orm_engine: Any) -> None:
    statement = text("INSERT INTO shop.users (name, tenant_id, phone) VALUES ('n', :t, :p)")
    with orm_engine.connect() as connection, pytest.raises(Exception, match="encrypted_value") as caught:
        connection.execute(statement, {"t": ACME, "p": b"+49 170 5550101"})
    assert isinstance(caught.value.__cause__, errors.CheckViolation)


def _migration(connection: Any) -> Any:
    options = {
        "render_item": render_item,
        "compare_type": True,
        "include_schemas": True,
        "include_name": lambda name, kind, _: kind != "schema" or name == "shop",
    }
    return MigrationContext.configure(connection, opts=options)


def test_alembic_sees_no_difference(orm_engine: Any) -> None:
    with orm_engine.connect() as connection:
        assert compare_metadata(_migration(connection), Base.metadata) == []


def test_a_migration_is_written_without_our_classes_and_without_keys(database: Any, tmp_path: Any) -> None:
    with shop(database.conninfo, tmp_path) as (engine, bench), engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE shop.users ALTER phone TYPE bytea, DROP COLUMN email")
        connection.exec_driver_sql("DROP TABLE shop.letters")
        wanted = produce_migrations(_migration(connection), Base.metadata).upgrade_ops
        written = render_python_code(wanted, render_item=render_item, migration_context=_migration(connection))
        domain = "encrypted_deterministic"
        assert f'postgresql.DOMAIN("{domain}", sa.LargeBinary(), schema="dbsec", create_type=False)' in written
        assert "dbsec.crypto" not in written
        assert not any(row.wrapped.hex() in written for row in bench.rows.values())
        _run(connection, written)
        assert compare_metadata(_migration(connection), Base.metadata) == []


def _run(connection: Any, written: str) -> None:
    exec(
        textwrap.dedent("    " + written),
        {"op": Operations(_migration(connection)), "sa": sa, "postgresql": postgresql},
    )


def test_no_key_is_in_any_repr(orm_engine: Any, orm_bench: Any) -> None:
    tables = "".join(repr(table) for table in Base.metadata.tables.values())
    shown = tables + repr(orm_engine) + repr(orm_bench.envelope)
    assert "Encrypted(Field(context='shop.users', column='phone'), tenant='tenant_id')" in shown
    for row in orm_bench.rows.values():
        assert row.wrapped.hex() not in shown
        assert repr(row.wrapped) not in shown


def test_a_column_under_a_check_is_declared_without_the_domain(database: Any) -> None:
    value = Column("v", Encrypted(Field("t", "v"), domain=False))
    table = Table("t", MetaData(), Column("id", BigInteger, primary_key=True), value)
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect(database.conninfo, autocommit=False))
    with engine.begin() as connection:
        table.create(connection)
        assert [str(column["type"]) for column in inspect(connection).get_columns("t")] == ["BIGINT", "BYTEA"]
        options = {"compare_type": True, "include_name": lambda name, kind, _: kind != "table" or name == "t"}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), table.metadata) == []
    engine.dispose()
