"""What the pages on encryption say is what the code has: settings, findings, pictures, the bytes of the format."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from dbsec.crypto import format as crypto_format
from dbsec.crypto import settings
from dbsec.crypto.binding import RowType
from dbsec.crypto.classification import RULES
from dbsec.crypto.lookup import Normal

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/envelope_crypto.md").read_text()
FORMATS = (ROOT / "docs/formats.md").read_text()
PICTURES = sorted((ROOT / "docs/images").glob("crypto_*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def test_the_example_of_the_settings_is_read():
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    found = settings.of_table(tomllib.loads(example)["crypto"])
    (column,) = found.declared
    assert (str(column.field), column.row, column.tenant) == ("app.users.phone", ("id",), "tenant_id")


def test_the_settings_that_are_named_exist():
    table = PAGE.partition("| key | meaning | default |")[2].partition("\n\n")[0]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    known = {*settings.CryptoSettings.model_fields, *settings.ColumnSettings.model_fields}
    assert named - {*known, *settings.IndexSettings.model_fields} == set()
    assert set(settings.CryptoSettings.model_fields) - named <= {"cadence", "columns"}


def test_the_findings_are_those_of_the_command():
    told = dict(re.findall(r"^\| (ENC\d+) \|.*\| (\w+) \|$", PAGE, re.MULTILINE))
    assert told == {code: str(rule.severity) for code, rule in RULES.items()}


def test_the_bytes_of_the_format_are_those_of_the_code():
    told = {int(low, 16) for low in re.findall(r"^\| `(1\d)` \|", FORMATS, re.MULTILINE)}
    assert told == {crypto_format.VERSION << 4 | one for one in crypto_format.Algorithm}
    types = {int(code, 16) for code in re.findall(r"^\| `(0\d|7F)` \|", FORMATS, re.MULTILINE)}
    assert types == set(RowType)
    for name in Normal:
        assert f"| `{name}` |" in FORMATS


def test_the_pictures_are_what_the_script_draws():
    command = [sys.executable, "scripts/diagrams.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_loads_nothing_says_what_it_is_and_fits(path):
    raw = path.read_text()
    assert f"](images/{path.name})" in PAGE
    assert not re.findall(r"(?:href|src|url\()\s*=?\s*[\"']?(?!#)http", raw.replace("http://www.w3.org/2000/svg", ""))
    assert "prefers-color-scheme: dark" in raw
    root = ET.fromstring(raw)
    assert root.findtext(f"{SVG}title")
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for text in root.iter(f"{SVG}text"):
        wide = 7.2 * len(text.text or "")
        left = float(text.attrib["x"]) - (wide / 2 if text.attrib["text-anchor"] == "middle" else 0)
        assert left >= 0
        assert left + wide <= width
        assert 0 < float(text.attrib["y"]) < height
