"""The primitive itself: a pair around a sum, run in one process; and what a state must be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedcohort.privacy.errors import ConfigError, DataError, ProtocolError
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Analysis, Contribution, State, solve
from fedcohort.study.cohort import Cohort, Schema, concatenate
from fedcohort.study.models.logistic import Logistic

Risk = Callable[..., Cohort]
MODEL = Logistic(features=4, bound=3.0)


def test_a_walk_that_does_not_end_is_told() -> None:
    walk = Gradient(model=MODEL, steps=50)
    nobody = Cohort(
        site="a",
        schema=Schema(
            name="n",
            task="risk",
            features=tuple("abcd"),
            bound=3.0,
            outcome="y",
            codebook_sha256="0" * 64,
        ),
        features=np.zeros((0, 4), dtype=np.float32),
        patient=np.zeros(0, dtype=np.uint64),
        label=np.zeros(0),
    )
    with pytest.raises(ConfigError) as refused:
        solve(walk, [nobody], max_rounds=50)
    assert refused.value.code == "not_converged"
    assert solve(walk, [nobody], max_rounds=51).rounds == 51


def test_a_contribution_of_another_length_is_never_added(risk: Risk) -> None:
    class Longer(Newton):
        def contribution(self, cohort: Cohort, state: State) -> Contribution:
            part = super().contribution(cohort, state)
            return Contribution(
                total=np.append(part.total, 0.0), patients=part.patients, sensitivity=None
            )

    with pytest.raises(ProtocolError) as refused:
        solve(Longer(model=MODEL), [risk()])
    assert refused.value.code == "vector_shape"


@pytest.mark.parametrize(
    "theta",
    [
        None,
        np.zeros(4),
        np.zeros(6),
        np.zeros((5, 1)),
        np.zeros((5, 40)),
        np.zeros(5, dtype=np.float32),
        np.zeros(5, dtype=np.complex128),
        np.array(["0"] * 5),
    ],
    ids=["missing", "short", "long", "column", "matrix", "float32", "complex", "text"],
)
@pytest.mark.parametrize(
    "analysis",
    [
        Newton(model=MODEL),
        Gradient(model=MODEL, clip=1.0),
        Averaging(model=MODEL),
        Averaging(model=MODEL, clip=1.0, noise_multiplier=4.0),
    ],
    ids=["newton", "gradient", "averaging", "noisy averaging"],
)
def test_a_state_of_another_shape_is_refused_whoever_the_patients_are(
    risk: Risk, analysis: Analysis, theta: np.ndarray | None
) -> None:
    # A shape that only some cohorts can be computed with would make the refusal speak of them.
    arrays = {"count": np.ones(1), "total": np.ones(1)}
    if theta is not None:
        arrays["theta"] = theta
    for rows in (1, 5, 40):
        for cohort in (risk(rows), risk(rows).take(np.zeros(rows, dtype=bool))):
            with pytest.raises(ProtocolError) as refused:
                analysis.contribution(cohort, State(round=1, arrays=arrays))
            assert refused.value.code == "state_unreadable"


# ---- the cohort type


def test_a_cohort_whose_columns_differ_in_length_is_refused(risk: Risk) -> None:
    cohort = risk(10)
    for bad in (
        {"patient": cohort.patient[:9]},
        {"label": np.zeros(11)},
        {"features": cohort.features[:, :3]},
        {"groups": {"sex": cohort.groups["sex"][:5]}},
    ):
        fields = {
            "site": "a",
            "schema": cohort.schema,
            "features": cohort.features,
            "patient": cohort.patient,
            "label": cohort.label,
            **bad,
        }
        with pytest.raises(DataError) as refused:
            Cohort(**fields)  # type: ignore[arg-type]
        assert refused.value.code == "cohort_shape"


def test_an_outcome_that_does_not_fit_the_task_is_refused(risk: Risk) -> None:
    cohort = risk(10)
    with pytest.raises(DataError) as refused:
        Cohort(site="a", schema=cohort.schema, features=cohort.features, patient=cohort.patient)
    assert refused.value.code == "cohort_outcome"


def test_patients_are_counted_not_rows(risk: Risk) -> None:
    cohort = risk(50, repeated=20)
    assert (cohort.rows, cohort.patients) == (50, 30)
    index = cohort.patient_index()
    assert sorted(set(index.tolist())) == list(range(30))
    assert all((cohort.patient[index == number] == cohort.patient[index == number][0]).all()
               for number in range(30))  # fmt: skip


def test_at_most_chooses_by_keys_and_keeps_all_rows_of_whom_it_keeps(risk: Risk) -> None:
    cohort = risk(50, repeated=20)
    kept = cohort.at_most(10)
    assert kept.patients == 10
    assert set(kept.patient.tolist()) == set(sorted(set(cohort.patient.tolist()))[:10])
    assert kept.rows == int(np.isin(cohort.patient, kept.patient).sum())
    assert cohort.at_most(30) is cohort


def test_only_cohorts_of_one_schema_are_pooled(risk: Risk, survival: Risk) -> None:
    pooled = concatenate([risk(10), risk(20, seed=1)], site="pooled")
    assert (pooled.rows, pooled.site) == (30, "pooled")
    assert pooled.groups["sex"].shape == (30,)
    with pytest.raises(DataError) as refused:
        concatenate([risk(10), survival(10)], site="pooled")
    assert refused.value.code == "schema_mismatch"
    with pytest.raises(DataError) as refused:
        concatenate([], site="pooled")
    assert refused.value.code == "no_cohorts"
