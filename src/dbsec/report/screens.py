"""A PNG of each section of the page, where Playwright and a Chromium are installed; else it says what is missing."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbsec import process

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
FLAGS = (
    "--no-sandbox",  # the page is ours, without script or network; without this root and plain accounts cannot start it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
_WIDTH = 1120
# One section at a time needs no contents column, and even space around.
_ALONE = "nav, .skip { display: none } .page { display: block; padding: 0 } main > section { padding: 2.5rem 2rem }"


@dataclass(frozen=True, slots=True)
class Screens:
    """The pictures, in the order of the page; or why there are none, and the command that would help."""

    paths: tuple[Path, ...] = ()
    skipped: str = ""
    hint: str = ""

    @property
    def summary(self) -> str:
        if self.skipped:
            return f"no pictures: {self.skipped} (try: {self.hint})"
        return f"{len(self.paths)} pictures in {self.paths[0].parent}" if self.paths else "no pictures: an empty page"


def find_browser() -> Path | None:
    """Return the first Chromium on PATH."""
    return next((Path(found) for name in BROWSERS if (found := shutil.which(name))), None)


def take(index_html: Path, folder: Path, *, browser: Path | None = None) -> Screens:
    """Write ``NN-section.png`` for each section of a built page into ``folder``.

    ``browser`` is a Chromium; without it, the first on PATH. What is not installed or does not start is no error.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return Screens(skipped="playwright is not installed", hint="pip install 'dbsec[screens]'")
    program = browser or find_browser()
    if program is None:
        return Screens(skipped="no Chromium is installed", hint="apt-get install chromium-headless-shell")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="dbsec-screens-") as home, sync_playwright() as play:
            environment: dict[str, str | float | bool] = {**process.clean_environment(Path(home))}
            with play.chromium.launch(executable_path=program, args=[*FLAGS], env=environment) as chromium:
                return Screens(_sections(chromium, index_html, folder))
    except Exception as exc:  # noqa: BLE001 - the bundled node dies with a bare Exception; pictures are a convenience
        return Screens(skipped=f"'{program.name}' did not start: {_first_line(exc)}", hint="apt-get install libatomic1")


def _sections(chromium: Browser, index_html: Path, folder: Path) -> tuple[Path, ...]:
    page = chromium.new_page(viewport={"width": _WIDTH, "height": 900}, device_scale_factor=2, color_scheme="light")
    page.goto(index_html.resolve().as_uri())
    page.add_style_tag(content=_ALONE)
    paths = []
    for number, section in enumerate(page.locator("main > section").all(), 1):
        path = folder / f"{number:02d}-{section.get_attribute('id')}.png"
        section.screenshot(path=path)
        paths.append(path)
    return tuple(paths)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
