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
from ..model import Model, Prediction, sigmoid

__all__ = ["MODEL", "Logistic", "design"]


def design(cohort: Cohort) -> Vector:
    """Return the features with a final column of ones, float64 [rows, d + 1]."""
    return np.column_stack([cohort.features.astype(np.float64), np.ones(cohort.rows)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic(Model):
    """See the module's docstring.

    Args:
        features: d.
        bound: Largest absolute encoded feature.
    """

    task: ClassVar[Task] = "risk"
    convex: ClassVar[bool] = True

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

    def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
        """See `Model.clipped_gradient`."""
        rows = design(cohort)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is zeroed below
            slopes = self._residuals(theta, rows, cohort)[:, None] * rows
        return clipped_sum(slopes, cohort.patient_index(), clip_norm)

    def predict(self, theta: Vector, cohort: Cohort) -> Prediction:
        """See `Model.predict`."""
        return Prediction(risk=sigmoid(design(cohort) @ theta))


def _labels(cohort: Cohort) -> Vector:
    if cohort.label is None:
        raise ValueError("a risk model needs a cohort with labels")
    return cohort.label


MODEL = Logistic
