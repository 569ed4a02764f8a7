"""Make docs/images/pages.png: a page of a run's report, and the explorer at one of its digits.

    python tools/make_pages_picture.py runs/demo

The run has to be evaluated. Needs Chromium, chromedriver and the extras ``test`` and ``explore``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import pyrovae as pv
from pyrovae.reports.explorer import app

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium  # noqa: E402 (of the tests, found by the line above)
from exploring import served  # noqa: E402

WIDTH, HEIGHT, GAP = 760, 900, 24
DIGIT = 17


def of_report(browser: object, run: Path, folder: Path) -> Path:
    """The report from its results on."""
    page = pv.report([run], folder / "report.html")
    browser.get(page.as_uri())
    browser.execute_script(
        "[...document.querySelectorAll('h2')].find(h => /log p/.test(h.textContent)).scrollIntoView()"
    )
    return taken(browser, folder / "report.png")


def of_explorer(browser: object, run: Path, folder: Path) -> Path:
    """The explorer, at a digit of the test data that it has evaluated."""
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with served(app(run)) as address:
        browser.get(address)
        wait = WebDriverWait(browser, 30)
        wait.until(lambda _: browser.execute_script("return document.getElementById('mean').width") == 28)
        browser.find_element("id", "row").send_keys(Keys.CONTROL, "a", Keys.NULL, str(DIGIT), Keys.ENTER)
        wait.until(lambda _: "±" in browser.find_element("id", "numbers").text)
        browser.find_element("id", "send").click()
        browser.execute_script("window.scrollTo(0, 0)")
        return taken(browser, folder / "explorer.png")


def taken(browser: object, path: Path) -> Path:
    """What the window shows."""
    browser.save_screenshot(str(path))
    return path


def main(run: Path) -> None:
    """Both side by side, in 128 colours."""
    with tempfile.TemporaryDirectory() as folder, chromium(WIDTH, HEIGHT) as browser:
        paths = [take(browser, run, Path(folder)) for take in (of_report, of_explorer)]
        whole = Image.new("RGB", (2 * WIDTH + GAP, HEIGHT), "#888888")
        for place, path in enumerate(paths):
            whole.paste(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT)), (place * (WIDTH + GAP), 0))
    whole.quantize(128).save(ROOT / "docs/images/pages.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
