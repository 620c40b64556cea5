"""A budget: epsilon and delta as the number that a ledger adds up, Renyi DP at one fixed order.

The order is fixed with the budget, before anything is asked: the sum of costs at one order is a
valid stopping rule however requests are chosen from earlier results, also when several run at
once. The smallest epsilon over orders, or over privacy loss distributions, is not.

Sources: Feldman & Zrnic 2021 (arXiv:2008.11193), the filter; Haney et al. 2023
(arXiv:2309.05901), concurrent use; Canonne, Kamath, Steinke 2020, Prop. 12, the conversion;
arXiv:2602.06756 and 2602.15815, why stopping by privacy loss distributions is not valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["ORDERS", "SLACK", "Budget", "epsilon_at"]

_LARGEST_EPSILON = 1e4  # it promises nothing long before; above, noise leaves `Mechanism`
SLACK = 1e-9  # relative, absorbs float addition once in all; `Budget.limit` pays for it
# Every integer up to 64, then steps of 4 %: the best order for epsilon 0.01 and more is inside,
# and between two orders the noise differs by less than a thousandth.
ORDERS = (*range(2, 65), *(int(64 * 1.04**step) for step in range(1, 89)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all releases about one population may cost a patient, for ever.

    Attributes:
        epsilon: In (0, 1e4].
        delta: In (0, 1).

    Raises:
        ValueError: A number is out of its range (NaN included), or no order of
            `ORDERS` can hold so small an epsilon.

    >>> Budget(epsilon=3.0, delta=1e-5).order
    8
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= _LARGEST_EPSILON:  # NaN fails too
            raise ValueError(
                f"epsilon must be finite and > 0, at most {_LARGEST_EPSILON:g}, got {self.epsilon}"
            )
        if not 0 < self.delta < 1:  # NaN fails too
            raise ValueError(f"delta must lie in (0, 1), got {self.delta}")
        if self.limit <= 0:
            raise ValueError(f"epsilon {self.epsilon} is too small for delta {self.delta}")

    @property
    def order(self) -> int:
        """The integer order at which costs are added: it leaves most room for Gaussian noise."""
        return _order_of(self.epsilon, self.delta)

    @property
    def limit(self) -> float:
        """What costs at `order` may add up to; the slack of float addition is taken off."""
        return _room(self.epsilon, self.delta, self.order) / (1 + 2 * SLACK)

    def holds(self, cost: float) -> bool:
        """Return whether costs that add up to so much are within the budget; NaN is not."""
        return cost <= self.limit * (1 + SLACK)


def epsilon_at(rdp: float, order: int, delta: float) -> float:
    """Return the epsilon that a Renyi DP at one order gives, >= 0.

    >>> round(epsilon_at(1.785893, 8, 1e-5), 4)
    3.0
    """
    if rdp == 0:
        return 0.0
    return max(0.0, rdp - _offset(order, delta))


def _offset(order: int, delta: float) -> float:
    return (math.log(delta) + math.log(order)) / (order - 1) - math.log1p(-1 / order)


def _room(epsilon: float, delta: float, order: int) -> float:
    return epsilon + _offset(order, delta)


@lru_cache(maxsize=1024)
def _order_of(epsilon: float, delta: float) -> int:
    best: int = max(ORDERS, key=lambda order: _room(epsilon, delta, order) / order)
    return best
