"""Accounting: what a number of noisy sums costs one patient, by Google's `dp-accounting`.

The noise is discrete and summed over sites, so the bound that holds is zCDP / Renyi DP; a
privacy-loss-distribution accountant would be 8 to 15 % tighter but has no proof for sums of
discrete Gaussians. Every epsilon printed names this bound: `rdp`.

Source: Bun & Steinke 2016 (zCDP); Canonne, Kamath, Steinke 2020, Prop. 12 (RDP to epsilon).
"""

from __future__ import annotations

import math
from functools import lru_cache

import dp_accounting
from dp_accounting import rdp

__all__ = ["BOUND", "calibrate", "epsilon_of", "releases_event"]

BOUND = "rdp"
# Integer and half orders up to 64, then sparser: the optimum for epsilon 0.05..50 lies inside.
_ORDERS = [1 + x / 10 for x in range(1, 100)] + [float(x) for x in range(11, 64)]
_ORDERS += [64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0]


def releases_event(noise_multiplier: float, releases: int) -> dp_accounting.DpEvent:
    """Return the event of `releases` noisy sums, every one at the same noise multiplier."""
    single = dp_accounting.ZCDpEvent(rho=1.0 / (2.0 * noise_multiplier**2))
    return dp_accounting.SelfComposedDpEvent(single, releases)


def epsilon_of(noise_multiplier: float, releases: int, delta: float) -> float:
    """Return the epsilon that holds for one patient over all releases.

    Args:
        noise_multiplier: z, > 0.
        releases: Number of noisy sums in which the patient may be, >= 0.
        delta: In (0, 1).

    Returns:
        epsilon at `delta`, add-or-remove one patient, by Renyi DP.

    Raises:
        ValueError: An argument is out of its range (NaN included).
    """
    _check_delta(delta)
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ValueError(f"noise_multiplier must be > 0, got {noise_multiplier}")
    if releases < 0:
        raise ValueError(f"releases must be >= 0, got {releases}")
    if releases == 0:
        return 0.0
    accountant = rdp.RdpAccountant(_ORDERS, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(releases_event(noise_multiplier, releases))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def calibrate(epsilon: float, delta: float, releases: int) -> float:
    """Return the smallest noise multiplier whose releases cost at most epsilon.

    Args:
        epsilon: > 0 and finite.
        delta: In (0, 1).
        releases: >= 1.

    Returns:
        z, rounded up: `epsilon_of(z, releases, delta) <= epsilon` always holds.

    Raises:
        ValueError: An argument is out of its range (NaN included).
    """
    _check_delta(delta)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and > 0, got {epsilon}")
    if releases < 1:
        raise ValueError(f"releases must be >= 1, got {releases}")
    low, high = 1e-3, 1.0
    while epsilon_of(high, releases, delta) > epsilon:
        low, high = high, 2.0 * high
        if high > 1e9:
            raise ValueError(f"epsilon {epsilon} at delta {delta} needs more noise than 1e9")
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        if epsilon_of(middle, releases, delta) > epsilon:
            low = middle
        else:
            high = middle
    return high


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:  # NaN fails too
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
