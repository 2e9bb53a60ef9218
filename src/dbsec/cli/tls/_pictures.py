"""Pictures of a terminal, as SVG that fetches nothing: logins that were run, and how they ended."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from dbsec import files

if TYPE_CHECKING:
    from dbsec.tls.matrix.scenes import Scene

_WIDTH = 118
_WEB_FONT = re.compile(r"@font-face\s*{.*?}\s*", re.DOTALL)  # rich's pictures would fetch one from a CDN


def transcript(scene: Scene) -> Iterable[Text]:
    """Write each login: what it is, the DSN, the words of libpq; red is what a site must not let happen."""
    for shot in scene.shots:
        yield Text(f"# {shot.what}", "dim")
        yield Text.assemble((">>> ", "dim"), f'psycopg.connect("{shot.dsn}")')
        style = "green" if shot.meant else "bold red"
        mark = "logged in: " if shot.let_in else "refused: " if shot.meant else ""
        yield from (Text((mark if n == 0 else "") + line, style) for n, line in enumerate(shot.said))
        if shot.then:
            yield Text(shot.then, "bold red")
        yield Text()


def save(folder: Path, name: str, title: str, lines: Iterable[RenderableType], *, width: int = _WIDTH) -> Path:
    """Write ``tls_NAME.svg`` (0644); the same lines make the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(file=io.StringIO(), record=True, width=width, highlight=False, force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=False)
    svg = console.export_svg(title=title, unique_id=f"tls-{name.replace('_', '-')}")
    path = folder / f"tls_{name}.svg"
    files.write_atomic(path, _WEB_FONT.sub("", svg), mode=0o644)
    return path
