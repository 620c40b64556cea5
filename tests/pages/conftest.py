"""A headless browser for the pages that reviewers read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
DRIVER = shutil.which("chromedriver") or "/usr/bin/chromedriver"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
        pytest.skip("no chromium with its chromedriver (apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def asked_for(browser: Any) -> Callable[[str], tuple[set[str], list[Any]]]:
    """Open a page: the addresses it asked for, and the browser's complaints."""

    def opened(page: str) -> tuple[set[str], list[Any]]:
        browser.get("data:,")  # whatever a starting browser opens is over
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(page)
        asked: set[str] = set()
        for _ in range(50):  # the log of a busy machine comes late
            events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
            asked |= {
                event["params"]["request"]["url"]
                for event in events
                if event["method"] == "Network.requestWillBeSent"
            }
            if page in asked:
                break
            browser.execute_script("return document.title")
        return asked - {"data:,"}, browser.get_log("browser")

    return opened
