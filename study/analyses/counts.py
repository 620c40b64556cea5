"""Counts and contingency tables over public domains: one histogram, sensitivity 1.

Rows and columns are groups whose values the plan lists in advance: a category cannot appear
in the answer because a patient has it. A patient with several rows counts once, by the first;
one whose value is not listed counts as `other`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...privacy.errors import ConfigError, DataError
from ..analysis import Analysis, Contribution, Result, State, Total
from ..cohort import Cohort

__all__ = ["ANALYSIS", "OUTCOME", "Counts"]

OUTCOME = "outcome"  # a group every cohort has: "0" or "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Analysis):
    """See the module's docstring.

    Args:
        rows: Name of the group in the rows, e.g. `sex`; `outcome` is always there.
        row_values: Its public values; `other` is appended.
        columns: Name of the group in the columns, or None for a single column.
        column_values: Its public values; `other` is appended.
        private: Declare the sensitivity, so that noise may be added.
    """

    rows: str
    row_values: tuple[str, ...]
    columns: str | None = None
    column_values: tuple[str, ...] = ()
    private: bool = False

    def __post_init__(self) -> None:
        if not self.row_values or (self.columns is not None and not self.column_values):
            raise ConfigError("domain_empty", "a table needs the public values of its groups")

    @property
    def releases(self) -> int | None:
        """One histogram."""
        return 1 if self.private else None

    def is_table(self, number: int) -> bool:
        """Each cell counts patients."""
        return True

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, `other` included."""
        return len(self.row_values) + 1, 1 if self.columns is None else len(self.column_values) + 1

    def initial(self) -> State:
        """Nothing to tell: the domains are in the plan."""
        return State(round=0, arrays={})

    def size(self, state: State) -> int:
        """Cells of the table."""
        return self.shape[0] * self.shape[1]

    def site_bound(self, max_patients: int) -> float:
        """Every patient is in one cell."""
        return float(max_patients)

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: the table of this site's patients."""
        first = np.unique(cohort.patient, return_index=True)[1]
        row = _positions(_group(cohort, self.rows)[first], self.row_values)
        column = np.zeros(first.size, dtype=np.int64)
        if self.columns is not None:
            column = _positions(_group(cohort, self.columns)[first], self.column_values)
        cells = np.bincount(row * self.shape[1] + column, minlength=self.size(state))
        sensitivity = 1.0 if self.private else None
        return Contribution(
            total=cells.astype(np.float64), patients=cohort.patients, sensitivity=sensitivity
        )

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: the table, float64 [rows, columns]."""
        return Result(arrays={"table": total.vector.reshape(self.shape)}, rounds=1)


def _group(cohort: Cohort, name: str) -> NDArray[np.str_]:
    if name == OUTCOME:
        return np.where(cohort.outcome_flag, "1", "0")
    if name not in cohort.groups:
        raise DataError(
            "unknown_group",
            f"the cohort has no group {name!r}",
            hint=f"It has: {', '.join([OUTCOME, *sorted(cohort.groups)])}.",
        )
    return cohort.groups[name]


def _positions(values: NDArray[np.str_], domain: tuple[str, ...]) -> NDArray[np.int64]:
    """Position of each value in the domain; the domain's length for any other."""
    where = {value: position for position, value in enumerate(domain)}
    return np.array([where.get(str(value), len(domain)) for value in values], dtype=np.int64)


ANALYSIS = Counts
