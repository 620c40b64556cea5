"""`fedcohort stats`: federated statistics that train nothing, beside their pooled value.

The same door, grid and noise as the models: a curve or a table is one secure sum. It keeps
the abstraction honest, and it is often all that a study needs.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

from ..datasets import GROUP_DOMAINS, Extract
from ..privacy.accounting import BOUND, calibrate
from ..privacy.errors import ConfigError, PolicyError
from ..privacy.secagg.roster import MINIMUM_SITES
from ..study.analysis import Result, solve
from ..study.cohort import concatenate
from ..study.plan import Plan, PrivacyTerms, analysis_of
from .extracts import check_epsilon
from .guarantee import guarantee_of
from .reporting.results import FROM_THE_EXTRACT_ON
from .simulation.federate import federate

__all__ = ["counts", "kaplan_meier"]

_MAX_PATIENTS = 2**17


def kaplan_meier(
    extract: Extract, *, intervals: int, epsilon: float | None, delta: float | None
) -> dict[str, Any]:
    """Return the federated Kaplan-Meier curve and the pooled one.

    Args:
        extract: Survival cohorts.
        intervals: Equal intervals of the public time grid.
        epsilon: None for no noise.
        delta: Needed with epsilon.

    Raises:
        ConfigError: `not_survival`, or a privacy value that cannot be.
        PolicyError: `encoding_required`, `patient_required` or `codebook_required`.
    """
    if extract.schema.horizon_days is None:
        raise ConfigError(
            "not_survival",
            f"{extract.schema.name} has no follow-up times",
            hint="Give data.time=COLUMN data.event=COLUMN, or use breast-recurrence.",
        )
    parameters = {"horizon_days": extract.schema.horizon_days, "intervals": intervals}
    return _federated(extract, "kaplan_meier", parameters, epsilon, delta)


def counts(
    extract: Extract, *, rows: str, columns: str, epsilon: float | None, delta: float | None
) -> dict[str, Any]:
    """Return the federated table of two groups and the pooled one.

    Args:
        extract: The cohorts; the values of the groups are those of their public domains.
        rows: A group, e.g. `sex`, or `outcome`.
        columns: Another.
        epsilon: None for no noise.
        delta: Needed with epsilon.

    Raises:
        ConfigError: `unknown_group`, or a privacy value that cannot be.
        PolicyError: `encoding_required`, `patient_required` or `codebook_required`.
    """
    parameters = {
        "rows": rows,
        "row_values": list(_domain(extract, rows)),
        "columns": columns,
        "column_values": list(_domain(extract, columns)),
    }
    return _federated(extract, "counts", parameters, epsilon, delta) | {
        "rows": [*_domain(extract, rows), "other"],
        "columns": [*_domain(extract, columns), "other"],
    }


def _domain(extract: Extract, group: str) -> tuple[str, ...]:
    """Return a group's public values: never those that happen to occur."""
    if group == "outcome":
        return ("0", "1")
    present = sorted(set(GROUP_DOMAINS) & set(extract.cohorts[0].groups))
    if group not in present:
        raise ConfigError(
            "unknown_group",
            f"{extract.schema.name} has no group {group!r}",
            hint=f"Its groups are: {', '.join(['outcome', *present])}.",
        )
    return GROUP_DOMAINS[group]


def _federated(
    extract: Extract,
    analysis: str,
    parameters: dict[str, Any],
    epsilon: float | None,
    delta: float | None,
) -> dict[str, Any]:
    sites = tuple(cohort.site for cohort in extract.cohorts)
    terms = _terms(epsilon, delta, len(sites))
    if terms is not None:
        check_epsilon(extract)
    if terms is not None and not extract.schema.public:
        raise PolicyError(
            "codebook_required",
            "without a codebook the domains were taken from the data: no epsilon would be true",
            hint="Give data.codebook=FILE; draft one with `fedcohort data codebook TABLE`.",
        )
    plan = Plan(
        study=f"{extract.schema.name} statistics",
        purpose=f"One {analysis} over all sites.",
        analysis=analysis,
        parameters={**parameters, "private": terms is not None},
        schema_sha256=extract.schema.sha256,
        sites=sites,
        privacy=terms,
        max_rounds=1,
        max_patients_per_site=_MAX_PATIENTS,
        min_sites=len(sites),
        # Two hospitals cannot be masked from each other: each would learn the other's sum.
        secagg="masked" if len(sites) >= MINIMUM_SITES else "plain",
        colluders=min(1, len(sites) - 1),
        roster="simulation",
        expires=(dt.datetime.now(dt.UTC).date() + dt.timedelta(days=365)).isoformat(),
    )
    outcome = federate(plan, extract.cohorts)
    pooled = solve(analysis_of(plan), [concatenate(extract.cohorts, site="pooled")])
    given = None if terms is None else guarantee_of(terms)
    return {
        "simulation": True,
        "plan_sha256": plan.sha256,
        "epsilon": epsilon,
        "epsilon_scope": None if terms is None else FROM_THE_EXTRACT_ON,
        "unit": None if terms is None else terms.unit,
        "relation": None if terms is None else terms.relation,
        "releases": None if terms is None else terms.releases,
        "epsilon_spent": None if given is None else given.epsilon,
        "sites_per_person": None if given is None else list(given.sites_per_person),
        "delta": delta,
        "bound": None if terms is None else terms.bound,
        "federated": _plain(outcome.result),
        "pooled": _plain(pooled),
        "secagg": plan.secagg,
        "bytes_up": outcome.bytes_up,
    }


def _terms(epsilon: float | None, delta: float | None, sites: int) -> PrivacyTerms | None:
    if epsilon is None:
        return None
    if delta is None:
        raise ConfigError(
            "privacy_delta_missing",
            "an epsilon needs a delta",
            hint="Give --delta 1e-5 (below 1 / patients).",
        )
    if not (np.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
        raise ConfigError(
            "privacy_range",
            f"epsilon must be > 0 and delta in (0, 1), got {epsilon:g} and {delta:g}",
            hint="Give --epsilon 1 --delta 1e-5 (delta below 1 / patients).",
        )
    return PrivacyTerms(
        epsilon=epsilon,
        delta=delta,
        noise_multiplier=calibrate(epsilon, delta, 1),
        releases=1,
        clip=1.0,
        sharing="sum",
        min_survivors=sites,
        colluders=min(1, sites - 1),  # a single site has no other to fear
        bound=BOUND,
    )


def _plain(result: Result) -> dict[str, Any]:
    return {name: np.round(array, 9).tolist() for name, array in result.arrays.items()}
