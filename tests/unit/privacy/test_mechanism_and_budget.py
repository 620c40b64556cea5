"""The ledger's currency: Renyi DP of a mechanism at the order that a budget fixes once."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting import rdp
from hypothesis import assume, given
from hypothesis import strategies as st

from fedcohort.privacy.accounting import calibrate, epsilon_of, epsilon_of_event, for_sites
from fedcohort.privacy.budget import ORDERS, SLACK, Budget, epsilon_at
from fedcohort.privacy.mechanism import FAMILIES, Mechanism, is_gaussian_proved

NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf, -math.inf]
NOT_A_SHARE = [0.0, -0.1, 1.0001, math.nan, math.inf]
NOT_A_DELTA = [0.0, 1.0, -1e-5, math.nan, math.inf]
EPSILONS = st.floats(0.05, 50.0)
DELTAS = st.sampled_from([1e-3, 1e-5, 1e-8])


def googles(event: dp_accounting.DpEvent, order: int) -> float:
    return float(rdp.RdpAccountant([order]).compose(event).rdp[0])


# ---- a mechanism


@given(z=st.floats(0.01, 1e3), order=st.integers(2, 4096))
def test_a_sum_costs_the_zcdp_of_its_gaussian(z: float, order: int) -> None:
    mechanism = Mechanism(noise_multiplier=z)
    assert mechanism.rdp(order) == pytest.approx(order / (2 * z**2), rel=1e-12)
    assert googles(mechanism.event(), order) == pytest.approx(mechanism.rdp(order), rel=1e-12)


@pytest.mark.parametrize("order", [2, 3, 8, 20, 64, 128, 300])
@pytest.mark.parametrize("q", [0.001, 0.0256, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("z", [0.5, 1.0, 4.0, 20.0])
def test_a_sampled_step_costs_what_google_says_at_integer_orders(
    z: float, q: float, order: int
) -> None:
    mechanism = Mechanism(noise_multiplier=z, sampling_probability=q)
    found = mechanism.rdp(order)
    # Both add up logarithms of binomials: some 1e-13 of them are rounding.
    assert found == pytest.approx(googles(mechanism.event(), order), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("z", [0.6, 2.0, 9.0])
def test_a_sampled_step_at_order_two_has_a_closed_form(z: float) -> None:
    q = 0.03
    known = math.log1p(q**2 * math.expm1(1 / z**2))
    assert Mechanism(noise_multiplier=z, sampling_probability=q).rdp(2) == pytest.approx(known)


@given(z=st.floats(0.3, 50.0), q=st.floats(0.001, 0.999), order=st.integers(2, 200))
def test_sampling_never_costs_more_and_more_noise_never_either(
    z: float, q: float, order: int
) -> None:
    found = Mechanism(noise_multiplier=z, sampling_probability=q).rdp(order)
    assert 0 <= found <= Mechanism(noise_multiplier=z).rdp(order) * (1 + 1e-9)
    quieter = Mechanism(noise_multiplier=z * 1.5, sampling_probability=q).rdp(order)
    assert quieter <= found * (1 + 1e-9) + 1e-13
    later = Mechanism(noise_multiplier=z, sampling_probability=q).rdp(order + 1)
    assert later >= found * (1 - 1e-9) - 1e-13


def test_sampling_almost_everybody_costs_almost_what_everybody_does() -> None:
    nearly = Mechanism(noise_multiplier=3.0, sampling_probability=1 - 1e-9)
    assert nearly.rdp(8) == pytest.approx(Mechanism(noise_multiplier=3.0).rdp(8), rel=1e-6)


def test_noise_too_small_to_tell_can_never_be_paid() -> None:
    for q in (0.5, 1.0):
        cost = Mechanism(noise_multiplier=1e-4, sampling_probability=q).rdp(8)
        assert not Budget(epsilon=100.0, delta=1e-5).holds(cost)


def test_a_mechanism_says_which_family_it_is_and_what_its_event_is() -> None:
    whole = Mechanism(noise_multiplier=2.0)
    sampled = Mechanism(noise_multiplier=2.0, sampling_probability=0.1)
    assert (whole.family, sampled.family) == FAMILIES
    assert whole.event(5) == dp_accounting.SelfComposedDpEvent(dp_accounting.ZCDpEvent(0.125), 5)
    step = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(2.0))
    assert sampled.event(5) == dp_accounting.SelfComposedDpEvent(step, 5)
    assert whole.event(0) == sampled.event(0) == dp_accounting.NoOpDpEvent()
    # Continuous noise of the same variance is a gauge beside the bound, never the bound.
    gauge = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(2.0), 5)
    assert whole.same_variance(5) == gauge != whole.event(5)


@pytest.mark.parametrize("bad", NOT_POSITIVE)
def test_a_mechanism_without_noise_is_none(bad: float) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        Mechanism(noise_multiplier=bad)


@pytest.mark.parametrize("bad", NOT_A_SHARE)
def test_a_share_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="sampling_probability"):
        Mechanism(noise_multiplier=1.0, sampling_probability=bad)


@pytest.mark.parametrize("order", [1, 0, -3])
def test_an_order_below_two_is_refused(order: int) -> None:
    for q in (0.5, 1.0):
        with pytest.raises(ValueError, match="order"):
            Mechanism(noise_multiplier=1.0, sampling_probability=q).rdp(order)


# ---- a budget


@pytest.mark.parametrize(
    ("epsilon", "order", "limit"),
    # By Canonne, Kamath, Steinke 2020, Prop. 12; delta 1e-5.
    [(1.0, 18, 0.549949), (3.0, 8, 1.785891), (8.0, 4, 4.912140)],
)
def test_a_budget_has_the_order_and_the_limit_of_the_conversion(
    epsilon: float, order: int, limit: float
) -> None:
    budget = Budget(epsilon=epsilon, delta=1e-5)
    assert budget.order == order
    assert budget.limit == pytest.approx(limit, rel=1e-6)


@given(epsilon=EPSILONS, delta=DELTAS)
def test_the_order_leaves_most_room_for_gaussian_noise(epsilon: float, delta: float) -> None:
    budget = Budget(epsilon=epsilon, delta=delta)

    def room(order: int) -> float:
        return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)

    assert budget.limit / budget.order == pytest.approx(
        max(room(order) / order for order in ORDERS), rel=1e-8
    )
    # And no order between those that are tried would leave a hundredth more.
    assert max(room(order) / order for order in range(2, 2000)) <= (
        1.01 * budget.limit / budget.order
    )


@given(epsilon=EPSILONS, delta=DELTAS)
def test_spending_a_budget_to_its_limit_is_epsilon_and_no_more(
    epsilon: float, delta: float
) -> None:
    budget = Budget(epsilon=epsilon, delta=delta)
    spent = epsilon_at(budget.limit * (1 + SLACK), budget.order, delta)
    assert epsilon * (1 - 1e-6) <= spent <= epsilon


def test_exactly_the_budget_is_accepted_and_a_millionth_more_is_not() -> None:
    for budget in (Budget(epsilon=3.0, delta=1e-5), Budget(epsilon=0.1, delta=1e-6)):
        assert budget.holds(budget.limit)
        assert budget.holds(sum([budget.limit / 10] * 10))  # ten floats add up to a little more
        assert not budget.holds(budget.limit + 1e-6)
        assert not budget.holds(budget.limit * (1 + 1e-6))
        assert budget.holds(0.0)


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_what_is_no_number_is_not_within_a_budget(cost: float) -> None:
    assert not Budget(epsilon=3.0, delta=1e-5).holds(cost)


@pytest.mark.parametrize("bad", NOT_POSITIVE)
def test_a_budget_without_epsilon_is_none(bad: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        Budget(epsilon=bad, delta=1e-5)


@pytest.mark.parametrize("bad", NOT_A_DELTA)
def test_a_budget_without_delta_is_none(bad: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        Budget(epsilon=1.0, delta=bad)


def test_a_budget_that_no_order_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        Budget(epsilon=1e-9, delta=1e-5)


def test_nothing_spent_is_no_epsilon() -> None:
    assert epsilon_at(0.0, 8, 1e-5) == 0.0
    assert epsilon_at(1e-12, 4096, 0.9) == 0.0


# ---- calibrated for a budget


@given(
    epsilon=EPSILONS,
    delta=DELTAS,
    releases=st.integers(1, 500),
    q=st.sampled_from([1.0, 1.0, 0.5, 0.1, 0.01]),
)
def test_a_fresh_ledger_can_pay_for_calibrated_noise_and_for_no_less(
    epsilon: float, delta: float, releases: int, q: float
) -> None:
    budget = Budget(epsilon=epsilon, delta=delta)
    z = calibrate(epsilon, delta, releases, q)

    def cost(noise: float) -> float:
        mechanism = Mechanism(noise_multiplier=noise, sampling_probability=q)
        return math.fsum([mechanism.rdp(budget.order)] * releases)

    assert budget.holds(cost(z))
    assume(z > 0.01)  # else the search's lower end
    assert not budget.holds(cost(z * (1 - 1e-4)))


@pytest.mark.parametrize("q", [1.0, 0.1])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_what_a_ledger_can_pay_costs_no_more_than_its_epsilon(epsilon: float, q: float) -> None:
    z = calibrate(epsilon, 1e-5, 40, q)
    assert epsilon_of(z, 40, 1e-5, q) <= epsilon * (1 + 1e-9)


def test_the_ledgers_currency_asks_for_a_little_more_noise_than_the_tightest_bound() -> None:
    # 16.684 and 6.219 by privacy loss distributions, delta 1e-5.
    for epsilon, tight in ((1.0, 16.684), (3.0, 6.219)):
        assert 1.07 * tight < calibrate(epsilon, 1e-5, 20) < 1.11 * tight


def test_a_mixed_year_costs_at_the_best_order_about_what_it_does_at_a_fixed_one() -> None:
    parts = [
        (Mechanism(noise_multiplier=2.0, sampling_probability=0.05), 400),
        (Mechanism(noise_multiplier=3.0, sampling_probability=0.1), 200),
        (Mechanism(noise_multiplier=25.0), 20),
        (Mechanism(noise_multiplier=20.0), 40),
    ]
    event = dp_accounting.ComposedDpEvent([part.event(count) for part, count in parts])
    assert epsilon_of_event(event, 1e-5) == pytest.approx(3.7988, rel=2e-3)
    for order, known in ((6, 3.801), (5, 3.93), (8, 4.00)):
        spent = sum(count * part.rdp(order) for part, count in parts)
        assert epsilon_at(spent, order, 1e-5) == pytest.approx(known, rel=2e-3)


@pytest.mark.parametrize("bad", NOT_A_SHARE)
def test_noise_for_a_share_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="sampling_probability"):
        calibrate(1.0, 1e-5, 10, bad)


# ---- a patient of several hospitals


@pytest.mark.parametrize("sites", [1, 2, 3, 7])
def test_a_patient_of_several_hospitals_is_protected_by_so_much_less(sites: int) -> None:
    here = Mechanism(noise_multiplier=6.0, sampling_probability=0.5)
    summed, each = for_sites(here, sites, "sum"), for_sites(here, sites, "each")
    assert summed.noise_multiplier == pytest.approx(6.0 / sites)
    assert each.noise_multiplier == pytest.approx(6.0 / math.sqrt(sites))
    assert for_sites(here, sites, "local") == each
    assert summed.sampling_probability == each.sampling_probability == 0.5


@given(z=st.floats(0.5, 20.0), q=st.floats(0.001, 1.0), order=st.integers(2, 64))
def test_two_hospitals_that_sample_for_themselves_cost_no_more_than_stated(
    z: float, q: float, order: int
) -> None:
    """With local noise such a patient is in twice as many releases; `for_sites` states more."""
    here = Mechanism(noise_multiplier=z, sampling_probability=q)
    stated = for_sites(here, 2, "local").rdp(order)
    assert stated >= 2 * here.rdp(order) * (1 - 1e-9) - 1e-12


def test_no_hospital_is_no_patient() -> None:
    with pytest.raises(ValueError, match="sites"):
        for_sites(Mechanism(noise_multiplier=1.0), 0, "sum")


@pytest.mark.parametrize(
    ("noise", "epsilon", "delta", "proved"),
    [
        ([(6.2, 1.0)], 3.0, 1e-4, True),
        ([(0.125, 1.0)], 40.0, 1e-5, True),
        ([(0.1249, 1.0)], 40.0, 1e-5, False),  # below 1024 grid units
        ([(6.2, 0.999)], 3.0, 1e-4, False),  # a sample
        ([(6.2, 1.0), (6.2, 0.2)], 3.0, 1e-4, False),
        ([(6.2, 1.0), (0.1, 1.0)], 3.0, 1e-4, False),
        ([(6.2, 1.0)], 3.0, 0.5, False),
        ([(6.2, 1.0)], 3.0, 1e-21, False),
        ([(6.2, 1.0)], 1.1e4, 1e-4, False),
        ([(1e6, 1.0)], 0.0, 1e-4, False),  # nothing was rounded up
        ([(6.2, 1.0)], math.inf, 1e-4, False),
        ([(6.2, 1.0)], math.nan, 1e-4, False),
        ([(math.nan, 1.0)], 3.0, 1e-4, False),
    ],
)
def test_the_gaussians_curve_is_proved_where_the_premises_hold_and_nowhere_else(
    noise: list[tuple[float, float]], epsilon: float, delta: float, proved: bool
) -> None:
    assert is_gaussian_proved(noise, epsilon=epsilon, delta=delta) is proved
