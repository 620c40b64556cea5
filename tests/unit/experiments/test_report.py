"""The page: made from the document alone, escaped, complete in both languages."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from fedcohort.experiments.progress import RunProgress
from fedcohort.experiments.reporting._view import View, headline
from fedcohort.experiments.reporting.plots import comparison_svg
from fedcohort.experiments.reporting.report import make as make_page
from fedcohort.experiments.reporting.report import render
from fedcohort.experiments.reporting.results import Results, Verdict
from fedcohort.experiments.reporting.tables import show

Make = Callable[..., Results]
VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """Collects tags, text by language, and whether the tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.said: dict[str, list[str]] = {"en": [], "zh-CN": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("lang")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open and (language := self.open[-1][1]) in self.said and data.strip():
            self.said[str(language)].append(data)


def page_of(results: Results) -> str:
    return render(json.loads(results.dumps()), comparison_svg(results))


@pytest.fixture
def page(results: Results) -> str:
    return page_of(results)


def test_the_page_is_made_again_byte_for_byte(tmp_path: Path, results: Results) -> None:
    (tmp_path / "results.json").write_text(results.dumps(), encoding="utf-8")
    assert make_page(tmp_path) == make_page(tmp_path / "results.json") == page_of(results)


def test_it_is_well_formed_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:,")), (tag, target)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < 500_000


def test_everything_is_said_in_both_languages(page: str) -> None:
    said = Page(page).said
    assert len(said["en"]) == pytest.approx(len(said["zh-CN"]), abs=3)
    assert (
        "Epsilon covers the model, not the test metrics, which exist only in simulation."
        in (said["en"])
    )
    assert "ε 覆盖的是模型，不覆盖测试指标；测试指标仅存在于模拟中。" in said["zh-CN"]
    assert "Simulation" in said["en"]
    assert "模拟" in said["zh-CN"]


def test_it_claims_nothing_that_a_tool_cannot_claim(page: str) -> None:
    words = r"anonym|complian|complies|blockchain|certif|匿名|合规|区块链|认证"
    assert not re.search(words, page, re.IGNORECASE)


def test_all_sections_are_there(page: str, results: Results) -> None:
    for anchor in ("answer", "verdicts", "picture", "arms", "privacy", "sites", "warnings"):
        assert f'id="{anchor}"' in page
    for fact in (
        results.plan_sha256,
        results.command,
        "CC BY 4.0",
        "Nadeau &amp; Bengio",
        "RDP",
        "few_negatives",
        "numpy 2.4.6",
        "simulation only",
    ):
        assert fact in page


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "{{7*7}}"]
)
def test_a_hospitals_name_is_text(fake: Make, name: str) -> None:
    page = page_of(fake(sites=[name, "b", "c", "d"]))
    parsed = Page(page)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert "alert(1)" in page or "onerror" in page or "{{7*7}}" in page


def test_a_picture_with_a_script_is_refused(risk: Results) -> None:
    svg = comparison_svg(risk).replace("</svg>", "<script>alert(1)</script></svg>")
    with pytest.raises(ValueError, match="script"):
        render(risk.document(), svg)


def test_a_run_without_noise_claims_no_privacy(fake: Make) -> None:
    page = page_of(fake(epsilons=(), privacy=()))
    assert "no differential privacy is claimed" in page


def test_a_run_without_verdicts_or_scores_still_makes_a_page(fake: Make) -> None:
    page = page_of(fake(verdicts=(), summary=(), rows=(), warnings=(), notes=()))
    assert "No hospital was compared" in page


def verdict(kind: str, site: str, *, arm: str = "personalised") -> Verdict:
    return Verdict(
        site=site,
        arm=arm,
        metric="auroc",
        verdict=kind,  # type: ignore[arg-type]
        mean=None if kind == "not measurable" else 0.1,
        repeats=20,
    )


@pytest.mark.parametrize(
    ("kinds", "english"),
    [
        (["gains", "gains", "no clear difference", "no clear difference"], "helped 2 of 4"),
        (
            ["no clear difference"] * 4,
            "No hospital clearly gained by federating (personalised); none",
        ),
        (["gains", "loses", "loses", "not measurable"], "helped 1 of 4 hospitals; 2 lost. 1 could"),
        (["not measurable"] * 4, "No hospital's difference could be measured."),
    ],
)
def test_the_answer_is_counted_from_the_verdicts(
    risk: Results, kinds: list[str], english: str
) -> None:
    places = [site.site for site in risk.sites]
    verdicts = tuple(verdict(kind, site) for kind, site in zip(kinds, places, strict=True))
    found = headline(View(replace(risk, verdicts=verdicts)))[0]
    assert english in found.en
    assert found.zh


def test_the_personalised_model_answers_before_the_plain_one(risk: Results) -> None:
    verdicts = tuple(
        verdict(kind, site.site, arm=arm)
        for site in risk.sites
        for arm, kind in (("federated", "loses"), ("personalised", "gains"))
    )
    found = headline(View(replace(risk, verdicts=verdicts)))[0]
    assert found.en == "Federating (personalised) helped 4 of 4 hospitals; none lost."
    alone = tuple(entry for entry in verdicts if entry.arm == "federated")
    found = headline(View(replace(risk, verdicts=alone)))[0]
    assert found.en == "No hospital clearly gained by federating; 4 lost."


def test_shared_out_noise_without_masks_claims_nothing_against_the_coordinator(
    fake: Make,
) -> None:
    plain = fake()
    page = page_of(plain)
    assert "whoever sees only the total" in page
    assert "Sums were not masked in this run" in page
    masked = tuple(replace(fact, masked=True) for fact in plain.privacy)
    page = page_of(replace(plain, privacy=masked))
    assert "coordinator + 1 site" in page
    assert "not masked" not in page
    assert "whoever sees only the total" not in page


def test_noise_that_is_whole_at_every_hospital_needs_no_masks(fake: Make) -> None:
    alone = tuple(fact for fact in fake().privacy if fact.arm != "dp_sum")
    page = page_of(fake(privacy=alone))
    assert "coordinator + all other sites" in page
    assert "not masked" not in page


def test_a_personalised_model_is_never_called_private(fake: Make) -> None:
    results = fake()
    assert "fitted at home without noise: ε covers what it starts from" in page_of(results)
    cost = headline(View(results))[1]
    assert cost is not None
    assert "DP sum changed AUROC" in cost.en  # the first private arm, not the best by its score
    assert "mean of hospitals" in cost.en


def test_an_arms_epsilon_says_given_the_split_and_a_saved_models_from_the_extract_on(
    results: Results,
) -> None:
    said = Page(page_of(results)).said
    for arm, saved, language in (
        ("given the split", "from the extract on", "en"),
        ("以划分为条件", "自数据提取起", "zh-CN"),
    ):
        # One beside each epsilon of the two tables.
        assert said[language].count(arm) == len(results.privacy) == 9
        noisy = [model for model in results.models if model.epsilon_scope is not None]
        assert said[language].count(saved) == len(noisy) == 9
    assert "repeated splits of the same procedure" in " ".join(said["en"])
    assert "同一流程的重复划分" in " ".join(said["zh-CN"])
    assert "publishes more than one release" in " ".join(said["en"])
    assert "即发布了不止一次结果" in " ".join(said["zh-CN"])


def test_saved_models_name_their_data_and_which_must_stay_at_home(fake: Make) -> None:
    results = fake()
    page = page_of(results)
    assert page.count("all 1234 patients of 4 hospitals") == len(results.models)
    assert page.count("4 家医院的全部 1234 名患者") == len(results.models)
    stay = sum(model.stays_home for model in results.models)
    assert page.count("one for each hospital, which must stay there") == stay > 0
    assert "<code>models/dp_sum-eps3.safetensors</code>" in page


def test_the_screen_says_given_the_split_and_from_the_extract_on(results: Results) -> None:
    for width in (80, 200):
        console = Console(file=io.StringIO(), width=width, highlight=False)
        show(results, console=console)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        text = " ".join(" ".join(lines).split())
        assert "eps holds given the split" in text
        assert sum(line.rstrip().endswith("from the extract on") for line in lines) == 9
        assert "Saved models are fitted once more, on all patients and without a split." in text
        assert "repeated splits of the same procedure" in text


def test_without_noise_nothing_is_said_of_where_epsilon_holds(fake: Make) -> None:
    results = fake(epsilons=(), privacy=())
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show(results, console=console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "eps holds" not in told
    assert "Saved models are fitted once more" in " ".join(told.split())


def test_progress_shows_the_fit_on_all_patients_after_the_repeats() -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, width=100, force_terminal=True)
    with RunProgress(2, console) as progress:
        progress(0, "dp_sum", 3)
        with progress.full_fit() as on_round:
            on_round("dp_sum", 4)
            progress._progress.refresh()  # the clock would draw it by itself
    assert "all patients, dp_sum: rounds" in drawn.getvalue()
    assert "models, on all patients" in drawn.getvalue()


@pytest.mark.parametrize(
    ("z", "q", "proved"), [(6.2, 1.0, True), (0.12, 1.0, False), (6.2, 0.2, False)]
)
def test_the_tighter_epsilon_is_called_proved_where_it_is(
    risk: Results, z: float, q: float, proved: bool
) -> None:
    (fact, *_) = risk.privacy
    fact = replace(fact, noise_multiplier=z, sampling_probability=q, same_variance_epsilon=1.25)
    said = Page(page_of(replace(risk, privacy=(fact,)))).said
    assert ("proved" in said["en"], "已证明" in said["zh-CN"]) == (proved, proved)
    assert ("not the bound" in said["en"], "非界" in said["zh-CN"]) == (not proved, not proved)
