"""What integer noise costs above continuous noise on Poisson samples (the arm `dp_fedavg`).

A step of local DP-SGD adds discrete Gaussian noise of sigma = z D grid units to an integer vector
of length d, in which one patient moves at most D in L2. Two accountants price such steps.

**Renyi DP at integer orders: nothing.** For a shift m that is a vector of integers, and an
integer k,

    E_{x ~ N_Z(0, s^2)} [(N_Z(m, s^2)(x) / N_Z(0, s^2)(x))^k] = exp((k^2 - k) |m|^2 / (2 s^2)),

by completing the square: the sum over the grid of exp(-|x - k m|^2 / (2 s^2)) is the one at 0,
since k m is on the grid. That is the continuous Gaussian's value, not a bound of it. The integer
formula for the sampled Gaussian (Mironov et al. 2019, section 3.3) is a binomial sum of these, so
it holds with discrete noise as it stands. Their Theorem 5 (removing a patient costs no more than
adding one) needs a map of the space that swaps the two means and is its own inverse: x -> m - x
is one on the grid. A hospital's ledger and the price check add up at integer orders only. What
they charge for samples is exact.

**Privacy loss distributions: a little.** They are computed for continuous noise. Let r(k) be the
probability of the integer k under continuous noise, rounded, over that under discrete noise. With
S = sum_j phi(j) in [1, 1 + 3 exp(-2 pi^2 s^2)], phi being the density,

    r(k) = S int_{-1/2}^{1/2} cosh(k t / s^2) exp(-t^2 / (2 s^2)) dt,

so that -lo <= ln r(k) for every k, and ln r(k) <= hi for |k| <= K s, where

    lo = 1 / (24 s^2 - 1),    hi = K^2 / (24 s^2) + 3 exp(-2 pi^2 s^2).

Rounding what a continuous mechanism says is post-processing. Reveal who else is in each sample
(which only helps the adversary): then the two neighbours' noises are about two centres D = s / z
apart. Let B be the outputs within K s of both centres in each coordinate, K = 12 + 1 / z. Over T
adaptive steps, for an event E,

    P(E) <= e^{T d lo} P_rounded(E in B) + tau
         <= e^{T d lo} (e^epsilon Q_rounded(E in B) + delta') + tau
         <= e^{epsilon + T d (lo + hi)} Q(E) + e^{T d lo} delta' + tau,

where tau = P(not B) <= 2 T d exp(-72). Hence (epsilon(delta'), delta') for continuous noise gives
(epsilon(delta') + T d (lo + hi), delta) with delta' = (delta - tau) e^{-T d lo}.
`epsilon_with_slack` states that.

The grid of a step has D >= 2^13 max(1, sqrt(d / 1000)) units (`Encoding.for_noisy_sum`, 64-bit
words), so that d / s^2 <= 1000 / (2^26 z^2) whatever the model's size: the term depends on z and
T alone. For z = 1 and T = 101 it is 0.011, for z = 5 it is 4e-4.

Sources: Canonne, Kamath, Steinke 2020 (the discrete Gaussian, which is sub-Gaussian with parameter
s); Mironov, Talwar, Zhang 2019 (arXiv:1908.10530).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .mechanism import Mechanism

__all__ = ["LEAST_UNITS", "Slack", "epsilon_with_slack", "slack"]

LEAST_UNITS = 2.0**13  # of a clip norm on a step's grid; more above 1,000 coordinates
_COORDINATES = 1000  # from there on the grid is finer, as the root of their number
_REACH = 12.0  # deviations of noise within which probabilities are compared
_LONGEST = 1e7  # coordinates of a vector; it only counts in tau
_FEWEST_UNITS = 2.0  # of sigma: `noise.MINIMUM_SHARE`


class Slack(NamedTuple):
    """How far T steps with discrete noise may be from T steps with continuous noise.

    Attributes:
        epsilon: T d (lo + hi), added to the continuous noise's epsilon.
        shrink: e^{-T d lo}, by which the delta is multiplied that it is computed at.
        tau: Probability of noise beyond its reach, taken off that delta.
    """

    epsilon: float
    shrink: float
    tau: float


def slack(noise_multiplier: float, releases: int) -> Slack:
    """Return the slack of so many releases; see the module's docstring.

    Args:
        noise_multiplier: z, > 0.
        releases: T, >= 0.

    >>> f"{slack(5.0, 101).epsilon:.1e}"
    '3.8e-04'
    """
    least = noise_multiplier * LEAST_UNITS
    if least < _FEWEST_UNITS:
        return Slack(math.inf, 0.0, 1.0)
    unit = releases * _COORDINATES / least**2  # at least T d / s^2
    reach = _REACH + 1 / noise_multiplier
    lo = unit / (24 - 1 / least**2)
    hi = unit * (reach**2 / 24 + 3 * least**2 * math.exp(-2 * math.pi**2 * least**2))
    tau = 2 * releases * _LONGEST * math.exp(-(_REACH**2) / 2)
    return Slack(lo + hi, math.exp(-lo), tau)


def epsilon_with_slack(mechanism: Mechanism, releases: int, delta: float) -> float:
    """Return the epsilon of releases with integer noise, by privacy loss distribution.

    Args:
        mechanism: One release.
        releases: How many.
        delta: In (0, 1).

    Guarantee:
        It holds for discrete noise on the grid of a step, for one patient added or removed.
        Rounded up.
    """
    from .pld import price  # here: it takes most of a second

    if releases == 0:
        return 0.0
    found = slack(mechanism.noise_multiplier, releases)
    inner = (delta - found.tau) * found.shrink
    if inner <= 0:
        return math.inf
    return price(mechanism.same_variance(releases), inner).epsilon + found.epsilon
