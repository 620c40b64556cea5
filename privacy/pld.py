"""Epsilon by privacy loss distribution (PLD): the least that can be claimed for known mechanisms.

The calculator's bound, and that of the baseline with local noise. It holds for continuous
Gaussian and Laplace noise, alone and on Poisson samples, and for integer noise in a sum where
`mechanism.is_gaussian_proved` says so; elsewhere integer noise is bounded by Renyi DP only
(`accounting`). It says what a list of releases cost whose parameters were fixed beforehand; it is
no rule to stop by (`budget`). Never the central limit theorem for Gaussian DP: it is up to 20 %
too low.

Gaussians alone are one Gaussian, whose curve is known exactly. Everything else is discretised
by Google's pessimistic "connect the dots" and convolved by FFT. Rounding errors of the FFT are
not pessimistic, so that where they could show (`_leaves.trusted`) Renyi DP is stated instead.

Sources: Koskela et al. 2020 (arXiv:1906.03049), Doroshenko et al. 2022 (arXiv:2207.04380) for
PLD; Balle & Wang 2018 (arXiv:1805.06530), Thm. 8, for the Gaussian; Bun & Steinke 2016,
Prop. 1.4 and 1.9 (pure DP as zCDP; groups of two); Balle et al. 2018 (arXiv:1807.01647), Thm. 8
(pure DP on Poisson samples); dp-accounting 0.6.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import dp_event
from scipy.optimize import brentq

from . import accounting
from ._leaves import Leaves, Relation, distribution, interval, leaves_of, renyi, trusted
from .events import MAX_COUNT

__all__ = [
    "Price",
    "Relation",
    "calibrate_pld",
    "gaussian_event",
    "price",
    "rdp_epsilon",
    "round_up",
]

_COARSE = 10.0  # times the interval, while searching
_FEWEST_NOISE = 0.1  # least noise multiplier that is searched on samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """An epsilon and the bound that it is.

    Attributes:
        epsilon: >= 0; infinite where nothing protects. Rounded up.
        bound: `pld`, or `rdp` where no privacy loss distribution can be computed.
        method: How it was computed, for people.
    """

    epsilon: float
    bound: str
    method: str


def gaussian_event(
    noise_multiplier: float, steps: int, sampling_probability: float = 1.0
) -> dp_event.DpEvent:
    """Return the event of so many Gaussian releases, on Poisson samples where q < 1.

    Args:
        noise_multiplier: z = sigma / clip norm, 0 or in [1e-4, 1e6]; 0 protects nobody.
        steps: T, in [0, 1e9]; 0 is no release.
        sampling_probability: q, 0 or in [1e-6, 1]; 0 is a sample of nobody.

    Raises:
        ValueError: An argument is out of its range (NaN included).
    """
    if not (noise_multiplier == 0 or 1e-4 <= noise_multiplier <= 1e6):  # NaN fails too
        raise ValueError(f"noise_multiplier must be 0 or in [1e-4, 1e6], got {noise_multiplier}")
    if not (sampling_probability == 0 or 1e-6 <= sampling_probability <= 1):
        raise ValueError(
            f"sampling_probability must be 0 or in [1e-6, 1], got {sampling_probability}"
        )
    if not 0 <= steps <= MAX_COUNT:
        raise ValueError(f"steps must lie in [0, {MAX_COUNT}], got {steps}")
    if steps == 0 or sampling_probability == 0:
        return dp_event.NoOpDpEvent()
    if noise_multiplier == 0:
        return dp_event.NonPrivateDpEvent()
    single = dp_event.GaussianDpEvent(noise_multiplier)
    if sampling_probability < 1:
        single = dp_event.PoissonSampledDpEvent(sampling_probability, single)
    return dp_event.SelfComposedDpEvent(single, steps)


def price(event: dp_event.DpEvent, delta: float, relation: Relation = Relation.ADD_REMOVE) -> Price:
    """Return the least epsilon that is proved for an event, and by which bound.

    Args:
        event: Of `events.ALLOWED`, noise multipliers being ratios to the clip norm of one
            patient; or `NonPrivateDpEvent`.
        delta: In (0, 1).
        relation: With `REPLACE_ONE`, one patient changes a sum by twice the clip norm.

    Guarantee:
        The order and grouping of what is in the event change nothing.

    Raises:
        ValueError: delta is out of (0, 1).
        PolicyError: `event_unknown`.
        dp_accounting.UnsupportedEventError: No bound covers all of it under this relation.
    """
    if not 0 < delta < 1:  # NaN fails too
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
    if isinstance(event, dp_event.NonPrivateDpEvent):
        return Price(epsilon=math.inf, bound="pld", method="no noise")
    return _price(leaves_of(event, relation), delta, relation, 1.0)


def rdp_epsilon(
    event: dp_event.DpEvent, delta: float, relation: Relation = Relation.ADD_REMOVE
) -> float:
    """Return epsilon by Renyi DP at its best order; see `price` for arguments and errors."""
    if isinstance(event, dp_event.NonPrivateDpEvent):
        return math.inf
    return _rdp(leaves_of(event, relation), delta, relation)


@lru_cache(maxsize=256)
@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # at the ends of a search
def calibrate_pld(
    epsilon: float,
    delta: float,
    steps: int,
    sampling_probability: float = 1.0,
    relation: Relation = Relation.ADD_REMOVE,
) -> float:
    """Return the least noise multiplier at which so many Gaussian releases cost epsilon.

    Args:
        epsilon: In [1e-6, 1e6].
        delta: In (0, 1).
        steps: T, in [1, 1e9].
        sampling_probability: q, in [1e-6, 1].
        relation: As in `price`.

    Returns:
        z to six digits, rounded up: `price` of it is at most epsilon, and of z less a
        thousandth it is more. On samples at least 0.1: where a patient is hit so seldom that
        delta covers it, less noise would do and protect nobody who is hit.

    Raises:
        ValueError: An argument is out of its range (NaN included), or z is above 1e6.
        dp_accounting.UnsupportedEventError: Samples under `REPLACE_ONE`, delta below 1e-10.
    """
    if not 1e-6 <= epsilon <= 1e6:
        raise ValueError(f"epsilon must lie in [1e-6, 1e6], got {epsilon}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
    if not 1 <= steps <= 10**9:
        raise ValueError(f"steps must lie in [1, 1e9], got {steps}")
    if not 1e-6 <= sampling_probability <= 1:
        raise ValueError(f"sampling_probability must lie in [1e-6, 1], got {sampling_probability}")

    def cost(noise_multiplier: float, coarse: float = 1.0) -> float:
        event = gaussian_event(noise_multiplier, steps, sampling_probability)
        return _price(leaves_of(event, relation), delta, relation, coarse).epsilon

    full = math.sqrt(steps) * float(dp_accounting.get_sigma_gaussian(epsilon, delta))
    full *= 2.0 if relation is Relation.REPLACE_ONE else 1.0
    if full > 1e6:
        raise ValueError(f"epsilon {epsilon} takes a noise multiplier of {full:.3g}, more than 1e6")
    found = round_up(full if sampling_probability == 1 else _search(cost, epsilon, full))
    while cost(found) > epsilon:
        found = round_up(found * (1 + 1e-5))
    return found


def _search(cost: Any, epsilon: float, full: float) -> float:
    """Return about the noise multiplier at which the cost is epsilon: coarsely, then finely."""
    # A sample needs no more noise than everybody in every release; by Renyi DP a little more.
    low = high = full
    while cost(high, _COARSE) > epsilon:
        high *= 2
    while low > _FEWEST_NOISE and cost(low, _COARSE) <= epsilon:
        low, high = max(low / 2, _FEWEST_NOISE), low
    if cost(low, _COARSE) <= epsilon:
        return low

    def excess(log_noise: float) -> float:
        return math.log(max(cost(math.exp(log_noise), _COARSE), 1e-12) / epsilon)

    log_noise = float(brentq(excess, math.log(low), math.log(high), xtol=1e-6))
    slope = (excess(log_noise + 1e-2) - excess(log_noise - 1e-2)) / 2e-2
    for _ in range(4):  # Newton's steps with the coarse slope
        missed = math.log(max(cost(math.exp(log_noise)), 1e-12) / epsilon)
        if abs(missed) < 1e-6:
            break
        log_noise -= missed / min(slope, -0.1)
    return math.exp(log_noise)


def round_up(number: float) -> float:
    """Return a positive number rounded up to six digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 5)
    return float(f"{math.ceil(number / unit - 1e-6) * unit:.6g}")


@lru_cache(maxsize=512)
@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # at the ends of a search
def _price(leaves: Leaves, delta: float, relation: Relation, coarse: float) -> Price:
    if not leaves:
        return Price(epsilon=0.0, bound="pld", method="nothing is released")
    if len(leaves) == 1 and isinstance(leaves[0][0], dp_event.GaussianDpEvent):
        exact = float(dp_accounting.get_epsilon_gaussian(leaves[0][0].noise_multiplier, delta))
        rounded = exact * (1 + 1e-12) + 1e-11 if exact else 0.0
        return Price(epsilon=rounded, bound="pld", method="the Gaussian's exact curve")
    if trusted(leaves, delta, relation):
        step = interval(leaves, relation, coarse)
        whole = None
        for leaf, count in leaves:
            part = distribution(leaf, relation, step)
            part = part.self_compose(count) if count > 1 else part
            whole = part if whole is None else whole.compose(part)
        found = float(whole.get_epsilon_for_delta(delta)) if whole is not None else math.inf
        if math.isfinite(found):
            method = f"connect the dots, interval {step:.1e}"
            return Price(epsilon=found * (1 + 1e-6), bound="pld", method=method)
    return Price(epsilon=_rdp(leaves, delta, relation), bound="rdp", method="the best order")


def _rdp(leaves: Leaves, delta: float, relation: Relation) -> float:
    if relation is Relation.REPLACE_ONE and any(
        isinstance(leaf, dp_event.PoissonSampledDpEvent) for leaf, _ in leaves
    ):
        raise dp_accounting.UnsupportedEventError(
            "Renyi DP of a Poisson sample is known for add-remove only"
        )
    parts = [dp_event.SelfComposedDpEvent(renyi(leaf), count) for leaf, count in leaves]
    if not parts:
        return 0.0
    return accounting.epsilon_of_event(dp_event.ComposedDpEvent(parts), delta)
