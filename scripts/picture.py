"""Take README's picture of the report: ``python scripts/picture.py dbsec-report/index.html docs/images/report.png``."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from dbsec.report.screens import FLAGS, find_browser

with sync_playwright() as play:
    page_file, picture = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    browser = play.chromium.launch(executable_path=find_browser(), args=[*FLAGS])
    page = browser.new_page(viewport={"width": 1200, "height": 860}, color_scheme="light")
    page.goto(page_file.as_uri())
    page.screenshot(path=picture)
    browser.close()
