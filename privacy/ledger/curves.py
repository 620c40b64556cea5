"""Renyi DP at many orders at once: the smallest epsilon of a list of releases.

Only a gauge is read from it. The order with the smallest epsilon depends on what was asked, so
that it is no rule to stop by; the ledger's own order was fixed before anything was.

Source: Canonne, Kamath, Steinke 2020, Prop. 12.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..budget import ORDERS
from ..mechanism import Mechanism

__all__ = ["NOTHING", "best_epsilon", "curve"]

Curve = npt.NDArray[np.float64]

# Between 1 and 10 tenths serve large epsilons; samples are accounted at integers alone.
_TENTHS = [tenth / 10 for tenth in range(11, 100) if tenth % 10]
_ALL = np.array([*_TENTHS, *map(float, ORDERS)])

NOTHING: Curve = np.zeros(len(_ALL))


def curve(mechanism: Mechanism, releases: int = 1) -> Curve:
    """Return the Renyi DP of so many releases at every order; infinite where there is none."""
    return releases * _single(mechanism) if releases else NOTHING  # 0 times infinity is nothing


@lru_cache(maxsize=512)
def _single(mechanism: Mechanism) -> Curve:
    if mechanism.sampling_probability == 1:
        found = _ALL * mechanism.rdp(2) / 2.0  # linear in the order: zCDP
    else:
        integers = [mechanism.rdp(order) for order in ORDERS]
        found = np.array([float("inf")] * len(_TENTHS) + integers)
    found.setflags(write=False)
    return found


def best_epsilon(total: Curve, delta: float) -> float:
    """Return the epsilon of a summed curve at its best order, >= 0; 0 where nothing is in it.

    >>> round(best_epsilon(curve(Mechanism(noise_multiplier=20.0), 20), 1e-6), 3)
    1.014
    """
    if not total.any():
        return 0.0
    offsets = np.log1p(-1.0 / _ALL) - (np.log(delta) + np.log(_ALL)) / (_ALL - 1.0)
    return max(0.0, float(np.min(total + offsets)))
