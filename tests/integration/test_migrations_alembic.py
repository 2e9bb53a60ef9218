"""Alembic's revisions as SQL: real Alembic, real child processes, no database."""

from __future__ import annotations

import sys
import textwrap
import venv
from pathlib import Path

import pytest

from dbsec.migrations.reading import alembic
from dbsec.migrations.reading.alembic_revisions import Revision, in_order
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.reading.source import read
from dbsec.migrations.script import Phase, Script, Unread, Wrap
from dbsec.migrations.statement import Statement

pytest.importorskip("alembic")

_HEAD = "from alembic import op, context\nimport sqlalchemy as sa\nrevision: str = '{}'\ndown_revision = {!r}\n"


def environment(folder: Path, revisions: dict[str, tuple[object, str]]) -> Path:
    """Write revisions (name -> what is before it, body of upgrade) whose files sort against their order."""
    versions = folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    (folder / "alembic" / "env.py").write_text("raise SystemExit('env.py is not run')\n")
    for turn, (name, (before, body)) in enumerate(revisions.items()):
        text = _HEAD.format(name, before) + "def upgrade():\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (versions / f"{99 - turn}_{name}.py").write_text(text + "\ndef downgrade():\n    op.drop_table('down')\n")
    return folder


def statements(script: Script) -> list[Statement]:
    found, unread = parse(script)
    assert unread == []
    return found


def placed(script: Script) -> list[tuple[int, int, str]]:
    return [(one.line, one.block, " ".join(one.text.split())) for one in statements(script)]


def test_revisions_become_sql_in_their_order_with_the_lines_of_their_files(tmp_path: Path) -> None:
    environment(
        tmp_path,
        {
            "aaa": (None, "op.create_table('users', sa.Column('id', sa.Integer),\n  sa.Column('phone', sa.Text))"),
            "bbb": (
                "aaa",
                """
                # dbsec: phase contract
                op.execute('''
                    UPDATE users SET phone = '50%'
                     WHERE id < 10;
                    DROP TABLE old
                ''')
                with op.get_context().autocommit_block():
                    op.create_index(
                        'i', 'users', ['phone'], postgresql_concurrently=True)
                op.drop_column('users',
                    'phone')
                if context.is_offline_mode():
                    op.get_bind().execute(sa.text("DROP TABLE older"))
                print("chatter")
                op.bulk_insert(sa.table('t', sa.column('a')), [{'a': 1}])
                """,
            ),
            "ccc": (("bbb",), "pass"),
        },
    )
    scripts, unread = read([str(tmp_path)])
    assert unread == []
    assert [Path(script.path).name for script in scripts] == ["99_aaa.py", "98_bbb.py", "97_ccc.py"]
    assert {(script.tool, script.wrap) for script in scripts} == {("alembic", Wrap.FILE)}
    assert [script.phase for script in scripts] == [None, Phase.CONTRACT, None]
    assert scripts[1].comments == ((7, "dbsec: phase contract"),)
    assert placed(scripts[0]) == [(6, 1, "CREATE TABLE users ( id INTEGER, phone TEXT )")]
    assert placed(scripts[1]) == [
        (9, 1, "UPDATE users SET phone = '50%' WHERE id < 10"),
        (11, 1, "DROP TABLE old"),
        (13, 1, "COMMIT"),
        (14, 0, "CREATE INDEX CONCURRENTLY i ON users (phone)"),
        (13, 2, "BEGIN"),
        (16, 2, "ALTER TABLE users DROP COLUMN phone"),
        (19, 2, "DROP TABLE older"),
        (21, 2, "INSERT INTO t (a) VALUES (NULL)"),
    ]


def test_a_revision_that_does_not_run_offline_is_told_and_takes_no_other_along(tmp_path: Path) -> None:
    environment(
        tmp_path,
        {
            "asks": (None, "op.drop_table('a')\nop.get_bind().execute(sa.text('SELECT 1')).fetchall()"),
            "lost": ("asks", "import none_such"),
            "dies": ("lost", "import os\nos._exit(7)"),
            "exits": ("dies", "raise SystemExit(0)"),
            "last": ("exits", "op.drop_table('z')"),
        },
    )
    scripts, unread = read([str(tmp_path)])
    assert [[one.text for one in statements(script)] for script in scripts] == [
        ["DROP TABLE a", "SELECT 1"], [], [], [], ["DROP TABLE z"],
    ]  # fmt: skip
    off = "does not run offline"
    assert [(one.line, one.reason.split(":")[0].removeprefix("upgrade() of revision ")) for one in unread] == [
        (7, "'asks' asks the database"), (6, f"'lost' {off}"), (0, f"'dies' {off}"), (6, f"'exits' {off}"),
    ]  # fmt: skip
    assert [one.hint for one in unread[:2]] == [
        "alembic upgrade asks --sql | dbsec migrate lint -",
        "alembic upgrade asks:lost --sql | dbsec migrate lint -",
    ]


def test_the_code_of_a_revision_sees_its_project_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "names.py").write_text("TABLE = 'of_the_project'\n")
    body = """
        import os, sys
        from app.names import TABLE
        op.drop_table(TABLE)
        op.drop_table(os.environ.get('PGPASSWORD', 'none'))
        op.drop_table('dbsec' if 'dbsec' in sys.modules else 'apart')
    """
    environment(tmp_path, {"aaa": (None, body)})
    scripts, unread = read([str(tmp_path / "alembic" / "versions" / "99_aaa.py")])
    assert unread == []
    expected = ["DROP TABLE of_the_project", "DROP TABLE none", "DROP TABLE apart"]
    assert [one.text for one in statements(scripts[0])] == expected
    assert not list(tmp_path.rglob("__pycache__"))


def test_without_alembic_its_revisions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    bare = str(tmp_path / "bare" / "bin" / "python")
    monkeypatch.setattr(sys, "executable", bare)  # hook: ok a real Python that has no Alembic
    environment(tmp_path / "project", {"aaa": (None, "pass")})
    scripts, unread = read([str(tmp_path / "project")])
    assert scripts == []
    assert [(one.reason, one.hint) for one in unread] == [
        ("Alembic is not installed beside dbsec", "pip install alembic")
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "is no revision of Alembic: it has no revision and down_revision"),
        ("revision = 'a'\ndown_revision = None\ndef upgrade(:\n", "is no Python: invalid syntax"),
        ("revision = f()\ndown_revision = None\n", "its revision is no plain text"),
        ("# \xe9\nrevision = 'a'\ndown_revision = None\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_revision_is_told(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.py").write_bytes(text.encode("latin-1"))
    scripts, unread = read([str(tmp_path / "a.py")])
    assert scripts == []
    assert [one.reason.startswith(reason) for one in unread] == [True]


# --- order


def revision(name: str, *after: str) -> Revision:
    return Revision(f"{name}.py", name, after, "")


@pytest.mark.parametrize(
    ("revisions", "order", "circular"),
    [
        ([("c", "b"), ("b", "a"), ("a", "deployed")], "abc", ""),
        ([("m", "b2", "c1"), ("a",), ("b1", "a"), ("c1", "a"), ("b2", "b1")], ["a", "b1", "b2", "c1", "m"], ""),
        ([("b", "a"), ("c", "a"), ("a",)], "abc", ""),
        ([("a1b2",), ("c", "a1")], ["a1b2", "c"], ""),
        ([("x", "y"), ("y", "x"), ("a",)], "a", "xy"),
    ],
)
def test_branches_run_one_after_the_other_before_what_merges_them(
    revisions: list[tuple[str, ...]], order: str | list[str], circular: str
) -> None:
    found, left = in_order([revision(*one) for one in revisions])
    assert [one.name for one in found] == list(order)
    assert [one.name for one in left] == list(circular)


def test_a_second_revision_of_a_name_and_a_circle_are_told(tmp_path: Path) -> None:
    for name, text in {"1": ("a", "b"), "2": ("b", "a"), "3": ("a", "c")}.items():
        (tmp_path / f"{name}.py").write_text(_HEAD.format(*text))
    files = sorted(str(path) for path in tmp_path.iterdir())
    scripts, unread = alembic.read(str(tmp_path), files)
    assert scripts == []
    assert unread == [
        Unread(files[2], 0, "a second revision 'a'"),
        Unread(files[0], 0, "revision 'a' comes after itself"),
        Unread(files[1], 0, "revision 'b' comes after itself"),
    ]
