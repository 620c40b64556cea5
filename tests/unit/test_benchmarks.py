"""The benchmarks' arithmetic: what a bar is, how a difference is paired, that a line is honest."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = (
    "_common",
    "_oracles",
    "_quality",
    "_private_fit",
    "_development_data",
    "_private_gaps",
    "_accuracy_page",
    "accuracy",
    "development",
    "federation",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    """The benchmarks as modules; they are scripts, found by their folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in SCRIPTS}
    finally:
        sys.path.remove(str(FOLDER))
        for name in SCRIPTS:
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("rule", "measured", "reached"),
    [
        (">=", -0.0099, True),
        (">=", -0.0101, False),
        ("<=", -0.0101, True),
        ("<=", 0.0, False),
    ],
)
def test_a_bar_is_reached_on_its_own_side_only(
    scripts: dict[str, Any], rule: str, measured: float, reached: bool
) -> None:
    bar = scripts["_accuracy_page"].Bar(what="a", measured=measured, rule=rule, limit=-0.01)
    assert bar.reached is reached


def test_within_a_distance_counts_on_both_sides(scripts: dict[str, Any]) -> None:
    bars = [
        scripts["_accuracy_page"].Bar(what="a", measured=measured, rule="+-", limit=0.003)
        for measured in (-0.004, -0.002, 0.002, 0.004)
    ]
    assert [bar.reached for bar in bars] == [False, True, True, False]


def test_a_missed_bar_is_said_on_its_line_and_on_the_page(scripts: dict[str, Any]) -> None:
    page = scripts["_accuracy_page"]
    missed = page.Bar(what="x - y", measured=-0.5, low=-0.6, high=-0.4, rule=">=", limit=-0.1)
    assert page.bar_line(missed) == ["x - y", "-0.5000", "[-0.6000, -0.4000]", ">= -0.1", "NO"]


def test_a_difference_is_taken_within_a_repeat_and_only_where_both_were_scored(
    scripts: dict[str, Any],
) -> None:
    first, second = {0: 0.9, 1: 0.8, 3: 0.5}, {1: 0.7, 0: 0.6, 2: 0.1}
    assert scripts["accuracy"].difference(first, second) == pytest.approx([0.3, 0.1])


def test_a_nan_reaches_no_bar(scripts: dict[str, Any]) -> None:
    bars = [
        scripts["_accuracy_page"].Bar(what="a", measured=float("nan"), rule=rule, limit=1.0)
        for rule in (">=", "<=", "+-")
    ]
    assert not any(bar.reached for bar in bars)


def gaps(scripts: dict[str, Any], rarity: float, lost: float, usual: float) -> Any:
    """A table on which privacy costs so much ranking, and the baseline so much log-loss."""
    arms = [("dp_sum", 1.0), ("dp_sum", 3.0), ("dp_fedavg", 1.0), ("dp_fedavg", 3.0)]
    return scripts["_private_gaps"].Gaps(
        name="t",
        metric="AUROC",
        patients=1000,
        rarity=rarity,
        ranking={arm: [-lost, -lost] for arm in arms},
        log_loss={arm: [0.1 if arm[0] == "dp_sum" else usual] * 2 for arm in arms},
    )


@pytest.mark.parametrize(
    ("rarity", "lost", "reached"),
    [(0.4, 0.009, [True, True]), (0.4, 0.012, [True, False]), (0.4, 0.021, [False, False]),
     (0.15, 0.012, [True, True]), (0.15, 0.016, [True, False])],
)  # fmt: skip
def test_what_privacy_may_cost_is_known_beforehand_and_more_where_few_have_the_outcome(
    scripts: dict[str, Any], rarity: float, lost: float, reached: list[bool]
) -> None:
    bars = scripts["accuracy"].gap_bars(gaps(scripts, rarity, lost, usual=0.2))
    assert [bar.reached for bar in bars[::2]] == reached
    assert all(bar.reached for bar in bars[1::2])


def test_a_log_loss_above_the_baselines_is_a_miss(scripts: dict[str, Any]) -> None:
    bars = scripts["accuracy"].gap_bars(gaps(scripts, 0.4, 0.0, usual=0.05))
    assert [bar.reached for bar in bars] == [True, False, True, False]


def test_an_aim_is_said_to_be_one(scripts: dict[str, Any]) -> None:
    page = scripts["_accuracy_page"]
    missed = page.Bar(what="a", measured=0.3, rule="<=", limit=0.2, aim=True)
    assert page.bar_line(missed)[-2:] == ["aim <= 0.2", "NO"]


def test_a_familys_methods_are_those_of_its_file(scripts: dict[str, Any]) -> None:
    development = scripts["development"]
    for family in development.FAMILIES:
        default, methods = development.presets_of(family)
        assert default in methods
        assert set(methods) == {"gradient", "newton_gram", "whitened"}


def test_development_data_are_no_shipped_study(scripts: dict[str, Any]) -> None:
    tables = [make() for make in scripts["development"].RISK[:4]]
    tables += [make() for make in scripts["development"].SURVIVAL[:4]]
    for table in tables:
        assert np.abs(table.cohort.features).max() <= table.cohort.schema.bound
        assert table.delta < 1 / table.cohort.patients
        assert 0.05 < table.rarity < 0.8
    names = {table.cohort.schema.name for table in tables}
    assert len(names) == 8
    assert not names & {"heart-disease", "breast-recurrence"}


def test_a_private_fit_in_one_process_is_noisy_and_near(scripts: dict[str, Any]) -> None:
    development = scripts["development"]
    table = development.RISK[2]()  # 2,000 rows
    model = development.model_for("logistic", table.cohort)
    method = development.presets_of("logistic")[1]["whitened"]
    fits = [development.private_theta(model, method, table.cohort, (8.0, 1e-4)) for _ in range(2)]
    assert (fits[0] != fits[1]).all()
    assert development.quality(model, fits[0], table.cohort)[0] > 0.75


def test_federated_fits_equal_statsmodels_on_the_pooled_table(scripts: dict[str, Any]) -> None:
    assert scripts["_oracles"].logistic_deviation() < 1e-8
    assert scripts["_oracles"].cox_deviation() < 1e-8


def test_steady_rounds_leave_out_the_first(scripts: dict[str, Any]) -> None:
    run = {"before_first_round": 1.0, "rounds": [5.0, 0.2, 0.1, 0.3], "cpu": 0.8}
    found = scripts["federation"].summary([run])
    assert found == pytest.approx(
        {"first_sum_s": 6.0, "round_s": 0.2, "fastest_round_s": 0.1, "cpu_round_s": 0.2}
    )


@pytest.mark.parametrize("engine", ["numpy", "messages", "study"])
def test_an_engine_prints_one_line_with_every_round(engine: str) -> None:
    command = [sys.executable, str(FOLDER / "_engines.py"), engine, "3", "20", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    line = json.loads(done.stdout)
    assert len(line["rounds"]) == 4
    assert min(line["rounds"]) > 0


def test_the_page_of_the_library_is_not_written_by_a_quick_run(
    scripts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = scripts["federation"]
    line = {"before_first_round": 0.1, "rounds": [0.2, 0.1], "cpu": 0.1}
    monkeypatch.setattr(federation, "measure", lambda command: line)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a quick run wrote a page")

    monkeypatch.setattr(federation.bench, "page", refuse)
    monkeypatch.setattr(federation.bench, "write_json", refuse)
    assert federation.main(["--quick"]) == 0


def test_a_federation_below_the_bar_ends_with_1(
    scripts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = scripts["federation"]
    line = {"before_first_round": 0.1, "rounds": [0.2, 0.1], "cpu": 0.1}
    monkeypatch.setattr(federation, "measure", lambda command: line)
    monkeypatch.setattr(federation, "ray_python", lambda: "python")
    for name in ("page", "write_json"):
        monkeypatch.setattr(federation.bench, name, lambda *arguments: None)
    assert federation.main([]) == 1
