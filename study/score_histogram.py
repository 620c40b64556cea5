"""Scores of held-out patients as one histogram on public bins: what a coordinator may see.

A score is a number in [0, 1]: a risk model's probability; a survival model's risk by the horizon;
for Cox, which has no baseline while it trains, the linear predictor through a logistic curve, of
which only the order means anything. Bins are equal parts of [0, 1], the highest holding 1 too.

Sensitivity. A patient adds 1 in all, shared out equally over the patient's rows: an L1 norm of 1,
hence an L2 norm of at most 1. Every row is scored in a call of its own. In one matrix product
a row's last bit may hang on how many other rows there are; at a bin's edge such a bit would move
one patient's score because another patient is gone, and the bound would be broken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .analysis import Vector
from .cohort import Cohort
from .model import Model, sigmoid

__all__ = ["score_bins", "score_histogram", "score_scale", "table_shape", "time_edges"]

_INTERVALS = 10  # of a survival model that has none of its own


def time_edges(model: Model) -> Vector:
    """Return the public time grid of a survival model, float64 [J + 1], days, from 0."""
    edges = getattr(model, "edges", None)
    if edges is not None:
        return np.asarray(edges, dtype=np.float64)
    return np.linspace(0.0, float(getattr(model, "horizon_days", 1.0)), _INTERVALS + 1)


def table_shape(model: Model, bins: int) -> tuple[int, int]:
    """Return (2, bins) for a risk; (2 J + 1, bins) for survival, see `score_histogram`."""
    return (2 if model.task == "risk" else 2 * (time_edges(model).size - 1) + 1), bins


def score_scale(model: Model, theta: Vector, cohort: Cohort) -> Vector:
    """Return each row's score in [0, 1], float64 [rows], free of who else is in the cohort."""
    scores = np.zeros(cohort.rows)
    with np.errstate(all="ignore"):  # what is no number becomes 0 or 1
        for row in range(cohort.rows):
            said = model.predict(theta, cohort.take(np.array([row])))
            if model.task == "risk":
                scores[row] = said.risk[0]
            elif said.survival is not None:
                scores[row] = 1.0 - said.survival[0, -1]
            else:
                scores[row] = sigmoid(said.risk)[0]
    return np.clip(np.nan_to_num(scores), 0.0, 1.0)


def score_bins(scores: Vector, bins: int) -> NDArray[np.int64]:
    """Return each score's bin.

    >>> score_bins(np.array([0.0, 0.5, 1.0]), 10)
    array([0, 5, 9])
    """
    return np.minimum(np.floor(scores * bins).astype(np.int64), bins - 1)


def score_histogram(model: Model, theta: Vector, cohort: Cohort, bins: int) -> Vector:
    """Return the patients of a cohort by outcome and score.

    Args:
        model: What theta means.
        theta: float64 [model.size].
        cohort: The held-out patients.
        bins: Equal bins of [0, 1].

    Returns:
        float64, `table_shape`. For a risk the rows are outcome 0 and 1. For survival: the J
        intervals of those with the event, the J intervals of those censored, and who was
        followed beyond the horizon; an interval holds its end, as in `kaplan_meier`.
    """
    shape = table_shape(model, bins)
    if cohort.label is not None:
        row = (cohort.label > 0).astype(np.int64)
    elif cohort.time is not None and cohort.event is not None:
        ends = time_edges(model)[1:]
        interval = np.searchsorted(ends, cohort.time, side="left")
        row = np.where(cohort.event, interval, ends.size + interval)
        row = np.where(interval >= ends.size, 2 * ends.size, row)
    else:
        raise ValueError("a cohort has labels, or time and event")
    index = cohort.patient_index()
    share = 1.0 / np.bincount(index)[index] if index.size else np.zeros(0)
    cell = row * bins + score_bins(score_scale(model, theta, cohort), bins)
    table = np.bincount(cell, weights=share, minlength=shape[0] * bins)
    return np.asarray(table, dtype=np.float64).reshape(shape)
