"""The discrete-time hazard: the person-period table by hand, and statsmodels on that table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm

from fedcohort.privacy.errors import ConfigError
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Vector, solve
from fedcohort.study.cohort import Cohort
from fedcohort.study.models.cox import Cox
from fedcohort.study.models.hazard import (
    BASE_LOGIT,
    Hazard,
    person_periods,
    survival_from_hazards,
)

Survival = Callable[..., Cohort]
Timed = Callable[..., Cohort]
Differences = Callable[..., Vector]
MODEL = Hazard(features=3, bound=3.0, horizon_days=365.0, intervals=5)
EDGES = np.array([0.0, 10.0, 20.0, 30.0])


def parameters(seed: int = 1) -> Vector:
    draw = np.random.default_rng(seed)
    return np.append(draw.normal(-2.0, 0.5, MODEL.intervals), draw.normal(0, 0.5, 3))


@pytest.mark.parametrize(
    ("time", "event", "at_risk", "has_event"),
    [
        (0.0, 1, [1, 0, 0], [1, 0, 0]),  # on the first day: the first interval
        (0.0, 0, [0, 0, 0], [0, 0, 0]),  # censored before half of anything was seen
        (10.0, 1, [1, 0, 0], [1, 0, 0]),  # an edge belongs to the interval it closes
        (10.0, 0, [1, 0, 0], [0, 0, 0]),
        (10.001, 1, [1, 1, 0], [0, 1, 0]),
        (10.001, 0, [1, 0, 0], [0, 0, 0]),
        (14.999, 0, [1, 0, 0], [0, 0, 0]),  # just under half of the second interval
        (15.0, 0, [1, 1, 0], [0, 0, 0]),  # half of it
        (30.0, 1, [1, 1, 1], [0, 0, 1]),  # the horizon itself is inside
        (30.0, 0, [1, 1, 1], [0, 0, 0]),
        (30.001, 1, [1, 1, 1], [0, 0, 0]),  # an event after the horizon is a survivor
        (1e9, 1, [1, 1, 1], [0, 0, 0]),
        (1e9, 0, [1, 1, 1], [0, 0, 0]),
    ],
)
def test_who_is_at_risk_and_who_has_the_event(
    timed: Timed, time: float, event: int, at_risk: list[int], has_event: list[int]
) -> None:
    risk, seen = person_periods(timed([time], [event]), EDGES)
    assert risk.tolist() == [at_risk]
    assert seen.tolist() == [has_event]


def test_an_event_is_always_among_those_at_risk(survival: Survival) -> None:
    for days in (None, 7.0, 73.0):
        at_risk, event = person_periods(survival(500, whole_days=days), MODEL.edges)
        assert (event <= at_risk).all()
        assert (event.sum(axis=1) <= 1).all()
        assert (np.diff(at_risk, axis=1) <= 0).all()  # nobody comes back


def loss(theta: Vector, cohort: Cohort) -> float:
    """Summed cross-entropy over the person-periods, written anew."""
    baseline, weights = theta[: MODEL.intervals], theta[MODEL.intervals :]
    at_risk, event = person_periods(cohort, MODEL.edges)
    scores = baseline[None, :] + (cohort.features.astype(np.float64) @ weights)[:, None]
    return float((at_risk * np.logaddexp(0.0, scores) - event * scores).sum())


def test_the_gradient_is_the_slope_of_the_loss(
    survival: Survival, differences: Differences
) -> None:
    cohort = survival()
    slope = differences(lambda theta: loss(theta, cohort), parameters())
    np.testing.assert_allclose(MODEL.gradient(parameters(), cohort), slope, rtol=1e-7, atol=1e-6)


def test_the_curvature_is_the_slope_of_the_gradient(
    survival: Survival, differences: Differences
) -> None:
    cohort = survival()
    slope = differences(lambda theta: MODEL.gradient(theta, cohort), parameters())
    np.testing.assert_allclose(MODEL.curvature(parameters(), cohort), slope, rtol=1e-7, atol=1e-6)


def expanded(cohort: Cohort) -> tuple[Vector, Vector]:
    """One row for each patient and interval, by a plain loop: dummies of the interval, then x."""
    assert cohort.time is not None
    assert cohort.event is not None
    rows, outcome = [], []
    width = 365.0 / MODEL.intervals
    for features, time, event in zip(cohort.features, cohort.time, cohort.event, strict=True):
        for interval in range(MODEL.intervals):
            start, end = interval * width, (interval + 1) * width
            happens = bool(event) and start < time <= end
            if not happens and time < (start + end) / 2:
                break
            if happens or time > start:
                rows.append([*np.eye(MODEL.intervals)[interval], *features.astype(np.float64)])
                outcome.append(float(happens))
            if time <= end:
                break
    return np.array(rows), np.array(outcome)


def test_newton_finds_the_fit_of_statsmodels_on_the_person_period_table(
    survival: Survival,
) -> None:
    cohort = survival(400)
    table, outcome = expanded(cohort)
    theta = solve(Newton(model=MODEL, l2=0.0), [cohort]).arrays["theta"]
    logit = sm.Logit(outcome, table).fit(disp=0, tol=1e-14, maxiter=100)
    np.testing.assert_allclose(theta, logit.params, rtol=1e-8, atol=1e-8)
    glm = sm.GLM(outcome, table, family=sm.families.Binomial()).fit(tol=1e-13, maxiter=100)
    np.testing.assert_allclose(theta, glm.params, rtol=1e-8, atol=1e-8)


def test_the_fit_over_sites_is_the_fit_over_all_patients(survival: Survival) -> None:
    whole = survival(300)
    parts = [whole.take(np.arange(300) % 4 == number) for number in range(4)]
    apart = solve(Newton(model=MODEL, l2=1.0), parts).arrays["theta"]
    together = solve(Newton(model=MODEL, l2=1.0), [whole]).arrays["theta"]
    np.testing.assert_allclose(apart, together, atol=1e-12)


@pytest.mark.parametrize("repeated", [0, 60])
def test_the_clipped_gradient_is_a_loop_over_patients(survival: Survival, repeated: int) -> None:
    cohort = survival(150, repeated=repeated)
    total = np.zeros(MODEL.size)
    for patient in np.unique(cohort.patient):
        slope = MODEL.gradient(parameters(), cohort.take(cohort.patient == patient))
        total += slope * min(1.0, 0.7 / max(float(np.linalg.norm(slope)), 1e-12))
    found = MODEL.clipped_gradient(parameters(), cohort, 0.7)
    np.testing.assert_allclose(found, total, rtol=1e-11, atol=1e-12)


def test_no_patients_give_no_gradient(survival: Survival) -> None:
    nobody = survival().take(np.zeros(200, dtype=bool))
    assert not MODEL.gradient(parameters(), nobody).any()
    assert not MODEL.clipped_gradient(parameters(), nobody, 1.0).any()


def test_the_row_bound_holds_on_the_corners(survival: Survival) -> None:
    cohort = survival(80)
    cohort.features[:] = 3.0 * np.sign(cohort.features)
    for row in range(80):
        one = cohort.take(np.array([row]))
        for theta in (MODEL.initial(), np.zeros(MODEL.size), 8 * parameters(row)):
            assert np.abs(MODEL.gradient(theta, one)).max() <= MODEL.row_bound()
            assert np.abs(MODEL.curvature(theta, one)).max() <= MODEL.row_bound()


def test_survival_is_the_product_of_what_is_left() -> None:
    hazards = np.array([[0.5, 0.5, 0.0], [0.1, 1.0, 0.3]])
    assert survival_from_hazards(hazards).tolist() == [[0.5, 0.25, 0.25], [0.9, 0.0, 0.0]]


def test_a_fit_without_features_is_the_life_table(timed: Timed) -> None:
    # By hand: 4 at risk, 1 event; 3, 1 event; then 1 (the censored one left early) and none.
    cohort = timed([5.0, 15.0, 21.0, 99.0], [1, 1, 0, 0])
    model = Hazard(features=1, bound=1.0, horizon_days=30.0, intervals=3)
    theta = solve(Newton(model=model, l2=1e-9), [cohort]).arrays["theta"]
    curve = model.predict(theta, cohort).survival
    assert curve is not None
    np.testing.assert_allclose(curve[0], [0.75, 0.5, 0.5], atol=1e-5)


def test_it_starts_at_a_public_low_rate_and_predicts_on_a_public_grid(survival: Survival) -> None:
    cohort = survival(10)
    answer = MODEL.predict(MODEL.initial(), cohort)
    assert answer.survival is not None
    assert answer.grid_days is not None
    rate = 1 / (1 + np.exp(-BASE_LOGIT))
    np.testing.assert_allclose(answer.survival, (1 - rate) ** np.arange(1, 6) * np.ones((10, 1)))
    np.testing.assert_allclose(answer.grid_days, [73, 146, 219, 292, 365])
    assert not answer.risk.any()


def test_the_risk_orders_patients_as_their_curves_do(survival: Survival) -> None:
    answer = MODEL.predict(parameters(), survival(50))
    assert answer.survival is not None
    assert (np.argsort(answer.risk) == np.argsort(-answer.survival[:, -1])).all()


def test_gradient_descent_arrives_where_newton_does(survival: Survival) -> None:
    cohort = survival()
    exact = solve(Newton(model=MODEL, l2=5.0), [cohort]).arrays["theta"]
    walked = Gradient(model=MODEL, steps=4000, learning_rate=1.0, l2=5.0)
    theta = solve(walked, [cohort], max_rounds=5000).arrays["theta"]
    np.testing.assert_allclose(theta, exact, atol=1e-6)


def test_a_model_that_is_no_sum_over_patients_is_refused_a_clip_norm() -> None:
    with pytest.raises(Exception, match="not a sum over patients") as refused:
        Gradient(model=Cox(features=3, bound=3.0, horizon_days=365.0), clip=1.0)
    assert getattr(refused.value, "code", None) == "no_per_patient_gradient"
    for clip in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError) as wrong:
            Gradient(model=MODEL, clip=clip)
        assert wrong.value.code == "clip_range"
