"""A made-up cohort in the shape of a real one: its schema, its numbers of patients and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.groups import GROUP_DOMAINS
from ...study.analyses.counts import OUTCOME
from ...study.cohort import Cohort, Schema
from ...study.plan import Plan

__all__ = ["made_up_cohort"]


def made_up_cohort(
    plan: Plan, schema: Schema, *, site: str, patients: int, rows: int, seed: int
) -> Cohort:
    """Return a cohort whose every value is drawn from public knowledge alone.

    Args:
        plan: Its groups, and whether it holds patients out, are followed.
        schema: What the columns mean; features are uniform within its bound.
        site: The hospital's name.
        patients: >= 1; each has at least one row.
        rows: >= patients.
        seed: Tells hospitals apart: no patient is in two.

    Raises:
        ValueError: There are fewer rows than patients, or no patient.
    """
    if not 1 <= patients <= rows:
        raise ValueError(f"rows must be >= patients >= 1, got {rows} and {patients}")
    random = np.random.default_rng([0, seed])
    who = np.concatenate([np.arange(patients), random.integers(0, patients, rows - patients)])
    flag = random.random(rows) < 0.5
    flag[0], flag[-1] = True, rows == 1  # an event, and more than one row: somebody without
    survival = schema.task == "survival"
    horizon = schema.horizon_days or 1.0
    facts: dict[str, Any] = {
        "site": site,
        "schema": schema,
        "features": random.uniform(
            -schema.bound, schema.bound, (rows, len(schema.features))
        ).astype(np.float32),
        "patient": (who + seed * 2**40).astype(np.uint64),
        "label": None if survival else flag.astype(np.float64),
        "time": random.uniform(0.0, horizon, rows) if survival else None,
        "event": flag if survival else None,
        "groups": {
            name: random.choice(np.array(values), rows) for name, values in _groups(plan).items()
        },
    }
    if plan.holdout is not None:
        facts["held_out"] = _some(random, patients, plan.holdout.test_fraction)[who]
    return Cohort(**facts)


def _groups(plan: Plan) -> dict[str, list[str]]:
    """Return the public values of each group that the plan may ask for."""
    asked = plan.parameters
    groups = {name: list(values) for name, values in GROUP_DOMAINS.items()}
    for name, values in (("rows", "row_values"), ("columns", "column_values")):
        group = asked.get(name)
        if isinstance(group, str) and group != OUTCOME and asked.get(values):
            groups[group] = [str(value) for value in asked[values]]
    return groups


def _some(random: np.random.Generator, patients: int, share: float) -> NDArray[np.bool_]:
    chosen = random.random(patients) < share
    chosen[0] = patients > 1
    return chosen
