"""The budget report in a real browser: readable on a phone, bilingual, quiet."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedcohort.experiments.reporting.budget import budget_document, write_budget
from fedcohort.privacy.ledger.export import export

pytestmark = pytest.mark.browser

LONG = "县人民医院 and a hospital with_a_very_long_name_that_no_line_can_hold_indeed_at_all"


@pytest.fixture(scope="module", params=["hospitals", "simulation"])
def page(
    request: pytest.FixtureRequest,
    made_ledger: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    folder = tmp_path_factory.mktemp("budget")
    kind = "simulation" if request.param == "simulation" else "site"
    paths = []
    for number, name in enumerate(["<script>alert(1)</script>", LONG]):
        ledger = made_ledger(name, kind=kind, unnoised=number == 1).plan("sepsis " * 12)
        ledger.plan("samples", 8.0, q=0.1).plan("runs", made=2, closed=False).plan("greedy", 0.9)
        if number == 1:
            ledger.plan("exact", None)
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(export(ledger.entries), encoding="utf-8")
    now = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    return write_budget(budget_document(paths, now=now), folder / "budget.html")[0].as_uri()


def body(browser: Any) -> str:
    text: str = browser.find_element("tag name", "body").text
    return text


def choose(browser: Any, language: str) -> None:
    browser.find_element("css selector", f"label[for=language-{language}]").click()


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture
def narrow(browser: Any) -> Iterator[None]:
    resize(browser, 400)
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_asks_for_nothing_and_complains_about_nothing(
    asked_for: Callable[[str], tuple[set[str], list[Any]]], page: str
) -> None:
    assert asked_for(page) == ({page}, [])


def test_the_switch_shows_one_language_at_a_time(browser: Any, page: str) -> None:
    browser.get(page)
    english = body(browser)
    assert "What was refused" in english
    assert "被拒绝的请求" not in english
    choose(browser, "zh")
    chinese = body(browser)
    assert "被拒绝的请求" in chinese
    assert "What was refused" not in chinese
    assert "误报率" in browser.find_element("css selector", ".trade-off").text
    choose(browser, "en")
    assert body(browser) == english


def test_what_must_not_be_missed_is_large(browser: Any, page: str) -> None:
    browser.get(page)
    alarms = browser.find_elements("css selector", ".alarm")
    assert alarms
    assert all("No guarantee is claimed" in alarm.text for alarm in alarms)
    ratio = browser.execute_script(CONTRAST, alarms[0])
    assert ratio >= 4.5
    banners = browser.find_elements("css selector", ".huge")
    if "simulation" in browser.find_element("css selector", ".bar").text.lower():
        assert banners[0].text == "SIMULATION"
        size = "return parseFloat(getComputedStyle(arguments[0]).fontSize)"
        assert browser.execute_script(size, banners[0]) >= 24  # px
    else:
        assert banners == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [400, 700, 1200])
def test_the_page_never_scrolls_sideways(
    browser: Any, page: str, width: int, language: str
) -> None:
    resize(browser, width)
    try:
        browser.get(page)
        choose(browser, language)
        browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        wide = browser.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


@pytest.mark.usefixtures("narrow")
def test_where_a_table_scrolls_a_hint_says_so(browser: Any, page: str) -> None:
    browser.get(page)
    told = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => (e.previousElementSibling.innerText || '') + '|' + "
        "getComputedStyle(e.previousElementSibling).display)"
    )
    assert told
    assert all("Scroll the table sideways" in text and text.endswith("|block") for text in told)


def test_the_bar_is_as_long_as_its_number(browser: Any, page: str) -> None:
    browser.get(page)
    widths = browser.execute_script(
        "const bar = document.querySelector('.big svg');"
        "const parts = [...bar.querySelectorAll(':scope > rect')];"
        "return parts.map(e => e.getBoundingClientRect().width)"
    )
    left, spent, reserved, frame = widths
    exact = browser.execute_script(
        "return [...document.querySelectorAll('.amounts .share data')].slice(0, 3)"
        ".map(e => parseFloat(e.getAttribute('value')))"
    )
    assert spent / frame == pytest.approx(exact[0], abs=0.005)
    assert reserved / frame == pytest.approx(exact[1], abs=0.005)
    assert sum(exact) == pytest.approx(1.0)
    assert left == pytest.approx(frame, abs=2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, page: str, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    for selector in (".lead", ".holds", ".terms", ".alarm", ".red", ".own td", ".curves li"):
        found = browser.find_element("css selector", selector)
        ratio = browser.execute_script(CONTRAST, found)
        assert ratio >= 4.5, f"{selector}: {ratio:.2f}"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_prints(browser: Any, page: str) -> None:
    browser.get(page)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 20


CONTRAST = """
const light = css => {
  const c = css.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
};
let behind = arguments[0];
while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)')
  behind = behind.parentElement;
const a = light(getComputedStyle(arguments[0]).color);
const b = light(getComputedStyle(behind).backgroundColor);
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""
