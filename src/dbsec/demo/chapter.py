"""What a chapter is, and who listens while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dbsec.evidence import Control, Drill, Observation

if TYPE_CHECKING:
    from dbsec.demo.stage import Stage


Seen = tuple[Control, str, Observation]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One control family: its drills run before and after ``harden``, under load.

    ``order`` places it; the numbers leave gaps. ``before`` names an earlier chapter that changes what is attacked here:
    the drills run for the first time before it hardens. What ``observe`` yields is recorded in phase ``baseline``, what
    ``harden`` yields in phase ``during``: what was seen of the system, and of the change itself.
    """

    name: str
    order: int
    title: str
    summary: str
    drills: Callable[[Stage], Sequence[Drill]] = lambda _: ()
    harden: Callable[[Stage], Iterable[Seen]] = lambda _: ()
    observe: Callable[[Stage], Iterable[Seen]] = lambda _: ()
    before: str = ""


class Audience(Protocol):
    """Who is shown the run while it runs: the terminal, later a live page. It must not raise."""

    def lab(self, banner: Sequence[str]) -> None:
        """The lab is up; ``banner`` says what runs and what it is not for."""

    def chapter(self, chapter: Chapter) -> None:
        """A chapter begins."""

    def phase(self, text: str) -> None:
        """Attacks, hardening or attacks again begin."""

    def line(self, line: Mapping[str, Any]) -> None:
        """An evidence line was written."""

    def finished(self, chapter: Chapter) -> None:
        """A chapter has ended."""
