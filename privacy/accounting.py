"""Accounting: what a number of noisy sums costs one patient, and how much noise a price needs.

The noise is discrete and summed over sites; the bound that plans and ledgers state is zCDP / Renyi
DP, named `rdp`. A privacy loss distribution is 8 to 15 % tighter. For sums with everybody in them
it is proved too (docs/explanation/exact-pricing.md), but no ledger counts by it. Only the baseline
that adds local noise to Poisson samples is stated by its privacy loss distribution (`pld`, see
`privacy.pld` and `privacy.discreteness`); its Renyi DP is taken at integer orders, where discrete
noise on samples costs what continuous noise does. Noise is always calibrated in the currency of
the hospital's ledger, Renyi DP at one fixed order (`privacy.budget`), so that a plan at (3, 1e-4)
fits a budget of (3, 1e-4).

Source: Bun & Steinke 2016 (zCDP); Canonne, Kamath, Steinke 2020, Prop. 12 (RDP to epsilon).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from .budget import ORDERS, Budget
from .mechanism import Mechanism

if TYPE_CHECKING:
    import dp_accounting

__all__ = ["BOUND", "calibrate", "epsilon_of", "epsilon_of_event", "for_sites"]

BOUND = "rdp"
# Tenths serve large epsilons. Not for samples: they are slow, do not always converge, and only
# at integer orders is the price of discrete noise that of continuous noise.
_TENTHS = [1 + x / 10 for x in range(1, 100) if x % 10]


def epsilon_of(
    noise_multiplier: float, releases: int, delta: float, sampling_probability: float = 1.0
) -> float:
    """Return the epsilon that holds for one patient over all releases.

    Args:
        noise_multiplier: z, > 0.
        releases: Number of noisy sums in which the patient may be, >= 0.
        delta: In (0, 1).
        sampling_probability: q, in (0, 1].

    Returns:
        epsilon at `delta`, add-or-remove one patient, by Renyi DP at its best order.

    Raises:
        ValueError: An argument is out of its range (NaN included).
    """
    mechanism = Mechanism(
        noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
    )
    if releases < 0:
        raise ValueError(f"releases must be >= 0, got {releases}")
    return epsilon_of_event(mechanism.event(releases), delta)


def epsilon_of_event(event: dp_accounting.DpEvent, delta: float) -> float:
    """Return the epsilon of anything that Renyi DP can account for, at its best order.

    Raises:
        ValueError: delta is out of (0, 1).
        dp_accounting.UnsupportedEventError: There is no Renyi DP for the event.
    """
    import dp_accounting  # here, for it takes most of a second and few commands price anything
    from dp_accounting import rdp

    _check_delta(delta)
    if event == dp_accounting.NoOpDpEvent():
        return 0.0
    sampled = "PoissonSampled" in repr(event)
    orders = [float(order) for order in ORDERS] + ([] if sampled else _TENTHS)
    accountant = rdp.RdpAccountant(orders, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def for_sites(mechanism: Mechanism, sites: int, sharing: str) -> Mechanism:
    """Return the mechanism as a patient sees it who is a patient of several hospitals.

    Clipped at each hospital, such a patient changes one sum by `sites` times the clip norm, so
    that z shrinks by that factor. Where each hospital adds all of the noise itself (`each`,
    `local`), the noise of those hospitals counts too, and z shrinks by its root.

    Args:
        mechanism: For a patient of one hospital.
        sites: Hospitals of this patient among those of the study, >= 1.
        sharing: `sum`, `each` or `local`, as in the plan.

    >>> for_sites(Mechanism(noise_multiplier=4.0), 2, "sum").noise_multiplier
    2.0
    """
    if sites < 1:
        raise ValueError(f"sites must be >= 1, got {sites}")
    factor = float(sites) if sharing == "sum" else math.sqrt(sites)
    return Mechanism(
        noise_multiplier=mechanism.noise_multiplier / factor,
        sampling_probability=mechanism.sampling_probability,
    )


@lru_cache(maxsize=256)
def calibrate(
    epsilon: float, delta: float, releases: int, sampling_probability: float = 1.0
) -> float:
    """Return the least noise multiplier whose releases a budget of (epsilon, delta) can pay.

    Args:
        epsilon: > 0 and finite.
        delta: In (0, 1).
        releases: >= 1.
        sampling_probability: q, in (0, 1].

    Returns:
        z, rounded up: a fresh ledger with this budget can always pay the releases, and
        `epsilon_of` of them is at most epsilon. With q = 1, by closed form:
        z^2 = order * releases / (2 limit).

    Raises:
        ValueError: An argument is out of its range (NaN included).
    """
    budget = Budget(epsilon=epsilon, delta=delta)
    if releases < 1:
        raise ValueError(f"releases must be >= 1, got {releases}")
    full = math.sqrt(budget.order * releases / (2.0 * budget.limit)) * (1 + 1e-12)
    if sampling_probability == 1:
        return full

    def fits(noise_multiplier: float) -> bool:
        mechanism = Mechanism(
            noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
        )
        return releases * mechanism.rdp(budget.order) <= budget.limit

    low, high = 1e-3, full  # sampling never needs more noise than everybody in every release
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        if fits(middle):
            high = middle
        else:
            low = middle
    return high


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:  # NaN fails too
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
