"""The budget report: its numbers are the ledger's, its claims no more than the ledger's."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import html
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.experiments import commands
from fedcohort.experiments.reporting._budget_document import json_schema
from fedcohort.experiments.reporting._budget_figures import figures
from fedcohort.experiments.reporting._budget_odds import (
    detection_by_epsilon,
    detection_by_noise,
    detection_by_order,
    gaussian_mu,
    mu_of_budget,
)
from fedcohort.experiments.reporting.budget import (
    budget_document,
    dumps,
    loads,
    render_budget,
    write_budget,
)
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.events import read_events
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.privacy.ledger.export import export
from fedcohort.privacy.ledger.store import SqliteLedger
from fedcohort.privacy.pld import rdp_epsilon

ROOT = Path(__file__).resolve().parents[3]
CHECKER = ROOT / "docs/how-to/check_budget.py"
NOW = dt.datetime(2026, 3, 2, 9, 0, tzinfo=dt.UTC)
CLAIMS = r"anonym|complian|complies|blockchain|certif|匿名|合规|区块链|认证"
VOID = {"meta", "link", "input", "br"}

Make = Callable[..., Any]
Save = Callable[..., Path]


class Page(HTMLParser):
    """Collects tags, texts by language, data elements, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.said: dict[str, list[str]] = {"en": [], "zh-CN": []}
        self.numbers: list[tuple[float, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("lang") or dict(attrs).get("value")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, value = self.open[-1] if self.open else ("", None)
        if tag == "data":
            self.numbers.append((float(value or "nan"), data))
        elif value in self.said and data.strip():
            self.said[str(value)].append(data)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a made ledger as its export."""

    def write(ledger: Any, name: str = "ledger.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(export(ledger.entries), encoding="utf-8")
        return path

    return write


@pytest.fixture
def busy(made_ledger: Make) -> Any:
    """A hospital's ledger with everything in it but a release without noise."""
    ledger = made_ledger().plan("sepsis", 25.0).plan("samples", 8.0, q=0.1, planned=30, made=21)
    ledger.plan("relapse", 30.0, made=4, closed=False).plan("given back", 12.0, made=0)
    return ledger.plan("greedy", 1.0)


def made(*paths: Path, everything: bool = False) -> dict[str, Any]:
    return budget_document(list(paths), now=NOW, everything=everything)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as refused:
        action()
    return refused.value.code


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """Compute the seal of a document anew, as somebody would who edits on purpose."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**body, "sha256": hashlib.sha256(text.encode()).hexdigest()}


# ---- the page


def test_the_page_is_made_again_byte_for_byte(save: Save, busy: Any, tmp_path: Path) -> None:
    document = made(save(busy))
    page, data = write_budget(document, tmp_path / "budget.html")
    later = budget_document([data], now=NOW + dt.timedelta(days=900))
    again, beside = write_budget(later, tmp_path / "again.html")
    assert again.read_bytes() == page.read_bytes() == render_budget(document).encode()
    assert beside.read_bytes() == data.read_bytes() == dumps(document).encode()


def test_it_is_well_formed_and_loads_nothing(save: Save, busy: Any) -> None:
    page = render_budget(made(save(busy)))
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
    assert len(page.encode()) < 200_000


def test_everything_is_said_in_both_languages(save: Save, busy: Any) -> None:
    said = Page(render_budget(made(save(busy)))).said
    assert len(said["en"]) == len(said["zh-CN"])
    assert "The guarantee" in said["en"]
    assert "保证" in said["zh-CN"]
    assert not any(re.search(r"[\u4e00-\u9fff]", text) for text in said["en"])


def numbers_of(told: dict[str, Any]) -> set[float]:
    """Every number of a statement that the page has to show."""
    budget = told["budget"]
    found = {budget[name] for name in ("epsilon", "delta", "limit")}
    for part in ("spent", "reserved", "left"):
        found |= set(told[part].values())
    for row in told["sites_per_person"]:
        found |= {row["epsilon_spent"], row["epsilon_budget"]}
    for plan in told["plans"]:
        found |= {
            plan[name]
            for name in ("clip", "rdp", "rdp_planned", "epsilon_alone", "epsilon_together")
        }
        found |= {plan["mechanism"]["noise_multiplier"], plan["mechanism"]["sampling_probability"]}
    found |= {refused["rdp_asked"] for refused in told["refused"]}
    return found | {told["same_variance"]["epsilon"]}


def test_every_number_of_the_statement_is_in_the_page_as_it_is(save: Save, busy: Any) -> None:
    document = made(save(busy))
    told = document["hospitals"][0]["statement"]
    page = render_budget(document)
    shown = Page(page).numbers
    assert numbers_of(told) - {None} <= {exact for exact, _ in shown}
    assert told["chain"]["head"] in page
    for plan in told["plans"]:
        assert f"{plan['rounds_executed']} / {plan['rounds']}" in page
        assert f"{plan['releases_executed']} / {plan['releases']}" in page
        assert plan["plan_sha256"] in page


def test_no_figure_says_less_than_its_number(save: Save, busy: Any) -> None:
    document = made(save(busy))
    told = document["hospitals"][0]["statement"]
    left = set(told["left"].values())
    for exact, text in Page(render_budget(document)).numbers:
        share = text.endswith("\u00a0%")
        number = float(text.removesuffix("\u00a0%")) / (100 if share else 1)
        slack = max(1e-5 if share else 1e-6, 1e-3 * exact)
        assert number == pytest.approx(exact, abs=slack), text
        if exact in left and exact not in numbers_of({**told, "left": {}}):
            assert number <= exact * (1 + 1e-9), text
        else:
            assert number >= exact * (1 - 1e-9), text


@pytest.mark.parametrize("value", [1e-12, 3e-7, 0.1, 0.12345, 1.0, 2.9999, 99.995, 12345.6, 3e9])
def test_figures_are_rounded_up_or_down_never_across(value: float) -> None:
    assert float(figures(value, floor=True)) <= value * (1 + 1e-9)
    up = float(figures(value))
    assert up >= value * (1 - 1e-9) or value >= 1e6
    assert up <= value * 1.002 + 1e-6


def test_the_page_recomputed_from_the_noise_alone(save: Save, busy: Any) -> None:
    """Order, limit, cost, odds and curves by formulas that share no code with the page's."""
    page = render_budget(made(save(busy)))
    shown = Page(page).numbers
    values = [exact for exact, _ in shown]

    def is_shown(number: float) -> bool:
        return any(math.isclose(number, value, rel_tol=1e-6) for value in values)

    limit = 3 + (math.log(1e-5) + math.log(8)) / 7 - math.log(7 / 8)
    assert is_shown(limit)
    assert is_shown(10 * 8 / (2 * 25.0**2))
    assert is_shown(0.1 * math.e**3 / (0.9 + 0.1 * math.e**3))  # of somebody 10 % sure
    assert is_shown(math.e**3 * 0.01 + 1e-5)  # detected at 1 % false alarms, worst case
    assert is_shown((math.exp(limit) * 0.01) ** (7 / 8))  # what order 8 proves
    normal = NormalDist()
    mu = math.sqrt(2 * limit / 8)
    assert is_shown(normal.cdf(normal.inv_cdf(0.01) + mu))
    assert is_shown((math.e**3 - 1 + 2e-5) / (math.e**3 + 1))  # advantage
    odds_table = page[page.index('id="odds-1"') :]
    for epsilon, tpr, sure in [(1, 0.0198, 0.180), (8, 0.2545, 0.739)]:  # the literature's
        row = odds_table[odds_table.index(f'<data value="{epsilon}.0">{epsilon}</data>') :]
        odds = [float(value) for value in re.findall(r'<data value="(.+?)"', row)]
        assert odds[5] == pytest.approx(tpr, abs=5e-5)
        assert odds[8] == pytest.approx(sure, abs=5e-4)


def test_every_epsilon_goes_with_its_terms(save: Save, busy: Any) -> None:
    said = Page(render_budget(made(save(busy)))).said
    terms = [text for text in said["en"] if text.startswith("Every ε here")]
    assert len(terms) == 3  # under the amounts, under 1 to 3 hospitals, under the costs
    for word in ("rdp", "1e-05", "one patient with all rows", "added or removed", "any 1 other"):
        assert all(word in text for text in terms)
    assert any("same variance, not the bound" in text for text in said["en"])  # it has samples


@pytest.mark.parametrize(
    ("others", "proved"),
    [([], True), ([{"q": 0.1}], False), ([{"q": 0.1, "made": 0}], True)],
    ids=["sums", "a sample", "a sample that was planned"],
)
def test_the_tighter_number_is_called_proved_where_all_that_was_made_are_sums(
    save: Save, made_ledger: Make, others: list[dict[str, Any]], proved: bool
) -> None:
    ledger = made_ledger().plan("sums", 25.0).plan("exact", None)
    for number, other in enumerate(others):
        ledger.plan(f"samples {number}", 8.0, planned=30, **{"made": 21, **other})
    said = Page(render_budget(made(save(ledger)))).said
    for language, yes, no in (
        ("en", "proved for these releases too, had all been fixed beforehand", "not the bound."),
        ("zh-CN", "已证明它对这些发布同样成立", "相同方差，并非上界。"),
    ):
        assert any(yes in text for text in said[language]) == proved
        assert any(text.endswith(no) for text in said[language]) != proved


def test_the_guarantee_is_one_sentence_with_the_ledgers_numbers(save: Save, busy: Any) -> None:
    page = render_budget(made(save(busy)))
    assert "even if the coordinator and up to c = 1 other hospital pool" in page
    assert "at most a factor e^3 = 20.09, plus δ = 1e-05." in page
    assert "with two, ε is 6.622, with three 10.76" in page
    assert "The staff of the hospital" in page
    assert "That the hospital took part" in page
    assert "How long the hospital took to answer." in page
    assert "More than c = 1 other hospital that pools" in page
    assert "rests on the ciphers of the masks" in page


def test_only_masked_shares_rest_on_ciphers_and_only_samples_on_a_grid(
    save: Save, made_ledger: Make
) -> None:
    alone = render_budget(made(save(made_ledger().plan("each", sharing="each"))))
    assert "ciphers of the masks" not in alone
    assert "discrete on a fine grid" not in alone
    page = render_budget(made(save(made_ledger().plan("samples", 8.0, q=0.1))))
    assert "ciphers of the masks" not in page
    assert "by less than 4e-4 with d = 20 and T = 100." in page


def test_an_unused_ledger_says_against_whom_and_why_its_epsilons_differ(
    save: Save, made_ledger: Make
) -> None:
    page = render_budget(made(save(made_ledger())))
    assert "the coordinator and the other hospitals that its future plans name pool every" in page
    assert "the order was fixed beforehand" in page
    assert "1 entry, 2026" in page
    used = render_budget(made(save(made_ledger().plan("a", planned=1, made=1))))
    assert "the order was fixed beforehand" not in used
    assert "4 entries, 2026" in used
    assert "So far: 1 noisy sum of 1 plan." in used


def test_the_events_of_the_page_cost_what_the_page_says(save: Save, busy: Any) -> None:
    document = made(save(busy))
    text = re.search(r"<pre><code>(\[.*?\])</code>", render_budget(document))
    assert text
    event = read_events(text[1].replace("&#34;", '"'))
    spent = document["hospitals"][0]["statement"]["spent"]["epsilon"]
    assert rdp_epsilon(event, 1e-5) == pytest.approx(spent, rel=1e-3)


@pytest.mark.parametrize("kind", ["site", "simulation"])
def test_it_claims_nothing_that_a_tool_cannot_claim(
    save: Save, made_ledger: Make, kind: str
) -> None:
    ledger = made_ledger(kind=kind, unnoised=True).plan("sepsis").plan("exact", None)
    document = made(save(ledger))
    assert not re.search(CLAIMS, render_budget(document), re.IGNORECASE)
    assert not re.search(CLAIMS, dumps(document), re.IGNORECASE)


def test_a_release_without_noise_voids_the_guarantee_in_red(save: Save, made_ledger: Make) -> None:
    ledger = made_ledger(unnoised=True).plan("sepsis")
    assert "None has been; after the first" in render_budget(made(save(ledger)))
    page = render_budget(made(save(ledger.plan("exact", None, made=7))))
    alarm = re.search(r'<p class="alarm"><span lang="en">(.+?)</span>', page)
    assert alarm
    assert (
        "No guarantee is claimed for admissions 2019-2025 at St. Mary&#39;s: 7 vectors" in alarm[1]
    )
    assert "(exact)" in alarm[1]
    assert "For any one patient" not in page
    assert "What the ledger proves" not in page
    assert "No guarantee: a gauge of the noisy releases alone." in page


def test_a_ledger_without_a_budget_claims_nothing(save: Save, made_ledger: Make) -> None:
    page = render_budget(made(save(made_ledger(budget=None, unnoised=True))))
    assert "opened without a budget" in page
    assert "For any one patient" not in page


def test_shares_of_noise_without_masks_protect_from_nobody_who_sees_them(
    save: Save, made_ledger: Make
) -> None:
    ledger = made_ledger(kind="simulation").plan("plain", masked=False)
    page = render_budget(made(save(ledger)))
    assert "even if those pool who see the totals only" in page
    assert "only who sees no more than the total: sums were not masked" in page


def test_simulation_is_printed_large_and_only_there(save: Save, made_ledger: Make) -> None:
    real = render_budget(made(save(made_ledger().plan("sepsis"))))
    assert "simulation" not in Page(real).said["en"]
    assert "SIMULATION" not in real
    page = render_budget(made(save(made_ledger(kind="simulation").plan("sepsis"))))
    assert '<p class="huge"><span lang="en">SIMULATION</span><span lang="zh-CN">模拟</span>' in page
    assert page.count("SIMULATION") >= 4  # title, banner, its label, the ledger's heading
    assert "exact numbers of patients and rows" in page


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "{{7*7}}", "\u202eabc", "--rm"]
)
def test_hostile_names_are_text(save: Save, made_ledger: Make, text: str) -> None:
    ledger = made_ledger(text, population=text).plan(text, purpose=text, analysis=text)
    page = render_budget(made(save(ledger.plan(text, 0.9))))
    parsed = Page(page)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert parsed.open == []
    assert "\u202e" not in page
    said = [data for texts in parsed.said.values() for data in texts]
    assert any(text.removeprefix("\u202e") in data for data in said)


def test_the_commands_of_the_page_exist(save: Save, busy: Any) -> None:
    shown = re.findall(r"^ *(?:<pre><code>)?(fedcohort .+)$", render_budget(made(save(busy))), re.M)
    assert len(shown) == 4
    for line in shown:
        words = shlex.split(html.unescape(line).partition("</code>")[0].partition("&&")[0])[1:]
        tool: Any = typer.main.get_command(commands.app)
        while hasattr(tool, "commands"):
            tool = tool.commands[words.pop(0)]
        options = {name for parameter in tool.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


# ---- where it comes from


def run_folder(save: Save, make: Make, repeats: int = 2) -> Path:
    for arm, epsilon in (("dp_sum", 10.0), ("dp_sum", 3.0), ("dp_each", 3.0)):
        for repeat in range(repeats):
            for hospital in ("north", "south"):
                ledger = make(
                    hospital, kind="simulation", budget=Budget(epsilon=epsilon, delta=1e-4)
                )
                name = f"run/ledgers/{arm}-eps{epsilon:g}-repeat{repeat}/{hospital}.ledger"
                path = save(ledger.plan("study", 40.0), name)
    return path.parents[2]


def test_of_a_run_the_first_repeat_of_each_arm_is_shown(save: Save, made_ledger: Make) -> None:
    folder = run_folder(save, made_ledger)
    document = made(folder)
    assert [hospital["source"] for hospital in document["hospitals"]] == [
        f"ledgers/{arm}-repeat0/{hospital}.ledger"
        for arm in ("dp_each-eps3", "dp_sum-eps3", "dp_sum-eps10")
        for hospital in ("north", "south")
    ]
    assert document["repeats_left_out"] == 6
    page = render_budget(document)
    assert "the ledgers of further repeats (6)" in page
    assert page.count('aria-labelledby="ledger-') >= 3
    assert "north / south" in page  # one section for hospitals of which the same holds
    assert "rows at any one of north, south were used" in page
    assert "该患者在 north、south 中任意一家 的记录" in page
    assert "fedcohort ledger verify ledgers/dp_each-eps3-repeat0/north.ledger" in page
    assert len(made(folder, everything=True)["hospitals"]) == 12


def test_of_a_run_that_saves_models_the_fit_on_all_patients_is_shown(
    save: Save, made_ledger: Make
) -> None:
    folder = run_folder(save, made_ledger)
    for hospital in ("north", "south"):
        ledger = made_ledger(hospital, kind="simulation", budget=Budget(epsilon=3.0, delta=1e-4))
        save(ledger.plan("study", 40.0), f"run/ledgers/dp_sum-eps3-all-patients/{hospital}.ledger")
    sources = [hospital["source"] for hospital in made(folder)["hospitals"]]
    assert sources[2:4] == [
        f"ledgers/dp_sum-eps3-all-patients/{hospital}.ledger" for hospital in ("north", "south")
    ]
    assert not [source for source in sources if source.startswith("ledgers/dp_sum-eps3-repeat")]
    assert made(folder)["repeats_left_out"] == 8
    assert len(made(folder, everything=True)["hospitals"]) == 14


def test_a_folder_of_ledgers_and_single_files_do_too(
    save: Save, made_ledger: Make, tmp_path: Path
) -> None:
    one = save(made_ledger("one").plan("a"), "folder/one.ledger")
    other = save(made_ledger("two").plan("a"), "two.json")
    document = made(tmp_path / "folder", other)
    assert [h["statement"]["hospital"] for h in document["hospitals"]] == ["one", "two"]
    assert made(one)["hospitals"][0]["source"] == "one.ledger"


def test_a_ledger_that_is_given_twice_is_told_of_once(
    save: Save, made_ledger: Make, tmp_path: Path
) -> None:
    ledger = made_ledger("one").plan("a")
    one, again = save(ledger, "folder/one.ledger"), save(ledger, "one.json")
    other = save(made_ledger("two").plan("a"), "two.json")
    document = made(one, again, other, one.parent, one)
    assert [hospital["source"] for hospital in document["hospitals"]] == ["one.ledger", "two.json"]
    folder = run_folder(save, made_ledger)
    assert made(folder, folder / ".") == made(folder)  # what is left out is not counted twice
    assert len(made(tmp_path / "folder")["hospitals"]) == 1


def test_a_ledger_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "real.ledger"
    opening = Opening(
        hospital="real",
        population="2025",
        kind="site",
        budget=Budget(epsilon=1.0, delta=1e-6),
        unnoised=False,
    )
    SqliteLedger.create(path, opening).dispose()
    before = path.read_bytes()
    assert made(path)["hospitals"][0]["statement"]["left"]["share"] == 1.0
    assert path.read_bytes() == before
    head = path.with_name("real.ledger.head")
    head.write_text(f"2:{'a' * 64}\n", encoding="ascii")
    assert refusal(lambda: made(path)) == "ledger_rolled_back"
    head.write_text("yesterday", encoding="ascii")
    assert refusal(lambda: made(path)) == "head_unreadable"


def test_broken_and_missing_ledgers_are_refused(
    save: Save, made_ledger: Make, tmp_path: Path
) -> None:
    path = save(made_ledger().plan("a"))
    path.write_text(path.read_text().replace("25.0", "52.0"), encoding="utf-8")
    assert refusal(lambda: made(path)) == "ledger_broken"
    path.write_text("not JSON", encoding="utf-8")
    assert refusal(lambda: made(path)) == "ledger_unreadable"
    assert refusal(lambda: made(tmp_path / "none.ledger")) == "ledger_missing"
    (tmp_path / "empty").mkdir()
    assert refusal(lambda: made(tmp_path / "empty")) == "ledger_missing"


def test_a_simulations_ledger_is_not_put_beside_a_hospitals(save: Save, made_ledger: Make) -> None:
    real = save(made_ledger(), "real.json")
    toy = save(made_ledger(kind="simulation"), "toy.json")
    assert refusal(lambda: made(real, toy)) == "ledger_kind"


# ---- the JSON


def test_unknown_formats_are_refused(save: Save, busy: Any, tmp_path: Path) -> None:
    document = made(save(busy))
    path = tmp_path / "report.json"
    newer = {**document, "format": "fedcohort.budget_report/2"}
    path.write_text(dumps(newer), encoding="utf-8")
    assert refusal(lambda: made(path)) == "budget_report_invalid"
    for text in ("[]", "{}", "null", "{", "[" * 100_000, dumps(document).replace("10", "NaN")):
        assert refusal(lambda text=text: loads(text)) == "budget_report_invalid"  # type: ignore[misc]
    extra = copy.deepcopy(document)
    extra["hospitals"][0]["statement"]["verdict"] = "safe"
    assert refusal(lambda: loads(dumps(sealed(extra)))) == "budget_report_invalid"


def test_every_field_is_documented() -> None:
    schema = json_schema()
    fields = set(schema["properties"])
    for definition in schema["$defs"].values():
        fields |= set(definition["properties"])
    documented = (ROOT / "docs/reference/budget-report.md").read_text(encoding="utf-8")
    assert fields <= set(re.findall(r"`([^`]+)`", documented))


def edits() -> dict[str, Callable[[dict[str, Any]], None]]:
    def spent(told: dict[str, Any]) -> None:
        told["spent"]["rdp"] /= 2

    def all_spent(told: dict[str, Any]) -> None:
        for part in (told["spent"], told["plans"][0]):
            part["rdp"] /= 2
        told["spent"]["share"] = told["spent"]["rdp"] / told["budget"]["limit"]

    def share(told: dict[str, Any]) -> None:
        told["spent"]["share"] = 0.01

    def budget(told: dict[str, Any]) -> None:
        told["budget"]["epsilon"] = 1.0

    def order(told: dict[str, Any]) -> None:
        told["budget"]["order"] = 9

    def noise(told: dict[str, Any]) -> None:
        told["plans"][0]["mechanism"]["noise_multiplier"] = 99.0

    def several(told: dict[str, Any]) -> None:
        told["sites_per_person"][1]["epsilon_budget"] = 3.0

    def alone(told: dict[str, Any]) -> None:
        told["plans"][0]["epsilon_alone"] = 0.1

    def unnoised(told: dict[str, Any]) -> None:
        told["unnoised_releases"] = 1

    found = (spent, all_spent, share, budget, order, noise, several, alone, unnoised)
    return {edit.__name__: edit for edit in found}


@pytest.mark.parametrize("name", edits())
@pytest.mark.parametrize("reseal", [False, True])
def test_an_edited_number_is_refused(save: Save, busy: Any, name: str, reseal: bool) -> None:
    document = made(save(busy))
    edits()[name](document["hospitals"][0]["statement"])
    changed = sealed(document) if reseal else document
    assert refusal(lambda: loads(dumps(changed))) == "budget_report_edited"
    assert refusal(lambda: render_budget(changed)) == "budget_report_edited"


def test_a_word_that_was_edited_breaks_the_seal(save: Save, busy: Any) -> None:
    document = made(save(busy))
    document["hospitals"][0]["statement"]["plans"][0]["purpose"] = "something harmless"
    assert refusal(lambda: loads(dumps(document))) == "budget_report_edited"


# ---- the curves


@given(
    epsilon=st.floats(0.05, 8.0),
    delta=st.sampled_from([1e-2, 1e-4, 1e-6]),
    fpr=st.floats(1e-4, 1 - 1e-4),
)
def test_no_curve_is_above_the_one_that_bounds_it(epsilon: float, delta: float, fpr: float) -> None:
    noise = detection_by_noise(fpr, gaussian_mu(epsilon, delta))
    assert fpr < noise <= detection_by_epsilon(fpr, epsilon, delta) + 1e-12
    budget = Budget(epsilon=epsilon, delta=delta)
    used_up = detection_by_noise(fpr, mu_of_budget(budget.order, budget.limit))
    assert used_up <= detection_by_order(fpr, budget.order, budget.limit)
    # Less than Gaussian noise of this epsilon, whose order could be any.
    assert mu_of_budget(budget.order, budget.limit) < gaussian_mu(epsilon, delta)


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-2), (3.0, 1e-4), (0.3, 1e-5)])
def test_gaussian_noise_touches_its_worst_case_on_both_sides(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    few = NormalDist().cdf(-epsilon / mu - mu / 2)  # where the likelihood ratio is e^epsilon
    for fpr in (few, 1 - detection_by_noise(few, mu)):
        gap = detection_by_epsilon(fpr, epsilon, delta) - detection_by_noise(fpr, mu)
        assert gap == pytest.approx(0, abs=1e-9)


# ---- the command


def command(*arguments: str) -> int:
    try:
        typer.main.get_command(commands.app).main(list(arguments), standalone_mode=False)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_the_command_writes_a_page_and_its_json(
    save: Save, busy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, page = str(save(busy)), tmp_path / "budget.html"
    assert command("report", "budget", ledger, "--out", str(page)) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "budget.html" in said.err
    assert page.read_text(encoding="utf-8") == render_budget(
        loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    )
    with pytest.raises(FedCohortError) as refused:
        command("report", "budget", ledger, "--out", str(page))
    assert refused.value.code == "out_exists"
    assert command("report", "budget", ledger, "--out", str(page), "--overwrite") == 0
    with pytest.raises(FedCohortError) as refused:
        command("report", "budget", ledger, "--out", str(tmp_path / "budget.pdf"))
    assert refused.value.code == "out_not_html"


def test_without_a_file_the_json_is_on_stdout_and_a_table_on_stderr(
    save: Save, made_ledger: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = made_ledger("ward\x1b[31m", kind="simulation", unnoised=True).plan("exact", None)
    assert command("report", "budget", str(save(ledger))) == 0
    said = capsys.readouterr()
    assert loads(said.out)["hospitals"][0]["statement"]["unnoised_releases"] == 10
    assert "SIMULATION" in said.err
    assert "no guarantee is claimed" in said.err
    assert "\x1b[31m" not in said.err


# ---- the checker, which knows nothing of fedcohort


def check(*paths: Path) -> subprocess.CompletedProcess[str]:
    isolated = [sys.executable, "-I", "-S", str(CHECKER), *map(str, paths)]
    return subprocess.run(isolated, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def pair(save: Save, made_ledger: Make, busy: Any, tmp_path: Path) -> tuple[Path, Path]:
    other = made_ledger("other", unnoised=True).plan("exact", None)
    ledger = save(busy)
    return ledger, write_budget(made(save(other, "other.json"), ledger), tmp_path / "b.html")[1]


def test_the_checker_computes_the_same(pair: tuple[Path, Path]) -> None:
    done = check(*pair)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "The chain is whole, no entry breaks a rule, and the report says the same." in done.stdout
    )
    assert done.stdout.count("same ") == 13
    assert check(pair[0].with_name("other.json"), pair[1]).returncode == 0


def test_the_checker_computes_the_same_of_a_ledger_with_unmaskings(
    save: Save, made_ledger: Make, tmp_path: Path
) -> None:
    """They cost nothing: the amounts and the page's rows are those of the ledger without them."""
    bare, unmasked = (
        made_ledger(unnoised=True)
        .plan("sums", 25.0, unmasked=unmasked)
        .plan("exact", None, unmasked=unmasked, closed=False)
        for unmasked in (False, True)
    )
    assert len(unmasked.entries) == len(bare.entries) + 20
    ledger = save(unmasked)
    document = made(ledger)
    done = check(ledger, write_budget(document, tmp_path / "b.html")[1])
    assert (done.returncode, done.stderr) == (0, "")
    told, plain = (one["hospitals"][0]["statement"] for one in (document, made(save(bare))))
    for name in ("spent", "reserved", "left", "same_variance", "unnoised_releases"):
        assert told[name] == plain[name]


@pytest.mark.parametrize("name", ["spent", "budget", "order", "unnoised"])
def test_the_checker_finds_a_report_that_says_something_else(
    pair: tuple[Path, Path], name: str
) -> None:
    ledger, report = pair
    document = json.loads(report.read_text(encoding="utf-8"))
    edits()[name](document["hospitals"][1]["statement"])
    report.write_text(dumps(sealed(document)), encoding="utf-8")
    done = check(ledger, report)
    assert done.returncode == 1
    assert "WRONG" in done.stderr


@pytest.mark.parametrize("what", ["edited", "dropped", "cut", "cheap"])
def test_the_checker_finds_a_ledger_that_was_touched(
    pair: tuple[Path, Path], made_ledger: Make, what: str
) -> None:
    ledger, report = pair
    document = json.loads(ledger.read_text(encoding="utf-8"))
    entries = document["entries"]
    if what == "edited":
        entries[2] = entries[2].replace("2026-03-01", "2026-03-02")
    elif what == "dropped":
        del entries[3]
    elif what == "cut":
        del entries[-2:]
    else:  # a charge that claims more noise than its plan, all hashes computed anew
        forged, previous = [], "0" * 64
        for text in entries:
            entry = {**json.loads(text), "previous": previous}
            if entry["number"] == 4:
                entry["body"]["mechanism"]["noise_multiplier"] = 250.0
            forged.append(json.dumps(entry, sort_keys=True, separators=(",", ":")))
            previous = hashlib.sha256(forged[-1].encode()).hexdigest()
        document["entries"] = forged
        text = report.read_text(encoding="utf-8")
        old = json.loads(text)["hospitals"][1]["statement"]["chain"]["head"]
        new = f"{len(entries)}:{previous}"  # the report is forged too
        report.write_text(text.replace(old, new), encoding="utf-8")
    ledger.write_text(json.dumps(document), encoding="utf-8")
    done = check(ledger, report)
    assert done.returncode == 1
    assert done.stderr.startswith("WRONG")


def reserve_of(z: float | None = 50.0, **changes: Any) -> dict[str, Any]:
    noise = {"family": "discrete_gaussian", "noise_multiplier": z, "sampling_probability": 1.0}
    plan = {
        "plan_sha256": "a" * 64,
        "study": "forged",
        "purpose": "forged",
        "analysis": "descent",
        "rounds": 3,
        "releases": 3 if z else 0,
        "mechanism": noise if z else None,
        "clip": 1.5 if z else None,
        "sharing": "sum" if z else None,
        "min_survivors": 4,
        "colluders": 1,
        "masked": True,
    }
    return {"kind": "reserve", "body": {**plan, **changes}}


def charge_of(number: Any, z: float | None = 50.0, **changes: Any) -> dict[str, Any]:
    plan = reserve_of(z)["body"]
    body = {name: plan[name] for name in ("plan_sha256", "mechanism")}
    body |= {"round": number, "releases": 1 if z else 0}
    return {"kind": "charge", "body": {**body, **changes}}


def unmask_of(number: Any) -> dict[str, Any]:
    return {"kind": "unmask", "body": {"plan_sha256": "a" * 64, "round": number}}


CLOSE = {"kind": "close", "body": {"plan_sha256": "a" * 64}}
PLAN = reserve_of()
SAMPLES = {"family": "sampled_gaussian", "noise_multiplier": 50.0, "sampling_probability": 0.1}
ALLOWED: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "a plan": [PLAN, charge_of(0), charge_of(2), CLOSE],
    "samples": [
        reserve_of(sharing="local", mechanism=SAMPLES),
        charge_of(1, mechanism=SAMPLES, releases=3),
    ],
    "a plan that ended before a charge": [PLAN, CLOSE, PLAN, charge_of(0), CLOSE],
    "an unmasking a round": [PLAN, charge_of(0), unmask_of(0), charge_of(2), unmask_of(2), CLOSE],
    "an unmasking of some rounds": [PLAN, charge_of(0), charge_of(1), unmask_of(1)],
    "a refusal": [{"kind": "refuse", "body": {"asked": "reserve", "code": "budget_exceeded"}}],
}
FORGED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "again after its end": (
        [PLAN, charge_of(0), CLOSE, PLAN, charge_of(0)],
        "reserves a plan a second time",
    ),
    "again while open": ([PLAN, PLAN], "reserves a plan a second time"),
    "again with less": ([PLAN, reserve_of(releases=1)], "reserves a plan a second time"),
    "overspent": ([reserve_of(1.0)], "brings the ledger above its limit"),
    "overspent by little": (
        [PLAN, *(reserve_of(10.0, plan_sha256=name * 64) for name in "bcdefghijklmnopqrstuvwxyz")],
        "brings the ledger above its limit",
    ),
    "no plan": ([charge_of(0)], "its plan is unknown or has ended"),
    "after its end": ([PLAN, CLOSE, charge_of(0)], "its plan is unknown or has ended"),
    "ended twice": ([PLAN, CLOSE, CLOSE], "its plan is unknown or has ended"),
    "round again": ([PLAN, charge_of(1), charge_of(1)], "a round that was paid before"),
    "round before": ([PLAN, charge_of(1), charge_of(0)], "a round that was paid before"),
    "negative round": ([PLAN, charge_of(-1)], "a round that was paid before"),
    "half a round": ([PLAN, charge_of(0.5)], "charges no number"),
    "round too many": ([PLAN, charge_of(3)], "a round that its plan does not have"),
    "other noise": ([PLAN, charge_of(0, 60.0)], "charges other noise than its plan reserved"),
    "no noise": ([PLAN, charge_of(0, None)], "charges other noise than its plan reserved"),
    "sums too many": ([PLAN, charge_of(0, releases=4)], "charges more than its plan reserved"),
    "sums given back": ([PLAN, charge_of(0, releases=-1)], "charges no number"),
    "negative plan": ([reserve_of(releases=-9)], "reserves no number"),
    "not allowed": ([reserve_of(None)], "reserves what the ledger was not opened for"),
    "bare shares": ([reserve_of(masked=False)], "shares noise out and does not mask the sums"),
    "free noise": ([reserve_of(float("inf"))], "an unknown mechanism"),
    "unknown noise": (
        [reserve_of(mechanism={**SAMPLES, "family": "laplace"})],
        "an unknown mechanism",
    ),
    "unmasked before it was paid": ([PLAN, unmask_of(0)], "another round than was paid last"),
    "unmasked, and there is no such round": ([PLAN, unmask_of(-1)], "another round than was paid"),
    "unmasked after a later round was paid": (
        [PLAN, charge_of(0), charge_of(1), unmask_of(0)],
        "another round than was paid last",
    ),
    "unmasked twice": ([PLAN, charge_of(0), unmask_of(0), unmask_of(0)], "a second time"),
    "half a round unmasked": ([PLAN, charge_of(0), unmask_of(0.0)], "unmasks no number"),
    "unmasked after its end": (
        [PLAN, charge_of(0), CLOSE, unmask_of(0)],
        "its plan is unknown or has ended",
    ),
    "nobody's plan unmasked": ([unmask_of(0)], "its plan is unknown or has ended"),
    "unknown kind": ([{"kind": "gift", "body": {}}], "is of the unknown kind 'gift'"),
    "opened again": ([{"kind": "open", "body": {}}], "a ledger is opened once, first of all"),
}


def chained(entries: list[dict[str, Any]], first: int = 1) -> list[str]:
    """Compute numbers and hashes anew, as somebody would who forges a ledger."""
    texts: list[str] = []
    for number, entry in enumerate(entries, start=first):
        previous = hashlib.sha256(texts[-1].encode()).hexdigest() if texts else "0" * 64
        known = {**entry, "number": number, "previous": previous}
        text = json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        texts.append(text)
    return texts


def forged(
    ledger: Path, more: list[dict[str, Any]], *, first: int = 1, **budget: Any
) -> subprocess.CompletedProcess[str]:
    """Check a ledger with further entries, or another budget, whose hashes are all right."""
    document = json.loads(ledger.read_text(encoding="utf-8"))
    entries = [json.loads(text) for text in document["entries"]]
    entries[0]["body"]["budget"] |= budget
    document["entries"] = chained([*entries, *more], first)
    ledger.write_text(json.dumps(document), encoding="utf-8")
    return check(ledger, ledger.with_name("b.json"))


@pytest.mark.parametrize("name", ALLOWED)
def test_the_checker_lets_what_the_rules_allow_pass_on_to_the_report(
    pair: tuple[Path, Path], name: str
) -> None:
    done = forged(pair[0], ALLOWED[name])
    if ALLOWED[name]:
        assert done.stderr.startswith("WRONG: the report knows no ledger whose head is")
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", FORGED)
def test_the_checker_finds_an_entry_that_no_rule_allows(pair: tuple[Path, Path], name: str) -> None:
    more, why = FORGED[name]
    done = forged(pair[0], more)
    assert done.returncode == 1
    assert done.stderr.startswith("WRONG: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ({"limit": 99.0}, "another order or limit"),
        ({"order": 9}, "another order or limit"),
        ({"epsilon": 4.0}, "another order or limit"),
        ({"delta": 2.0}, "a budget that cannot be"),
    ],
)
def test_the_checker_finds_an_opening_that_states_another_limit(
    pair: tuple[Path, Path], budget: dict[str, Any], why: str
) -> None:
    done = forged(pair[0], [], **budget)
    assert done.returncode == 1
    assert why in done.stderr


def test_the_checker_finds_gaps_and_texts_that_are_not_canonical(pair: tuple[Path, Path]) -> None:
    ledger = pair[0]
    kept = ledger.read_text(encoding="utf-8")
    assert "entry 1 does not follow the one before" in forged(ledger, [], first=2).stderr
    document = json.loads(kept)
    document["entries"][0] = document["entries"][0].replace(",", ", ", 1)
    ledger.write_text(json.dumps(document), encoding="utf-8")
    assert "entry 1 is not in its canonical form" in check(*pair).stderr
    ledger.write_text(json.dumps({**document, "entries": []}), encoding="utf-8")
    assert "the export holds no entry" in check(*pair).stderr


def test_the_checker_finds_a_report_that_tells_of_a_ledger_twice(pair: tuple[Path, Path]) -> None:
    document = json.loads(pair[1].read_text(encoding="utf-8"))
    document["hospitals"].append(copy.deepcopy(document["hospitals"][1]))
    document["hospitals"][2]["statement"]["spent"]["rdp"] = 0.0
    pair[1].write_text(json.dumps(document), encoding="utf-8")
    assert "tells of this ledger more than once" in check(*pair).stderr


def test_the_checker_says_in_one_line_what_it_cannot_read(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    ledger, report = pair
    for name, content in {
        "binary": b"SQLite\x00\xff\xfe",
        "text": b"nothing",
        "list": b"[]",
        "empty": b"{}",
        "deep": b"[" * 100_000,
        "numbers": b'{"entries": [1, 2]}',
        "words": b'{"entries": ["[]"]}',
    }.items():
        (tmp_path / name).write_bytes(content)
        for files in ((tmp_path / name, report), (ledger, tmp_path / name)):
            done = check(*files)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert done.stderr.startswith("WRONG: ")
    assert check(tmp_path / "none", report).stderr.startswith("WRONG: FileNotFoundError")
    assert check(tmp_path, report).stderr.startswith("WRONG: IsADirectoryError")
    few: list[list[Path]] = [[], [ledger], [ledger, report, report]]
    for named in few:
        done = check(*named)
        assert (done.returncode, done.stderr[:6]) == (1, "usage:")
