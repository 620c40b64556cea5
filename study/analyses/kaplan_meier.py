"""Kaplan-Meier from one histogram: event times never leave a site.

A patient falls into one cell of (interval of a public time grid) x (event, censored), or into
the last cell, alive at the horizon. The histogram is a sum with sensitivity 1, so one release
gives the whole curve: risk sets are reverse cumulative sums, the curve a product limit, and
all of that is post-processing. Without noise it equals the textbook estimator at the
grid's ends when times are rounded up to the grid.

Source: Kaplan & Meier 1958; the one-histogram release follows Gondara & Wang 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...privacy.errors import ConfigError, DataError
from ..analysis import Analysis, Contribution, Result, State, Total, Vector
from ..cohort import Cohort

__all__ = ["ANALYSIS", "KaplanMeier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanMeier(Analysis):
    """See the module's docstring.

    Args:
        horizon_days: Public end of the time axis, > 0.
        intervals: K equal intervals.
        private: Declare the histogram's sensitivity, so that noise may be added.
    """

    horizon_days: float
    intervals: int = 24
    private: bool = False

    def __post_init__(self) -> None:
        if not self.horizon_days > 0 or self.intervals < 1:
            raise ConfigError("horizon_range", "horizon_days must be > 0 and intervals >= 1")

    @property
    def releases(self) -> int | None:
        """One histogram."""
        return 1 if self.private else None

    def is_table(self, number: int) -> bool:
        """Each cell counts patients."""
        return True

    @property
    def grid(self) -> Vector:
        """float64 [K], the intervals' ends, days."""
        return np.linspace(0.0, self.horizon_days, self.intervals + 1)[1:]

    def initial(self) -> State:
        """Nothing to tell: the grid is in the plan."""
        return State(round=0, arrays={})

    def size(self, state: State) -> int:
        """Events [K], censored [K], alive at the horizon [1]."""
        return 2 * self.intervals + 1

    def site_bound(self, max_patients: int) -> float:
        """Every patient is in one cell."""
        return float(max_patients)

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: the histogram; a patient never counts twice.

        Without noise a cohort with several rows per patient is refused. With noise a refusal
        would speak of the data, so each patient's first row counts.
        """
        if cohort.time is None or cohort.event is None:
            raise ValueError("a survival analysis needs a cohort with time and event")
        if cohort.patients != cohort.rows and not self.private:
            raise DataError(
                "several_rows_per_patient",
                "a survival curve needs one row per patient",
                hint="Keep one row per patient, e.g. the first.",
            )
        first = np.unique(cohort.patient, return_index=True)[1]
        interval = np.searchsorted(self.grid, cohort.time[first], side="left")
        cell = np.where(cohort.event[first], interval, self.intervals + interval)
        cell = np.where(interval >= self.intervals, 2 * self.intervals, cell)
        total = np.bincount(cell, minlength=self.size(state)).astype(np.float64)
        sensitivity = 1.0 if self.private else None
        return Contribution(total=total, patients=cohort.patients, sensitivity=sensitivity)

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: survival [K], cumulative_hazard [K], at_risk [K], grid_days [K]."""
        cells = np.maximum(total.vector, 0.0)  # noise may go below zero; counts cannot
        events, censored = cells[: self.intervals], cells[self.intervals : -1]
        leaving = events + censored
        at_risk = np.cumsum(leaving[::-1])[::-1] + cells[-1]
        share = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
        arrays = {
            "survival": np.cumprod(1.0 - share),
            "cumulative_hazard": np.cumsum(share),
            "at_risk": at_risk,
            "grid_days": self.grid,
        }
        return Result(arrays=arrays, rounds=1)


ANALYSIS = KaplanMeier
