"""Poisson sampling: which patients are in one noisy step, each decided by a coin of its own.

The sampler is ours because the number of patients must not choose anything: libraries derive
the probability, the denominator and the number of steps from it, and pad or skip batches that
come out empty. Here the probability is a public constant of the plan, every patient is drawn
independently of every other and of every earlier step, and a sample of nobody is a sample.

The coins come from the operating system's generator and are compared as integers. Amplification
by sampling rests on the sample being secret, which holds against everybody outside the
hospital and against nobody inside it.

Source: Abadi et al. 2016; Balle, Barthe, Gaboardi 2018 (Poisson sampling, add or remove one).
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["poisson_sample"]

_COIN_BYTES = 8
_SIDES = 2 ** (8 * _COIN_BYTES)


def poisson_sample(patients: int, probability: float) -> NDArray[np.bool_]:
    """Draw every patient with the same probability, independently.

    Args:
        patients: How many there are to draw from, >= 0.
        probability: q, in [2^-64, 1].

    Returns:
        bool [patients], True for who is drawn. With q = 1 that is everybody.

    Guarantee:
        Each is drawn with the probability floor(q 2^64) / 2^64: q itself for any q >= 2^-11,
        never above it. How many are drawn is left as it comes, nobody included.

    Raises:
        ValueError: probability is out of its range (NaN included), or patients < 0.
    """
    if patients < 0:
        raise ValueError(f"patients must be >= 0, got {patients}")
    if not (math.isfinite(probability) and 0 < probability <= 1):
        raise ValueError(f"probability must lie in (0, 1], got {probability}")
    if probability == 1:
        return np.ones(patients, dtype=np.bool_)
    winning = math.floor(Fraction(probability) * _SIDES)
    if winning == 0:
        raise ValueError(f"probability must be at least 2^-64, got {probability}")
    coins = np.frombuffer(os.urandom(_COIN_BYTES * patients), dtype=np.uint64)
    return np.asarray(coins < np.uint64(winning), dtype=np.bool_)
