"""Pictures of a report for the documentation, in light, dark and at the width of a phone, by a browser that is there.

Usage:
    kdyolo compare studies/shapes --out report/                      # the study of docs/start/ten-minutes.md
    python scripts/report_pictures.py report/report.html             # docs/report{,-dark,-phone}.png

Needs playwright and a Chromium. Look at the pictures before you commit them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 128  # of a picture: charts and text have few, and files stay small
# Name in docs/ → width and height in pixels, and the scheme of colours.
PICTURES: dict[str, tuple[int, int, Literal["light", "dark"]]] = {
    "report.png": (1000, 1625, "light"),
    "report-dark.png": (1000, 980, "dark"),
    "report-phone.png": (390, 980, "light"),
}


def main() -> int:
    """Draw all pictures of a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html")
    report: Path = parser.parse_args().report
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not report.is_file() or browser is None:
        print(f"expected {report} and one of {', '.join(BROWSERS)}; one of them is missing", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, (width, height, scheme) in PICTURES.items():
            page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(5000)  # charts draw themselves one after the other
            page.screenshot(path=DOCS / name)
            picture = Image.open(DOCS / name).convert("RGB").quantize(COLOURS)
            picture.save(DOCS / name, optimize=True)
            print(DOCS / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
