"""A migration as a list of acts: SQL with the reason for its lock, and the bounds under which a session runs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from textwrap import wrap

_WIDTH = 117


class Bounds(Enum):
    """``lock_timeout`` and ``statement_timeout``. SHORT: a lock that others feel, for a moment. LONG: a scan beside
    which all read and write. CONCURRENT: lock_timeout would leave an invalid index behind."""

    SHORT = ("500ms", "5s")
    LONG = ("500ms", "30min")
    CONCURRENT = ("0", "30min")


@dataclass(frozen=True, slots=True)
class Act:
    """``sql``: one statement or a block of BEGIN and COMMIT, with semicolons. ``why``: above it as a comment."""

    sql: str
    why: str = ""
    bounds: Bounds = Bounds.SHORT


@dataclass(frozen=True, slots=True)
class Change:
    """The three steps with their ways back. ``backfill`` is TOML; ``notes``: what is not carried over, for people.
    ``before``: a contract of its own, one release before the other, and its way back."""

    slug: str
    expand: str
    expand_down: str
    backfill: str
    backfill_down: str
    contract: str
    contract_down: str
    notes: tuple[str, ...] = ()
    before: tuple[str, str] | None = None


def written(acts: Iterable[Act], head: str, *, phase: str = "") -> str:
    """Write a script: phase, what it is about, then the acts, each under its bounds."""
    parts = [comment(head) if not phase else f"-- dbsec: phase {phase}\n--\n{comment(head)}"]
    bounds: tuple[str, str] | None = None
    for act in acts:
        said = [comment(act.why)] if act.why else []
        parts.append("\n".join([*said, *_settings(bounds, act.bounds.value), act.sql]))
        bounds = act.bounds.value
    return "\n\n".join(parts) + "\n"


def comment(text: str, mark: str = "--") -> str:
    """Write a text as comments; an empty line of it begins a new paragraph, without an empty line above."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += wrap(paragraph, _WIDTH - len(mark) - 1, break_on_hyphens=False, break_long_words=False)
    return "\n".join(f"{mark} {line}".rstrip() for line in lines)


def _settings(before: tuple[str, str] | None, now: tuple[str, str]) -> list[str]:
    names = ("lock_timeout", "statement_timeout")
    had = before or ("", "")
    return [
        f"SET {name} = " + (f"'{value}';" if value != "0" else "0;")
        for name, value, old in zip(names, now, had, strict=True)
        if value != old
    ]
