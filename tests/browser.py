"""A real browser without a window, for tests of pages; they are skipped where there is none."""

import base64
import importlib.util
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None or importlib.util.find_spec("selenium") is None,
    reason="a browser is needed: apt-get install chromium chromium-driver, pip install selenium",
)


@contextmanager
def chromium(width=1280, height=900):
    """A selenium driver of a headless Chromium whose pages are ``width`` by ``height`` CSS pixels.

    A window is never narrower than some 500 pixels; the page is, by emulation, as on a phone.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which Chromium refuses to have for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        resize(browser, width, height)
        yield browser
    finally:
        browser.quit()


def resize(browser, width, height=900):
    """Give the page another size, in CSS pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def console_errors(browser):
    """What the console says is wrong, since it was last asked."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def screenshot(browser, path):
    """A picture of the whole page, also of what lies below the window's edge."""
    size = {"captureBeyondViewport": True, "format": "png"}
    found = browser.execute_cdp_cmd("Page.captureScreenshot", size)
    Path(path).write_bytes(base64.b64decode(found["data"]))
