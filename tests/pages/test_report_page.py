"""The report in a real browser: readable, bilingual, quiet."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcohort.experiments.reporting.plots import comparison_svg
from fedcohort.experiments.reporting.report import render
from fedcohort.experiments.reporting.results import Results

pytestmark = pytest.mark.browser

SITES = (
    "<script>alert(1)</script>",
    "hungary",
    "a hospital with a very long name indeed",
    "县医院",
    "e",
)


def fake() -> Callable[..., Results]:
    """Return the made-up comparison of the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "experiments" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fake_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make: Callable[..., Results] = module.make_results
    return make


@pytest.fixture(scope="module", params=["risk", "survival"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    results = fake()(request.param, sites=SITES)
    path = tmp_path_factory.mktemp("run") / "report.html"
    document = json.loads(results.dumps())
    path.write_text(render(document, comparison_svg(results)), encoding="utf-8")
    return path.as_uri()


def body(browser: Any) -> str:
    text: str = browser.find_element("tag name", "body").text
    return text


def choose(browser: Any, language: str) -> None:
    browser.find_element("css selector", f"label[for=language-{language}]").click()


def test_it_asks_for_nothing_and_complains_about_nothing(
    asked_for: Callable[[str], tuple[set[str], list[Any]]], page: str
) -> None:
    assert asked_for(page) == ({page}, [])


def test_the_switch_shows_one_language_at_a_time(browser: Any, page: str) -> None:
    browser.get(page)
    english = body(browser)
    assert "Each hospital's verdict" in english
    assert "which exist only in simulation" in english
    assert "各医院的结论" not in english
    choose(browser, "zh")
    chinese = body(browser)
    assert "各医院的结论" in chinese
    assert "测试指标仅存在于模拟中" in chinese
    assert "Each hospital's verdict" not in chinese
    choose(browser, "en")
    assert body(browser) == english


def test_the_picture_changes_its_language_too(browser: Any, page: str) -> None:
    browser.get(page)
    choose(browser, "zh")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.picture tspan')]"
        ".filter(e => getComputedStyle(e).display !== 'none').map(e => e.lang || "
        "e.getAttribute('lang'))"
    )
    assert set(shown) == {"zh-CN"}


def test_the_keyboard_can_switch(browser: Any, page: str) -> None:
    browser.get(page)
    browser.find_element("id", "language-en").send_keys("\ue014")  # arrow right
    assert "各医院的结论" in body(browser)


def test_the_answer_and_every_verdict_are_shown(browser: Any, page: str) -> None:
    browser.get(page)
    lead = browser.find_element("css selector", ".lead").text
    assert lead == (
        "Federating (personalised) helped 2 of 5 hospitals; 1 lost. 1 could not be measured."
    )
    badges = [
        e.text for e in browser.find_elements("css selector", ".verdicts td:nth-child(2) .badge")
    ]
    assert [text.split(" ", 1)[1] for text in badges[:5]] == [
        "no clear difference",
        "gains",
        "gains",
        "not measurable",
        "loses",
    ]
    assert "SIMULATION" in browser.find_element("css selector", ".simulation").text.upper()


def test_a_hospital_called_script_is_only_text(browser: Any, page: str) -> None:
    browser.get(page)
    assert browser.execute_script("return document.scripts.length") == 0
    assert "<script>alert(1)</script>" in body(browser)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [400, 900])
def test_the_page_never_scrolls_sideways(
    browser: Any, page: str, width: int, language: str
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(page)
        choose(browser, language)
        browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        wide = browser.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


def test_no_two_texts_of_the_picture_overlap(browser: Any, page: str) -> None:
    browser.get(page)
    for language in ("en", "zh"):
        choose(browser, language)
        boxes = browser.execute_script(
            "return [...document.querySelectorAll('.picture text')].map(e => "
            "{const b = e.getBoundingClientRect();"
            " return [e.textContent, b.left, b.top, b.right, b.bottom]})"
        )
        for number, (one, left, top, right, bottom) in enumerate(boxes):
            for other, x, y, x_end, y_end in boxes[number + 1 :]:
                across = min(right, x_end) - max(left, x)
                down = min(bottom, y_end) - max(top, y)
                assert min(across, down) < 4, f"{one!r} over {other!r}"  # px of empty line height


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, page: str, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    for selector in (".lead", ".fine", "figcaption", ".gains", ".loses", ".unclear", ".tag"):
        ratio = browser.execute_script(CONTRAST, selector)
        assert ratio >= 4.5, f"{selector}: {ratio:.2f}"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRAST = """
const light = css => {
  const c = css.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
};
const element = document.querySelector(arguments[0]);
let behind = element;
while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)')
  behind = behind.parentElement;
const a = light(getComputedStyle(element).color);
const b = light(getComputedStyle(behind).backgroundColor);
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""
