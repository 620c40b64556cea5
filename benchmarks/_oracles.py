"""Exactness: a federated fit against statsmodels on the pooled table, without a ridge."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
import statsmodels.api as statsmodels
from numpy.typing import NDArray

from fedcohort.datasets import Extract, LoadOptions, load_catalogue
from fedcohort.experiments.simulation.federate import federate
from fedcohort.study.cohort import concatenate
from fedcohort.study.plan import Plan

__all__ = ["cox_deviation", "logistic_deviation"]


def logistic_deviation() -> float:
    """Return the largest difference of a coefficient, heart disease, all 920 patients."""
    extract = load_catalogue("heart-disease", LoadOptions())
    pooled = concatenate(extract.cohorts, site="pooled")
    design = np.column_stack([pooled.features.astype(np.float64), np.ones(pooled.rows)])
    fit = statsmodels.Logit(pooled.label, design).fit(
        method="newton", tol=1e-14, maxiter=100, disp=False
    )
    return _largest(_federated(extract, "logistic"), fit.params)


def cox_deviation() -> float:
    """Return the largest difference of a coefficient, breast cancer, stratified by hospital."""
    extract = load_catalogue("breast-recurrence", LoadOptions())
    pooled = concatenate(extract.cohorts, site="pooled")
    strata = np.concatenate([np.full(cohort.rows, cohort.site) for cohort in extract.cohorts])
    model = statsmodels.PHReg(
        pooled.time,
        pooled.features.astype(np.float64),
        status=np.asarray(pooled.event, dtype=np.float64),
        strata=strata,
        ties="breslow",
    )
    fit = model.fit(method="newton", tol=1e-14, maxiter=100, disp=False)
    return _largest(_federated(extract, "cox"), fit.params)


def _largest(ours: Sequence[float] | NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max())


def _federated(extract: Extract, model: str) -> NDArray[np.float64]:
    """Return the weights that Newton finds over the wire, door and integers included."""
    schema = extract.schema
    named = {"name": model, "features": len(schema.features), "bound": schema.bound}
    if schema.horizon_days is not None:
        named["horizon_days"] = schema.horizon_days
    sites = tuple(cohort.site for cohort in extract.cohorts)
    plan = Plan(
        study="exactness",
        purpose="Compare a federated fit with statsmodels.",
        analysis="newton",
        parameters={"model": named, "l2": 0.0},
        schema_sha256=schema.sha256,
        sites=sites,
        privacy=None,
        max_rounds=100,
        max_patients_per_site=2**17,
        min_sites=len(sites),
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires=(dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)).isoformat(),
    )
    return federate(plan, extract.cohorts).result.arrays["theta"]
