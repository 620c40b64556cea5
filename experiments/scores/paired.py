"""How sure the difference of two models is on one set of patients: a paired bootstrap.

Patients are drawn with replacement, each with all of its rows, and both models are scored on the
same draw. The seed is public and always the same: the interval is a function of the records.

Source: Efron & Tibshirani 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...study.analysis import Vector
from ...study.cohort import Cohort
from ...study.model import Prediction

__all__ = ["DRAWS", "Interval", "paired_interval"]

DRAWS = 1000
_SEED = 20_260_101
_LEVEL = 0.95
_FEWEST = 0.9  # of the draws must be scorable, or nothing is said
_BLOCK = 2**21  # pairs looked at at once
_TIED = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % interval of a difference: first model minus second.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


def paired_interval(
    metric: str, cohort: Cohort, first: Prediction, second: Prediction
) -> Interval | None:
    """Return the interval of a metric's difference on a cohort.

    Args:
        metric: `auroc`, `brier` or `c_index`; any other has no interval.
        cohort: Whom both models predict.
        first: The one.
        second: The other.

    Returns:
        None for another metric, or where under nine tenths of the draws could be scored.
    """
    if cohort.rows == 0:
        return None
    weights = _draws(cohort)
    if metric == "brier" and cohort.label is not None:
        each = (first.risk - cohort.label) ** 2 - (second.risk - cohort.label) ** 2
        differences = _ratio(weights @ each, weights.sum(axis=1))
    elif metric == "auroc" and cohort.label is not None:
        case = cohort.label > 0
        # A case and a control are a pair: the same as a C-index of one time.
        later, event = np.where(case, 0.0, 1.0), case
        differences = _orders(weights, later, event, first.risk, second.risk)
    elif metric == "c_index" and cohort.time is not None and cohort.event is not None:
        differences = _orders(weights, cohort.time, cohort.event, first.risk, second.risk)
    else:
        return None
    known = differences[np.isfinite(differences)]
    if known.size < _FEWEST * DRAWS:
        return None
    low, high = np.quantile(known, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def _draws(cohort: Cohort) -> Vector:
    """How often each row is in each draw, float64 [draws, rows]."""
    index = cohort.patient_index()
    patients = int(index.max()) + 1
    draw = np.random.default_rng(_SEED)  # for an interval, not for privacy
    counts = draw.multinomial(patients, np.full(patients, 1 / patients), size=DRAWS)
    return np.asarray(counts[:, index], dtype=np.float64)


def _orders(
    weights: Vector, time: Vector, event: NDArray[np.bool_], first: Vector, second: Vector
) -> Vector:
    """Return the difference of two concordances in every draw, float64 [draws]."""
    cases = np.flatnonzero(event)
    size = max(1, _BLOCK // max(1, time.size))
    right, pairs = np.zeros(weights.shape[0]), np.zeros(weights.shape[0])
    for start in range(0, cases.size, size):
        case = cases[start : start + size]
        longer = (time > time[case, None]) | ((time == time[case, None]) & ~event)
        better = (_above(first, case) - _above(second, case)) * longer
        # Weight of the case, times the weight of all it is compared with.
        right += (weights[:, case] * (weights @ better.T)).sum(axis=1)
        pairs += (weights[:, case] * (weights @ longer.T.astype(np.float64))).sum(axis=1)
    return _ratio(right, pairs)


def _above(score: Vector, case: NDArray[np.int64]) -> Vector:
    apart = score[case, None] - score
    return np.asarray((apart > _TIED) + (np.abs(apart) <= _TIED) / 2, dtype=np.float64)


def _ratio(above: Vector, below: Vector) -> Vector:
    share: Vector = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return share
