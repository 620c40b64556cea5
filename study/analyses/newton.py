"""Newton's method over secure sums: exact, for convex models, in a handful of rounds.

Each round sums gradient and curvature over the sites; the coordinator adds the ridge and
takes the step. The sum is all it needs, so the federated fit is the pooled fit. A step that
fails to shrink the gradient is halved; no loss value is ever sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...privacy.errors import ConfigError
from ..analysis import Analysis, Contribution, Result, State, Total, Vector
from ..cohort import Cohort
from ..model import Model

__all__ = ["ANALYSIS", "Newton"]

_LONGEST_STEP = 3.0  # in any parameter: keeps a start far from the optimum from overshooting
_HALVINGS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Newton(Analysis):
    """See the module's docstring.

    Args:
        model: A convex model.
        l2: Ridge: the objective is the summed loss + l2 / 2 * sum(weight * (theta - anchor)^2).
        anchor: float64 [p], where the ridge pulls to; zero for a plain ridge on the weights.
            Set by a site that personalises a global model; a plan never carries it.
        tolerance: Ends when no parameter's step is longer than this.
        max_rounds: Ends at the latest after so many rounds.
    """

    model: Model
    l2: float = 1.0
    tolerance: float = 1e-10
    max_rounds: int = 60
    anchor: Vector | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.model.convex:
            raise ConfigError(
                "not_convex",
                "Newton's method needs a convex model",
                hint="Use algorithm=fedavg for this model.",
            )
        if not self.l2 >= 0:
            raise ConfigError("l2_range", f"l2 must be >= 0, got {self.l2}")

    @property
    def most_rounds(self) -> int:
        """The limit that ends it."""
        return self.max_rounds

    def initial(self) -> State:
        """Start at the model's public starting point, or at the anchor."""
        start = self.model.initial() if self.anchor is None else self.anchor
        return State(round=0, arrays={"theta": start, "halvings": np.zeros(1)})

    def size(self, state: State) -> int:
        """Gradient and upper triangle of the curvature."""
        count = self.model.size
        return count + count * (count + 1) // 2

    def site_bound(self, max_patients: int) -> float:
        """See `Analysis.site_bound`."""
        return max_patients * self.model.row_bound()

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: this site's gradient and curvature at theta."""
        theta = state.vector("theta", self.model.size)
        upper = np.triu_indices(self.model.size)
        total = np.append(
            self.model.gradient(theta, cohort), self.model.curvature(theta, cohort)[upper]
        )
        return Contribution(total=total, patients=cohort.patients, sensitivity=None)

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: accept or halve the last step, then take the next one."""
        theta = state.arrays["theta"]
        gradient, curvature = self._penalised(theta, total.vector)
        norm = np.linalg.norm(gradient)
        halvings = int(state.arrays["halvings"][0])
        if "best" in state.arrays and halvings < _HALVINGS:
            best, best_norm = state.arrays["best"], state.arrays["best_norm"][0]
            if norm > best_norm and np.abs(theta - best).max() > self.tolerance:
                return self._next(state, (theta + best) / 2, best, best_norm, halvings + 1)
        # Least squares, not solve: a constant column without a ridge leaves a direction flat.
        move = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        move *= min(1.0, _LONGEST_STEP / max(float(np.abs(move).max()), 1e-300))
        if np.abs(move).max() < self.tolerance or state.round + 1 >= self.max_rounds:
            return Result(arrays={"theta": theta - move}, rounds=state.round + 1)
        return self._next(state, theta - move, theta, float(norm), 0)

    def _penalised(self, theta: Vector, vector: Vector) -> tuple[Vector, Vector]:
        count = self.model.size
        weight = self.l2 * self.model.penalty()
        origin = self._origin()
        curvature = np.zeros((count, count))
        curvature[np.triu_indices(count)] = vector[count:]
        curvature = curvature + np.triu(curvature, 1).T + np.diag(weight)
        return vector[:count] + weight * (theta - origin), curvature

    def _origin(self) -> Vector:
        return self.model.initial() if self.anchor is None else self.anchor

    @staticmethod
    def _next(state: State, theta: Vector, best: Vector, norm: float, halvings: int) -> State:
        arrays = {
            "theta": theta,
            "best": best,
            "best_norm": np.array([norm]),
            "halvings": np.array([float(halvings)]),
        }
        return State(round=state.round + 1, arrays=arrays)


ANALYSIS = Newton
