"""A node and its door alone, where a deployed one has a second check behind each of these."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client.door import NoDisclosureRules, Prepared, SiteTerms, hand_over
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.fl_client.round_memory import NoRoundMemory, Remembered
from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.ledger.charges import Charge, Reservation, Unmasking
from fedcohort.study.analysis import State
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, analysis_of
from fedcohort.study.rounds import terms_for

SCHEMA = Schema(
    name="n", task="risk", features=("x",), bound=4.0, outcome="o", codebook_sha256="0" * 64
)


def plan_of(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "study": "s",
        "purpose": "p",
        "analysis": "newton",
        "parameters": {"model": {"name": "logistic", "features": 1, "bound": 4.0}},
        "schema_sha256": SCHEMA.sha256,
        "sites": ("a", "b", "c"),
        "privacy": None,
        "max_rounds": 2,
        "max_patients_per_site": 1000,
        "min_sites": 3,
        "secagg": "plain",
        "colluders": 1,
        "roster": "simulation",
        "expires": "2999-01-01",
    }
    return Plan(**(facts | changes))


class Generous:
    """A ledger that pays for anything."""

    def reserve(self, reservation: Reservation) -> str:
        return "1"

    def charge(self, charge: Charge) -> str:
        return "2"

    def unmask(self, unmasking: Unmasking) -> str:
        return "3"

    def check_unspent(self, unmasking: Unmasking) -> None:
        pass

    def close(self, plan_sha256: str) -> None:
        pass


class Kept(NoRoundMemory):
    """A memory that says what was asked of it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def keep(self, known: Remembered) -> None:
        self.told.append("keep")

    def spend(self) -> None:
        self.told.append("spend")

    def clear(self) -> None:
        self.told.append("clear")


class Watching(PlanGate):
    """A gate that says what it heard."""

    def __init__(self) -> None:
        super().__init__(lambda plan: True)
        self.told: list[str] = []

    def refused(self, plan_sha256: str, code: str) -> None:
        self.told.append(code)


def node_of(memory: Kept, gate: PlanGate | None = None, error: Exception | None = None) -> Node:
    draw = np.random.default_rng(1)
    cohort = Cohort(
        site="a",
        schema=SCHEMA,
        features=draw.normal(size=(40, 1)).astype(np.float32),
        patient=np.arange(40, dtype=np.uint64),
        label=draw.integers(0, 2, 40).astype(np.float64),
    )

    def build(plan: Plan) -> Cohort:
        if error is not None:
            raise error
        return cohort

    return Node(
        site="a",
        cohort=build,
        terms=lambda plan: SiteTerms(ledger=Generous(), disclosure=NoDisclosureRules()),
        gate=gate or PlanGate(lambda plan: True),
        memory=lambda plan: memory,
    )


def code_of_round(node: Node, plan: Plan, number: int) -> str:
    analysis = analysis_of(plan)
    first = analysis.initial()
    state = State(round=number, arrays=first.arrays)
    terms = terms_for(plan, analysis, state, "00" * 16)
    try:
        node.report(terms.to_json(), dict(state.arrays))
    except FedCohortError as error:
        return error.code
    return ""


@pytest.mark.parametrize(("most", "number", "code"), [(2, 1, ""), (2, 2, "rounds_exhausted")])
def test_a_round_beyond_those_of_the_plan_is_refused_whoever_would_pay_for_it(
    most: int, number: int, code: str
) -> None:
    plan, memory = plan_of(max_rounds=most), Kept()
    assert plan.max_rounds < analysis_of(plan).most_rounds
    node = node_of(memory)
    node.propose(plan.to_json())
    assert code_of_round(node, plan, number) == code
    assert memory.told == ([] if code else ["keep"])


def test_what_a_plan_left_behind_is_gone_when_it_ends() -> None:
    plan, memory = plan_of(), Kept()
    node = node_of(memory)
    node.propose(plan.to_json())
    assert code_of_round(node, plan, 0) == ""
    node.close(plan.sha256)
    assert memory.told == ["keep", "clear"]


def test_a_failure_is_told_to_the_gate_by_a_code_and_not_by_its_text() -> None:
    gate, plan = Watching(), plan_of()
    node = node_of(Kept(), gate, ValueError("could not convert 'zhang san'"))
    with pytest.raises(ValueError, match="zhang"):
        node.propose(plan.to_json())
    assert gate.told == ["site_error"]


def test_a_plan_for_other_hospitals_or_of_another_schema_runs_nowhere_else() -> None:
    """Behind any gate: nothing is set aside, or no round is answered."""
    for plan, code in (
        (plan_of(sites=("b", "c", "d")), "plan_not_for_us"),
        (plan_of(schema_sha256="1" * 64), "schema_mismatch"),
    ):
        node = node_of(Kept())
        with pytest.raises(FedCohortError) as refused:
            node.propose(plan.to_json())
        assert refused.value.code == code
        assert code_of_round(node, plan, 0) == "plan_unknown"


# ---- the door


def test_a_masked_plan_never_falls_back_to_plain_where_no_session_was_set_up() -> None:
    plan = plan_of(secagg="masked")
    site = SiteTerms(ledger=Generous(), disclosure=NoDisclosureRules(), session=None)
    prepared = Prepared(vector=np.arange(3), charge_id="2")
    with pytest.raises(FedCohortError) as refused:
        hand_over(prepared, plan, site)
    assert refused.value.code == "no_session"
    plain = dataclasses.replace(plan, secagg="plain")  # the positive control
    assert (hand_over(prepared, plain, site).vector == np.arange(3)).all()


def test_nor_is_a_round_of_it_prepared() -> None:
    plan, memory = plan_of(secagg="masked"), Kept()
    node = node_of(memory)
    node.propose(plan.to_json())
    assert code_of_round(node, plan, 0) == "no_session"
    assert memory.told == []
