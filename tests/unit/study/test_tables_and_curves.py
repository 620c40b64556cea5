"""Counts and Kaplan-Meier: one histogram each, against pandas, scikit-survival, statsmodels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sksurv.nonparametric import kaplan_meier_estimator, nelson_aalen_estimator

from fedcohort.privacy.errors import ConfigError, DataError
from fedcohort.study.analyses.counts import Counts
from fedcohort.study.analyses.kaplan_meier import KaplanMeier
from fedcohort.study.analysis import Result, Total, solve
from fedcohort.study.cohort import Cohort

Make = Callable[..., Cohort]
SEXES = ("f", "m")
AGES = ("<50", "50-69", ">=70")


# ---- counts


def test_a_table_is_the_crosstab_of_pandas(risk: Make) -> None:
    cohort = risk(500)
    counted = pd.crosstab(cohort.groups["sex"], cohort.groups["age_band"])
    expected = counted.reindex(index=SEXES, columns=AGES).to_numpy()
    analysis = Counts(rows="sex", row_values=SEXES, columns="age_band", column_values=AGES)
    table = solve(analysis, [cohort]).arrays["table"]
    np.testing.assert_array_equal(table[:2, :3], expected)
    assert not table[2].any()
    assert not table[:, 3].any()


def test_the_outcome_is_a_group_that_every_cohort_has(risk: Make, survival: Make) -> None:
    for cohort in (risk(300), survival(300)):
        analysis = Counts(rows="outcome", row_values=("0", "1"))
        table = solve(analysis, [cohort]).arrays["table"]
        flag = cohort.outcome_flag
        assert table.tolist() == [[float((~flag).sum())], [float(flag.sum())], [0.0]]


def test_tables_of_sites_add_up(risk: Make) -> None:
    whole = risk(500)
    parts = [whole.take(np.arange(500) % 3 == number) for number in range(3)]
    analysis = Counts(rows="sex", row_values=SEXES, columns="outcome", column_values=("0", "1"))
    found, expected = solve(analysis, parts), solve(analysis, [whole])
    np.testing.assert_array_equal(found.arrays["table"], expected.arrays["table"])


def test_a_value_that_the_plan_does_not_list_is_other_and_adds_no_cell(risk: Make) -> None:
    cohort = risk(100)
    analysis = Counts(rows="sex", row_values=("f", "x"))
    table = solve(analysis, [cohort]).arrays["table"]
    men = float((cohort.groups["sex"] == "m").sum())
    assert table[:, 0].tolist() == [100 - men, 0.0, men]


def test_a_patient_with_several_rows_counts_once_by_the_first(risk: Make) -> None:
    cohort = risk(90, repeated=50)
    frame = pd.DataFrame({"patient": cohort.patient, "sex": cohort.groups["sex"]})
    expected = frame.groupby("patient")["sex"].first().value_counts()
    table = solve(Counts(rows="sex", row_values=SEXES), [cohort]).arrays["table"]
    assert table[:, 0].tolist() == [float(expected["f"]), float(expected["m"]), 0.0]


def test_a_patient_moves_a_table_by_at_most_one(risk: Make) -> None:
    cohort = risk(60, repeated=30)
    analysis = Counts(rows="sex", row_values=SEXES, private=True)
    whole = analysis.contribution(cohort, analysis.initial())
    assert whole.sensitivity == 1.0
    for patient in np.unique(cohort.patient):
        rest = cohort.take(cohort.patient != patient)
        part = analysis.contribution(rest, analysis.initial())
        assert np.linalg.norm(whole.total - part.total) == 1.0


def test_a_table_needs_public_values_and_a_group_that_exists(risk: Make) -> None:
    with pytest.raises(ConfigError) as refused:
        Counts(rows="sex", row_values=())
    assert refused.value.code == "domain_empty"
    with pytest.raises(ConfigError) as refused:
        Counts(rows="sex", row_values=SEXES, columns="age_band")
    assert refused.value.code == "domain_empty"
    with pytest.raises(DataError) as unknown:
        solve(Counts(rows="ward", row_values=("a",)), [risk(10)])
    assert unknown.value.code == "unknown_group"
    assert "outcome, age_band, sex" in unknown.value.hint


# ---- Kaplan-Meier

GRID = KaplanMeier(horizon_days=360.0, intervals=24)


def on_the_grid(cohort: Cohort) -> Cohort:
    """The same patients with times rounded up to the grid's ends."""
    assert cohort.time is not None
    ends = np.append(GRID.grid, 1e6)
    rounded = ends[np.searchsorted(ends, cohort.time, side="left")]
    object.__setattr__(cohort, "time", rounded)
    return cohort


def test_on_grid_ends_it_is_the_textbook_estimator(survival: Make) -> None:
    cohort = on_the_grid(survival(500))
    assert cohort.time is not None
    assert cohort.event is not None
    answer = solve(GRID, [cohort]).arrays
    steps, curve = kaplan_meier_estimator(cohort.event, cohort.time)
    expected = curve[np.searchsorted(steps, GRID.grid, side="right") - 1]
    np.testing.assert_allclose(answer["survival"], expected, atol=1e-12)
    other = sm.SurvfuncRight(cohort.time, cohort.event.astype(int))
    at = np.searchsorted(other.surv_times, GRID.grid, side="right") - 1
    np.testing.assert_allclose(answer["survival"], other.surv_prob[at], atol=1e-12)


def test_the_cumulative_hazard_is_nelson_and_aalens(survival: Make) -> None:
    cohort = on_the_grid(survival(500))
    steps, hazard = nelson_aalen_estimator(cohort.event, cohort.time)
    expected = hazard[np.searchsorted(steps, GRID.grid, side="right") - 1]
    np.testing.assert_allclose(solve(GRID, [cohort]).arrays["cumulative_hazard"], expected)


def test_the_risk_set_counts_who_is_still_there(survival: Make) -> None:
    cohort = survival(500)
    assert cohort.time is not None
    starts = np.append(0.0, GRID.grid[:-1])
    expected = [float((cohort.time > start).sum()) for start in starts]
    assert solve(GRID, [cohort]).arrays["at_risk"].tolist() == expected


def test_curves_of_sites_are_the_curve_of_all(survival: Make) -> None:
    whole = survival(500)
    parts = [whole.take(np.arange(500) % 5 == number) for number in range(5)]
    found, expected = solve(GRID, parts).arrays, solve(GRID, [whole]).arrays
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_edges_and_the_horizon(timed: Make) -> None:
    # 0 and 15 fall into the first interval, 15.5 into the second, 360 into the last, 361 survives.
    cohort = timed([0.0, 15.0, 15.5, 360.0, 361.0], [1, 1, 0, 1, 1])
    cells = GRID.contribution(cohort, GRID.initial()).total
    assert cells[0] == 2.0
    assert cells[24 + 1] == 1.0
    assert cells[23] == 1.0
    assert cells[-1] == 1.0
    assert cells.sum() == 5.0


def test_a_patient_moves_the_histogram_by_one_cell(survival: Make) -> None:
    private = KaplanMeier(horizon_days=360.0, private=True)
    cohort = survival(60, repeated=30)
    whole = private.contribution(cohort, private.initial())
    assert whole.sensitivity == 1.0
    for patient in np.unique(cohort.patient):
        rest = private.contribution(cohort.take(cohort.patient != patient), private.initial())
        assert np.linalg.norm(whole.total - rest.total) == 1.0


def test_several_rows_of_a_patient_are_refused_only_where_no_noise_is_added(survival: Make) -> None:
    cohort = survival(60, repeated=30)
    with pytest.raises(DataError) as refused:
        GRID.contribution(cohort, GRID.initial())
    assert refused.value.code == "several_rows_per_patient"
    # With noise the refusal would tell that there is such a patient.
    private = KaplanMeier(horizon_days=360.0, private=True)
    assert private.contribution(cohort, private.initial()).total.sum() == 30.0


def test_noise_below_zero_still_gives_a_curve() -> None:
    draw = np.random.default_rng(3)
    for scale in (1.0, 30.0, 1e4):
        noisy = Total(vector=draw.normal(0, scale, 49), sites=("a",))
        answer = GRID.step(GRID.initial(), noisy)
        assert isinstance(answer, Result)
        survival = answer.arrays["survival"]
        assert ((survival >= 0) & (survival <= 1)).all()
        assert (np.diff(survival) <= 0).all()
        assert (np.diff(answer.arrays["cumulative_hazard"]) >= 0).all()


def test_a_curve_needs_a_time_axis() -> None:
    for horizon in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError) as refused:
            KaplanMeier(horizon_days=horizon)
        assert refused.value.code == "horizon_range"
    with pytest.raises(ConfigError):
        KaplanMeier(horizon_days=1.0, intervals=0)
