"""Models linear in the features: what private descent in a noisy metric needs to know of them.

Their per-row gradient exists in closed form, and the second moments of the features, which can
be summed once with noise, tell how far a step may go in every direction.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .analysis import Vector
from .cohort import Cohort
from .model import Model

__all__ = ["FEWEST", "Linear", "Start", "design"]

FEWEST = 20.0  # a noisy number of patients below this is read as this: steps stay finite


def design(cohort: Cohort) -> Vector:
    """Return the features with a final column of ones, float64 [rows, d + 1]."""
    return np.column_stack([cohort.features.astype(np.float64), np.ones(cohort.rows)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where descent starts, read off noisy totals of the outcome.

    Attributes:
        theta: float64 [size].
        curvature: Mean curvature of the loss along the score, > 0: the Hessian of the weights
            is about `curvature` times the features' second moments.
        patients: The noisy number of patients, >= `FEWEST`.
    """

    theta: Vector
    curvature: float
    patients: float


class Linear(Model):
    """A convex model whose score is linear in the features.

    Attributes:
        outcomes: How many numbers `marks` has.
        features: d, number of encoded feature columns.
    """

    outcomes: ClassVar[int]
    features: int

    @property
    def extra(self) -> int:
        """Directions of the baseline, beside the weights and one common level."""
        return 0

    @abstractmethod
    def marks(self, cohort: Cohort) -> Vector:
        """Return what the start is read off, float64 [rows, outcomes], each row of L2 norm <= 1."""

    @abstractmethod
    def start(self, totals: Vector) -> Start:
        """Return the start that (noisy) sums of `marks` speak for; any finite sums will do."""

    @abstractmethod
    def row_gradients(self, theta: Vector, cohort: Cohort) -> Vector:
        """Return each row's gradient, float64 [rows, size]; not finite where a row is not."""

    @abstractmethod
    def directions(self, whitening: Vector, size: float) -> Vector:
        """Return the linear map from gradients to whitened ones.

        Args:
            whitening: float64 [d + 1, d + 1], for gradients along `design`.
            size: Dimension of the whitened space, > 0: a whitened row has norm 1 on average.

        Returns:
            float64 [d + 1 + extra, size of the model].
        """
