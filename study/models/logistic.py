"""Logistic regression: a risk in (0, 1) from a linear score.

theta = (weights [d], intercept). The intercept is hardly penalised (a hundredth of the
ridge), which changes nothing that can be seen but keeps a site with one class finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...privacy.clipping import clipped_sum
from ..analysis import Vector
from ..cohort import Cohort, Task
from ..linear import FEWEST, Linear, Start, design
from ..model import Prediction, sigmoid

__all__ = ["MODEL", "Logistic", "design"]

_RAREST = 0.02  # outcomes that a noisy total may start from
_FLATTEST = 0.1  # curvature: below, few steps would overshoot where risks differ widely


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic(Linear):
    """See the module's docstring.

    Args:
        features: d.
        bound: Largest absolute encoded feature.
    """

    task: ClassVar[Task] = "risk"
    convex: ClassVar[bool] = True
    outcomes: ClassVar[int] = 2

    features: int
    bound: float

    @property
    def size(self) -> int:
        """Return d + 1: the weights and one intercept."""
        return self.features + 1

    def initial(self) -> Vector:
        """All zero: every risk is one half."""
        return np.zeros(self.size)

    def penalty(self) -> Vector:
        """1 for weights, 0.01 for the intercept."""
        return np.append(np.ones(self.features), 0.01)

    def row_bound(self) -> float:
        """|(p - y) x| <= max|x|, p (1 - p) |x x'| <= max|x|^2 / 4; the intercept's x is 1."""
        largest = max(1.0, self.bound)
        return max(largest, largest**2 / 4)

    def _residuals(self, theta: Vector, rows: Vector, cohort: Cohort) -> Vector:
        return sigmoid(rows @ theta) - _labels(cohort)

    def gradient(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Model.gradient`."""
        rows = design(cohort)
        return np.asarray(rows.T @ self._residuals(theta, rows, cohort), dtype=np.float64)

    def curvature(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Model.curvature`."""
        rows = design(cohort)
        risk = sigmoid(rows @ theta)
        return np.asarray((rows * (risk * (1 - risk))[:, None]).T @ rows, dtype=np.float64)

    def row_gradients(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Linear.row_gradients`."""
        rows = design(cohort)
        with np.errstate(over="ignore", invalid="ignore"):  # clipping zeroes what is not finite
            return np.asarray(self._residuals(theta, rows, cohort)[:, None] * rows)

    def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
        """See `Model.clipped_gradient`."""
        return clipped_sum(self.row_gradients(theta, cohort), cohort.patient_index(), clip_norm)

    def marks(self, cohort: Cohort) -> Vector:
        """Whether the outcome is there, and whether it is not."""
        label = _labels(cohort)
        return np.column_stack([label, 1.0 - label])

    def start(self, totals: Vector) -> Start:
        """Every risk is the share of patients with the outcome."""
        patients = max(float(totals.sum()), FEWEST)
        share = float(np.clip(totals[0] / patients, _RAREST, 1 - _RAREST))
        theta = np.append(np.zeros(self.features), np.log(share / (1 - share)))
        curvature = max(share * (1 - share), _FLATTEST)
        return Start(theta=theta, curvature=curvature, patients=patients)

    def directions(self, whitening: Vector, size: float) -> Vector:
        """The parameters are the directions of `design`."""
        return whitening

    def predict(self, theta: Vector, cohort: Cohort) -> Prediction:
        """See `Model.predict`."""
        return Prediction(risk=sigmoid(design(cohort) @ theta))


def _labels(cohort: Cohort) -> Vector:
    if cohort.label is None:
        raise ValueError("a risk model needs a cohort with labels")
    return cohort.label


MODEL = Logistic
