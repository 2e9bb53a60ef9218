"""The statements in the body of a DO block, and in the text that it EXECUTEs."""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from dbsec.migrations.reading import grammar, literals
from dbsec.migrations.reading.literals import UNKNOWN
from dbsec.migrations.script import Unread
from dbsec.migrations.statement import Node, Origin, Statement

_DEEPEST = 4  # DO in EXECUTE in DO
_ASSIGNED = re.compile(r"\s*([^\s:=]+)\s*:?=\s*", re.DOTALL)
_DECLARED = re.compile(r"\bdeclare\b.*?\bbegin\b", re.IGNORECASE | re.DOTALL)
_TYPE_OF_ROW = re.compile(r"[\w.\"]+%rowtype\b", re.IGNORECASE)
_TYPE_OF_ARRAY = re.compile(r"[\w.\"]+\s*\[\s*\d*\s*\]")
_LOOPS = ("loop", "while", "fori", "fors", "forc", "dynfors", "foreach_a")


def opened(statement: Statement, line: int, *, own: bool, depth: int = 0) -> tuple[list[Statement], list[Unread]]:
    """Read the statements of a DO block.

    ``line`` is the block's line in the script's text; ``own``: it runs in autocommit, so that COMMIT in it begins
    another transaction. A block whose EXECUTE cannot be known gets the key ``dbsec_dynamic`` in its node.
    """
    body = _Body(statement, line, own=own, depth=depth)
    language, source, place = _arguments(statement.node)
    if language == "sql":
        body.miss(line, 'language "sql" does not support inline code execution')
    elif language != "plpgsql":
        statement.node["dbsec_dynamic"] = True
    else:
        lead = statement.text.encode("utf-8", "replace")[: max(place - statement.start, 0)]
        body.first += lead.count(b"\n")
        body.read(source)
    return body.statements, body.unread


def _arguments(node: Node) -> tuple[str, str, int]:
    language, source, place = "plpgsql", "", 0
    for argument in node.get("args", ()):
        element = argument.get("DefElem", {})
        value = element.get("arg", {}).get("String", {}).get("sval", "")
        if element.get("defname") == "language":
            language = value.lower()
        else:
            source, place = value, element.get("location", 0)
    return language, source, place


class _Body:
    """A walk through the body, in the order in which it runs, with what its variables can hold."""

    def __init__(self, statement: Statement, line: int, *, own: bool, depth: int) -> None:
        self.statements: list[Statement] = []
        self.unread: list[Unread] = []
        self.first = line
        self._do = statement
        self._own = own
        self._depth = depth
        self._block = statement.block
        self._known: dict[str, tuple[Any, ...]] = {}
        self._names: list[str] = []
        self._lines: list[str] = []
        self._looping = 0

    def miss(self, line: int, why: str) -> None:
        self.unread.append(Unread(self._do.script.path, self._do.script.line_in_file(line), why))

    def read(self, source: str) -> None:
        self._lines = source.split("\n")
        function = _function_of(source)
        if isinstance(function, str):
            self.miss(self.first, function)
            self._do.node["dbsec_dynamic"] = True
            return
        try:
            self._declare(function.get("datums", ()))
            self._walk(function.get("action", {}))
        except RecursionError:
            self.miss(self.first, "the DO block is nested too deeply to be read")

    def _declare(self, datums: list[Node]) -> None:
        for datum in datums:
            variable = next(iter(datum.values()))
            name = variable.get("refname", "")
            self._names.append(name)
            if default := variable.get("default_val"):
                self._known[name] = literals.values(default["PLpgSQL_expr"]["query"], self._known)[0]

    def _walk(self, node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                self._walk(child)
            return
        if not isinstance(node, dict):
            return
        for kind, body in node.items():
            act = kind.removeprefix("PLpgSQL_stmt_")
            if act in _LOOPS:
                self._loop(act, body)
            elif act == "if":
                self._branches(body.get("then_body"), *body.get("elsif_list", ()), body.get("else_body"))
            elif act == "case":
                self._branches(*body.get("case_when_list", ()), body.get("else_stmts"))
            elif act == "block":
                self._walk(body.get("body"))
                self._branches(body.get("exceptions"), None)
            elif act != kind:
                self._simple(act, body)
            else:
                self._walk(body)

    def _branches(self, *branches: Any) -> None:
        """Walk ways of which one is taken; a variable may then hold what it holds at the end of any."""
        before, ends = self._known, []
        for branch in branches:
            self._known = dict(before)
            self._walk(branch)
            ends.append(self._known)
        names = {name for end in ends for name in end}
        self._known = {name: _union(end.get(name, (UNKNOWN,)) for end in ends) for name in names}

    def _loop(self, act: str, body: Node) -> None:
        variable = next(iter(body.get("var", {"": {}}).values())).get("refname", "")
        self._known.pop(variable, None)
        if act == "fors":
            self._sql(_query(body, "query"), body, Origin.DO)
        elif act == "dynfors":
            self._execute(_query(body, "query"), body)
        elif act == "foreach_a":
            arrays = literals.values(_query(body, "expr"), self._known)[0]
            elements = tuple(one for array in arrays for one in (array if isinstance(array, tuple) else (UNKNOWN,)))
            self._known[self._name(body)] = elements[: literals.MOST] or (UNKNOWN,)
        self._looping += 1
        self._branches(body.get("body"), None)
        self._looping -= 1

    def _name(self, body: Node) -> str:
        number = body.get("varno", 0)
        return self._names[number] if number < len(self._names) else ""

    def _simple(self, act: str, body: Node) -> None:
        if act == "execsql":
            self._sql(_query(body, "sqlstmt"), body, Origin.DO)
        elif act in ("perform", "call"):
            self._sql(_query(body, "expr"), body, Origin.DO)
        elif act == "dynexecute":
            self._execute(_query(body, "query"), body)
        elif act == "open":
            self._open(body)
        elif act == "assign":
            self._assign(_query(body, "expr"))
        elif act in ("commit", "rollback") and self._own:
            self._block += 1
        self._forget(body.get("target", {}))

    def _open(self, body: Node) -> None:
        if text := _query(body, "dynquery"):
            self._execute(text, body)
        elif text := _query(body, "query"):
            self._sql(text, body, Origin.DO)

    def _assign(self, text: str) -> None:
        if found := _ASSIGNED.match(text):
            name = found[1].replace('"', "").lower()
            rest = text[found.end() :]
            known = {one: value for one, value in self._known.items() if not (self._looping and one == name)}
            self._known[name] = literals.values(rest, known)[0]

    def _forget(self, target: Node) -> None:
        for variable in target.values():
            for name in (variable.get("refname", ""), *(one.get("name", "") for one in variable.get("fields", ()))):
                self._known.pop(name, None)

    def _execute(self, expression: str, body: Node) -> None:
        texts, place = literals.values(expression, self._known)
        line = self._line(body, expression)
        line += expression.encode("utf-8", "replace")[:place].count(b"\n")
        for text in texts:
            if not isinstance(text, str):
                self._do.node["dbsec_dynamic"] = True
            else:
                self._add(literals.placed(text), line, Origin.EXECUTE, sure=UNKNOWN not in text)

    def _sql(self, text: str, body: Node, origin: Origin) -> None:
        if text:
            self._add(text, self._line(body, text), origin, sure=True)

    def _line(self, body: Node, text: str) -> int:
        """Tell the line (in the script) at which ``text`` begins: at or after the line of its statement."""
        number = body.get("lineno", 1)
        start = text.split("\n", 1)[0]
        ahead = (step for step, line in enumerate(self._lines[number - 1 : number + 20]) if start in line)
        return int(self.first + number - 1 + next(ahead, 0))

    def _add(self, text: str, line: int, origin: Origin, *, sure: bool) -> None:
        found = grammar.statements_of(text)
        if isinstance(found, str):
            if sure:
                self.miss(line, found)
            else:
                self._do.node["dbsec_dynamic"] = True
            return
        raw, script = text.encode("utf-8", "replace"), self._do.script
        for one in found:
            kind, node = next(iter(one["stmt"].items()))
            start = one.get("stmt_location", 0)
            length = one.get("stmt_len", 0) or len(raw)
            source = raw[start : start + length].decode("utf-8", "replace").rstrip()
            here = line + raw.count(b"\n", 0, start)
            made = replace(
                self._do,
                kind=kind,
                node=node,
                text=source,
                line=script.line_in_file(here),
                block=self._block,
                origin=origin,
                start=start,
            )
            self.statements.append(made)
            if kind == "DoStmt" and self._depth < _DEEPEST:
                inner, missed = opened(made, here, own=False, depth=self._depth + 1)
                self.statements += inner
                self.unread += missed


def _query(body: Node, key: str) -> str:
    return str(body.get(key, {}).get("PLpgSQL_expr", {}).get("query", ""))


def _union(parts: Any) -> tuple[Any, ...]:
    merged = tuple(dict.fromkeys(one for part in parts for one in part))
    return merged if len(merged) <= literals.MOST else (UNKNOWN,)


def _function_of(source: str) -> Node | str:
    """Parse a body; a string is what PostgreSQL said against it.

    libpg_query knows no types of the database: rows and arrays of these are declared as something that it knows, where
    they are all that it stumbles over.
    """
    said = ""
    for text in (source, _DECLARED.sub(_plain_types, source)):
        found = grammar.body_of(text)
        if not isinstance(found, str):
            return found
        said = said or found
    return said


def _plain_types(found: re.Match[str]) -> str:
    return _TYPE_OF_ARRAY.sub("text[]", _TYPE_OF_ROW.sub("record", found[0]))
