"""What an attacker can gain, by formulas that fit on a line: odds, detection, trade-off curves.

False alarms are a test's positives among the worlds without the patient (FPR), detection those
among the worlds with the patient (TPR). Three limits on TPR at a given FPR:

- what (epsilon, delta) alone allows, the worst case of any mechanism that obeys it;
- what the ledger proves, Renyi DP of at most `limit` at its order, which is less;
- Gaussian noise, which is less still, and a picture of noise in sums, not the bound.

Sources: Kairouz, Oh, Viswanath 2015 (arXiv:1311.0776), Thm. 2.1 (worst case); van Erven &
Harremoes 2014 (arXiv:1206.2459), data processing (the ledger's); Dong, Roth, Su 2022
(arXiv:1905.02383), Thm. 2.7 and Cor. 2.13 (Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from ._budget_figures import percent, plain

__all__ = [
    "ALARM",
    "EPSILONS",
    "detection_by_epsilon",
    "detection_by_noise",
    "detection_by_order",
    "epsilon_advantage",
    "gaussian_mu",
    "mu_of_budget",
    "noise_advantage",
    "odds_tables",
    "posterior",
    "posterior_after_alarm",
]

EPSILONS = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)  # beside which a budget is put
ALARM = 0.01  # the false alarms of the sentences
_INVERSE = NormalDist().inv_cdf


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))  # right in the far tail too


def posterior(epsilon: float, prior: float = 0.1) -> float:
    """Return how sure somebody can become who was `prior` sure; delta is left out.

    >>> round(posterior(1.0), 3)
    0.232
    """
    return prior / (prior + (1 - prior) * math.exp(-epsilon))


def detection_by_epsilon(fpr: float, epsilon: float, delta: float) -> float:
    """Return the most that any mechanism of (epsilon, delta) lets a test detect.

    >>> round(detection_by_epsilon(0.01, 3.0, 0.0), 3)
    0.201
    """
    near = math.exp(min(epsilon, 700.0)) * fpr + delta
    far = 1.0 - math.exp(-epsilon) * (1.0 - delta - fpr)
    return max(0.0, min(1.0, near, far))


def detection_by_order(fpr: float, order: int, limit: float) -> float:
    """Return the most that Renyi DP of `limit` at one order lets a test detect.

    >>> round(detection_by_order(0.01, 8, 1.785893), 3)
    0.085
    """
    near = math.pow(math.exp(min(limit, 700.0)) * fpr, (order - 1) / order)
    far = 1.0 - math.exp(-limit) * math.pow(1.0 - fpr, order / (order - 1))
    return max(0.0, min(1.0, near, far))


def detection_by_noise(fpr: float, mu: float) -> float:
    """Return what the best test detects of Gaussian noise: Phi(Phi^-1(FPR) + mu).

    >>> round(detection_by_noise(0.01, 0.719), 3)
    0.054
    """
    if fpr <= 0:
        return 0.0
    return 1.0 if fpr >= 1 else _phi(_INVERSE(fpr) + mu)


def mu_of_budget(order: int, limit: float) -> float:
    """Return mu = 1/z of the one Gaussian sum that uses a budget up.

    >>> round(mu_of_budget(8, 1.785893), 4)
    0.6682
    """
    return math.sqrt(2.0 * limit / order)


@lru_cache(maxsize=256)
def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return mu = 1/z of the Gaussian sum that is exactly (epsilon, delta).

    >>> round(gaussian_mu(1.0, 1e-5), 3)
    0.268
    """

    def reached(mu: float) -> float:
        over = _phi(mu / 2 - epsilon / mu)
        return over - math.exp(min(epsilon, 700.0)) * _phi(-mu / 2 - epsilon / mu)

    low, high = 1e-9, 1.0
    while reached(high) < delta:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if reached(middle) < delta else (low, middle)
    return high


def noise_advantage(mu: float) -> float:
    """Return the most of TPR - FPR that Gaussian noise allows.

    >>> round(noise_advantage(0.268), 3)
    0.107
    """
    return 2.0 * _phi(mu / 2.0) - 1.0


def epsilon_advantage(epsilon: float, delta: float) -> float:
    """Return the most of TPR - FPR that (epsilon, delta) allows.

    >>> round(epsilon_advantage(1.0, 1e-5), 3)
    0.462
    """
    shrink = math.exp(-epsilon)
    return (1.0 - shrink + 2.0 * delta * shrink) / (1.0 + shrink)


def posterior_after_alarm(tpr: float, fpr: float, prior: float = 0.1) -> float:
    """Return how sure somebody is after a test gave alarm.

    >>> round(posterior_after_alarm(0.0198, 0.01), 2)
    0.18
    """
    return prior * tpr / (prior * tpr + (1 - prior) * fpr)


def odds_tables(budgets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what epsilons mean, a table for each delta, with the budgets' own rows in it."""
    own: dict[float, set[float]] = {}
    for budget in budgets:
        own.setdefault(budget["delta"], set()).add(budget["epsilon"])
    return [
        {
            "delta": f"{delta:g}",
            "rows": [
                {"own": epsilon in found, **_row(epsilon, delta)}
                for epsilon in sorted({*found, *EPSILONS})
            ],
        }
        for delta, found in own.items()
    ]


def _row(epsilon: float, delta: float) -> dict[str, Any]:
    mu = gaussian_mu(epsilon, delta)
    detected = detection_by_noise(ALARM, mu)
    return {
        "epsilon": plain(epsilon),
        "sure": percent(posterior(epsilon)),
        "worst": percent(detection_by_epsilon(ALARM, epsilon, delta)),
        "worst_few": percent(detection_by_epsilon(ALARM / 10, epsilon, delta)),
        "noise": percent(detected),
        "noise_few": percent(detection_by_noise(ALARM / 10, mu)),
        "advantage_worst": percent(epsilon_advantage(epsilon, delta)),
        "advantage_noise": percent(noise_advantage(mu)),
        "sure_noise": percent(posterior_after_alarm(detected, ALARM)),
    }
