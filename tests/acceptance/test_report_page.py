"""The page in a real Chromium: quiet, readable, keyboard usable, printable, and at home at 320 px."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
from tests.unit import report_sample
from tests.unit.report_sample import HOSTILE

from dbsec.report import build, screens

EXTRA = Path(__file__).parents[2] / ".extra/usr/bin"
SECTIONS = [
    "verdict",
    "controls",
    "slo",
    "chapter-baseline",
    "chapter-roles",
    "chapter-transit",
    "provenance",
]
Scheme = Literal["light", "dark"]
SCHEMES: list[Scheme] = ["light", "dark"]


def missing(reason: str) -> NoReturn:
    """Skip by name, or fail where everything is required."""
    if os.environ.get("DBSEC_REQUIRE") == "all":
        pytest.fail(f"DBSEC_REQUIRE=all, but {reason}")
    pytest.skip(reason)


def chromium_path() -> Path:
    path = f"{os.environ.get('PATH', '')}:{EXTRA}"
    found = next((f for name in screens.BROWSERS if (f := shutil.which(name, path=path))), None)
    return Path(found) if found else missing("chromium is not installed: make setup-extra")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: make setup-test")
    program = chromium_path()
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=[*screens.FLAGS])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    for name, suffix in (("plain", ""), ("hostile", " " + HOSTILE)):
        (out / name).mkdir()
        build(report_sample.write(out / name / "evidence.jsonl", suffix=suffix), out / name)
    return out


class Opened:
    """A page with what it said and asked for while it was open."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, scheme: Scheme = "light") -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self._refuse)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def _refuse(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_the_page_is_quiet_and_asks_for_nothing(browser: Any, folder: Path, name: str, scheme: Scheme) -> None:
    path = folder / name / "index.html"
    with Opened(browser, path, scheme=scheme) as opened:
        opened.page.locator("details").evaluate_all("all => all.forEach(d => d.open = true)")
        opened.page.wait_for_timeout(50)
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [path.as_uri()]


def test_all_sections_are_there_and_the_contents_lead_to_them(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html") as opened:
        ids = opened.page.locator("main > section").evaluate_all("all => all.map(s => s.id)")
        links = opened.page.locator("nav a").evaluate_all("all => all.map(a => a.hash.slice(1))")
        assert ids == SECTIONS
        assert links == SECTIONS
        unnamed = opened.page.locator("main > section").evaluate_all(
            "all => all.filter(s => !document.getElementById(s.getAttribute('aria-labelledby'))?.textContent.trim())"
        )
        assert unnamed == []


def test_headings_are_in_order(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html") as opened:
        found = opened.page.locator("h1, h2, h3, h4, h5, h6").evaluate_all("all => all.map(h => +h.tagName[1])")
    assert found[0] == 1
    assert found.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(found))


def test_an_outcome_is_a_word_and_a_symbol(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html") as opened:
        badges = opened.page.locator(".badge").evaluate_all(
            "all => all.map(b => [b.textContent.trim(), b.querySelector('use').getAttribute('href')])"
        )
    assert {tuple(badge) for badge in badges} == {("Pass", "#i-pass"), ("Fail", "#i-fail"), ("Error", "#i-error")}


# For every text on the page: its colour, and what lies behind it, as far as elements paint (0..255, alpha composited).
CONTRAST = """() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const behind = e => {
    const layers = [];
    for (let n = e; n; n = n.parentElement) {
      const node = n.tagName === 'g' && n.classList.contains('node') ? n.querySelector('rect') : null;
      layers.push(parse(node ? getComputedStyle(node).fill : getComputedStyle(n).backgroundColor));
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const luminance = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent).join('').trim();
    if (!own || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), back = behind(e);
    const front = over(parse(e.closest('svg') ? style.fill : style.color), back);
    const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    found.push([(light + .05) / (dark + .05), e.tagName + '.' + e.getAttribute('class'), own.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_has_aa_contrast(browser: Any, folder: Path, scheme: Scheme) -> None:
    with Opened(browser, folder / "plain/index.html", scheme=scheme) as opened:
        opened.page.locator("details").evaluate_all("all => all.forEach(d => d.open = true)")
        found = opened.page.evaluate(CONTRAST)
    assert len(found) > 500
    assert [weak for weak in found if weak[0] < 4.5] == []


def test_the_contrast_check_finds_what_is_too_pale(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html") as opened:
        opened.page.add_style_tag(content=":root { --soft: #8a8d91 }")
        assert [weak for weak in opened.page.evaluate(CONTRAST) if weak[0] < 4.5]


def test_light_and_dark_differ(browser: Any, folder: Path) -> None:
    colours = []
    for scheme in SCHEMES:
        with Opened(browser, folder / "plain/index.html", scheme=scheme) as opened:
            colours.append(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(19, 21, 24)"]


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("width", [320, 700, 1280])
def test_the_page_never_scrolls_sideways(browser: Any, folder: Path, name: str, width: int) -> None:
    with Opened(browser, folder / name / "index.html", width=width) as opened:
        opened.page.locator("details").evaluate_all("all => all.forEach(d => d.open = true)")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        wide = opened.page.evaluate(
            "width => [...document.querySelectorAll('main *')]"
            ".filter(e => !e.parentElement.closest('.scroll') && e.getBoundingClientRect().right > width + 1)"
            ".map(e => e.outerHTML.slice(0, 80))",
            width,
        )
        assert wide == []


def test_at_320_px_before_and_after_are_seen_without_scrolling(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html", width=320) as opened:
        boxes = opened.page.locator("td[data-label] .badge").evaluate_all(
            "all => all.map(b => b.getBoundingClientRect().right)"
        )
        labels = opened.page.locator("td[data-label]").evaluate_all(
            "all => all.map(c => getComputedStyle(c, '::before').content)"
        )
    assert len(boxes) > 15
    assert max(boxes) <= 320
    assert set(labels) == {'"Before"', '"After"'}


def test_the_keyboard_reaches_and_opens_what_was_seen(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html") as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0, "it shows when focused"
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "SUMMARY":
                break
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        facts = page.locator("details:has(summary:focus) dl")
        assert not facts.is_visible()
        page.keyboard.press("Enter")
        assert facts.is_visible()


def test_wide_tables_are_reached_by_the_keyboard_and_named(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html", width=320) as opened:
        boxes = opened.page.locator(".scroll").evaluate_all("all => all.map(b => [b.tabIndex, b.role, b.ariaLabel])")
    assert boxes
    assert all(index == 0 and role == "region" and label for index, role, label in boxes)


def test_pictures_say_what_they_show(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html") as opened:
        said = opened.page.locator("svg[role=img]").evaluate_all("all => all.map(s => s.ariaLabel)")
    assert len(said) == 3
    assert any("27,854 requests, 3 failed" in text for text in said)


def test_on_paper_everything_is_open_and_the_contents_are_gone(browser: Any, folder: Path) -> None:
    with Opened(browser, folder / "plain/index.html", scheme="dark") as opened:
        opened.page.emulate_media(media="print")
        shut = opened.page.locator("details:not(.twin) > dl").evaluate_all(
            "all => all.filter(d => !d.checkVisibility({contentVisibilityAuto: true}) || !d.offsetHeight).length"
        )
        assert shut == 0
        assert not opened.page.locator("nav").is_visible()
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.page.pdf(format="A4").startswith(b"%PDF")


def take(index: Path, into: Path, **environment: str) -> list[str]:
    """Run ``screens.take`` in its own interpreter: Playwright's loop is open in this one."""
    script = (
        "import sys; from pathlib import Path; from dbsec.report import screens\n"
        "found = screens.take(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(found.skipped, found.hint, *[p.name for p in found.paths], sep='\\n')"
    )
    env = {"PATH": f"{os.environ['PATH']}:{EXTRA}", **environment}
    argv = [sys.executable, "-c", script, str(index), str(into)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


def test_a_picture_is_taken_of_each_section(folder: Path, tmp_path: Path) -> None:
    chromium_path()
    skipped, _, *names = take(folder / "plain/index.html", tmp_path / "screens")
    assert skipped == ""
    assert names == [f"{number:02d}-{section}.png" for number, section in enumerate(SECTIONS, 1)]
    for name in names:
        head = (tmp_path / "screens" / name).read_bytes()[:24]
        width, height = struct.unpack(">II", head[16:])
        assert head.startswith(b"\x89PNG")
        assert width == 2 * screens._WIDTH
        assert height > 400


def test_no_chromium_and_a_node_that_does_not_start_are_said_and_no_error(folder: Path, tmp_path: Path) -> None:
    index = folder / "plain/index.html"
    assert take(index, tmp_path, PATH="/nonexistent")[:2] == [
        "no Chromium is installed",
        "apt-get install chromium-headless-shell",
    ]
    chromium_path()
    skipped, hint, *names = take(index, tmp_path, PLAYWRIGHT_NODEJS_PATH="/bin/false")
    assert "did not start" in skipped
    assert (hint, names) == ("apt-get install libatomic1", [])
