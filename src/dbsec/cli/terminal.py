"""Progress and findings on a terminal, drawn by rich; imported only where there is one."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text
from rich.theme import Theme


class _Counted(ProgressColumn):
    """How many of how many, and how long it will still take; nothing for a step without a count."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        left = f" {task.time_remaining:.0f} s left" if task.time_remaining else ""
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}{left}")


class Live:
    """Steps that end scroll by; the running one spins, counted work has a bar."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Counted(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._text = ""

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._finish(done=kind is None)
        self._bars.stop()

    def step(self, text: str) -> None:
        self._finish(done=True)
        self._text = text
        self._task = self._bars.add_task(text, total=None)

    def count(self, text: str, done: int, total: int) -> None:
        if self._task is None or text != self._text:
            self.step(text)
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def _finish(self, *, done: bool) -> None:
        if self._task is None:
            return
        self._bars.remove_task(self._task)
        self._task = None
        if done:
            self._console.print(f"[green]ok[/green] {self._text}", highlight=False)


class _Findings(RegexHighlighter):
    """Colours the text form of findings, and differences; what is no such line stays as it is."""

    base_style = "finding."
    highlights = (
        r"(?m)^(?P<place>[^\s:][^\n]*?): (?:(?P<error>error)|(?P<warning>warning)) (?P<rule>[A-Z]{3}\d+ [\w-]+)(?=: )",
        r"(?m)^ {4}(?P<word>why|instead):",
        r"(?m)^ {8}(?P<sql>\S.*)$",
    )


def show_findings(text: str) -> None:
    """Print findings as ``report.findings.text`` wrote them, in colours; NO_COLOR is honoured."""
    styles = {"place": "bold", "error": "bold red", "warning": "yellow", "rule": "cyan", "word": "dim", "sql": "green"}
    console = Console(theme=Theme({f"finding.{name}": style for name, style in styles.items()}), highlight=False)
    console.print(_Findings()(text), soft_wrap=True, end="")
