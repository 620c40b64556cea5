"""Gradient descent over secure sums: one full-batch gradient a round, few rounds.

With a clip norm it is differentially private gradient descent with every patient in every
round: each round is one noisy sum with sensitivity C, so the accounting is a division that a
reviewer can redo. Round 0 sums the number of patients (times C, so that it costs what every
other round costs); the noisy answer is the step's denominator, and nobody's true count is.
With a clip norm the result is the mean of the last half of the iterates, which averages noise
away; without one it is the last iterate.

Source: Bassily, Smith, Thakurta 2014 (noisy gradient descent); iterate averaging is
post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...privacy.clipping import check_clip
from ...privacy.errors import ConfigError
from ..analysis import Analysis, Contribution, Result, State, Total, Vector, within_reach
from ..cohort import Cohort
from ..model import Model

__all__ = ["ANALYSIS", "Gradient"]

_FEWEST = 20.0  # a noisy count below this is read as this: the step stays finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient(Analysis):
    """See the module's docstring.

    Args:
        model: Any model; with a clip norm, one whose loss is a sum over patients.
        steps: T gradient rounds; there are T + 1 rounds in all.
        learning_rate: Step per mean gradient.
        l2: Ridge, as in `Newton`.
        clip: C, L2 bound of one patient's gradient; None without differential privacy.
        anchor: See `Newton`.
    """

    model: Model
    steps: int = 200
    learning_rate: float = 1.0
    l2: float = 1.0
    clip: float | None = None
    anchor: Vector | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError("steps_range", f"steps must be >= 1, got {self.steps}")
        if self.clip is not None:
            check_clip(self.clip)
            self.model.require_per_patient()

    @property
    def releases(self) -> int | None:
        """One noisy sum a round."""
        return None if self.clip is None else self.steps + 1

    @property
    def most_rounds(self) -> int:
        """A count, then the steps."""
        return self.steps + 1

    def initial(self) -> State:
        """Start at the model's public starting point, or at the anchor."""
        start = self.model.initial() if self.anchor is None else self.anchor
        arrays = {"theta": start, "mean": np.zeros(start.size), "count": np.zeros(1)}
        return State(round=0, arrays=arrays)

    def size(self, state: State) -> int:
        """The count in round 0, a gradient in every other."""
        return 1 if state.round == 0 else self.model.size

    def site_bound(self, max_patients: int) -> float:
        """See `Analysis.site_bound`."""
        return max_patients * max(self.model.row_bound(), self.clip or 1.0)

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: the scaled count, or the sum of (clipped) gradients at theta."""
        read = state.vector if self.clip is None else state.parameters
        theta = read("theta", self.model.size)
        if state.round == 0:
            total = np.array([(self.clip or 1.0) * cohort.patients])
        elif self.clip is None:
            total = self.model.gradient(theta, cohort)
        else:
            total = self.model.clipped_gradient(theta, cohort, self.clip)
        return Contribution(total=total, patients=cohort.patients, sensitivity=self.clip)

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: keep the count, or walk down the noisy gradient."""
        theta, mean, count = (state.arrays[name] for name in ("theta", "mean", "count"))
        if state.round == 0:
            count = np.maximum(total.vector / (self.clip or 1.0), _FEWEST)
            return self._next(state, theta, mean, count)
        origin = self.model.initial() if self.anchor is None else self.anchor
        slope = total.vector + self.l2 * self.model.penalty() * (theta - origin)
        theta = theta - self.learning_rate / count[0] * slope
        theta = theta if self.clip is None else within_reach(theta)
        first_kept = self.steps // 2 if self.clip is not None else self.steps - 1
        if state.round > first_kept:
            mean = mean + (theta - mean) / (state.round - first_kept)
        if state.round == self.steps:
            return Result(arrays={"theta": mean}, rounds=state.round + 1)
        return self._next(state, theta, mean, count)

    @staticmethod
    def _next(state: State, theta: Vector, mean: Vector, count: Vector) -> State:
        return State(round=state.round + 1, arrays={"theta": theta, "mean": mean, "count": count})


ANALYSIS = Gradient
