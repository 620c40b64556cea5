"""A small network for a 0/1 outcome: one logit per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..analysis import Vector
from ..cohort import Cohort, Task
from ..model import Model, Prediction, sigmoid
from ._network import Network, network

__all__ = ["MODEL", "Mlp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp(Model):
    """See the module's docstring.

    Args:
        features: d.
        bound: Largest absolute encoded feature.
        hidden: Units of each hidden layer.
        seed: Public seed of the start.
    """

    task: ClassVar[Task] = "risk"

    features: int
    bound: float
    hidden: tuple[int, ...] = (16,)
    seed: int = 0

    @property
    def _network(self) -> Network:
        return network((self.features, *self.hidden, 1), self.seed, 0.0)

    @property
    def size(self) -> int:
        """Number of weights and biases."""
        return self._network.size

    def initial(self) -> Vector:
        """The seeded public start."""
        return self._network.initial

    def penalty(self) -> Vector:
        """1 for every parameter: the ridge pulls to the start."""
        return np.ones(self.size)

    def row_bound(self) -> float:
        """A residual in [-1, 1] times an input, or times weights that stay moderate."""
        return 10.0 * max(1.0, self.bound)

    def gradient(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Model.gradient`."""
        return self._network.gradient(theta, *self._rows(cohort))

    def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
        """See `Model.clipped_gradient`."""
        index = cohort.patient_index()
        return self._network.clipped_gradient(theta, *self._rows(cohort), index, clip_norm)

    @staticmethod
    def _rows(cohort: Cohort) -> tuple[Vector, Vector, Vector]:
        if cohort.label is None:
            raise ValueError("a risk model needs a cohort with labels")
        labels = cohort.label[:, None].astype(np.float64)
        return cohort.features.astype(np.float64), labels, np.ones_like(labels)

    def predict(self, theta: Vector, cohort: Cohort) -> Prediction:
        """See `Model.predict`."""
        logits = self._network.outputs(theta, cohort.features.astype(np.float64))
        return Prediction(risk=sigmoid(logits[:, 0]))


MODEL = Mlp
