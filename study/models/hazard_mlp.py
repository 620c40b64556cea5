"""A small network whose K outputs are the logits of discrete-time hazards.

The same loss as `hazard`, so a patient's gradient exists and can be clipped; hazards may cross
and need not be proportional. The output biases start at the public low base rate.

Source: Gensheimer & Narasimhan 2019 (Nnet-survival).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..analysis import Vector
from ..cohort import Cohort, Task
from ..model import Model, Prediction, sigmoid
from ._network import Network, network
from .hazard import BASE_LOGIT, person_periods, survival_from_hazards

__all__ = ["MODEL", "HazardMlp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HazardMlp(Model):
    """See the module's docstring.

    Args:
        features: d.
        bound: Largest absolute encoded feature.
        horizon_days: Public end of the time axis.
        intervals: K equal intervals up to the horizon.
        hidden: Units of each hidden layer.
        seed: Public seed of the start.
    """

    task: ClassVar[Task] = "survival"

    features: int
    bound: float
    horizon_days: float
    intervals: int = 14
    hidden: tuple[int, ...] = (16,)
    seed: int = 0

    @property
    def _network(self) -> Network:
        return network((self.features, *self.hidden, self.intervals), self.seed, BASE_LOGIT)

    @property
    def edges(self) -> Vector:
        """float64 [K + 1], days."""
        return np.linspace(0.0, self.horizon_days, self.intervals + 1)

    @property
    def size(self) -> int:
        """Number of weights and biases."""
        return self._network.size

    def initial(self) -> Vector:
        """The seeded public start."""
        return self._network.initial

    def penalty(self) -> Vector:
        """1 for every parameter but the output biases: the ridge pulls to the start."""
        weight = np.ones(self.size)
        weight[-self.intervals :] = 0.01
        return weight

    def row_bound(self) -> float:
        """At most K residuals in [-1, 1] times inputs, or weights that stay moderate."""
        return 10.0 * self.intervals * max(1.0, self.bound)

    def gradient(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Model.gradient`."""
        return self._network.gradient(theta, *self._rows(cohort))

    def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
        """See `Model.clipped_gradient`."""
        index = cohort.patient_index()
        return self._network.clipped_gradient(theta, *self._rows(cohort), index, clip_norm)

    def _rows(self, cohort: Cohort) -> tuple[Vector, Vector, Vector]:
        at_risk, event = person_periods(cohort, self.edges)
        return cohort.features.astype(np.float64), event, at_risk

    def predict(self, theta: Vector, cohort: Cohort) -> Prediction:
        """See `Model.predict`; the score is one minus survival at the horizon."""
        hazards = sigmoid(self._network.outputs(theta, cohort.features.astype(np.float64)))
        survival = survival_from_hazards(hazards)
        return Prediction(risk=1.0 - survival[:, -1], survival=survival, grid_days=self.edges[1:])


MODEL = HazardMlp
