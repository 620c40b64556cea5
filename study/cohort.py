"""The cohort: a site's table of patients, as every analysis sees it.

`datasets` builds it, `study` and `experiments` read it; nothing here touches a file.
A row is one record; a patient may have several. The unit of privacy, of splitting and of
clipping is always the patient, never the row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..privacy.errors import DataError

__all__ = ["Cohort", "Schema", "Task", "concatenate"]

Task = Literal["risk", "survival"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What the columns of a cohort mean: all of it public, agreed before any record is read.

    Attributes:
        name: The data set's name, e.g. `heart-disease`.
        task: `risk` (a 0/1 label) or `survival` (time in days and an event flag).
        features: Names of the d encoded feature columns, in order.
        bound: Largest absolute value an encoded feature can take, by the codebook's ranges.
        outcome: Name of the outcome, for people.
        codebook_sha256: Hash of the codebook that scaled and encoded the features.
        public: False when ranges were taken from the data for want of a codebook; then no
            analysis with differential privacy may use the cohort.
        horizon_days: Public end of the time axis, days; survival only.
    """

    name: str
    task: Task
    features: tuple[str, ...]
    bound: float
    outcome: str
    codebook_sha256: str
    public: bool = True
    horizon_days: float | None = None

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON of all fields: equal schemas, equal columns."""
        document = {
            "bound": self.bound,
            "codebook_sha256": self.codebook_sha256,
            "features": list(self.features),
            "horizon_days": self.horizon_days,
            "name": self.name,
            "outcome": self.outcome,
            "public": self.public,
            "task": self.task,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """One site's patients, encoded by public constants.

    Attributes:
        site: The hospital's name.
        schema: What the columns mean.
        features: float32 [rows, d], encoded and clipped to `schema.bound`; no intercept.
        patient: uint64 [rows], keyed ids; equal ids are one patient, also across sites.
        label: float64 [rows] of 0.0 / 1.0; `risk` only.
        time: float64 [rows], days >= 0; `survival` only.
        event: bool [rows], True where the event was seen; `survival` only.
        groups: Further public-domain columns for subgroup tables (sex, age band, ...),
            each an array of str [rows].
        draw: uint64 [rows], a hash of each row's patient that is the same in every process: who
            stays where a sum has no room for all. None: the keyed ids themselves.
        held_out: bool [rows], True for patients that a plan keeps out of training; all rows of
            a patient alike. None where no plan said so.

    Raises:
        DataError: Lengths differ, or the outcome does not fit the schema's task.
    """

    site: str
    schema: Schema
    features: NDArray[np.float32]
    patient: NDArray[np.uint64]
    label: NDArray[np.float64] | None = None
    time: NDArray[np.float64] | None = None
    event: NDArray[np.bool_] | None = None
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    draw: NDArray[np.uint64] | None = None
    held_out: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        rows = self.features.shape[0]
        outcome = [self.label, self.time, self.event]
        columns = [self.patient, *outcome, self.draw, self.held_out, *self.groups.values()]
        if any(column is not None and column.shape != (rows,) for column in columns):
            raise DataError("cohort_shape", f"site {self.site}: columns differ in length")
        if self.features.shape != (rows, len(self.schema.features)):
            raise DataError("cohort_shape", f"site {self.site}: features do not fit the schema")
        if self.schema.task == "risk" and self.label is None:
            raise DataError("cohort_outcome", f"site {self.site}: a risk cohort needs labels")
        if self.schema.task == "survival" and (self.time is None or self.event is None):
            raise DataError("cohort_outcome", f"site {self.site}: survival needs time and event")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.features.shape[0])

    @property
    def patients(self) -> int:
        """Number of distinct patients."""
        return int(np.unique(self.patient).size)

    @property
    def outcome_flag(self) -> NDArray[np.bool_]:
        """Bool [rows]: the label, or whether the event was seen; what splits stratify on."""
        if self.label is not None:
            return np.asarray(self.label > 0, dtype=np.bool_)
        if self.event is None:
            raise DataError("cohort_outcome", f"site {self.site}: no outcome")
        return self.event

    def patient_index(self) -> NDArray[np.int64]:
        """int64 [rows]: for each row, the position of its patient among the sorted ids."""
        return np.unique(self.patient, return_inverse=True)[1].astype(np.int64)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Cohort:
        """Return the cohort of the chosen rows (a mask or positions), same site and schema."""
        return replace(
            self,
            features=self.features[rows],
            patient=self.patient[rows],
            label=None if self.label is None else self.label[rows],
            time=None if self.time is None else self.time[rows],
            event=None if self.event is None else self.event[rows],
            groups={name: column[rows] for name, column in self.groups.items()},
            draw=None if self.draw is None else self.draw[rows],
            held_out=None if self.held_out is None else self.held_out[rows],
        )

    def at_most(self, patients: int) -> Cohort:
        """Return at most so many patients, those first in the draw: for sums without noise.

        A public bound on a site's size sizes the integer grid. Refusing a larger site would
        tell its size; leaving patients out by a hash of their tokens does not. The same
        patients are left out in every process, or a restarted node would sum over others.
        """
        ids, first = np.unique(self.patient, return_index=True)
        if ids.size <= patients:
            return self
        turn = ids if self.draw is None else self.draw[first]
        return self.take(np.isin(self.patient, ids[np.argsort(turn, kind="stable")[:patients]]))


def concatenate(cohorts: Sequence[Cohort], *, site: str) -> Cohort:
    """Pool cohorts of one schema: for simulation only, where one process may hold them all.

    Raises:
        DataError: No cohort, schemas differ, or only some say who is held out.
    """
    if not cohorts:
        raise DataError("no_cohorts", "there is no cohort to pool")
    first = cohorts[0]
    if any(cohort.schema.sha256 != first.schema.sha256 for cohort in cohorts):
        raise DataError("schema_mismatch", "cohorts of different schemas cannot be pooled")

    def column(values: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
        present = [value for value in values if value is not None]
        return np.concatenate(present) if present else None

    events = [cohort.event for cohort in cohorts if cohort.event is not None]
    draws = [cohort.draw for cohort in cohorts if cohort.draw is not None]
    held_out = [cohort.held_out for cohort in cohorts if cohort.held_out is not None]
    if held_out and len(held_out) < len(cohorts):
        raise DataError("holdout_mixed", "some of the cohorts hold patients out and some do not")
    return Cohort(
        site=site,
        schema=first.schema,
        features=np.concatenate([cohort.features for cohort in cohorts]),
        patient=np.concatenate([cohort.patient for cohort in cohorts]),
        label=column([cohort.label for cohort in cohorts]),
        time=column([cohort.time for cohort in cohorts]),
        event=np.concatenate(events) if events else None,
        groups={
            name: np.concatenate([cohort.groups[name] for cohort in cohorts])
            for name in first.groups
        },
        draw=np.concatenate(draws) if len(draws) == len(cohorts) else None,
        held_out=np.concatenate(held_out) if held_out else None,
    )
