"""Files of migrations to scripts: which run, in which order, in whose transaction, and what could not be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from dbsec import discovery
from dbsec.errors import UsageError
from dbsec.migrations.reading import marks, tools, walk
from dbsec.migrations.reading.psql import sql_of
from dbsec.migrations.reading.tool import Order, Prepared, Tool, by_name
from dbsec.migrations.script import Script, Unread, Wrap

MOST_BYTES = 64 << 20
_HEAD = 1 << 16  # characters in which the mark of a tool is looked for
_UNDO = re.compile(r"(?:^|/|[^/]\.)(?:down|undo|rollback)\.sql\Z", re.IGNORECASE)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

PLAIN = Tool("sql", lambda text, _: Prepared(text, Wrap.NONE))


def read(
    paths: Sequence[str], *, stdin: str | None = None, changed_since: str | None = None, wrap: Wrap | None = None
) -> tuple[list[Script], list[Unread]]:
    """Read files and folders in the order in which their tool runs them; ``-`` is the text of ``stdin``.

    ``changed_since``: a revision of git; what has not changed since is deployed. ``wrap`` overrides the tool's own.
    Errors: ``UsageError`` for a path that is not there, a folder without migrations, a revision that git does not know.
    """
    scripts: list[Script] = []
    unread: list[Unread] = []
    for found in _in_runs(paths):
        if isinstance(found, str):
            scripts.append(_script("-", stdin or "", unread))
            continue
        unread += found.unread
        root = Path(found.root)
        place = root.absolute().as_posix()
        above = f"{root}/" if root.name else str(root).removeprefix(".")
        for name in _in_order(found):
            path = above + name
            content = walk.content_of(path, most_bytes=MOST_BYTES)
            text = content if isinstance(content, Unread) else _decoded(path, content)
            if isinstance(text, Unread):
                unread.append(text)
            else:
                scripts.append(_script(path, text, unread, f"{place}/{name}"))
        for folder, files in found.revisions.items():
            from dbsec.migrations.reading import alembic

            made, missed = alembic.read(folder, files, asked=not found.whole)
            scripts += made
            unread += missed
    if not (scripts or unread):
        raise UsageError(f"no migration in {', '.join(map(repr, paths))}", hint="find . -name '*.sql'")
    if changed_since is not None:
        from dbsec.migrations.reading import changed

        deployed = changed.unchanged_since(changed_since, [script.path for script in scripts if script.path != "-"])
        scripts = [replace(script, deployed=True) if script.path in deployed else script for script in scripts]
    if wrap is not None:
        scripts = [replace(script, wrap=wrap, sections=()) for script in scripts]
    return scripts, unread


def remade(script: Script, text: str) -> Script:
    """Read another text as the file of a script."""
    made = _script(script.path, text, [], script.path)
    return replace(made, wrap=script.wrap, deployed=script.deployed)


def _in_runs(paths: Sequence[str]) -> Iterable[walk.Found | str]:
    """Look at the paths; files of one folder that stand side by side are ordered as those of a folder are."""
    run: walk.Found | None = None
    for path in paths:
        found = path if path == "-" else walk.found_at(path)
        joined = isinstance(found, walk.Found) and not found.whole and run is not None and run.root == found.root
        if joined:
            assert isinstance(found, walk.Found)
            assert run is not None
            run.sql += found.sql
            for folder, files in found.revisions.items():
                run.revisions.setdefault(folder, []).extend(files)
            continue
        if run is not None:
            yield run
        run = found if isinstance(found, walk.Found) and not found.whole else None
        if run is None:
            yield found
    if run is not None:
        yield run


@cache
def _tools() -> tuple[Tool, ...]:
    return tuple(discovery.constants_in(tools, "TOOL").values())


def _in_order(found: walk.Found) -> list[str]:
    """Order the files as their tool does, and leave out those that go back."""
    placed: list[tuple[Order, str]] = []
    numbered = True
    for name in dict.fromkeys(found.sql):
        owner = next((tool for tool in _tools() if tool.named and tool.named.search(name)), None)
        numbered &= owner is not None or bool(re.match(r"\d", name.rpartition("/")[2]))
        placed.append(((owner.order if owner else by_name)(name), name))
    if found.whole or numbered:
        placed.sort()
    forward = [name for _, name in placed if not _goes_back(name) and not name.endswith(".toml")]
    if forward or found.whole:
        return forward
    return [name for _, name in placed if not name.endswith(".toml")]  # only ways back, asked for by name


def _goes_back(name: str) -> bool:
    return bool(_UNDO.search(name)) or any(tool.skips and tool.skips.search(name) for tool in _tools())


def _decoded(path: str, content: bytes) -> str | Unread:
    """Decode UTF-8; a byte order mark becomes a blank, so that every character keeps its place."""
    if content.startswith(_UTF16):
        return Unread(path, 1, "is UTF-16, not UTF-8", hint=f"iconv -f UTF-16 -t UTF-8 '{path}' -o '{path}.utf8'")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        return Unread(
            path,
            line,
            f"byte 0x{content[exc.start]:02x} at offset {exc.start} is not UTF-8",
            hint=f"iconv -f LATIN1 -t UTF-8 '{path}' -o '{path}.utf8'",
        )
    return " " + text[1:] if text.startswith("\ufeff") else text


def _script(path: str, text: str, unread: list[Unread], place: str = "") -> Script:
    head = text[:_HEAD] if "--" in text else ""
    owner = next(
        (
            tool
            for tool in _tools()
            if (tool.named and tool.named.search(place)) or (head and tool.marked and tool.marked.search(head))
        ),
        PLAIN,
    )
    prepared = owner.prepare(sql_of(text), path)
    comments = marks.comments_of(prepared.text)
    phase = marks.phase_of(path, comments, unread)
    return Script(path, prepared.text, owner.name, prepared.wrap, phase, False, (), comments, prepared.sections)
