"""A ledger's statement: its numbers follow from the noise alone, and it flatters nobody."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.budget import ORDERS, Budget
from fedcohort.privacy.errors import BudgetExceededError, PolicyError
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation
from fedcohort.privacy.ledger.curves import best_epsilon, curve
from fedcohort.privacy.ledger.statement import statement
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.mechanism import Mechanism

Make = Callable[..., Any]


def google_epsilon(parts: list[tuple[float, float, int]], delta: float) -> float:
    """Renyi DP of (z, q, releases) by Google's accountant, at integer orders and tenths."""
    tenths = [1 + x / 10 for x in range(1, 90) if x % 10]
    sampled = any(q < 1 for _, q, _ in parts)
    orders = [float(order) for order in ORDERS] + ([] if sampled else tenths)
    accountant = rdp.RdpAccountant(orders)
    for z, q, releases in parts:
        gaussian = dp_accounting.GaussianDpEvent(z)
        event = dp_accounting.PoissonSampledDpEvent(q, gaussian) if q < 1 else gaussian
        accountant.compose(event, releases)
    return float(accountant.get_epsilon(delta))


@settings(max_examples=25)  # Google's sampled Gaussian takes its time
@given(
    z=st.floats(0.5, 200.0),
    releases=st.integers(1, 500),
    q=st.sampled_from([1.0, 0.3, 0.05]),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
)
def test_the_gauge_is_googles(z: float, releases: int, q: float, delta: float) -> None:
    found = best_epsilon(
        curve(Mechanism(noise_multiplier=z, sampling_probability=q), releases), delta
    )
    theirs = google_epsilon([(z, q, releases)], delta)
    # Theirs is 0 where the total variation alone is below delta; ours is never below theirs.
    assert found == pytest.approx(theirs, rel=1e-6) or (theirs == 0 and found < 0.1)


def test_nothing_released_is_nothing_spent(made_ledger: Make) -> None:
    told = statement(made_ledger().plan("later", made=0, closed=False).entries)
    assert told["spent"] == {"rdp": 0.0, "share": 0.0, "epsilon": 0.0}
    assert told["reserved"]["rdp"] == pytest.approx(10 * 8 / (2 * 25.0**2))
    assert told["same_variance"] is None
    assert [row["epsilon_spent"] for row in told["sites_per_person"]] == [0.0, 0.0, 0.0]


def test_spent_set_aside_and_left_are_the_whole_budget(made_ledger: Make) -> None:
    ledger = made_ledger().plan("one", 25.0).plan("two", 18.0, made=4)
    told = statement(ledger.plan("three", 30.0, made=3, closed=False).entries)
    order = told["budget"]["order"]
    spent = math.fsum(n * order / (2 * z * z) for z, n in [(25.0, 10), (18.0, 4), (30.0, 3)])
    held = 7 * order / (2 * 30.0**2)
    assert told["spent"]["rdp"] == pytest.approx(spent, rel=1e-12)
    assert told["reserved"]["rdp"] == pytest.approx(held, rel=1e-12)
    assert told["left"]["rdp"] == pytest.approx(told["budget"]["limit"] - spent - held, rel=1e-12)
    waiting = google_epsilon([(30.0, 1.0, 7)], 1e-5)
    assert told["reserved"]["epsilon"] == pytest.approx(waiting, rel=1e-9)
    parts = [(25.0, 1.0, 10), (18.0, 1.0, 4), (30.0, 1.0, 3)]
    assert told["spent"]["epsilon"] == pytest.approx(google_epsilon(parts, 1e-5), rel=1e-9)
    for number, plan in enumerate(told["plans"], start=1):
        alone, together = google_epsilon(parts[number - 1 : number], 1e-5), parts[:number]
        assert plan["epsilon_alone"] == pytest.approx(alone, rel=1e-9)
        assert plan["epsilon_together"] == pytest.approx(google_epsilon(together, 1e-5), rel=1e-9)


def test_a_plan_that_begins_again_was_reserved_when_it_did(made_ledger: Make) -> None:
    ledger = made_ledger().plan("one", made=0, plan_sha256="a" * 64)
    told = statement(ledger.plan("one", made=2, plan_sha256="a" * 64).entries)
    (plan,) = told["plans"]
    assert plan["reserved_at"] == ledger.entries[3].time
    assert plan["last_release_at"] == ledger.entries[5].time


def test_samples_and_sums_are_added_up_together(made_ledger: Make) -> None:
    ledger = made_ledger().plan("sums", 25.0).plan("samples", 8.0, q=0.1, planned=50, made=50)
    told = statement(ledger.entries)
    both = google_epsilon([(25.0, 1.0, 10), (8.0, 0.1, 50)], 1e-5)
    assert told["spent"]["epsilon"] == pytest.approx(both, rel=1e-6)
    assert told["adversary"]["colluders"] == 1  # the weaker of the two counts


def test_a_person_of_several_hospitals_pays_as_if_the_noise_were_less(made_ledger: Make) -> None:
    told = statement(made_ledger().plan("one", 25.0).entries)
    for row in told["sites_per_person"]:
        seen = google_epsilon([(25.0 / row["sites"], 1.0, 10)], 1e-5)
        assert row["epsilon_spent"] == pytest.approx(seen, rel=1e-9)
    budgets = [row["epsilon_budget"] for row in told["sites_per_person"]]
    assert budgets[0] == 3.0
    assert budgets[1] == pytest.approx(6.62, abs=0.01)
    assert budgets[2] > budgets[1]


def test_the_same_variance_is_less_than_the_bound_and_says_so(made_ledger: Make) -> None:
    told = statement(made_ledger().plan("one", 25.0).entries)
    accountant = pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(25.0), 10)
    assert told["same_variance"]["epsilon"] == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert told["same_variance"]["epsilon"] < told["spent"]["epsilon"]
    assert (told["same_variance"]["is_the_bound"], told["bound"]) == (False, "rdp")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (True, 1, False)),
        ({"colluders": 0}, (True, 0, False)),
        ({"sharing": "each"}, (True, None, True)),
        ({"masked": False}, (False, 1, False)),
    ],
)
def test_the_adversary_is_never_more_than_the_plans_say(
    made_ledger: Make, changes: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    ledger = made_ledger(kind="simulation").plan("a", **changes)
    found = statement(ledger.entries)["adversary"]
    assert tuple(found.values()) == (*expected, False)


def test_a_ledger_without_plans_knows_no_adversary_yet(made_ledger: Make) -> None:
    found = statement(made_ledger().entries)["adversary"]
    assert (found["colluders"], found["all_other_hospitals"]) == (None, False)


def test_refusals_are_told_with_what_they_would_have_cost(made_ledger: Make) -> None:
    ledger = made_ledger().plan("greedy", 1.0).plan("exact", None)
    greedy, exact = statement(ledger.entries)["refused"]
    assert (greedy["code"], greedy["study"]) == ("budget_exceeded", "greedy")
    assert greedy["rdp_asked"] == pytest.approx(10 * 8 / 2)
    assert (exact["code"], exact["rdp_asked"]) == ("unnoised_refused", None)


def test_exact_releases_are_counted_and_have_no_number(made_ledger: Make) -> None:
    ledger = made_ledger(unnoised=True).plan("noisy").plan("exact", None, planned=5, made=3)
    told = statement(ledger.entries)
    assert told["unnoised_releases"] == 3
    assert [told["plans"][1][name] for name in ("rdp", "rdp_planned", "epsilon_alone")] == [
        None
    ] * 3
    assert told["plans"][1]["epsilon_together"] == told["plans"][0]["epsilon_together"]


def test_a_ledger_without_a_budget_has_no_epsilon(made_ledger: Make) -> None:
    told = statement(made_ledger(budget=None, unnoised=True).plan("exact", None).entries)
    assert (told["budget"], told["spent"]["epsilon"], told["sites_per_person"]) == (None, None, [])


def test_a_broken_chain_gives_no_statement(made_ledger: Make) -> None:
    entries = made_ledger().plan("one").entries
    with pytest.raises(PolicyError) as refused:
        statement(entries[:3] + entries[4:])
    assert refused.value.code == "ledger_broken"


@pytest.mark.parametrize("noise_multiplier", [1e-3, 1e6])
@pytest.mark.parametrize("sampling_probability", [1.0, 1e-6])
def test_whatever_can_be_paid_can_be_stated(
    tmp_path: Path, noise_multiplier: float, sampling_probability: float
) -> None:
    """A chain is for ever: a release that breaks its statement would break it for ever."""
    budget = Budget(epsilon=1e4, delta=1e-5)
    opening = Opening(
        hospital="A", population="p", kind="simulation", budget=budget, unnoised=False
    )
    ledger = SqliteLedger.create(tmp_path / "a.ledger", opening)
    mechanism = Mechanism(
        noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
    )
    plan = Reservation(
        plan_sha256="0" * 64,
        study="s",
        purpose="",
        analysis="gradient",
        rounds=1,
        releases=1,
        mechanism=mechanism,
        clip=1.0,
        sharing="sum" if sampling_probability == 1 else "local",
        min_survivors=3,
        colluders=1,
        masked=True,
    )
    try:
        ledger.reserve(plan)
    except BudgetExceededError:
        assert noise_multiplier < 1
    else:
        ledger.charge(Charge(plan_sha256="0" * 64, round=0, releases=1, mechanism=mechanism))
    ledger.dispose()
    told = statement(read_entries(tmp_path / "a.ledger"))
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_budget_that_is_used_up_but_for_a_crumb_can_be_stated(tmp_path: Path) -> None:
    budget = Budget(epsilon=3.0, delta=1e-4)
    opening = Opening(
        hospital="A", population="p", kind="simulation", budget=budget, unnoised=False
    )
    ledger = SqliteLedger.create(tmp_path / "a.ledger", opening)
    mechanism = Mechanism(noise_multiplier=calibrate(3.0, 1e-4, 9))
    plan = Reservation(
        plan_sha256="0" * 64,
        study="s",
        purpose="",
        analysis="whitened",
        rounds=9,
        releases=9,
        mechanism=mechanism,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        masked=True,
    )
    ledger.reserve(plan)
    for number in range(9):
        ledger.charge(Charge(plan_sha256="0" * 64, round=number, releases=1, mechanism=mechanism))
    assert 0 < ledger.book.left < 1e-9
    ledger.dispose()
    told = statement(read_entries(tmp_path / "a.ledger"))
    assert told["left"]["epsilon"] == 0.0
    assert told["spent"]["share"] == pytest.approx(1.0)
