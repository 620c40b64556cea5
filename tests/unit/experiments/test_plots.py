"""The picture and the terminal tables: the same results, drawn and told honestly."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedcohort.experiments.reporting._ink import spread
from fedcohort.experiments.reporting.plots import comparison_svg, picture_words
from fedcohort.experiments.reporting.results import PictureData, Results
from fedcohort.experiments.reporting.tables import show

Make = Callable[..., Results]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def picture(make: Make) -> str:
    return comparison_svg(make())


@pytest.fixture(scope="module")
def make(fake: Make) -> Make:
    return fake


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)  # noqa: S314 - our own picture
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def test_the_same_results_give_the_same_bytes(make: Make, picture: str) -> None:
    again = Results.from_document(make().document())
    assert comparison_svg(again) == picture
    assert "<dc:date>" not in picture


def test_the_users_own_matplotlib_style_does_not_show(make: Make, picture: str) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert comparison_svg(make()) == picture


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "$x_1$", "$unclosed", "\x00\x1b]0;a", "北京协和医院", "]]>"],
)
def test_a_hospitals_name_is_drawn_literally(make: Make, name: str) -> None:
    svg = comparison_svg(make(sites=[name, "b", "c", "d"]))
    assert "<script" not in svg
    plain = set(texts(comparison_svg(make(sites=["a", "b", "c", "d"]))))
    (shown,) = set(texts(svg)) - plain
    clean = re.sub(r"[\x00-\x1f]", "", name).replace("_", " ")
    assert clean.startswith(shown.rstrip("…"))


@pytest.mark.parametrize("task", ["risk", "survival"])
@pytest.mark.parametrize("epsilons", [(), (3.0,), (1.0, 3.0, 8.0)])
def test_every_word_of_the_picture_has_its_chinese(
    make: Make, task: str, epsilons: tuple[float, ...]
) -> None:
    results = make(task, epsilons=epsilons)
    names = {site.site.replace("_", " ") for site in results.sites}
    numbers = re.compile(r"[+\N{MINUS SIGN}]?[\d.]+")
    words = picture_words(results)
    for text in texts(comparison_svg(results)):
        assert text in words or text in names or numbers.fullmatch(text), text


def test_verdicts_differ_in_shape_and_are_named(make: Make) -> None:
    shown = texts(comparison_svg(make(sites=list("abcde"))))
    assert {"gains", "loses", "no clear difference", "not measurable"} <= set(shown)


def test_a_comparison_with_nothing_in_it_is_still_a_picture(make: Make) -> None:
    empty = make(verdicts=(), summary=(), rows=(), privacy=(), picture=PictureData())
    shown = texts(comparison_svg(empty))
    assert {"no hospital was compared", "no arm could be scored", "no curves in this run"} <= set(
        shown
    )


def test_of_very_many_hospitals_the_lowest_and_highest_are_drawn(make: Make) -> None:
    shown = texts(comparison_svg(make(sites=[f"h{number}" for number in range(80)])))
    assert sum(bool(re.fullmatch(r"h\d+", text)) for text in shown) == 30
    assert "lowest and highest gains of 80 hospitals" in shown


@given(
    st.lists(st.floats(min_value=0, max_value=1, allow_nan=False), min_size=1, max_size=9),
    st.floats(min_value=0.001, max_value=0.1),
)
def test_labels_never_overlap_and_keep_their_order(values: list[float], gap: float) -> None:
    placed = spread(values, gap=gap, low=0.0, high=1.0)
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    heights = [placed[index] for index in order]
    assert all(b - a >= gap * (1 - 1e-9) for a, b in pairwise(heights))
    assert min(placed) >= -1e-9
    assert max(placed) <= 1 + 1e-9


def told(results: Results, width: int, *, color: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=color, highlight=False)
    show(results, console=console)
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("count", [2, 4, 9, 40])
def test_tables_fit_the_terminal_and_cut_no_number(make: Make, width: int, count: int) -> None:
    text = told(make(sites=[f"hospital_{number}" for number in range(count)]), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "0.886±0.011" in text
    assert not re.search(r"\d…", text)
    assert "\x1b" not in text


def test_every_hospital_of_a_few_has_its_own_column(make: Make) -> None:
    text = told(make(), 80)
    assert all(site in text for site in ("cleveland", "hungary", "switzerland"))
    assert "lowest of" not in text


def test_many_hospitals_are_folded(make: Make) -> None:
    text = told(make(sites=[f"h{number}" for number in range(9)]), 80)
    assert re.search(r"lowest\s+median\s+highest|lowest of", text)


def test_the_closing_line_says_what_epsilon_does_not_cover(make: Make) -> None:
    text = " ".join(told(make(), 80).split())
    assert "SIMULATION" in text
    assert "Epsilon covers the model, not the test metrics, which exist only in simulation" in text


def test_a_name_with_markup_is_told_literally(make: Make) -> None:
    text = told(make(sites=["[red]x[/red]", "b\x1b]0;c"]), 200)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_verdicts_are_coloured_on_a_terminal_only(make: Make) -> None:
    results = make(sites=list("abcde"))
    colored = told(results, 120, color=True)
    assert "\x1b[32m▲ gains" in colored
    assert "\x1b[31m▼ loses" in colored


def test_warnings_are_told(make: Make) -> None:
    assert "few_negatives switzerland: 8 patients" in told(make(), 120)
    assert "few_negatives" not in told(replace(make(), warnings=()), 120)
