"""Cox regression over strata and its baseline, against statsmodels and scikit-survival."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg

from fedcohort.privacy.errors import ConfigError, PolicyError
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analyses.breslow import Breslow
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Vector, solve
from fedcohort.study.cohort import Cohort, concatenate
from fedcohort.study.models.cox import Cox, breslow_grid

Survival = Callable[..., Cohort]
Timed = Callable[..., Cohort]
Differences = Callable[..., Vector]
MODEL = Cox(features=3, bound=3.0, horizon_days=365.0)


def fitted(cohorts: list[Cohort], l2: float = 0.0) -> Vector:
    return solve(Newton(model=MODEL, l2=l2), cohorts).arrays["theta"]


def of_statsmodels(cohorts: list[Cohort]) -> Vector:
    """PHReg with one stratum a site and Breslow's ties, polished to its own optimum."""
    whole = concatenate(cohorts, site="pooled")
    assert whole.event is not None
    strata = np.repeat([cohort.site for cohort in cohorts], [cohort.rows for cohort in cohorts])
    features = whole.features.astype(np.float64)
    oracle = PHReg(whole.time, features, whole.event.astype(int), strata=strata, ties="breslow")
    theta = np.asarray(oracle.fit(disp=0).params)
    for _ in range(5):  # its optimiser stops early; its own score and Hessian go on
        theta = theta - np.linalg.solve(oracle.hessian(theta), oracle.score(theta))
    return np.asarray(theta, dtype=np.float64)


def of_scikit_survival(cohort: Cohort) -> CoxPHSurvivalAnalysis:
    outcome = Surv.from_arrays(cohort.event, cohort.time)
    model = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14, n_iter=200)
    return model.fit(cohort.features.astype(np.float64), outcome)


def log_likelihood(theta: Vector, cohort: Cohort) -> float:
    """Breslow's partial likelihood, term by term."""
    assert cohort.time is not None
    assert cohort.event is not None
    scores = cohort.features.astype(np.float64) @ theta
    value = 0.0
    for row in np.flatnonzero(cohort.event):
        at_risk = cohort.time >= cohort.time[row]
        value += scores[row] - np.log(np.exp(scores[at_risk]).sum())
    return float(value)


@pytest.mark.parametrize("whole_days", [None, 60.0], ids=["few ties", "heavy ties"])
def test_derivatives_are_those_of_the_partial_likelihood(
    survival: Survival, differences: Differences, whole_days: float | None
) -> None:
    cohort, theta = survival(80, whole_days=whole_days), np.array([0.4, -0.2, 0.7])
    slope = differences(lambda at: -log_likelihood(at, cohort), theta)
    np.testing.assert_allclose(MODEL.gradient(theta, cohort), slope, rtol=1e-6, atol=1e-6)
    bend = differences(lambda at: MODEL.gradient(at, cohort), theta)
    np.testing.assert_allclose(MODEL.curvature(theta, cohort), bend, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("whole_days", [None, 7.0, 90.0], ids=["none", "weeks", "quarters"])
def test_over_sites_it_is_the_stratified_fit_of_statsmodels(
    survival: Survival, whole_days: float | None
) -> None:
    sites = [
        survival(rows, seed=seed, site=f"s{seed}", whole_days=whole_days)
        for seed, rows in enumerate([40, 150, 90, 12])
    ]
    np.testing.assert_allclose(fitted(sites), of_statsmodels(sites), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("whole_days", [None, 7.0, 90.0], ids=["none", "weeks", "quarters"])
def test_on_one_table_it_is_the_fit_of_scikit_survival(
    survival: Survival, whole_days: float | None
) -> None:
    cohort = survival(300, whole_days=whole_days)
    oracle = of_scikit_survival(cohort)
    np.testing.assert_allclose(fitted([cohort]), oracle.coef_, rtol=1e-7, atol=1e-7)


def test_strata_are_not_one_big_table(survival: Survival) -> None:
    # The second site's clock runs ten times slower: pooling would blame the features.
    sites = [survival(150, seed=1, site="a"), survival(150, seed=2, site="b")]
    assert sites[1].time is not None
    sites[1].time[:] *= 10
    pooled = fitted([concatenate(sites, site="pooled")])
    assert np.abs(fitted(sites) - pooled).max() > 0.01


def test_a_site_without_events_says_nothing(survival: Survival) -> None:
    cohort = survival(100)
    assert cohort.event is not None
    quiet = cohort.take(~cohort.event)
    assert not MODEL.gradient(np.ones(3), quiet).any()
    assert not MODEL.curvature(np.ones(3), quiet).any()
    np.testing.assert_allclose(fitted([cohort, quiet]), fitted([cohort]), atol=1e-12)
    assert not MODEL.gradient(np.ones(3), quiet.take(np.zeros(quiet.rows, dtype=bool))).any()


def test_times_stay_ties_whatever_order_rows_come_in(survival: Survival) -> None:
    cohort, theta = survival(120, whole_days=90.0), np.array([0.4, -0.2, 0.7])
    shuffled = cohort.take(np.random.default_rng(5).permutation(120))
    np.testing.assert_allclose(MODEL.gradient(theta, shuffled), MODEL.gradient(theta, cohort))


def test_large_scores_do_not_overflow(survival: Survival) -> None:
    cohort = survival(100)
    assert np.isfinite(MODEL.gradient(np.full(3, 60.0), cohort)).all()
    assert np.isfinite(MODEL.curvature(np.full(3, 60.0), cohort)).all()


def test_it_is_refused_under_differential_privacy(survival: Survival) -> None:
    with pytest.raises(PolicyError) as refused:
        MODEL.clipped_gradient(np.zeros(3), survival(), 1.0)
    assert refused.value.code == "no_per_patient_gradient"
    with pytest.raises(PolicyError) as refused:
        Averaging(model=MODEL, clip=1.0, noise_multiplier=2.0)
    assert refused.value.code == "no_per_patient_gradient"


def test_clipping_it_row_by_row_would_not_have_bounded_a_patient(survival: Survival) -> None:
    # The positive control of the refusal: per-row terms of the score, each clipped to 1, still
    # move by more than 1 when one patient leaves, for the terms of all others change.
    def clipped_score(cohort: Cohort, theta: Vector) -> Vector:
        assert cohort.time is not None
        assert cohort.event is not None
        features = cohort.features.astype(np.float64)
        weight = np.exp(features @ theta)
        total = np.zeros(3)
        for row in np.flatnonzero(cohort.event):
            at_risk = cohort.time >= cohort.time[row]
            mean = weight[at_risk] @ features[at_risk] / weight[at_risk].sum()
            term = mean - features[row]
            total += term * min(1.0, 1.0 / max(float(np.linalg.norm(term)), 1e-12))
        return total

    cohort, theta = survival(30), np.array([2.0, -2.0, 2.0])
    whole = clipped_score(cohort, theta)
    others = [clipped_score(cohort.take(np.arange(30) != row), theta) for row in range(30)]
    assert max(float(np.linalg.norm(whole - other)) for other in others) > 1.5


# ---- the baseline


def baseline(theta: Vector, cohorts: list[Cohort]) -> Vector:
    analysis = Breslow(theta=tuple(theta.tolist()), horizon_days=365.0, bound=3.0)
    return solve(analysis, cohorts).arrays["baseline"]


def test_the_baseline_is_that_of_scikit_survival_up_to_its_grid(survival: Survival) -> None:
    """Both lie between the sums that take all leavers of an interval early, and late."""
    cohort = survival(3000)
    assert cohort.time is not None
    assert cohort.event is not None
    oracle = of_scikit_survival(cohort)
    found = baseline(oracle.coef_, [cohort])
    ends = breslow_grid(365.0)
    exact = oracle.cum_baseline_hazard_
    expected = exact.y[np.searchsorted(exact.x, ends, side="right") - 1]
    relative = np.exp(cohort.features.astype(np.float64) @ oracle.coef_)
    starts = np.append(0.0, ends[:-1])
    events = np.array(
        [
            ((cohort.time > a) & (cohort.time <= b) & cohort.event).sum()
            for a, b in zip(starts, ends, strict=True)
        ]
    )
    early = np.array([relative[cohort.time > start].sum() for start in starts])
    late = np.array([relative[cohort.time > end].sum() for end in ends])
    low, high = np.cumsum(events / early), np.cumsum(events / late)
    assert (found >= low).all()
    assert (found <= high).all()
    np.testing.assert_allclose(found, expected, rtol=5e-3)  # 3,000 patients, 120 intervals


def test_the_baseline_by_hand(timed: Timed) -> None:
    # theta = 0 and steps of one day: 4 at risk less half of one who leaves, then 3 less half ...
    cohort = timed([1.0, 2.0, 2.5, 119.5], [1, 1, 0, 1])
    found = solve(Breslow(theta=(0.0,), horizon_days=120.0, bound=1.0), [cohort])
    curve = found.arrays["baseline"]
    assert curve[0] == pytest.approx(1 / 3.5)
    assert curve[1] == pytest.approx(1 / 3.5 + 1 / 2.5)
    assert curve[118] == curve[1]
    assert curve[119] == pytest.approx(1 / 3.5 + 1 / 2.5 + 1 / 0.5)


def test_a_grid_that_nobody_reaches_stays_flat(timed: Timed) -> None:
    curve = baseline(np.zeros(1), [timed([3.0, 4.0], [1, 0])])
    assert np.isfinite(curve).all()
    assert (curve[2:] == curve[2]).all()


def test_sites_share_one_baseline_whatever_the_split(survival: Survival) -> None:
    whole = survival(300)
    parts = [whole.take(np.arange(300) % 3 == number) for number in range(3)]
    theta = np.array([0.4, -0.2, 0.7])
    np.testing.assert_allclose(baseline(theta, parts), baseline(theta, [whole]), rtol=1e-12)


def test_with_a_baseline_it_predicts_the_curves_of_scikit_survival(survival: Survival) -> None:
    cohort = survival(3000)
    oracle = of_scikit_survival(cohort)
    theta = np.append(oracle.coef_, baseline(oracle.coef_, [cohort]))
    some = cohort.take(np.arange(40))
    answer = MODEL.predict(theta, some)
    assert answer.survival is not None
    assert answer.grid_days is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curves = oracle.predict_survival_function(some.features.astype(np.float64))
    inside = answer.grid_days <= curves[0].x[-1]
    expected = np.stack([curve(answer.grid_days[inside]) for curve in curves])
    np.testing.assert_allclose(answer.survival[:, inside], expected, atol=2e-3)


def test_without_a_baseline_it_orders_patients_and_no_more(survival: Survival) -> None:
    cohort = survival(10)
    answer = MODEL.predict(np.array([1.0, 0.0, 0.0]), cohort)
    assert answer.survival is None
    np.testing.assert_array_equal(answer.risk, cohort.features[:, 0].astype(np.float64))


def test_a_baseline_needs_a_time_axis() -> None:
    with pytest.raises(ConfigError) as refused:
        Breslow(theta=(0.0,), horizon_days=0.0, bound=1.0)
    assert refused.value.code == "horizon_range"
