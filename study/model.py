"""Models: what a flat parameter vector means for a patient.

A model knows its loss as a sum over rows: gradient, curvature where it is convex, and the
gradient clipped per patient. It knows nothing of rounds, sites or noise; the analyses do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..privacy.errors import PolicyError
from .analysis import Vector
from .cohort import Cohort, Task

__all__ = ["Model", "Prediction", "sigmoid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of each row.

    Attributes:
        risk: float64 [rows]: a probability for `risk` models; for `survival` models any
            score that orders patients from late to early.
        survival: float64 [rows, g], probability of no event up to each day of `grid_days`.
        grid_days: float64 [g], increasing; None for `risk` models.
    """

    risk: Vector
    survival: Vector | None = None
    grid_days: Vector | None = None


class Model(ABC):
    """A parametric model with flat parameters theta, float64 [size].

    Attributes:
        task: What kind of outcome it is for.
        convex: Whether `curvature` exists and Newton's method applies.
        per_patient: Whether its loss is a sum over patients, so that clipping bounds anything.
        features: d, number of encoded feature columns.
        bound: Largest absolute encoded feature, public.
    """

    task: ClassVar[Task]
    convex: ClassVar[bool] = False
    per_patient: ClassVar[bool] = True

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of parameters."""

    @abstractmethod
    def initial(self) -> Vector:
        """Return the public starting point, float64 [size]."""

    @abstractmethod
    def penalty(self) -> Vector:
        """Return the weight of the ridge on each parameter, float64 [size], in [0, 1]."""

    @abstractmethod
    def gradient(self, theta: Vector, cohort: Cohort) -> Vector:
        """Return the gradient of the loss summed over rows, float64 [size]."""

    def curvature(self, theta: Vector, cohort: Cohort) -> Vector:
        """Return the Hessian of the loss summed over rows, float64 [size, size]."""
        raise PolicyError(
            "not_convex", "this model has no curvature to sum", hint="Use algorithm=fedavg."
        )

    def require_per_patient(self) -> None:
        """Refuse differential privacy where clipping would bound nothing.

        Raises:
            PolicyError: `no_per_patient_gradient`: the loss is not a sum over patients.
        """
        if not self.per_patient:
            raise PolicyError(
                "no_per_patient_gradient",
                "this model's loss is not a sum over patients, so clipping bounds nothing",
                hint="For survival use model=hazard, the discrete-time hazard: as accurate.",
            )

    @abstractmethod
    def row_bound(self) -> float:
        """Return a public bound on any entry of one row's gradient and curvature."""

    @abstractmethod
    def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
        """Return the sum over patients of gradients clipped to an L2 norm, float64 [size].

        Raises:
            PolicyError: `no_per_patient_gradient`: the loss is not a sum over patients.
        """

    @abstractmethod
    def predict(self, theta: Vector, cohort: Cohort) -> Prediction:
        """Return what the model says of each row of a cohort."""


def sigmoid(logits: NDArray[np.float64]) -> Vector:
    """Return 1 / (1 + exp(-x)) without overflow."""
    positive = 1.0 / (1.0 + np.exp(-np.abs(logits)))
    return np.asarray(np.where(logits >= 0, positive, 1.0 - positive), dtype=np.float64)
