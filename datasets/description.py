"""What is in an extract, by hospital: for whoever holds it, before a study is planned.

These are exact counts of records. They are for the hospital's own screen
(`fedcohort data describe`) and must not be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..study.cohort import Cohort
from .extract import Extract

__all__ = ["Description", "SiteSummary", "describe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSummary:
    """One hospital's counts.

    Attributes:
        site: The hospital.
        external: It is set aside for validation.
        rows: Records with an outcome.
        patients: Distinct patients among them.
        events: Patients with the outcome.
        missing: Share of rows, 0 to 1, without a usable value, by column.
    """

    site: str
    external: bool
    rows: int
    patients: int
    events: int
    missing: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An extract at a glance."""

    name: str
    task: str
    outcome: str
    public: bool
    columns: tuple[str, ...]
    features: tuple[str, ...]
    sites: tuple[SiteSummary, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON."""
        return {
            "name": self.name,
            "task": self.task,
            "outcome": self.outcome,
            "public": self.public,
            "columns": list(self.columns),
            "features": list(self.features),
            "sites": [
                {
                    "site": site.site,
                    "external": site.external,
                    "rows": site.rows,
                    "patients": site.patients,
                    "events": site.events,
                    "missing": dict(site.missing),
                }
                for site in self.sites
            ],
        }


def _summary(cohort: Cohort, missing: Mapping[str, int], *, external: bool) -> SiteSummary:
    return SiteSummary(
        site=cohort.site,
        external=external,
        rows=cohort.rows,
        patients=cohort.patients,
        events=int(np.unique(cohort.patient[cohort.outcome_flag]).size),
        missing={column: rows / cohort.rows for column, rows in missing.items()},
    )


def describe(extract: Extract) -> Description:
    """Return each hospital's counts and shares of missing values, the test sites last."""
    groups = ((extract.cohorts, False), (extract.external, True))
    return Description(
        name=extract.schema.name,
        task=extract.schema.task,
        outcome=extract.schema.outcome,
        public=extract.schema.public,
        columns=extract.columns,
        features=extract.schema.features,
        sites=tuple(
            _summary(cohort, extract.missing[cohort.site], external=external)
            for cohorts, external in groups
            for cohort in cohorts
        ),
    )
