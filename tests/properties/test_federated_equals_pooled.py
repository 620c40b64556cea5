"""A federation without noise computes what one table would: for every analysis, any split.

Each example goes through real Flower messages, the node and the door. What separates the two
answers is the integer grid: half a unit per site, coordinate and round. For the cohorts here
a unit is below 1e-12 of a patient's gradient, and 1e-9 bounds what rounds make of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedcohort.experiments.simulation.federate import federate
from fedcohort.study.analysis import solve
from fedcohort.study.cohort import Cohort, Schema, Task, concatenate
from fedcohort.study.plan import Plan, analysis_of

WIDTH = 3
BOUND = 2.0
HORIZON = 365.0
PATIENTS = 2_000
GRID_ERROR = 1e-9

Kind = Literal["mixed", "ones", "zeros"]


@dataclass(frozen=True)
class Split:
    """How patients lie on sites."""

    seed: int
    sizes: tuple[int, ...]
    kinds: tuple[Kind, ...]
    rows_per_patient: int = 1


SPLITS = st.integers(2, 6).flatmap(
    lambda sites: st.builds(
        Split,
        seed=st.integers(0, 2**31),
        sizes=st.tuples(*[st.sampled_from([3, 4, 17, 60, 150])] * sites),
        kinds=st.tuples(*[st.sampled_from(["mixed", "mixed", "ones", "zeros"])] * sites),
        rows_per_patient=st.integers(1, 3),
    )
)
UNEVEN = Split(seed=1, sizes=(3, 150, 17), kinds=("ones", "mixed", "zeros"), rows_per_patient=3)


def cohorts_of(split: Split, task: Task) -> list[Cohort]:
    """Draw one cohort a site; survival tables have one row a patient."""
    schema = Schema(
        name="drawn",
        task=task,
        features=tuple(f"x{number}" for number in range(WIDTH)),
        bound=BOUND,
        outcome="y",
        codebook_sha256="0" * 64,
        horizon_days=HORIZON if task == "survival" else None,
    )
    draw, cohorts = np.random.default_rng(split.seed), []
    for site, (size, kind) in enumerate(zip(split.sizes, split.kinds, strict=True)):
        rows = size * (split.rows_per_patient if task == "risk" else 1)
        features = np.clip(draw.normal(size=(rows, WIDTH)), -BOUND, BOUND).astype(np.float32)
        flag = {"mixed": draw.random(rows) < 0.4, "ones": np.ones(rows, bool)}.get(
            kind, np.zeros(rows, bool)
        )
        cohorts.append(
            Cohort(
                site=f"site{site}",
                schema=schema,
                features=features,
                patient=(np.arange(rows) % size + 10_000 * site).astype(np.uint64),
                label=flag.astype(np.float64) if task == "risk" else None,
                time=np.ceil(draw.exponential(200.0, rows)) if task == "survival" else None,
                event=flag if task == "survival" else None,
                groups={"sex": draw.choice(["f", "m"], rows)},
            )
        )
    return cohorts


def plan_of(analysis: str, parameters: dict[str, Any], cohorts: list[Cohort]) -> Plan:
    return Plan(
        study="equal",
        purpose="Compare a federation with one table.",
        analysis=analysis,
        parameters=parameters,
        schema_sha256=cohorts[0].schema.sha256,
        sites=tuple(cohort.site for cohort in cohorts),
        privacy=None,
        max_rounds=200,
        max_patients_per_site=PATIENTS,
        min_sites=len(cohorts),
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires="9999-12-31",
    )


LOGISTIC = {"name": "logistic", "features": WIDTH, "bound": BOUND}
SURVIVAL = {"features": WIDTH, "bound": BOUND, "horizon_days": HORIZON}
HAZARD = {"name": "hazard", "intervals": 5, **SURVIVAL}
COX = {"name": "cox", **SURVIVAL}
MLP = {"name": "mlp", "features": WIDTH, "bound": BOUND, "hidden": [4]}
CURVES = {"name": "hazard_mlp", "intervals": 4, "hidden": [3], **SURVIVAL}


# A floor, as noise would ask for: eigenvalues that are zero keep their digits.
GRAM = {"steps": 8, "clip": 0.5, "noise_scale": 1.0}


@dataclass(frozen=True)
class Case:
    """One analysis, and which answer it must equal."""

    name: str
    task: Task
    analysis: str
    parameters: dict[str, Any] = field(default_factory=dict)
    # Strata, and local steps, are not those of one table: then the oracle is the plain sum of
    # the sites' parts.
    pooled: bool = True
    exact: bool = False
    extra: str | None = None


CASES = [
    Case("newton logistic", "risk", "newton", {"model": LOGISTIC, "l2": 1.0}),
    Case("newton hazard", "survival", "newton", {"model": HAZARD, "l2": 1.0}),
    Case("newton cox", "survival", "newton", {"model": COX, "l2": 1.0}, pooled=False),
    Case("gradient logistic", "risk", "gradient", {"model": LOGISTIC, "steps": 15}),
    Case(
        "gradient clipped per patient",
        "risk",
        "gradient",
        {"model": LOGISTIC, "steps": 15, "clip": 0.5},
    ),
    Case(
        "gradient hazard clipped",
        "survival",
        "gradient",
        {"model": HAZARD, "steps": 15, "clip": 0.5},
    ),
    Case("gradient mlp", "risk", "gradient", {"model": MLP, "steps": 8}, extra="torch"),
    Case(
        "gradient mlp clipped per patient",
        "risk",
        "gradient",
        {"model": MLP, "steps": 8, "clip": 0.3},
        extra="torch",
    ),
    Case(
        "gradient hazard mlp", "survival", "gradient", {"model": CURVES, "steps": 8}, extra="torch"
    ),
    Case("whitened logistic", "risk", "whitened", {"model": LOGISTIC, **GRAM}),
    Case("whitened hazard", "survival", "whitened", {"model": HAZARD, **GRAM}),
    Case("newton_gram logistic", "risk", "newton_gram", {"model": LOGISTIC, **GRAM}),
    Case("newton_gram hazard", "survival", "newton_gram", {"model": HAZARD, **GRAM}),
    Case(
        "averaging, one local step",
        "risk",
        "averaging",
        {"model": LOGISTIC, "rounds": 12, "local_steps": 1},
    ),
    Case(
        "averaging, many local steps",
        "risk",
        "averaging",
        {"model": LOGISTIC, "rounds": 6, "local_steps": 4},
        pooled=False,
    ),
    Case(
        "averaging hazard",
        "survival",
        "averaging",
        {"model": HAZARD, "rounds": 6, "local_steps": 4},
        pooled=False,
    ),
    Case(
        "breslow",
        "survival",
        "breslow",
        {"theta": [0.5, -0.3, 0.0], "horizon_days": HORIZON, "bound": BOUND},
    ),
    Case(
        "counts",
        "risk",
        "counts",
        {
            "rows": "sex",
            "row_values": ["f", "m"],
            "columns": "outcome",
            "column_values": ["0", "1"],
        },
        exact=True,
    ),
    Case(
        "kaplan-meier",
        "survival",
        "kaplan_meier",
        {"horizon_days": HORIZON, "intervals": 12},
        exact=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(split=SPLITS)
@example(split=UNEVEN)
def test_the_federated_answer_is_the_pooled_answer(case: Case, split: Split) -> None:
    if case.extra is not None:
        pytest.importorskip(case.extra)
    cohorts = cohorts_of(split, case.task)
    plan = plan_of(case.analysis, case.parameters, cohorts)
    outcome = federate(plan, cohorts)
    oracle = [concatenate(cohorts, site="pooled")] if case.pooled else cohorts
    expected = solve(analysis_of(plan), oracle)
    assert outcome.dropped == ()
    assert set(outcome.result.arrays) == set(expected.arrays)
    for name, array in expected.arrays.items():
        found = outcome.result.arrays[name]
        if case.exact:
            np.testing.assert_array_equal(found, array)
        else:
            np.testing.assert_allclose(found, array, rtol=GRID_ERROR, atol=GRID_ERROR)


def test_every_analysis_of_this_release_has_a_case() -> None:
    from fedcohort.study import analyses
    from fedcohort.study.registry import names

    assert {case.analysis for case in CASES} == set(names(analyses))


def test_an_answer_that_forgets_a_site_is_seen() -> None:
    """The control: leaving one site of three patients out is 1,000 times the stated error."""
    cohorts = cohorts_of(UNEVEN, "risk")
    plan = plan_of("newton", {"model": LOGISTIC, "l2": 1.0}, cohorts)
    whole = solve(analysis_of(plan), cohorts).arrays["theta"]
    without = solve(analysis_of(plan), cohorts[1:]).arrays["theta"]
    assert np.abs(whole - without).max() > 1000 * GRID_ERROR
