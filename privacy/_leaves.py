"""What `pld` computes with: single mechanisms, as sensitive as the relation makes them.

A list of events is flattened into sorted (mechanism, count) pairs; all Gaussians are one. With
`replace-one` a patient changes a sum by twice the clip norm. That is done here and not left to
dp-accounting, whose Renyi accountant takes a Gaussian at the same cost under either relation.
"""

from __future__ import annotations

import math
from collections import Counter
from enum import StrEnum
from functools import lru_cache
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import dp_event, rdp
from dp_accounting.pld import privacy_loss_distribution as plds

from .events import flatten, to_json

__all__ = ["Leaves", "Relation", "distribution", "interval", "leaves_of", "renyi", "trusted"]

_INTERVAL = 1e-4  # of the discretised loss; wider or finer where the loss is
_POINTS = 2**20  # of a distribution, which then takes a second or so
_WIDEST = 5000.0  # so that no interval is above 0.01
_NARROWEST = 1e-7  # loss of a release: below, probabilities cancel
_MOST_STEPS = 10**6
_MANY = 8  # different mechanisms, from which on ten times the interval is fine enough
_SAMPLED = dp_event.PoissonSampledDpEvent

Leaves = tuple[tuple[Any, int], ...]


class Relation(StrEnum):
    """Which two worlds are compared: one patient more or less, or one patient another."""

    ADD_REMOVE = "add-remove"
    REPLACE_ONE = "replace-one"


def leaves_of(event: dp_event.DpEvent, relation: Relation) -> Leaves:
    """Return what is in an event, sorted, all Gaussians as one; twice as sensitive if asked.

    Raises:
        ConfigError: `event_unreadable`, a number is out of its range.
        PolicyError: `event_unknown`.
    """
    to_json(event)  # checks it
    found: Counter[Any] = Counter()
    squares = []  # of 1 / noise multiplier: they add up
    for leaf, count in flatten(event).items():
        seen = _doubled(leaf) if relation is Relation.REPLACE_ONE else leaf
        if isinstance(seen, dp_event.GaussianDpEvent):
            squares.append(count / seen.noise_multiplier**2)
        else:
            found[seen] += count
    if squares:
        found[dp_event.GaussianDpEvent(1.0 / math.sqrt(math.fsum(squares)))] = 1
    return tuple(sorted(found.items(), key=repr))


def _doubled(leaf: Any) -> Any:
    """Return the mechanism when one patient changes twice as much; samples as they are."""
    if isinstance(leaf, dp_event.GaussianDpEvent | dp_event.LaplaceDpEvent):
        return type(leaf)(leaf.noise_multiplier / 2)
    if isinstance(leaf, dp_event.DiscreteLaplaceDpEvent):
        return type(leaf)(leaf.noise_parameter, 2 * leaf.sensitivity)
    if isinstance(leaf, dp_event.ZCDpEvent):  # a group of two: one removed, one added
        return type(leaf)(4 * leaf.rho, 3 * leaf.xi)
    return leaf


def trusted(leaves: Leaves, delta: float, relation: Relation) -> bool:
    """Return whether there is a distribution, small enough, and delta above the FFT's errors.

    Measured against the exact curve: at 1e-10 an FFT of up to 1e5 steps is within 1e-7 below.
    """
    if any(isinstance(leaf, dp_event.ZCDpEvent) for leaf, _ in leaves):
        return False
    if relation is Relation.REPLACE_ONE and any(_is_sampled_laplace(leaf) for leaf, _ in leaves):
        return False
    steps = sum(count for _, count in leaves)
    if steps > _MOST_STEPS or delta < 1e-14 * max(steps, 10**4):
        return False
    return _deviation(leaves, relation) >= _NARROWEST and _width(leaves, relation) <= _WIDEST


def _is_sampled_laplace(leaf: Any) -> bool:
    return isinstance(leaf, dp_event.PoissonSampledDpEvent) and isinstance(
        leaf.event, dp_event.LaplaceDpEvent
    )


def distribution(leaf: Any, relation: Relation, step: float) -> Any:
    """Return Google's pessimistic distribution of one release."""
    sampling_probability = 1.0
    if isinstance(leaf, dp_event.PoissonSampledDpEvent):
        sampling_probability, leaf = leaf.sampling_probability, leaf.event
        if relation is Relation.REPLACE_ONE:
            return plds.from_gaussian_mechanism(
                leaf.noise_multiplier,
                sampling_prob=sampling_probability,
                value_discretization_interval=step,
                neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE,
            )
    if isinstance(leaf, dp_event.DiscreteLaplaceDpEvent):
        return plds.from_discrete_laplace_mechanism(
            leaf.noise_parameter,
            sensitivity=leaf.sensitivity,
            value_discretization_interval=step,
            use_connect_dots=True,
        )
    gaussian = isinstance(leaf, dp_event.GaussianDpEvent)
    make = plds.from_gaussian_mechanism if gaussian else plds.from_laplace_mechanism
    return make(
        leaf.noise_multiplier,
        sampling_prob=sampling_probability,
        value_discretization_interval=step,
    )


def interval(leaves: Leaves, relation: Relation, coarse: float = 1.0) -> float:
    """Return Google's interval, unless a release's loss is too narrow or all of it too wide.

    Discretising adds about interval^2 / 12 to the variance of each release's loss. At half its
    standard deviation (epsilon below a tenth or so) that raises epsilon by two percent.
    """
    deviation = _deviation(leaves, relation)
    usual = _INTERVAL * coarse * (10 if len(leaves) > _MANY else 1)
    return max(min(usual, deviation / 2), 2 * _width(leaves, relation) / _POINTS)


def _deviation(leaves: Leaves, relation: Relation) -> float:
    """Return about the standard deviation of one release's loss, averaged over releases."""
    variance = math.fsum(count * _variance(leaf, relation) for leaf, count in leaves)
    return math.sqrt(variance / sum(count for _, count in leaves))


def _variance(leaf: Any, relation: Relation) -> float:
    if isinstance(leaf, dp_event.DiscreteLaplaceDpEvent):
        return float(leaf.noise_parameter * leaf.sensitivity) ** 2
    share = 1.0
    if isinstance(leaf, dp_event.PoissonSampledDpEvent):
        share, leaf = leaf.sampling_probability, leaf.event
        share *= 2.0 if relation is Relation.REPLACE_ONE else 1.0
    return float(share**2 * math.expm1(min(30.0, leaf.noise_multiplier**-2)))


@lru_cache(maxsize=512)
def _width(leaves: Leaves, relation: Relation) -> float:
    """Return about the largest loss that matters, by Renyi DP at a few orders."""
    accountant = rdp.RdpAccountant([2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128])
    for leaf, count in leaves:
        twice = relation is Relation.REPLACE_ONE and isinstance(leaf, _SAMPLED)
        accountant.compose(renyi(leaf), 2 * count if twice else count)
    return float(accountant.get_epsilon(1e-15))


def renyi(leaf: Any) -> Any:
    """Return an event that Google's Renyi accountant knows and that costs no less."""
    pure = None
    if isinstance(leaf, dp_event.DiscreteLaplaceDpEvent):
        pure = leaf.noise_parameter * leaf.sensitivity
    elif _is_sampled_laplace(leaf):
        share = leaf.sampling_probability
        pure = float(
            np.logaddexp(math.log1p(-share), math.log(share) + 1 / leaf.event.noise_multiplier)
        )
    if pure is None:
        return leaf
    # Pure DP is zCDP with half its square; its Renyi DP is nowhere above itself.
    return dp_event.ZCDpEvent(rho=pure**2 / 2) if pure < 2 else dp_event.ZCDpEvent(0.0, pure)
