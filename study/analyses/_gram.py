"""Descent in a noisy metric: what `whitened` and `newton_gram` share.

Round 0 sums, once, the second moments of the features (the Gram matrix, with a column of ones)
and a few marks of the outcome. Every further round sums one clipped gradient. All else (start,
eigenvalue floor, step length, ridge, averaging) is computed from those sums and public
constants.

Privacy. Let R be the public row norm and a^2 + b^2 = 1. A row x, shortened to |x| <= R, enters
round 0 as u(x) = C (a / R^2 vech(x x'), b m): vech is the upper triangle with its off-diagonal
entries times sqrt(2), so |vech(x x')| = |x x'|_F = |x|^2 <= R^2; the marks m have |m| <= 1; hence
|u| <= C. A patient with several rows enters as the sum of theirs, clipped to C once more. Adding
or removing a patient so moves the sum by at most C in L2. In every further round a patient's
gradient is mapped by a matrix that is public by then, and clipped to C after it: whatever the
matrix, the sensitivity is C. Each release therefore is one Gaussian sum of sensitivity C with
the plan's noise multiplier, all of them compose adaptively, and what is computed from opened
sums is post-processing: an eigenvalue that noise made negative is floored without a price.

Source: Boehning 1992 (the majorant); Dwork, Talwar, Thakurta, Zhang 2014 (noisy Gram matrix).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from ...privacy.clipping import bounded_rows, check_clip, clip_factors, clipped_sum
from ...privacy.errors import ConfigError, ProtocolError
from ..analysis import Analysis, Contribution, Result, State, Total, Vector, within_reach
from ..cohort import Cohort
from ..linear import Linear, design
from ..model import Model

__all__ = ["GramDescent"]

_MOST_FEATURES = 100  # noise of d (d + 1) / 2 numbers: beyond, plain descent is better
_REACH = 0.85  # row norm R over sqrt(d + 1), which standardised features have on average
_MARKS = 0.3  # b, the outcome's part of round 0
_MOMENTS = float(np.sqrt(1 - _MARKS**2))  # a
_SKIPPED = 0.25  # of the steps, before the iterates are averaged
_FLOOR = 1.0  # under the metric's eigenvalues, in the noise's own spectral scale
_SMALLEST = 1e-6  # floor under the metric's eigenvalues, whatever the noise
_LARGEST = 1e4  # of an entry of the map, for the reason that `State.parameters` gives


@dataclass(frozen=True, slots=True, kw_only=True)
class GramDescent(Analysis):
    """See the module's docstring.

    Args:
        model: A model linear in its features, with at most 100 of them.
        steps: T noisy gradients; there are T + 1 rounds and releases in all.
        learning_rate: 1 is the step that the estimated curvature asks for.
        l2: Ridge, as in `Newton`.
        clip: C, L2 bound of what a patient adds to any of the sums.
        noise_scale: Standard deviation of the noise in an opened sum, in units of C. It places
            the floor under the eigenvalues and is no part of the guarantee.
    """

    model: Model
    steps: int = 8
    learning_rate: float = 1.0
    l2: float = 1.0
    clip: float
    noise_scale: float

    whitens: ClassVar[bool]

    def __post_init__(self) -> None:
        self.model.require_per_patient()
        if not isinstance(self.model, Linear):
            raise ConfigError(
                "not_linear",
                "a noisy Gram matrix steers models that are linear in their features",
                hint="Use model.private.method=gradient for this model.",
            )
        if self.model.features > _MOST_FEATURES:
            raise ConfigError(
                "too_many_features",
                f"the noise of a Gram matrix of {self.model.features} features drowns it; "
                f"it takes at most {_MOST_FEATURES}",
                hint="Use model.private.method=gradient, or choose features.",
            )
        if self.steps < 1:
            raise ConfigError("steps_range", f"steps must be >= 1, got {self.steps}")
        check_clip(self.clip)
        if not (np.isfinite(self.noise_scale) and self.noise_scale >= 0):
            raise ConfigError("noise_range", f"noise_scale must be >= 0, got {self.noise_scale}")

    @abstractmethod
    def map_of(self, directions: Vector) -> Vector:
        """Return what gradients are mapped by before they are clipped, [mapped, size]."""

    @abstractmethod
    def mapped(self) -> int:
        """Return the length of a mapped gradient: public."""

    @property
    def linear(self) -> Linear:
        """The model, known to be linear."""
        return cast(Linear, self.model)  # checked when it was made

    @property
    def releases(self) -> int | None:
        """The moments, then the gradients."""
        return self.steps + 1

    @property
    def most_rounds(self) -> int:
        """The moments, then the gradients."""
        return self.steps + 1

    def initial(self) -> State:
        """Nothing is known yet."""
        return State(round=0, arrays={"theta": self.model.initial()})

    def size(self, state: State) -> int:
        """The triangle and the marks in round 0, a mapped gradient in every other."""
        return self._moments if state.round == 0 else self.mapped()

    @property
    def _width(self) -> int:
        return self.linear.features + 1

    @property
    def _moments(self) -> int:
        return self._width * (self._width + 1) // 2 + self.linear.outcomes

    @property
    def _row_norm(self) -> float:
        return _REACH * float(np.sqrt(self._width))

    def site_bound(self, max_patients: int) -> float:
        """See `Analysis.site_bound`."""
        return max_patients * self.clip

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: the moments, or the sum of mapped and clipped gradients at theta."""
        theta = state.parameters("theta", self.model.size)
        if state.round == 0:
            total = self._summed_moments(cohort)
        else:
            mapping = state.vector("map", self.mapped() * self.model.size)
            if not (np.abs(mapping) <= _LARGEST).all():  # NaN fails too
                raise ProtocolError("state_unreadable", "the round's map is out of its range")
            mapping = mapping.reshape(self.mapped(), self.model.size)
            rows = self.linear.row_gradients(theta, cohort)
            with np.errstate(invalid="ignore"):  # clipping zeroes what is not finite
                rows = rows @ mapping.T
            total = clipped_sum(rows, cohort.patient_index(), self.clip)
        return Contribution(total=total, patients=cohort.patients, sensitivity=self.clip)

    def _summed_moments(self, cohort: Cohort) -> Vector:
        rows = bounded_rows(design(cohort), self._row_norm)
        marks = bounded_rows(self.linear.marks(cohort), 1.0)
        index = cohort.patient_index()
        alone = np.bincount(index)[index] == 1
        total = self._packed(rows[alone], marks[alone])  # each of them at most C by the bounds
        order = np.flatnonzero(~alone)[np.argsort(index[~alone], kind="stable")]
        for theirs in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
            one = self._packed(rows[theirs], marks[theirs])
            total = total + clip_factors(np.array([np.linalg.norm(one)]), self.clip)[0] * one
        return total

    def _packed(self, rows: Vector, marks: Vector) -> Vector:
        upper, weight = _triangle(self._width)
        moments = (rows.T @ rows)[upper] * weight * (_MOMENTS / self._row_norm**2)
        return np.asarray(self.clip * np.append(moments, _MARKS * marks.sum(axis=0)))

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: read the metric off the moments, then walk down the gradients."""
        if state.round == 0:
            return self._steered(total.vector)
        theta, back = state.arrays["theta"], state.arrays["back"]
        mapping = state.arrays["map"].reshape(self.mapped(), self.model.size)
        ridge = self.l2 * self.model.penalty() * (theta - self.model.initial())
        move = back.reshape(self.model.size, self.mapped()) @ (total.vector + mapping @ ridge)
        theta = within_reach(theta - self.learning_rate * move)
        mean, first_kept = state.arrays["mean"], int(self.steps * _SKIPPED)
        if state.round > first_kept:
            mean = mean + (theta - mean) / (state.round - first_kept)
        if state.round == self.steps:
            return Result(arrays={"theta": mean}, rounds=state.round + 1)
        return State(round=state.round + 1, arrays={**state.arrays, "theta": theta, "mean": mean})

    def _steered(self, vector: Vector) -> State:
        """Turn the noisy moments into a start, the map of gradients and the way back."""
        marks = self.linear.outcomes
        upper, weight = _triangle(self._width)
        unit = self.clip * _MOMENTS / self._row_norm**2
        moments = np.zeros((self._width, self._width))
        moments[upper] = vector[:-marks] / (unit * weight)
        moments = moments + np.triu(moments, 1).T
        start = self.linear.start(vector[-marks:] / (self.clip * _MARKS))
        noise = self.noise_scale * self._row_norm**2 / _MOMENTS
        floor = _FLOOR * noise * float(np.sqrt(self._width)) / start.patients
        floor = max(floor, _SMALLEST)
        values, axes = np.linalg.eigh(moments / start.patients)
        values = np.maximum(values, 0.0)
        # Directions that stand above the noise: a whitened row has norm 1 on average.
        dimension = max(float((values / (values + floor)).sum()), 1.0)
        whitening = (axes / np.sqrt((values + floor) * dimension)) @ axes.T
        directions = self.linear.directions(whitening, dimension)
        mapping = self.map_of(directions)
        back = directions.T @ (directions if not self.whitens else np.eye(directions.shape[0]))
        back = back * (dimension / (start.curvature * start.patients))
        arrays = {
            "theta": within_reach(start.theta),
            "mean": np.zeros(self.model.size),
            "map": mapping.ravel(),
            "back": back.ravel(),
        }
        return State(round=1, arrays=arrays)


def _triangle(width: int) -> tuple[Any, Vector]:
    """Return the upper triangle's indices, and the weights that keep its norm Frobenius'."""
    upper = np.triu_indices(width)
    return upper, np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
