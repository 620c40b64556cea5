"""The baseline hazard of a Cox model, on a public time grid: events over those at risk.

One round: each site sums, per interval of the grid, its events and the relative hazards of
its patients at risk (half of those who leave inside the interval). Event times never leave.

Source: Breslow 1974; the grid and the half-interval rule as in the actuarial life table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...privacy.errors import ConfigError
from ..analysis import Analysis, Contribution, Result, State, Total
from ..cohort import Cohort
from ..models.cox import breslow_grid

__all__ = ["ANALYSIS", "Breslow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breslow(Analysis):
    """See the module's docstring.

    Args:
        theta: The Cox weights [d].
        horizon_days: Public end of the time axis.
        bound: Largest absolute encoded feature.
    """

    theta: tuple[float, ...]
    horizon_days: float
    bound: float

    def __post_init__(self) -> None:
        if self.horizon_days <= 0:
            raise ConfigError("horizon_range", "horizon_days must be > 0")

    def initial(self) -> State:
        """Nothing to tell: the weights are in the plan."""
        return State(round=0, arrays={})

    def size(self, state: State) -> int:
        """Events and relative hazards per interval."""
        return 2 * breslow_grid(self.horizon_days).size

    def site_bound(self, max_patients: int) -> float:
        """exp(x'b) is bounded by the weights' L1 norm; capped, since the grid must stay fine."""
        reach = self.bound * sum(abs(weight) for weight in self.theta)
        return max_patients * float(np.exp(min(reach, 12.0)))

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: events and relative hazards at risk, per interval."""
        if cohort.time is None or cohort.event is None:
            raise ValueError("a survival analysis needs a cohort with time and event")
        ends = breslow_grid(self.horizon_days)
        starts = np.append(0.0, ends[:-1])
        relative = np.exp(cohort.features.astype(np.float64) @ np.asarray(self.theta))
        interval = np.searchsorted(ends, cohort.time, side="left")
        inside = interval < ends.size
        events = np.bincount(interval[inside & cohort.event], minlength=ends.size)
        leaving = np.bincount(interval[inside], weights=relative[inside], minlength=ends.size)
        at_start = np.array([relative[cohort.time > start].sum() for start in starts])
        total = np.append(events.astype(np.float64), at_start - leaving / 2)
        return Contribution(total=total, patients=cohort.patients, sensitivity=None)

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: the cumulative baseline hazard, float64 [g]."""
        events, at_risk = np.split(total.vector, 2)
        increments = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 1e-9)
        return Result(arrays={"baseline": np.cumsum(np.maximum(increments, 0.0))}, rounds=1)


ANALYSIS = Breslow
