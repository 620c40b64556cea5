"""A plan with noise inside local steps that runs otherwise than it is priced.

Its terms state a noise, how often a patient is in a step and how many steps there are; its
parameters say what runs. Two places compare them, and each is tested with the other one away:
the price check before a record is read, and the door before a vector is made.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client import node as node_module
from fedcohort.fl_client.door import NoDisclosureRules, Paid, SiteTerms, pay, prepare
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analysis import Contribution, LocalNoise
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of, reservation_of
from fedcohort.study.rounds import terms_for

SCHEMA = Schema(
    name="local",
    task="risk",
    features=("a", "b"),
    bound=3.0,
    outcome="y",
    codebook_sha256="0" * 64,
)
OFTEN = 0.2
NOISE = calibrate(1.0, 1e-5, 7, OFTEN)


def plan_of(**runs: Any) -> Plan:
    """A plan that states noise NOISE in 7 steps over a fifth of the patients each."""
    parameters = {
        "model": {"name": "logistic", "features": 2, "bound": 3.0},
        "rounds": 3,
        "local_steps": 2,
        "clip": 1.0,
        "noise_multiplier": NOISE,
        "sampling_probability": OFTEN,
        "max_patients": 1000,
    }
    return Plan(
        study="s",
        purpose="p",
        analysis="averaging",
        parameters=parameters | runs,
        schema_sha256=SCHEMA.sha256,
        sites=("a", "b"),
        privacy=PrivacyTerms(
            epsilon=1.0,
            delta=1e-5,
            noise_multiplier=NOISE,
            releases=7,
            clip=1.0,
            sharing="local",
            min_survivors=2,
            colluders=0,
            bound="rdp",
            sampling_probability=OFTEN,
        ),
        max_rounds=4,
        max_patients_per_site=1000,
        min_sites=2,
        secagg="plain",
        colluders=0,
        roster="simulation",
        expires="9999-12-31",
    )


class Hospital:
    """A node with a ledger that can pay for the plan as it is stated, and a count of its looks."""

    def __init__(self) -> None:
        budget = Budget(epsilon=1.0, delta=1e-5)
        self.ledger = MemoryLedger(
            Opening(hospital="a", population="p", kind="simulation", budget=budget, unnoised=False)
        )
        self.looks = 0
        self.terms = SiteTerms(ledger=self.ledger, disclosure=NoDisclosureRules())
        self.node = Node(
            site="a",
            cohort=self._look,
            terms=lambda plan: self.terms,
            gate=PlanGate(lambda plan: True),
        )

    def _look(self, plan: Plan) -> Cohort:
        self.looks += 1
        draw = np.random.default_rng(1)
        return Cohort(
            site="a",
            schema=SCHEMA,
            features=draw.normal(size=(40, 2)).astype(np.float32),
            patient=np.arange(40, dtype=np.uint64),
            label=draw.integers(0, 2, 40).astype(np.float64),
        )

    def code_of_first_round(self, plan: Plan) -> str:
        analysis = analysis_of(plan)
        state = analysis.initial()
        terms = terms_for(plan, analysis, state, "00" * 16)
        try:
            self.node.propose(plan.to_json())
            self.node.report(terms.to_json(), dict(state.arrays))
        except FedCohortError as error:
            return error.code
        return ""


CHEATS: dict[str, dict[str, Any]] = {
    "everybody is in every step": {"sampling_probability": 1.0},
    "a patient is in a step a little more often": {"sampling_probability": OFTEN + 1e-9},
    "the noise is a little smaller": {"noise_multiplier": NOISE * (1 - 1e-9)},
}


def test_an_honest_plan_is_answered() -> None:
    hospital = Hospital()
    assert hospital.code_of_first_round(plan_of()) == ""
    assert hospital.code_of_first_round(plan_of(noise_multiplier=2 * NOISE)) == "budget_exceeded"
    louder = Hospital()  # more noise than is paid for is nobody's loss
    assert louder.code_of_first_round(plan_of(noise_multiplier=2 * NOISE)) == ""


@pytest.mark.parametrize("cheat", CHEATS)
def test_the_price_check_refuses_a_plan_that_runs_otherwise_than_it_states(cheat: str) -> None:
    hospital = Hospital()
    assert hospital.code_of_first_round(plan_of(**CHEATS[cheat])) == "plan_underpriced"
    assert hospital.looks == 0
    assert hospital.ledger.book.accounts == {}


@pytest.mark.parametrize("bound", ["clt", "RDP", ""])
def test_an_epsilon_by_a_bound_that_is_not_proved_is_refused(bound: str) -> None:
    plan, hospital = plan_of(), Hospital()
    assert plan.privacy is not None
    other = dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, bound=bound))
    assert hospital.code_of_first_round(other) == "plan_underpriced"
    assert hospital.looks == 0
    lower = dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, epsilon=0.9))
    assert Hospital().code_of_first_round(lower) == "plan_underpriced"


@pytest.mark.parametrize("cheat", CHEATS)
def test_the_door_refuses_it_too_where_the_price_check_would_let_it_pass(
    cheat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "check_price", lambda plan: None)
    hospital = Hospital()
    assert hospital.code_of_first_round(plan_of(**CHEATS[cheat])) == "contribution_underpaid"


def test_the_door_refuses_more_steps_in_a_round_than_were_paid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The analysis states one step less than it makes; the plan's sum of steps is right."""
    plan, hospital = plan_of(), Hospital()
    analysis = analysis_of(plan)
    hospital.ledger.reserve(reservation_of(plan))
    terms = dataclasses.replace(
        terms_for(plan, analysis, analysis.initial(), "00" * 16), round=1, size=1
    )

    def contribution(steps: int) -> Contribution:
        noise = LocalNoise(noise_multiplier=NOISE, sampling_probability=OFTEN, releases=steps)
        return Contribution(total=np.zeros(1), patients=40, sensitivity=None, local=noise)

    paid = pay(analysis, terms, plan, hospital.terms)
    assert paid is not None
    assert paid.charge.releases == 2
    kept = prepare(contribution(2), terms, plan, hospital.terms, paid=paid)
    assert kept.charge_id == paid.charge_id
    with pytest.raises(FedCohortError) as refused:
        prepare(contribution(3), terms, plan, hospital.terms, paid=paid)
    assert refused.value.code == "contribution_underpaid"


@pytest.mark.parametrize(
    "other", [{"plan_sha256": "ab" * 32}, {"round": 2}, {"mechanism": None, "releases": 0}]
)
def test_what_was_paid_for_another_round_pays_for_no_vector(other: dict[str, Any]) -> None:
    plan, hospital = plan_of(), Hospital()
    analysis = analysis_of(plan)
    hospital.ledger.reserve(reservation_of(plan))
    terms = terms_for(plan, analysis, analysis.initial(), "00" * 16)
    paid = pay(analysis, terms, plan, hospital.terms)
    assert paid is not None
    elsewhere = Paid(charge=dataclasses.replace(paid.charge, **other), charge_id="7")
    noise = LocalNoise(noise_multiplier=NOISE, sampling_probability=OFTEN, releases=1)
    sum_ = Contribution(total=np.zeros(1), patients=40, sensitivity=None, local=noise)
    with pytest.raises(FedCohortError) as refused:
        prepare(sum_, terms, plan, hospital.terms, paid=elsewhere)
    assert refused.value.code == "contribution_underpaid"


def test_what_the_analysis_hands_over_is_what_it_ran() -> None:
    """The door compares what a contribution says of itself: so it must say what runs."""
    analysis = analysis_of(plan_of(sampling_probability=0.5, noise_multiplier=3.0))
    assert isinstance(analysis, Averaging)
    cohort = Hospital()._look(plan_of())
    for number, releases in ((0, 1), (1, 2)):
        state = dataclasses.replace(
            analysis.initial(),
            round=number,
            arrays={"theta": np.zeros(3), "count": np.full(1, 20.0)},
        )
        told = analysis.contribution(cohort, state).local
        assert told == LocalNoise(noise_multiplier=3.0, sampling_probability=0.5, releases=releases)
        assert releases == analysis.releases_in(number)
