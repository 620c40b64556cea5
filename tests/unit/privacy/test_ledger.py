"""The ledger: nothing is released that it has not been paid for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.errors import BudgetExceededError, PolicyError
from fedcohort.privacy.ledger import Charge, SimulationLedger

COST = st.floats(min_value=0.0, max_value=10.0)


def charge_of(rho: float, *, number: int = 0) -> Charge:
    return Charge(
        plan_sha256="0" * 64, round=number, mechanism="discrete_gaussian_sum", releases=1, rho=rho
    )


@given(budget=COST, costs=st.lists(COST, max_size=20))
def test_it_never_overspends_and_a_refusal_changes_nothing(
    budget: float, costs: list[float]
) -> None:
    ledger = SimulationLedger(budget)
    for number, cost in enumerate(costs):
        before, left = ledger.entries, ledger.left
        try:
            ledger.charge(charge_of(cost, number=number))
        except BudgetExceededError:
            assert (ledger.entries, ledger.left) == (before, left)
            assert cost > left
        else:
            assert ledger.entries == (*before, charge_of(cost, number=number))
        assert ledger.left >= 0
        assert math.fsum(entry.rho for entry in ledger.entries) <= budget * (1 + 1e-9)


@given(budget=st.floats(1e-6, 100.0), releases=st.integers(1, 400))
def test_a_plan_that_costs_exactly_its_budget_is_paid_in_full_and_nothing_more(
    budget: float, releases: int
) -> None:
    ledger = SimulationLedger(budget)
    for number in range(releases):
        ledger.charge(charge_of(budget / releases, number=number))
    with pytest.raises(BudgetExceededError):
        ledger.charge(charge_of(budget / releases))
    assert ledger.left == pytest.approx(0.0, abs=1e-9 * budget)


@given(budget=st.floats(1e-3, 100.0))
def test_equality_is_accepted_and_a_millionth_more_refused(budget: float) -> None:
    SimulationLedger(budget).charge(charge_of(budget))
    with pytest.raises(BudgetExceededError):
        SimulationLedger(budget).charge(charge_of(budget * (1 + 1e-6)))


def test_crumbs_below_the_slack_do_not_add_up_to_a_free_release() -> None:
    ledger = SimulationLedger(1.0)
    ledger.charge(charge_of(1.0))
    ledger.charge(charge_of(9e-10))
    for _ in range(100):
        with pytest.raises(BudgetExceededError):
            ledger.charge(charge_of(9e-10))
    assert len(ledger.entries) == 2


def test_without_noise_there_is_nothing_to_pay_even_with_no_budget() -> None:
    ledger = SimulationLedger(0.0)
    for number in range(3):
        ledger.charge(charge_of(0.0, number=number))
    with pytest.raises(BudgetExceededError):
        ledger.charge(charge_of(1e-300))
    assert len(ledger.entries) == 3


@pytest.mark.parametrize("rho", [math.nan, math.inf, -math.inf, -1e-9])
def test_a_cost_that_is_none_is_refused(rho: float) -> None:
    ledger = SimulationLedger(1.0)
    with pytest.raises(ValueError, match="rho"):
        ledger.charge(charge_of(rho))
    assert ledger.entries == ()
    assert ledger.left == 1.0


@pytest.mark.parametrize("rho", [math.nan, math.inf, -1.0])
def test_a_budget_that_is_none_is_refused(rho: float) -> None:
    # NaN would admit every charge: nothing is larger than it.
    with pytest.raises(ValueError, match="rho"):
        SimulationLedger(rho)


def test_every_entry_has_an_id_of_its_own_and_cannot_be_changed() -> None:
    ledger = SimulationLedger(1.0)
    ids = {ledger.charge(charge_of(0.1)) for _ in range(5)}
    assert len(ids) == 5
    with pytest.raises(AttributeError):
        ledger.entries[0].rho = 0.0  # type: ignore[misc]


def test_a_refusal_tells_scripts_and_people_what_to_do() -> None:
    with pytest.raises(PolicyError) as refused:
        SimulationLedger(0.25).charge(charge_of(0.5))
    assert refused.value.exit_code == 3
    assert refused.value.code == "budget_exceeded"
    assert "0.5" in str(refused.value)
    assert "0.25" in str(refused.value)
    assert "more noise" in refused.value.hint
