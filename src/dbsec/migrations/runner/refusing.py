"""What a file may not hold: it would leave the session, or the next run, in a state that nobody has recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dbsec.errors import ApplyError, UsageError
from dbsec.migrations import tree
from dbsec.migrations.runner.classify import TIMEOUTS
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Node, Origin, Statement

_BEGINS = ("TRANS_STMT_BEGIN", "TRANS_STMT_START")
_ENDS = ("TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK", "TRANS_STMT_PREPARE")
_FROM_OUTSIDE = ("TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED")
_HOLD = 0x0020  # CURSOR_OPT_HOLD
_MARK = re.compile(r"dbsec:\s*idempotent\b")
_ONE_BLOCK = "put what makes it and what uses it into one BEGIN … COMMIT"
# where the tree names the relation that a statement makes, and what becomes of it at COMMIT
_MADE: Mapping[str, tuple[str, ...]] = {
    "CreateStmt": ("relation",),
    "CreateTableAsStmt": ("into", "rel"),
    "SelectStmt": ("intoClause", "rel"),
    "ViewStmt": ("view",),
    "CreateSeqStmt": ("sequence",),
    "CompositeTypeStmt": ("typevar",),
}
_NAMED = {"CreateFunctionStmt": "funcname", "CreateEnumStmt": "typeName", "CreateDomainStmt": "domainname"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason, and what to write instead."""

    statement: Statement
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class Group:
    """What runs together; ``inner``: its statements, with those that its DO blocks hold."""

    direct: Sequence[Statement]
    inner: Sequence[Statement]

    @property
    def is_block(self) -> bool:
        return len(self.direct) > 1


def check(groups: Sequence[Group]) -> None:
    """Look at a whole file before any of it runs. Errors: ``UsageError`` for the first thing that cannot be run."""
    for found in refusals(groups):
        statement = found.statement
        raise UsageError(f"{statement.script.path}:{statement.line}: {found.why}", hint=found.hint)


def refusals(groups: Sequence[Group]) -> Iterator[Refusal]:
    """Yield what cannot be run, in the order of the file."""
    for number, group in enumerate(groups):
        later = groups[number + 1 :]
        yield from _control(group)
        for one in group.inner:
            yield from _of_session(one)
            yield from _set_inside(one, later)
            yield from _temporary(one, group, later)


def check_partly_done(
    script: Script, numbered: Sequence[tuple[str, Sequence[Statement]]], ended: Mapping[str, str]
) -> None:
    """Refuse a DO or CALL that commits on its way and did not come to its end: to run it anew would do a part twice.

    ``numbered``: name and statements of each turn. Only what runs outside a transaction is known as begun, or failed.
    Errors: ``ApplyError``; a comment ``-- dbsec: idempotent`` before the statement goes past it.
    """
    begun = {name.partition("-")[0] for name, event in ended.items() if event != "done"}
    before = 0
    for name, statements in numbered:
        first = statements[0]
        commits = first.kind in ("DoStmt", "CallStmt") and name.partition("-")[0] in begun
        if commits and ended.get(name) != "done" and not _marked(script, before, first.line):
            raise ApplyError(
                f"'{script.path}:{first.line}' commits on its way and was interrupted: a part of it is there already, "
                "and nobody knows which",
                hint="look what it did; where it may run once more from its beginning, write '-- dbsec: idempotent' "
                "before it, then: dbsec migrate resume",
            )
        before = statements[-1].line + statements[-1].text.count("\n")


def _marked(script: Script, after: int, line: int) -> bool:
    return any(after < at <= line and _MARK.search(said) for at, said in script.comments)


def _control(group: Group) -> Iterator[Refusal]:
    """Refuse what begins or ends a transaction where none is, or is open already."""
    first, last = group.direct[0], group.direct[-1]
    if _act(last) in _FROM_OUTSIDE:
        return
    if not group.is_block and first.kind == "TransactionStmt":
        begins = _act(first) in _BEGINS
        why = "BEGIN without COMMIT" if begins else "there is no transaction here that it could end or mark"
        yield Refusal(first, why, "end the block in the same file" if begins else "write BEGIN before, or leave it out")
    elif (group.is_block or (first.block and first.kind != "DoStmt")) and _act(last) not in _ENDS:
        yield Refusal(first, "BEGIN without COMMIT", "end the block in the same file")
    for one in group.direct[1:]:
        if _act(one) in _BEGINS:
            yield Refusal(one, "BEGIN in a transaction that is open already", "COMMIT before it, or leave it out")


def _act(statement: Statement) -> str:
    return str(statement.node.get("kind", "")) if statement.kind == "TransactionStmt" else ""


def _of_session(one: Statement) -> Iterator[Refusal]:
    """Refuse what talks to psql, or what the session would keep and a new one would not have."""
    node = one.node
    if one.kind == "DiscardStmt":
        yield Refusal(one, "DISCARD would throw the runner's own locks away", "use RESET")
    elif one.kind == "CopyStmt" and not node.get("filename"):
        what, hint = "COPY … TO STDOUT", "write it with psql, beside the migration"
        if node.get("is_from"):
            what, hint = "COPY … FROM STDIN", "write INSERT INTO … VALUES, or fill the rows with a backfill"
        yield Refusal(one, f"{what}: a migration has no stream of rows", hint)
    elif one.kind == "DeclareCursorStmt" and int(node.get("options", 0)) & _HOLD:
        yield Refusal(one, "a cursor WITH HOLD is gone in the session that resumes", "read and write in one statement")
    elif one.kind == "VariableSetStmt" and node.get("name") == "client_encoding" and not _utf8(node):
        yield Refusal(one, "a file is sent as UTF-8, and no setting changes that", "leave it out")


def _utf8(node: Node) -> bool:
    """RESET and DEFAULT give what the runner has set; dumps say UTF8 themselves."""
    said = [str(arg.get("A_Const", {}).get("sval", {}).get("sval", "")) for arg in node.get("args", ())]
    return all(re.sub(r"\W|_", "", one).upper() in ("UTF8", "UNICODE") for one in said)


def lasting(block: Sequence[Statement]) -> list[Statement]:
    """List the SET of a block that was committed which outlast it: whoever resumes after it needs them too."""
    if _act(block[-1]) != "TRANS_STMT_COMMIT":
        return []
    undone = max((at for at, one in enumerate(block) if _act(one) == "TRANS_STMT_ROLLBACK_TO"), default=-1)
    return [one for one in block[undone + 1 :] if _lasts(one)]


def _lasts(one: Statement) -> bool:
    node = one.node
    return one.kind == "VariableSetStmt" and not node.get("is_local") and node.get("kind") != "VAR_SET_MULTI"


def _set_inside(one: Statement, later: Sequence[Group]) -> Iterator[Refusal]:
    """SET in the body of a DO lasts past it; a run that resumes after it does not run the body."""
    if one.origin is not Origin.DIRECT and later and _lasts(one) and one.node.get("name") not in TIMEOUTS:
        why = "SET lasts past its DO, and a run that resumes after it lacks it"
        yield Refusal(one, why, "SET LOCAL, or SET in a statement of its own")


def _temporary(one: Statement, group: Group, later: Sequence[Group]) -> Iterator[Refusal]:
    """Refuse what vanishes with the session while the file goes on: a resumed run may find another one by that name."""
    name = _made_temporary(one)
    if not name:
        return
    alone = not group.is_block and group.direct[0].kind != "DoStmt"
    said = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])", re.IGNORECASE)
    used = not _dropped(name, one, group) and any(said.search(each.text) for after in later for each in after.direct)
    if alone or used:
        why = f"'{name}' is temporary: it is gone when the run is resumed, and another of that name may be found"
        yield Refusal(one, why, _ONE_BLOCK)


def _made_temporary(one: Statement) -> str:
    """Name what a statement makes in the session only, and that is there after COMMIT; "" for none."""
    if one.kind in _NAMED:
        parts = tree.texts(one.node.get(_NAMED[one.kind]))
        return parts[-1] if parts[:-1] == ("pg_temp",) else ""
    node, at_commit = one.node, str(one.node.get("oncommit", ""))
    for key in _MADE.get(one.kind, ()):
        node = node.get(key, {})
        at_commit = str(node.get("onCommit", at_commit))
    if one.kind not in _MADE or at_commit == "ONCOMMIT_DROP":
        return ""
    is_temporary = node.get("relpersistence") == "t" or node.get("schemaname") == "pg_temp"
    return str(node.get("relname", "")) if is_temporary else ""


def _dropped(name: str, one: Statement, group: Group) -> bool:
    after = list(group.inner)[list(map(id, group.inner)).index(id(one)) + 1 :]
    drops = (each.node.get("objects", ()) for each in after if each.kind == "DropStmt")
    return any(tree.object_name(each).name == name for objects in drops for each in objects)
