"""The demo on a terminal: what happens as it happens, and a picture of it for each chapter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from dbsec import files
from dbsec.clock import SYSTEM, Clock
from dbsec.demo import Chapter
from dbsec.evidence import Outcome
from dbsec.progress import Progress

_STYLE = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.ERROR: "magenta", Outcome.SKIP: "dim"}
_WEB_FONT = re.compile(r"@font-face\s*{.*?}\s*", re.DOTALL)  # rich's pictures would fetch one from a CDN


class StageView:
    """Prints chapters, attacks and outcomes; plain text where the stream is no terminal.

    ``screens`` gets ``CHAPTER.svg``, a capture of what was printed while the chapter ran.
    """

    def __init__(self, stream: TextIO, screens: Path, clock: Clock = SYSTEM) -> None:
        self._console = Console(file=stream, record=True, highlight=False, width=None if stream.isatty() else 120)
        self._screens = screens
        self._clock = clock
        self._start = clock.monotonic()
        self._status: Status | None = None

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Spin on a terminal while a step lasts."""
        if not self._console.is_terminal:
            yield self
            return
        with self._console.status("") as self._status:
            yield self
        self._status = None

    def step(self, text: str) -> None:
        self._console.print(f"[dim]{self._clock.monotonic() - self._start:6.1f}s  {escape(text)}[/dim]")
        if self._status:
            self._status.update(escape(text))

    def count(self, text: str, done: int, total: int) -> None:
        if self._status:
            self._status.update(escape(f"{text} {done:,}/{total:,}"))
        elif done >= total:
            self.step(f"{text} {done:,}")

    def lab(self, banner: Sequence[str]) -> None:
        for text in banner:
            self._console.print(f"         [dim]{escape(text)}[/dim]")

    def chapter(self, chapter: Chapter) -> None:
        self._console.export_text(clear=True)
        self._console.print()
        self._console.rule(f"[bold]{escape(chapter.title)}[/bold]", align="left", style="dim")
        self._console.print(f"{escape(chapter.summary)}\n")

    def phase(self, text: str) -> None:
        self._console.print(f"[bold]{escape(text)}[/bold]")

    def line(self, line: Mapping[str, Any]) -> None:
        outcome = Outcome(line["outcome"])
        word = f"[{_STYLE[outcome]}]{outcome.upper():<5}[/{_STYLE[outcome]}]"
        self._console.print(f"  {word} [bold]{escape(line['drill'])}[/bold]", soft_wrap=True)
        self._console.print(f"        [dim]{escape(line['summary'])}[/dim]", soft_wrap=True)

    def finished(self, chapter: Chapter) -> None:
        picture = self._console.export_svg(title=f"dbsec demo: {chapter.name}", clear=False)
        files.write_atomic(self._screens / f"{chapter.name}.svg", _WEB_FONT.sub("", picture), mode=0o644)
