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

from fedcohort.privacy.accounting import BOUND, calibrate, epsilon_of, releases_event

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
    orders = [1 + number / 100 for number in range(1, 2000)] + list(range(21, 1100))
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


@given(epsilon=st.floats(0.05, 50.0), releases=st.integers(1, 1000), delta=DELTAS)
def test_calibrated_noise_is_never_too_little_and_hardly_too_much(
    epsilon: float, releases: int, delta: float
) -> None:
    z = calibrate(epsilon, delta, releases)
    assert epsilon_of(z, releases, delta) <= epsilon
    assert epsilon_of(z * (1 - 1e-5), releases, delta) > epsilon
    assert exact_epsilon(z, releases, delta) <= epsilon


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
    event = releases_event(5.0, 100)
    parts = rdp.RdpAccountant()
    parts.compose(releases_event(5.0, 60)).compose(releases_event(5.0, 40))
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
    with pytest.raises(ValueError, match="more noise"):
        calibrate(1e-30, 1e-300, 10)
