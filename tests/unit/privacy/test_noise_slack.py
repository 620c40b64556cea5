"""What a sum of discrete Gaussian shares lacks of being one discrete Gaussian, and who pays it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.privacy.noise import MINIMUM_SHARE
from fedcohort.privacy.secagg.encoding import Encoding


def slack(sigma: float, shares: int) -> float:
    """Tau of Kairouz, Liu, Steinke 2021, Theorem 1: what the sum's log-probabilities may be off."""
    return 10 * math.fsum(
        math.exp(-2 * (math.pi * sigma) ** 2 * k / (k + 1)) for k in range(1, shares)
    )


def exact(sigma: float, reach: int) -> NDArray[np.float64]:
    mass = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    return np.asarray(mass / math.fsum(mass))


def distance(sigma: float, shares: int) -> float:
    """Largest difference of log-probabilities, sum of shares against one discrete Gaussian."""
    total, reach = exact(sigma, 40), 40
    for _ in range(shares - 1):
        total, reach = np.convolve(total, exact(sigma, 40)), reach + 40
    near = math.floor(4 * sigma * math.sqrt(shares))
    middle = slice(reach - near, reach + near + 1)
    whole = exact(sigma * math.sqrt(shares), reach)
    return float(np.abs(np.log(total[middle] / whole[middle])).max())


@pytest.mark.parametrize("shares", [2, 3, 6])
@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.0, 1.25])
def test_the_slack_bounds_how_far_a_sum_is_from_one_discrete_gaussian(
    sigma: float, shares: int
) -> None:
    assert distance(sigma, shares) <= slack(sigma, shares)
    if shares == 2:  # and it is no idle bound: without it the distance is there to be seen
        assert distance(sigma, shares) > 1e-3 * slack(sigma, shares)


def test_shares_of_two_units_leave_a_slack_that_a_millionth_of_the_sensitivity_covers() -> None:
    """The sum of n shares obeys rho = eps^2 / 2 with eps <= D / (sqrt(n) sigma) + tau sqrt(d).

    In terms of z = sqrt(n) sigma / D that is the Gaussian's price for a sensitivity longer by
    the factor 1 + z tau sqrt(d); `Encoding.sensitivity_units` allows 1 + 1e-5.
    """
    worst = max(slack(MINIMUM_SHARE, shares) for shares in range(2, 201))
    assert worst * math.sqrt(1e7) < 1e-11
    grid = Encoding(fraction_bits=14, limit=2**20)
    paid = grid.sensitivity_units(1.0, 900, 1) / (grid.scale + 30.0)  # beyond rounding
    for z in (0.1, 1.0, 100.0, 1e6):
        assert 1 + z * worst * math.sqrt(1e7) < paid
    assert distance(MINIMUM_SHARE, 3) < 1e-12  # as near as floats can tell
    # Where shares are narrower the slack is not negligible: the refusal is not pedantry.
    assert slack(1.0, 3) > 5e-4
    assert slack(0.5, 3) > 1.0
