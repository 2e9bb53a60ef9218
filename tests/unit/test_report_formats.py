"""The page, the Markdown and the JSON: complete, the same content, and hostile text stays text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tests.unit import report_sample
from tests.unit.report_sample import HOSTILE

from dbsec import __version__
from dbsec.report import Built, build, gfm

VOID = {"meta", "link", "path", "rect", "line", "circle", "use"}


class Page(HTMLParser):
    """Collects elements, and finds tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def built(folder: Path, *, suffix: str = "", clean: bool = False) -> Built:
    return build(report_sample.write(folder / "evidence.jsonl", suffix=suffix, clean=clean), folder)


def page(folder: Path, suffix: str = "") -> Page:
    built(folder, suffix=suffix)
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_three_files_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    paths = built(tmp_path).paths
    assert sorted(p.name for p in paths) == ["index.html", "report.json", "report.md"]
    assert {p.stat().st_mode & 0o777 for p in paths} == {0o600}


def test_the_page_is_the_same_for_the_same_evidence(tmp_path: Path) -> None:
    built(tmp_path)
    first = (tmp_path / "index.html").read_bytes()
    build(tmp_path / "evidence.jsonl", tmp_path)
    assert (tmp_path / "index.html").read_bytes() == first


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    seen = page(tmp_path, suffix=" " + HOSTILE)
    tags = {tag for tag, _ in seen.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "base", "audio", "video", "image"}
    policies = [m["content"] for m in seen.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for _, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
        assert "src" not in attributes


@pytest.mark.parametrize("suffix", ["", " " + HOSTILE], ids=["plain", "hostile"])
def test_tags_are_balanced_and_ids_are_unique_and_referred_to(tmp_path: Path, suffix: str) -> None:
    seen = page(tmp_path, suffix)
    ids = [a["id"] for _, a in seen.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for tag, a in seen.elements if tag in ("a", "use")}
    assert targets <= set(ids)


def test_hostile_text_is_shown_as_it_is_and_makes_no_element(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = page(tmp_path / "plain")
    (tmp_path / "hostile").mkdir()
    hostile = page(tmp_path / "hostile", " " + HOSTILE)
    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in hostile.elements]
    assert sum("<script>alert(1)</script>" in text for text in hostile.text) > 100
    assert "{{ 7*7 }}" in "".join(hostile.text)


def test_the_page_shows_every_line_of_the_evidence(tmp_path: Path) -> None:
    report = built(tmp_path).report
    text = "".join(Page((tmp_path / "index.html").read_text()).text)
    for control in [*report.controls, *report.as_found]:
        for seen in control.seen:
            assert seen.summary[1:] in text
            assert f"line {seen.line}" in text
        assert all(ref in text for ref in control.refs)


def test_markdown_has_the_content_of_the_page(tmp_path: Path) -> None:
    report = built(tmp_path).report
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# ✗ 8 of 11 controls hold after hardening\n")
    for control in [*report.controls, *report.as_found]:
        assert control.title[1:] in text
        assert all(gfm.text(seen.summary)[1:] in text for seen in control.seen)
    for title in ("## Risks and controls", "## SLO impact", "## Roles and rights", "## Provenance"):
        assert f"\n{title}\n" in text


def test_markdown_with_hostile_text_has_the_same_structure(tmp_path: Path) -> None:
    parser = MarkdownIt("commonmark").enable("table")

    def structure(suffix: str, name: str) -> list[str]:
        (tmp_path / name).mkdir()
        built(tmp_path / name, suffix=suffix)
        tokens = parser.parse((tmp_path / name / "report.md").read_text())
        assert not [t for t in tokens if t.type == "html_block" and "details" not in t.content]
        inline = [child.type for t in tokens for child in t.children or ()]
        assert not {"html_inline", "image", "link_open", "code_inline"} & set(inline)
        return [t.type for t in tokens]

    assert structure("", "plain") == structure(" " + HOSTILE, "hostile")


@pytest.mark.parametrize(
    "text", ["# a", "- a", "+ a", "1. a", "12) a", "= a", "> a", "a\n\n# b", "```", "***", "| a |", "[a]: b"]
)
def test_a_line_of_text_is_one_paragraph(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(gfm.text(text))
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert "".join(c.content for c in tokens[1].children or ()) == " ".join(text.split())


def test_numbers_are_not_escaped() -> None:
    assert gfm.text("3.3 ms") == "3.3 ms"
    assert gfm.text("pg_stat_ssl") == "pg_stat_ssl"


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert gfm.fence("a\n````\nb\x1b[31m") == "`````\na\n````\nb[31m\n`````"


def test_json_is_the_envelope_with_verdict_and_model(tmp_path: Path) -> None:
    built(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert {k: document[k] for k in ("dbsec", "format", "command")} == {
        "dbsec": __version__,
        "format": 1,
        "command": "report build",
    }
    result = document["result"]
    assert (result["verdict"], result["headline"]) == ("fail", "8 of 11 controls hold after hardening")
    assert [c["id"] for c in result["controls"] if c["verdict"] == "error"] == ["roles.limits", "transit.drained"]
    assert result["controls"][0]["drills"][1]["seen"][0]["phase"] == "before"
