"""SQL text to statements: the parse tree of libpg_query, the line of each, and the transaction that it runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.grammar import Refusal, statements_of
from dbsec.migrations.reading.plpgsql import opened
from dbsec.migrations.script import Script, Unread, Wrap
from dbsec.migrations.statement import Node, Statement

_WHOLE_BYTES = 1 << 20  # above it a script is cut first: the tree of all at once would take gigabytes
_MOST_KEPT = 1 << 25  # characters of all scripts that ``once`` keeps: their trees are thirty times as large
_MOST_UNREAD = 100  # of one script: a file that is no SQL at all would give thousands


class Read(NamedTuple):
    """One statement of the tree; ``start`` and ``end`` are UTF-8 bytes of the whole text, ``shift`` what its
    locations lack to that."""

    kind: str
    node: Node
    start: int
    end: int
    shift: int


class Refused(NamedTuple):
    """Text that is no statement: the byte at which PostgreSQL stumbled, and what it said."""

    start: int
    reason: str


Parsed = tuple[list[Statement], list[Unread]]
_kept: ContextVar[dict[Script, Parsed] | None] = ContextVar("kept", default=None)


@contextmanager
def once() -> Iterator[None]:
    """Parse a script once in the block, however often it is asked for; those asked for last are kept."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def parse(script: Script) -> Parsed:
    """Read the statements of a script in order, those of DO blocks after the block; what cannot be read is told."""
    kept = _kept.get()
    if kept is None:
        return _parsed(script)
    found = kept.pop(script) if script in kept else _parsed(script)
    statements, unread = kept[script] = found
    while len(kept) > 1 and sum(len(one.text) for one in kept) > _MOST_KEPT:
        del kept[next(iter(kept))]
    return list(statements), list(unread)


def _parsed(script: Script) -> Parsed:
    text = script.text
    raw = b"" if text.isascii() else text.encode("utf-8", "replace")
    statements: list[Statement] = []
    unread: list[Unread] = []
    blocks = _Blocks(script)
    line, at, refused = 1, 0, 0
    for item in _read(text, raw):
        start = item.start
        line += raw.count(b"\n", at, start) if raw else text.count("\n", at, start)
        at = start
        where = script.line_in_file(line)
        if isinstance(item, Refused):
            refused += 1
            if refused <= _MOST_UNREAD:
                unread.append(Unread(script.path, where, item.reason))
            continue
        kind, node, _, end, shift = item
        source = (raw[start:end].decode("utf-8", "replace") if raw else text[start:end]).rstrip()
        if blocks.sections:
            blocks.enter(line)
        free = not blocks.open
        block = blocks.of(kind, node)
        statement = Statement(script, kind, node, source, where, block, start=start - shift)
        statements.append(statement)
        if kind == "DoStmt":
            inner, missed = opened(statement, line, own=free)
            statements += inner
            unread += missed
            blocks.used(max((one.block for one in inner), default=0))
    if refused > _MOST_UNREAD:
        unread.append(Unread(script.path, 0, f"{refused - _MOST_UNREAD} more statements cannot be read"))
    return statements, unread


def parse_text(text: str) -> list[Statement]:
    """Read the statements of a text as psql would run it; what cannot be read is left out."""
    return parse(Script("-", text))[0]


class _Blocks:
    """The transactions of a script, by number."""

    def __init__(self, script: Script) -> None:
        self.sections = list(script.sections)
        self._last = self.open = 1 if script.wrap is Wrap.FILE and not script.sections else 0

    def enter(self, line: int) -> None:
        """Begin the section that the line is in; what the one before left open ends with it."""
        while self.sections and self.sections[0][0] <= line:
            _, wrap = self.sections.pop(0)
            self._last += wrap is Wrap.FILE
            self.open = self._last if wrap is Wrap.FILE else 0

    def of(self, kind: str, node: Node) -> int:
        """Tell the block that a statement runs in: BEGIN is in the one that it opens, COMMIT in that which it ends."""
        if kind == "TransactionStmt":
            return self._turn(node["kind"], bool(node.get("chain")))
        if self.open or kind != "DoStmt":
            return self.open
        self._last += 1
        return self._last

    def used(self, number: int) -> None:
        """Take a number that the body of a DO block gave out."""
        self._last = max(self._last, number)

    def _turn(self, act: str, chain: bool) -> int:
        ran_in = self.open
        if act in ("TRANS_STMT_BEGIN", "TRANS_STMT_START"):
            if not self.open:
                self._last += 1
                self.open = ran_in = self._last
        elif act in ("TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK", "TRANS_STMT_PREPARE"):
            self.open = 0
            if chain and ran_in:
                self._last += 1
                self.open = self._last
        return ran_in


def _read(text: str, raw: bytes) -> Iterator[Read | Refused]:
    """Read a text at once; where that fails, or would take too much memory, statement by statement."""
    if len(raw or text) <= _WHOLE_BYTES and "\0" not in text:
        whole = statements_of(text)
        if not isinstance(whole, Refusal):
            for one in whole:
                kind, node = next(iter(one["stmt"].items()))
                start = one.get("stmt_location", 0)
                length = one.get("stmt_len", 0)
                yield Read(kind, node, start, start + length if length else _end_of(text, raw), 0)
            return
    yield from _piecewise(text, bool(raw))


def _piecewise(text: str, wide: bool) -> Iterator[Read | Refused]:
    at = offset = 0  # the same place in characters and in bytes
    for begin, end in lexer.cut(text):
        offset += _size(text[at:begin], wide)
        at = begin
        piece = text[begin:end]
        if (nul := piece.find("\0")) >= 0:
            yield Refused(offset + _size(piece[:nul], wide), "a NUL byte: PostgreSQL takes none in SQL")
            continue
        found = statements_of(piece, single=True)
        if isinstance(found, Refusal):
            yield Refused(offset + _size(piece[: found.at or 0], wide), found)
            continue
        for one in found:
            kind, node = next(iter(one["stmt"].items()))
            start = offset + one.get("stmt_location", 0)
            length = one.get("stmt_len", 0)
            yield Read(kind, node, start, start + length if length else offset + _size(piece, wide), offset)


def _end_of(text: str, raw: bytes) -> int:
    """Tell in bytes where a last statement without semicolon ends: before the comments that follow it."""
    if "--" not in text and "/*" not in text:
        return len(raw or text)
    return _size(text[: lexer.last_word(text)], bool(raw))


def _size(text: str, wide: bool) -> int:
    return len(text.encode("utf-8", "replace")) if wide else len(text)
