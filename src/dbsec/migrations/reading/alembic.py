"""Alembic's revisions as the SQL that they would run: each ``upgrade()`` in a child process, offline, in order."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dbsec import process
from dbsec.errors import ProgramError
from dbsec.migrations.reading import marks
from dbsec.migrations.reading.alembic_revisions import Revision, in_order, revisions_in
from dbsec.migrations.script import Script, Unread, Wrap

_CHILD = Path(__file__).with_name("alembic_child.py")
_ASKS = ("'NoneType'", "NoInspectionAvailable", "'MockConnection'")
_TIMEOUT_S = 120
_MOST_RESTARTS = 10  # a revision that ends the child takes no other with it
_AHEAD = 200  # lines after a call in which its text is looked for


def read(folder: str, files: Sequence[str], *, asked: bool = False) -> tuple[list[Script], list[Unread]]:
    """Read revisions of one Alembic environment in the order of ``down_revision``; other ``.py`` are passed over.

    Branches come one after the other, each before what merges them. The project's code runs, in a child process with
    a clean environment; no database is asked.
    """
    found, unread = revisions_in(files, asked=asked)
    ordered, circular = in_order(found)
    unread += [Unread(one.path, 0, f"revision '{one.name}' comes after itself") for one in circular]
    if not ordered:
        return [], unread
    project = _project_of(Path(folder).resolve())
    answers, failure = _run(ordered, project)
    if not answers:
        return [], [*unread, Unread(folder, 0, failure, hint="pip install alembic")]
    scripts: list[Script] = []
    for revision in ordered:
        answer = answers.get(revision.path)
        if answer is None:
            unread.append(Unread(revision.path, 0, failure, hint=_hint(revision)))
            continue
        if error := answer.get("error"):
            unread.append(_stopped(revision, error))
        scripts.append(_script(revision, answer.get("sql", ()), unread))
    return scripts, unread


def _project_of(folder: Path) -> Path:
    """Find the folder that Alembic is called in: where ``alembic.ini`` is, at or above the revisions."""
    for parent in (folder, *folder.parents):
        if (parent / "alembic.ini").is_file() or (parent / "pyproject.toml").is_file():
            return parent
    return folder


def _run(revisions: Sequence[Revision], project: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Run ``upgrade()`` of each in a child process; where it dies of one, another one goes on with the rest."""
    answers: dict[str, dict[str, Any]] = {}
    left = [one.path for one in revisions]
    failure = ""
    with tempfile.TemporaryDirectory(prefix="dbsec-alembic-") as folder:
        for turn in range(_MOST_RESTARTS):
            out = Path(folder, f"{turn}.jsonl")
            failure = _child(left, project, out)
            answered = _answers(out)
            if any("missing" in answer for answer in answered):
                return {}, "Alembic is not installed beside dbsec"
            answers |= {answer["path"]: answer for answer in answered}
            left = [path for path in left if path not in answers]
            if not left:
                break
            answers[left[0]] = {"error": {"line": 0, "said": failure or "ended without an answer"}}
            left = left[1:]
    return answers, failure


def _answers(out: Path) -> list[dict[str, Any]]:
    """Read what the child has written; where it died in the middle of a line, that one is left out."""
    try:
        lines = out.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.endswith("}")]
    except (OSError, ValueError):
        return []


def _child(paths: Sequence[str], project: Path, out: Path) -> str:
    """Run the child; returns what it died of, or nothing."""
    asked = {"paths": [str(Path(path).absolute()) for path in paths], "names": list(paths), "out": str(out)}
    asked["project"] = [str(one) for one in (project, project / "src") if one.is_dir()]
    env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    try:
        process.run([sys.executable, "-P", _CHILD], cwd=project, env=env, stdin=json.dumps(asked), timeout_s=_TIMEOUT_S)
    except ProgramError as exc:
        return exc.message
    return ""


def _hint(revision: Revision) -> str:
    if not revision.after:
        return f"alembic upgrade {revision.name} --sql | dbsec migrate lint -"
    return f"alembic upgrade {revision.after[0]}:{revision.name} --sql | dbsec migrate lint -"


def _stopped(revision: Revision, error: dict[str, Any]) -> Unread:
    why = "asks the database" if any(sign in error["said"] for sign in _ASKS) else "does not run offline"
    said = f"upgrade() of revision '{revision.name}' {why}: {error['said']}"
    return Unread(revision.path, error["line"], said, hint=_hint(revision))


def _script(revision: Revision, chunks: Sequence[tuple[str, int]], unread: list[Unread]) -> Script:
    source = revision.text.split("\n")
    text: list[str] = []
    lines: list[int] = []
    for sql, line in chunks:
        emitted = sql.rstrip("\n").split("\n")
        text += emitted
        lines += _places(emitted, source, line)
    comments = _comments(revision.text)
    phase = marks.phase_of(revision.path, comments, unread)
    return Script(revision.path, "\n".join(text), "alembic", Wrap.FILE, phase, lines=tuple(lines), comments=comments)


def _places(emitted: Sequence[str], source: Sequence[str], line: int) -> list[int]:
    """Tell the line of the file for each emitted line: of the text in it, else of the call."""
    wanted = [one.strip().rstrip(";") for one in emitted]
    for start in range(max(line - 1, 0), min(line - 1 + _AHEAD, len(source) - len(wanted) + 1)):
        if all(part in source[start + step] for step, part in enumerate(wanted)):
            return [start + 1 + step for step in range(len(wanted))]
    return [line] * len(emitted)


def _comments(text: str) -> marks.Comments:
    """List the comments of Python that speak to dbsec."""
    if not marks.MARKED.search(text):
        return ()
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and marks.MARKED.search(token.string):
                found.append((token.start[0], token.string.lstrip("#").strip()))
    except (tokenize.TokenError, SyntaxError):
        pass
    return tuple(found)
