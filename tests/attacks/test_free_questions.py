"""A coordinator that asks so that the site fails: each question is paid for, or tells nothing.

What fails after a look at the records says something of them. Under noise the price is therefore
paid before the first look, and whatever could make a sum fail is refused by public numbers.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms, pay, prepare
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import ConfigError, FedCohortError
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analysis import LARGEST_PARAMETER, Analysis, Contribution, LocalNoise, State
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import terms_for

SCHEMA = Schema(
    name="asked",
    task="risk",
    features=("a", "b"),
    bound=3.0,
    outcome="y",
    codebook_sha256="0" * 64,
)
MODEL = {"name": "logistic", "features": 2, "bound": 3.0}


def cohort_of(patients: int) -> Cohort:
    draw = np.random.default_rng(1)
    return Cohort(
        site="a",
        schema=SCHEMA,
        features=draw.normal(size=(patients, 2)).astype(np.float32),
        patient=np.array([f"p{number}" for number in range(patients)]),
        label=draw.integers(0, 2, patients).astype(np.float64),
    )


def plan_of(analysis: str, parameters: dict[str, Any], *, sharing: str, releases: int) -> Plan:
    noise = calibrate(1.0, 1e-5, releases)
    terms = PrivacyTerms(
        epsilon=1.0,
        delta=1e-5,
        noise_multiplier=noise,
        releases=releases,
        clip=1.0,
        sharing=sharing,  # type: ignore[arg-type]
        min_survivors=2,
        colluders=0,
        bound="rdp",
    )
    if sharing == "local":
        parameters = parameters | {"noise_multiplier": noise}
    plan = Plan(
        study="s",
        purpose="p",
        analysis=analysis,
        parameters=parameters,
        schema_sha256=SCHEMA.sha256,
        sites=("a", "b"),
        privacy=terms,
        max_rounds=50,
        max_patients_per_site=2**17,
        min_sites=2,
        secagg="plain",
        colluders=0,
        roster="simulation",
        expires=(dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)).isoformat(),
    )
    return dataclasses.replace(plan, max_rounds=analysis_of(plan).most_rounds)


def node_of(cohort: Cohort) -> tuple[Node, MemoryLedger, list[int]]:
    looks: list[int] = []
    ledger = MemoryLedger(
        Opening(
            hospital="a",
            population="p",
            kind="simulation",
            budget=Budget(epsilon=1.0, delta=1e-5),
            unnoised=False,
        )
    )

    def look(plan: Plan) -> Cohort:
        looks.append(1)
        return cohort

    terms = SiteTerms(ledger=ledger, disclosure=NoDisclosureRules())
    node = Node(site="a", cohort=look, terms=lambda plan: terms, gate=PlanGate(lambda plan: True))
    return node, ledger, looks


def ask(node: Node, plan: Plan, state: State) -> str:
    terms = terms_for(plan, analysis_of(plan), state, "00" * 16)
    try:
        node.report(terms.to_json(), dict(state.arrays))
    except FedCohortError as error:
        return error.code
    return "answered"


LOCAL = {"model": MODEL, "rounds": 3, "local_steps": 2, "clip": 1.0}


def test_a_local_step_that_blows_up_is_held_and_paid_for() -> None:
    plan = plan_of("averaging", LOCAL | {"learning_rate": 9e306}, sharing="local", releases=7)
    said = set()
    for patients in (0, 40, 41):
        node, ledger, _ = node_of(cohort_of(patients))
        node.propose(plan.to_json())
        state = State(round=1, arrays={"theta": np.zeros(2 + 1), "count": np.full(1, 20.0)})
        said.add(ask(node, plan, state))
        assert ledger.book.spent == pytest.approx(ledger.book.limit * 2 / 7)
    assert said == {"answered"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_a_sum_that_left_its_range_is_held_and_not_refused(value: float) -> None:
    """A site's own local step may leave the range; a refusal would say for whom it did."""
    plan = plan_of("averaging", LOCAL | {"learning_rate": 0.1}, sharing="local", releases=7)
    node, ledger, _ = node_of(cohort_of(30))
    node.propose(plan.to_json())
    analysis = analysis_of(plan)
    assert plan.privacy is not None
    terms = terms_for(plan, analysis, analysis.initial(), "00" * 16)
    local = LocalNoise(
        noise_multiplier=plan.privacy.noise_multiplier, sampling_probability=1.0, releases=1
    )
    sum_ = Contribution(
        total=np.full(terms.size, value), patients=30, sensitivity=None, local=local
    )
    site = SiteTerms(ledger=ledger, disclosure=NoDisclosureRules())
    paid = pay(analysis, terms, plan, site)
    vector = prepare(sum_, terms, plan, site, paid=paid).vector
    assert set(vector) == {np.nan_to_num(np.sign(value)) * terms.encoding.limit}


def test_a_round_that_failed_was_paid_for_and_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: Analysis, cohort: Cohort, state: State) -> Contribution:
        raise ZeroDivisionError

    plan = plan_of("gradient", {"model": MODEL, "steps": 2, "clip": 1.0}, sharing="sum", releases=3)
    node, ledger, _ = node_of(cohort_of(30))
    node.propose(plan.to_json())
    start = analysis_of(plan).initial()
    with monkeypatch.context() as patched:
        patched.setattr(Gradient, "contribution", broken)
        with pytest.raises(ZeroDivisionError):
            ask(node, plan, start)
    assert ledger.book.spent == pytest.approx(ledger.book.limit / 3)
    assert ask(node, plan, start) == "round_replayed"
    assert ledger.book.spent == pytest.approx(ledger.book.limit / 3)


@pytest.mark.parametrize("clip", [1e-4, 1e7, 1.797e308 / 100])
def test_a_clip_norm_at_which_a_count_overflows_is_no_clip_norm(clip: float) -> None:
    with pytest.raises(ConfigError) as refused:
        Gradient(model=analysis_of(GRADIENT).model, steps=1, clip=clip)  # type: ignore[attr-defined]
    assert refused.value.code == "clip_range"
    with pytest.raises(ConfigError) as refused:
        dataclasses.replace(GRADIENT.privacy, clip=clip)  # type: ignore[type-var]
    assert refused.value.code == "clip_range"


GRADIENT = plan_of("gradient", {"model": MODEL, "steps": 2, "clip": 1.0}, sharing="sum", releases=3)


@pytest.mark.parametrize("far", [1.001 * LARGEST_PARAMETER, 1e18, np.inf, np.nan])
def test_parameters_that_turn_a_last_bit_into_a_patient_are_refused(far: float) -> None:
    """At +-1e18 that cancel, one patient more changed the sum by 2.9 clip norms."""
    node, _, _ = node_of(cohort_of(30))
    node.propose(GRADIENT.to_json())
    arrays = {"theta": np.array([far, -far, 0.0]), "mean": np.zeros(3), "count": np.ones(1)}
    assert ask(node, GRADIENT, State(round=1, arrays=arrays)) == "state_unreadable"


def test_one_patient_moves_the_farthest_accepted_sum_by_the_clip_norm() -> None:
    analysis = analysis_of(GRADIENT)
    theta = np.array([LARGEST_PARAMETER, -LARGEST_PARAMETER, LARGEST_PARAMETER])
    arrays = {"theta": theta, "mean": np.zeros(3), "count": np.ones(1)}
    state, everyone = State(round=1, arrays=arrays), cohort_of(200)
    whole = analysis.contribution(everyone, state).total
    for left_out in range(0, 200, 7):
        kept = np.arange(200) != left_out
        rest = analysis.contribution(everyone.take(kept), state).total
        assert np.linalg.norm(whole - rest) <= 1.0 + 1e-9


@pytest.mark.parametrize(
    ("analysis", "parameters", "sharing"),
    [
        ("kaplan_meier", {"horizon_days": 365.0, "intervals": 6, "private": False}, "sum"),
        ("newton", {"model": MODEL}, "sum"),
        ("gradient", {"model": MODEL, "steps": 2, "clip": 1.0}, "local"),
        ("averaging", LOCAL | {"noise_multiplier": 50.0}, "sum"),
    ],
)
def test_a_plan_that_its_noise_cannot_protect_opens_no_cohort(
    analysis: str, parameters: dict[str, Any], sharing: str
) -> None:
    try:
        plan = plan_of(analysis, parameters, sharing=sharing, releases=3)
    except ConfigError:  # a gradient has no noise of its own to state
        plan = dataclasses.replace(
            GRADIENT,
            privacy=dataclasses.replace(GRADIENT.privacy, sharing="local"),  # type: ignore[type-var]
        )
    node, ledger, looks = node_of(cohort_of(30))
    with pytest.raises(FedCohortError) as refused:
        node.propose(plan.to_json())
    assert refused.value.code == "no_sensitivity"
    assert looks == []
    assert ledger.book.reserved == 0
