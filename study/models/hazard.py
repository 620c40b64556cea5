"""Discrete-time hazard: the chance of the event in each interval, given none before.

logit h_k(x) = a_k + x'b, theta = (a [K], b [d]). It is a sum over patients, so that clipping
bounds a patient's influence, which no Cox partial likelihood allows; and it gives whole
survival curves. The baseline starts at a public low rate: a start at one half costs 0.05 in
concordance when events are rare, at any epsilon, because few steps cannot walk it down.

Source: Singer & Willett 1993; Gensheimer & Narasimhan 2019 (for the at-risk rule: a censored
patient counts in an interval when at least half of it was seen).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...privacy.clipping import clip_factors, clipped_sum
from ..analysis import Vector
from ..cohort import Cohort, Task
from ..linear import FEWEST, Linear, Start
from ..model import Prediction, sigmoid

__all__ = ["BASE_LOGIT", "MODEL", "Hazard", "person_periods", "survival_from_hazards"]

BASE_LOGIT = -4.0  # public low base rate: 1.8 % of patients per interval
_FLATTEST = 0.1  # curvature: below, few steps would overshoot
_OWN = 0.5  # pace of single intervals beside their common level


def person_periods(cohort: Cohort, edges: Vector) -> tuple[Vector, Vector]:
    """Return who is at risk and who has the event in each interval.

    Args:
        cohort: n rows with time and event.
        edges: float64 [K + 1], days, increasing from 0; interval k is (edges[k], edges[k+1]].

    Returns:
        at_risk, event: float64 [n, K] of 0 and 1; event implies at_risk.
    """
    if cohort.time is None or cohort.event is None:
        raise ValueError("a survival model needs a cohort with time and event")
    intervals = edges.size - 1
    last = np.clip(np.searchsorted(edges, cohort.time, side="left") - 1, 0, intervals)
    inside = last < intervals
    middle = (edges[:-1] + edges[1:]) / 2
    seen_half = inside & (cohort.time >= np.append(middle, np.inf)[last])
    seen = np.where(cohort.event | seen_half, last + 1, last)
    periods = np.arange(intervals)
    at_risk = (periods[None, :] < seen[:, None]).astype(np.float64)
    event = ((periods[None, :] == last[:, None]) & cohort.event[:, None]).astype(np.float64)
    return at_risk, event


def survival_from_hazards(hazards: Vector) -> Vector:
    """Return the product limit over intervals, float64 [n, K]."""
    return np.asarray(np.cumprod(1.0 - hazards, axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard(Linear):
    """See the module's docstring.

    Args:
        features: d.
        bound: Largest absolute encoded feature.
        horizon_days: Public end of the time axis; later events count as survived.
        intervals: K equal intervals up to the horizon.
    """

    task: ClassVar[Task] = "survival"
    convex: ClassVar[bool] = True
    outcomes: ClassVar[int] = 2

    features: int
    bound: float
    horizon_days: float
    intervals: int = 14

    @property
    def size(self) -> int:
        """K baseline logits and d weights."""
        return self.intervals + self.features

    @property
    def edges(self) -> Vector:
        """float64 [K + 1], days."""
        return np.linspace(0.0, self.horizon_days, self.intervals + 1)

    def initial(self) -> Vector:
        """A public low base rate, no effect of any feature."""
        return np.append(np.full(self.intervals, BASE_LOGIT), np.zeros(self.features))

    def penalty(self) -> Vector:
        """1 for weights, 0.01 for the baseline."""
        return np.append(np.full(self.intervals, 0.01), np.ones(self.features))

    def row_bound(self) -> float:
        """At most K residuals in [-1, 1] meet one feature; curvature terms are below a quarter."""
        largest = max(1.0, self.bound)
        return self.intervals * max(largest, largest**2 / 4)

    def _parts(self, theta: Vector, cohort: Cohort) -> tuple[Vector, Vector, Vector]:
        """Return x [n, d], hazards where at risk [n, K], residuals [n, K]."""
        features = cohort.features.astype(np.float64)
        at_risk, event = person_periods(cohort, self.edges)
        hazards = at_risk * self._hazards(theta, features)
        return features, hazards, hazards - event

    def _hazards(self, theta: Vector, features: Vector) -> Vector:
        baseline, weights = theta[: self.intervals], theta[self.intervals :]
        return sigmoid(baseline[None, :] + (features @ weights)[:, None])

    def gradient(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Model.gradient`."""
        features, _, residuals = self._parts(theta, cohort)
        return np.append(residuals.sum(axis=0), features.T @ residuals.sum(axis=1))

    def curvature(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Model.curvature`."""
        features, hazards, _ = self._parts(theta, cohort)
        spread = hazards * (1.0 - hazards)
        cross = spread.T @ features
        return np.block(
            [
                [np.diag(spread.sum(axis=0)), cross],
                [cross.T, (features * spread.sum(axis=1)[:, None]).T @ features],
            ]
        )

    def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
        """See `Model.clipped_gradient`.

        Where a row is a patient, the norm has a closed form:
        |g_i|^2 = sum_k r_ik^2 + |x_i|^2 (sum_k r_ik)^2. Otherwise rows are summed first.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is zeroed below
            features, _, residuals = self._parts(theta, cohort)
        finite = np.asarray(
            np.isfinite(features).all(axis=1) & np.isfinite(residuals).all(axis=1), dtype=np.bool_
        )
        features = np.where(finite[:, None], features, 0.0)
        residuals = np.where(finite[:, None], residuals, 0.0)
        sums = residuals.sum(axis=1)
        if cohort.patients != cohort.rows:
            rows = np.column_stack([residuals, features * sums[:, None]])
            return clipped_sum(rows, cohort.patient_index(), clip_norm)
        norms = np.hypot(
            np.linalg.norm(residuals, axis=1), np.linalg.norm(features, axis=1) * np.abs(sums)
        )
        factors = clip_factors(norms, clip_norm)
        return np.append(factors @ residuals, features.T @ (factors * sums))

    @property
    def extra(self) -> int:
        """Each interval's own level."""
        return self.intervals

    def row_gradients(self, theta: Vector, cohort: Cohort) -> Vector:
        """See `Linear.row_gradients`."""
        with np.errstate(over="ignore", invalid="ignore"):  # clipping zeroes what is not finite
            features, _, residuals = self._parts(theta, cohort)
            return np.column_stack([residuals, features * residuals.sum(axis=1)[:, None]])

    def marks(self, cohort: Cohort) -> Vector:
        """Whether the event was seen within the horizon, and whether it was not."""
        seen = person_periods(cohort, self.edges)[1].sum(axis=1)
        return np.column_stack([seen, 1.0 - seen])

    def start(self, totals: Vector) -> Start:
        """The public start; events per patient are the curvature along the score."""
        patients = max(float(totals.sum()), FEWEST)
        curvature = float(np.clip(totals[0] / patients, _FLATTEST, 1.0))
        return Start(theta=self.initial(), curvature=curvature, patients=patients)

    def directions(self, whitening: Vector, size: float) -> Vector:
        """Moving the common level moves every interval's; each also has a pace of its own."""
        count = self.intervals
        common = np.tile(whitening[:, -1:], count)
        own = np.hstack([np.eye(count), np.zeros((count, self.features))])
        pace = _OWN * np.sqrt(count / size)
        return np.vstack([np.hstack([common, whitening[:, :-1]]), pace * own])

    def predict(self, theta: Vector, cohort: Cohort) -> Prediction:
        """See `Model.predict`; the score is the linear predictor."""
        features = cohort.features.astype(np.float64)
        survival = survival_from_hazards(self._hazards(theta, features))
        return Prediction(
            risk=features @ theta[self.intervals :], survival=survival, grid_days=self.edges[1:]
        )


MODEL = Hazard
