"""Around the sum: where a pipeline leaks although its mechanism is right.

The adversary knows every patient but one, reads all that a site sends, charges and logs, and
looks for what moves besides the noisy sum: scales and lengths that follow the number of
patients, logs that count them, queries whose price or refusal depends on who is there.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from fedcohort.experiments.simulation.local_grid import InProcessGrid
from fedcohort.fl_client import door
from fedcohort.fl_client.app import client_app
from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.fl_server.coordinator import run_plan
from fedcohort.privacy import noise
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import BudgetExceededError, PolicyError
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Charge, Opening
from fedcohort.privacy.secagg.encoding import LARGEST_NOISED_COHORT, float_slack
from fedcohort.study.analyses import averaging
from fedcohort.study.analysis import State, Total
from fedcohort.study.cohort import Cohort, Schema, Task
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of, reservation_of
from fedcohort.study.rounds import terms_for

MODEL = {"name": "logistic", "features": 2, "bound": 3.0}
HAZARD = {"name": "hazard", "features": 2, "bound": 3.0, "horizon_days": 365.0, "intervals": 4}
LOCAL = {"model": MODEL, "rounds": 2, "local_steps": 2, "clip": 1.0, "noise_multiplier": 5.0}
Sharing = Literal["sum", "each", "local"]
GRAM = {"steps": 3, "clip": 1.0, "noise_scale": 5.0}
ANALYSES: list[tuple[str, dict[str, Any], Task, Sharing]] = [
    ("gradient", {"model": MODEL, "steps": 3, "clip": 1.0}, "risk", "sum"),
    ("gradient", {"model": HAZARD, "steps": 3, "clip": 1.0}, "survival", "each"),
    ("whitened", GRAM | {"model": MODEL}, "risk", "sum"),
    ("newton_gram", GRAM | {"model": HAZARD}, "survival", "sum"),
    ("counts", {"rows": "sex", "row_values": ["f", "m"], "private": True}, "risk", "sum"),
    ("kaplan_meier", {"horizon_days": 365.0, "intervals": 6, "private": True}, "survival", "sum"),
    ("averaging", LOCAL, "risk", "local"),
    ("averaging", LOCAL | {"sampling_probability": 0.5}, "risk", "local"),
]
each_analysis = pytest.mark.parametrize(("analysis", "parameters", "task", "sharing"), ANALYSES)


def plan_of(
    analysis: str, parameters: dict[str, Any], task: Task = "risk", sharing: Sharing = "sum"
) -> Plan:
    survival = task == "survival"
    schema = Schema(
        name="drawn",
        task=task,
        features=("x0", "x1"),
        bound=3.0,
        outcome="y",
        codebook_sha256="0" * 64,
        horizon_days=365.0 if survival else None,
    )
    return Plan(
        study="watched",
        purpose="See what follows the patients.",
        analysis=analysis,
        parameters=parameters,
        schema_sha256=schema.sha256,
        sites=("a", "b"),
        privacy=PrivacyTerms(
            epsilon=30.0,
            delta=1e-5,
            noise_multiplier=5.0,
            releases=5,
            clip=1.0,
            sharing=sharing,
            min_survivors=2,
            colluders=1 if sharing == "sum" else 0,
            bound="rdp",
            sampling_probability=parameters.get("sampling_probability", 1.0),
        ),
        max_rounds=5,
        max_patients_per_site=50,
        min_sites=2,
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires="9999-12-31",
    )


def cohort_of(site: str, patients: int, task: Task = "risk") -> Cohort:
    draw, survival = np.random.default_rng(patients), task == "survival"
    schema = Schema(
        name="drawn",
        task=task,
        features=("x0", "x1"),
        bound=3.0,
        outcome="y",
        codebook_sha256="0" * 64,
        horizon_days=365.0 if survival else None,
    )
    return Cohort(
        site=site,
        schema=schema,
        features=np.clip(draw.normal(size=(patients, 2)), -3, 3).astype(np.float32),
        patient=np.arange(patients, dtype=np.uint64),
        label=None if survival else (draw.random(patients) < 0.4).astype(np.float64),
        time=draw.exponential(200.0, patients) if survival else None,
        event=draw.random(patients) < 0.6 if survival else None,
        groups={"sex": draw.choice(["f", "m"], patients)},
    )


class Watching(MemoryLedger):
    """A ledger that keeps what it was asked."""

    def __init__(self, epsilon: float = 1e4) -> None:
        budget = Budget(epsilon=epsilon, delta=1e-5)
        super().__init__(
            Opening(
                hospital="a", population="all", kind="simulation", budget=budget, unnoised=False
            )
        )
        self.charges: list[Charge] = []

    def charge(self, charge: Charge) -> str:
        self.charges.append(charge)
        return super().charge(charge)


def node_for(cohort: Cohort, ledger: MemoryLedger) -> Node:
    return Node(
        site=cohort.site,
        cohort=lambda plan: cohort,
        terms=lambda plan: SiteTerms(ledger=ledger, disclosure=NoDisclosureRules()),
        gate=PlanGate(lambda plan: True),
    )


def watched(plan: Plan, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that a site's rounds show of it beside the vectors' values, noise and its place first."""
    seen: list[Any] = []

    def draw(size: int, sigma: float) -> np.ndarray:
        seen.append(("noise", size, sigma))
        return noise.discrete_gaussian(size, sigma)

    monkeypatch.setattr(door, "discrete_gaussian", draw)
    monkeypatch.setattr(averaging, "discrete_gaussian", draw)
    ledger, analysis = Watching(), analysis_of(plan)
    node = node_for(cohort, ledger)
    node.propose(plan.to_json())
    state: Any = analysis.initial()
    while isinstance(state, State):
        terms = terms_for(plan, analysis, state, "00" * 16)
        sent = node.report(terms.to_json(), dict(state.arrays))
        seen.append((terms.size, terms.encoding, sent.vector.shape, sent.vector.dtype.str))
        # The same sum for all, so that whoever differs did so by itself.
        total = Total(vector=np.full(terms.size, 20.0), sites=plan.sites)
        state = analysis.step(state, total)
    return [*seen, *ledger.charges]


# ---- the number of patients


@each_analysis
def test_scale_place_and_price_of_noise_owe_nothing_to_the_number_of_patients(
    analysis: str,
    parameters: dict[str, Any],
    task: Task,
    sharing: Sharing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Steps, denominators and lengths: 60 patients are more than the plan's bound.
    plan = plan_of(analysis, parameters, task, sharing)
    first = watched(plan, cohort_of("a", 0, task), monkeypatch)
    assert any(entry[0] == "noise" for entry in first if isinstance(entry, tuple))
    for patients in (*range(1, 13), 49, 50, 51, 60):
        assert watched(plan, cohort_of("a", patients, task), monkeypatch) == first, patients


def test_noise_that_follows_the_patients_is_noticed(  # the positive control
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "_sensitivity", lambda part, plan: 1.0 / max(part.patients, 1))
    plan = plan_of(*ANALYSES[0])
    seen = [watched(plan, cohort_of("a", number), monkeypatch) for number in (20, 21)]
    assert seen[0] != seen[1]


@each_analysis
def test_noise_is_sized_for_as_many_patients_as_the_plan_states(
    analysis: str,
    parameters: dict[str, Any],
    task: Task,
    sharing: Sharing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Float arithmetic over a million patients may move a sum further: the plan pays for it."""
    scales = []
    for patients in (2**17, 2**20):
        stated = parameters | ({"max_patients": patients} if sharing == "local" else {})
        plan = replace(plan_of(analysis, stated, task, sharing), max_patients_per_site=patients)
        seen = watched(plan, cohort_of("a", 20, task), monkeypatch)
        scales.append(
            [entry[2] for entry in seen if isinstance(entry, tuple) and entry[0] == "noise"]
        )
    assert scales[0]
    for few, many in zip(*scales, strict=True):
        assert many / few == pytest.approx((1 + float_slack(2**20)) / (1 + 1e-5), rel=1e-12)
        assert many / few > 1.0002


@pytest.mark.parametrize(
    ("number", "stated", "code"),
    [
        (0, LARGEST_NOISED_COHORT + 1, "too_many_patients"),
        (1, 2**40, "too_many_patients"),
        (6, LARGEST_NOISED_COHORT + 1, "too_many_patients"),
        (6, 2**17 + 1, "plan_underpriced"),  # its local steps add noise for 2^17
        (6, 2**17, None),
        (0, LARGEST_NOISED_COHORT, None),
    ],
)
def test_a_site_admits_no_noise_that_is_too_small_for_the_patients_stated(
    number: int, stated: int, code: str | None
) -> None:
    analysis, parameters, task, sharing = ANALYSES[number]
    plan = replace(plan_of(analysis, parameters, task, sharing), max_patients_per_site=stated)
    ledger = Watching()
    node = node_for(cohort_of("a", 20, task), ledger)
    if code is None:
        assert node.propose(plan.to_json()) == plan.sha256
        return
    with pytest.raises(PolicyError) as refused:
        node.propose(plan.to_json())
    assert refused.value.code == code
    assert not ledger.book.accounts  # nothing was set aside, and no record was looked at


# ---- logs


def logged(patients: int, caplog: pytest.LogCaptureFixture, budget: float) -> list[str]:
    caplog.clear()
    plan = plan_of(*ANALYSES[0])
    nodes = {site: node_for(cohort_of(site, patients), Watching(budget)) for site in plan.sites}
    app = client_app(lambda context: nodes[str(context.node_config["site"])])
    grid = InProcessGrid(app, plan.sites)
    with caplog.at_level(logging.DEBUG, logger="fedcohort"):
        try:
            run_plan(plan, grid, grid.nodes)
        except PolicyError as error:
            return [*map(str, caplog.messages), f"{error} {error.hint}"]
    return list(map(str, caplog.messages))


@pytest.mark.parametrize("budget", [1e4, 0.5], ids=["paid", "refused"])
def test_what_is_logged_or_refused_is_the_same_with_one_patient_more(
    budget: float, caplog: pytest.LogCaptureFixture
) -> None:
    told = [logged(patients, caplog, budget) for patients in (0, 37, 38)]
    assert told[0] == told[1] == told[2]
    assert bool(told[0]) == (budget < 1)


def test_a_log_that_counts_patients_is_noticed(  # the positive control
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def talkative(part: Any, *rest: Any, **paid: Any) -> Any:
        logging.getLogger("fedcohort.fl_client").debug("%d patients", part.patients)
        return door.prepare(part, *rest, **paid)

    monkeypatch.setattr("fedcohort.fl_client.site_study.prepare", talkative)
    assert logged(37, caplog, 1e4) != logged(38, caplog, 1e4)


# ---- queries


def test_a_rare_condition_costs_what_a_common_one_does_and_is_never_refused() -> None:
    """Cells of nobody and of one are noisy: 12 draws of one value would come once in 1e40."""
    parameters = {"rows": "sex", "row_values": ["f", "m", "rare"], "private": True}
    plan = plan_of("counts", parameters)
    terms = terms_for(plan, analysis_of(plan), analysis_of(plan).initial(), "00" * 16)
    asked = []
    for having in (0, 1, 30):
        cohort = cohort_of("a", 40)
        cohort.groups["sex"][:having] = "r"  # one letter wide: the column's own type
        object.__setattr__(
            cohort, "groups", {"sex": np.where(cohort.groups["sex"] == "r", "rare", "f")}
        )
        cells = set()
        for _ in range(12):
            ledger = Watching()
            node = node_for(cohort, ledger)
            node.propose(plan.to_json())
            cells.add(int(node.report(terms.to_json(), {}).vector[2]))
            asked.append(ledger.charges)
        assert len(cells) > 1
    assert all(charges == asked[0] for charges in asked)


def test_disjoint_groups_share_a_price_in_one_table_only() -> None:
    table_of_two = plan_of("counts", ANALYSES[4][1])
    assert analysis_of(table_of_two).releases == 1
    # Two questions are two prices, though no patient is in both answers: nobody proves that.
    terms = table_of_two.privacy
    assert terms is not None
    women, men = (
        plan_of("counts", {"rows": "sex", "row_values": [sex], "private": True})
        for sex in ("f", "m")
    )
    ledger = Watching(2.0)
    cost = ledger.book.cost(terms.mechanism, terms.releases)
    assert 0.5 < cost / ledger.book.limit < 1
    ledger.reserve(reservation_of(women))
    with pytest.raises(BudgetExceededError):
        ledger.reserve(reservation_of(men))
