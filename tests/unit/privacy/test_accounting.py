"""Epsilon against dp-accounting's own classes and against the exact Gaussian curve."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedcohort.privacy.accounting import BOUND, calibrate, epsilon_of
from fedcohort.privacy.budget import ORDERS, Budget
from fedcohort.privacy.errors import BudgetExceededError
from fedcohort.privacy.ledger.book import Book
from fedcohort.privacy.ledger.charges import Opening, Reservation
from fedcohort.privacy.mechanism import Mechanism

DELTAS = st.sampled_from([1e-3, 1e-4, 1e-5, 1e-6, 1e-8])


def exact_epsilon(z: float, releases: int, delta: float) -> float:
    """T Gaussians at z are one at z / sqrt(T); its exact curve is Balle & Wang 2018, Thm. 8."""
    mu = math.sqrt(releases) / z

    def excess(epsilon: float) -> float:
        second = math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
        return float(norm.cdf(mu / 2 - epsilon / mu) - second - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12))


def test_the_exact_curve_here_is_the_one_of_dp_accounting() -> None:
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_accounting.GaussianDpEvent(20.0), 20)
    assert exact_epsilon(20.0, 20, 1e-6) == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-3)
    assert exact_epsilon(20.0, 20, 1e-6) == pytest.approx(0.9405, rel=1e-3)


@pytest.mark.parametrize(
    ("z", "releases", "delta", "epsilon"),
    # Measured with dp-accounting 0.6.0's RDP and with Opacus 1.6.0's, which agree.
    [(20.0, 20, 1e-6, 1.0142), (1.0, 1, 1e-5, 4.7285)],
)
def test_reference_values(z: float, releases: int, delta: float, epsilon: float) -> None:
    assert epsilon_of(z, releases, delta) == pytest.approx(epsilon, rel=2e-4)


@pytest.mark.parametrize("z", [0.7, 4.0, 30.0, 500.0])
@pytest.mark.parametrize("releases", [1, 21, 400])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_it_is_what_dp_accounting_says_of_as_many_gaussians(
    z: float, releases: int, delta: float
) -> None:
    # All of our orders and many between them: a finer grid finds less or the same, never more.
    orders = [1 + number / 100 for number in range(1, 2000)] + list(range(21, max(ORDERS) + 1))
    accountant = rdp.RdpAccountant(orders)
    accountant.compose(dp_accounting.GaussianDpEvent(z), releases)
    finer = accountant.get_epsilon(delta)
    found = epsilon_of(z, releases, delta)
    assert found >= finer * (1 - 1e-12)
    if finer >= 0.1:  # below, the best order is larger than any of ours
        assert found <= finer * 1.03


@given(z=st.floats(0.5, 300.0), releases=st.integers(1, 500), delta=DELTAS)
def test_it_never_claims_less_than_the_truth_and_not_much_more(
    z: float, releases: int, delta: float
) -> None:
    truth, found = exact_epsilon(z, releases, delta), epsilon_of(z, releases, delta)
    assert found >= truth
    if 0.1 <= truth <= 20:  # Renyi DP is looser where delta is large
        assert found <= (1.25 if delta > 1e-4 else 1.2) * truth


@given(epsilon=st.floats(0.02, 50.0), releases=st.integers(1, 1000), delta=DELTAS)
def test_calibrated_noise_is_never_too_little_and_hardly_too_much(
    epsilon: float, releases: int, delta: float
) -> None:
    z = calibrate(epsilon, delta, releases)
    assert epsilon_of(z, releases, delta) <= epsilon
    assert exact_epsilon(z, releases, delta) <= epsilon
    # The ledger's order is an integer: up to epsilon 8 the best of all orders asks for 3 % less
    # noise at most, up to 50 for 10 %.
    assert epsilon_of(z * (0.97 if epsilon <= 8 else 0.9), releases, delta) > epsilon


@given(epsilon=st.floats(0.02, 50.0), releases=st.integers(1, 1000), delta=DELTAS)
def test_calibrated_noise_is_what_a_budget_of_this_size_just_pays(
    epsilon: float, releases: int, delta: float
) -> None:
    z = calibrate(epsilon, delta, releases)
    assert paid(epsilon, delta, releases, Mechanism(noise_multiplier=z))
    assert not paid(epsilon, delta, releases, Mechanism(noise_multiplier=z * (1 - 1e-6)))


@pytest.mark.parametrize("q", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    ("epsilon", "delta", "releases"),
    [(0.3, 1e-4, 100), (1.0, 1e-5, 400), (3.0, 1e-4, 30), (3.0, 1e-6, 1000), (8.0, 1e-5, 100)],
)
def test_calibrated_noise_of_sampled_steps_is_never_too_little_and_hardly_too_much(
    epsilon: float, releases: int, delta: float, q: float
) -> None:
    z = calibrate(epsilon, delta, releases, q)
    mechanism = Mechanism(noise_multiplier=z, sampling_probability=q)
    assert epsilon_of(z, releases, delta, q) <= epsilon
    assert paid(epsilon, delta, releases, mechanism)
    less = Mechanism(noise_multiplier=z * (1 - 1e-5), sampling_probability=q)
    assert not paid(epsilon, delta, releases, less)
    # An order that suits Gaussians suits samples less well: the best asks for up to a quarter less.
    assert epsilon_of(z * 0.75, releases, delta, q) > epsilon


def paid(epsilon: float, delta: float, releases: int, mechanism: Mechanism) -> bool:
    """Ask a fresh ledger of this budget."""
    opening = Opening(
        hospital="h",
        population="p",
        kind="simulation",
        budget=Budget(epsilon=epsilon, delta=delta),
        unnoised=False,
    )
    asked = Reservation(
        plan_sha256="0" * 64,
        study="s",
        purpose="p",
        analysis="a",
        rounds=releases,
        releases=releases,
        mechanism=mechanism,
        clip=1.0,
        sharing="sum",
        min_survivors=2,
        colluders=1,
    )
    try:
        return Book(opening).reserve(asked)
    except BudgetExceededError:
        return False


def test_calibration_gives_about_what_the_exact_curve_needs() -> None:
    # The exact answer is 16.684 (privacy-loss distributions); RDP asks for 8 to 15 % more.
    z = calibrate(1.0, 1e-5, 20)
    assert 16.684 < z < 1.15 * 16.684


def test_more_privacy_more_releases_and_less_delta_need_more_noise() -> None:
    by_epsilon = [calibrate(epsilon, 1e-5, 20) for epsilon in (0.1, 0.5, 1.0, 3.0, 8.0, 30.0)]
    by_releases = [calibrate(1.0, 1e-5, releases) for releases in (1, 2, 10, 100, 1000)]
    by_delta = [calibrate(1.0, delta, 20) for delta in (1e-2, 1e-4, 1e-6, 1e-9)]
    assert by_epsilon == sorted(by_epsilon, reverse=True)
    assert by_releases == sorted(by_releases)
    assert by_delta == sorted(by_delta)


@given(z=st.floats(0.5, 100.0), releases=st.integers(1, 300), delta=DELTAS)
def test_epsilon_rises_with_releases_and_falls_with_noise_and_delta(
    z: float, releases: int, delta: float
) -> None:
    here = epsilon_of(z, releases, delta)
    assert epsilon_of(z, releases + 1, delta) >= here
    assert epsilon_of(z * 1.1, releases, delta) <= here
    assert epsilon_of(z, releases, delta * 2) <= here


def test_it_composes_by_adding_releases() -> None:
    event = Mechanism(noise_multiplier=5.0).event(100)
    parts = rdp.RdpAccountant()
    for releases in (60, 40):
        parts.compose(Mechanism(noise_multiplier=5.0).event(releases))
    whole = rdp.RdpAccountant()
    whole.compose(event)
    assert parts.get_epsilon(1e-5) == pytest.approx(whole.get_epsilon(1e-5), rel=1e-12)


def test_nothing_released_costs_nothing_and_little_noise_costs_a_lot() -> None:
    assert epsilon_of(1.0, 0, 1e-5) == 0.0
    assert epsilon_of(0.01, 1, 1e-5) > 1000
    assert BOUND == "rdp"


NOT_A_DELTA = [0.0, 1.0, 1.5, -1e-5, math.nan, math.inf]


@pytest.mark.parametrize("delta", NOT_A_DELTA)
def test_a_delta_outside_zero_and_one_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon_of(1.0, 1, delta)
    with pytest.raises(ValueError, match="delta"):
        calibrate(1.0, delta, 1)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_noise_or_an_epsilon_that_is_no_positive_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        epsilon_of(value, 1, 1e-5)
    with pytest.raises(ValueError, match="epsilon"):
        calibrate(value, 1e-5, 1)


def test_a_negative_number_of_releases_is_refused() -> None:
    with pytest.raises(ValueError, match="releases"):
        epsilon_of(1.0, -1, 1e-5)
    for releases in (0, -1):
        with pytest.raises(ValueError, match="releases"):
            calibrate(1.0, 1e-5, releases)


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="epsilon 1e-30 is too small for delta 1e-300"):
        calibrate(1e-30, 1e-300, 10)
