"""Logistic regression: its derivatives, and its fits against three independent programs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from fedcohort.privacy.errors import ConfigError, PolicyError
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Vector, solve
from fedcohort.study.cohort import Cohort, concatenate
from fedcohort.study.model import sigmoid
from fedcohort.study.models.cox import Cox
from fedcohort.study.models.logistic import Logistic, design
from fedcohort.study.models.mlp import Mlp

Risk = Callable[..., Cohort]
Differences = Callable[..., Vector]
MODEL = Logistic(features=4, bound=3.0)


def loss(theta: Vector, cohort: Cohort) -> float:
    """Summed negative log-likelihood, written anew."""
    assert cohort.label is not None
    scores = design(cohort) @ theta
    return float(np.logaddexp(0.0, scores).sum() - cohort.label @ scores)


def parameters(seed: int = 1) -> Vector:
    return np.random.default_rng(seed).normal(size=MODEL.size)


def test_the_gradient_is_the_slope_of_the_loss(risk: Risk, differences: Differences) -> None:
    cohort = risk()
    slope = differences(lambda theta: loss(theta, cohort), parameters())
    np.testing.assert_allclose(MODEL.gradient(parameters(), cohort), slope, rtol=1e-7, atol=1e-6)


def test_the_curvature_is_the_slope_of_the_gradient(risk: Risk, differences: Differences) -> None:
    cohort = risk()
    slope = differences(lambda theta: MODEL.gradient(theta, cohort), parameters())
    np.testing.assert_allclose(MODEL.curvature(parameters(), cohort), slope, rtol=1e-7, atol=1e-6)


def test_without_a_ridge_newton_finds_the_fit_of_statsmodels(risk: Risk) -> None:
    cohort = risk()
    oracle = sm.Logit(cohort.label, design(cohort)).fit(disp=0, tol=1e-14, maxiter=100)
    theta = solve(Newton(model=MODEL, l2=0.0), [cohort]).arrays["theta"]
    np.testing.assert_allclose(theta, oracle.params, rtol=1e-8, atol=1e-8)


def test_without_a_ridge_newton_finds_the_fit_of_scikit_learn(risk: Risk) -> None:
    cohort = risk()
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    oracle.fit(cohort.features.astype(np.float64), cohort.label)
    theta = solve(Newton(model=MODEL, l2=0.0), [cohort]).arrays["theta"]
    np.testing.assert_allclose(theta[:-1], oracle.coef_[0], atol=1e-8)
    np.testing.assert_allclose(theta[-1], oracle.intercept_[0], atol=1e-8)


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
def test_with_a_ridge_newton_finds_the_minimum_of_the_written_objective(
    risk: Risk, l2: float
) -> None:
    cohort = risk(60)
    label = cohort.label
    weight = l2 * np.array([1.0, 1.0, 1.0, 1.0, 0.01])

    def slope(theta: Vector) -> Vector:
        rows = design(cohort)
        expected = 1 / (1 + np.exp(-(rows @ theta)))
        return np.asarray(rows.T @ (expected - np.asarray(label)) + weight * theta)

    oracle = scipy.optimize.root(slope, np.zeros(5), tol=1e-13)
    theta = solve(Newton(model=MODEL, l2=l2), [cohort]).arrays["theta"]
    np.testing.assert_allclose(theta, oracle.x, rtol=0, atol=1e-9)


def test_a_ridge_over_sites_is_the_ridge_over_all_their_patients(risk: Risk) -> None:
    sites = [risk(30 * number, seed=number, site=f"s{number}") for number in range(1, 5)]
    apart = solve(Newton(model=MODEL, l2=2.0), sites)
    together = solve(Newton(model=MODEL, l2=2.0), [concatenate(sites, site="pooled")])
    np.testing.assert_allclose(apart.arrays["theta"], together.arrays["theta"], atol=1e-12)
    assert apart.rounds == together.rounds


def test_perfect_separation_with_a_ridge_is_still_finite(risk: Risk) -> None:
    cohort = risk(40)
    separated = cohort.take(np.argsort(cohort.features[:, 0]))
    object.__setattr__(separated, "label", (np.arange(40) >= 20).astype(np.float64))
    for l2 in (1e-3, 1.0):
        theta = solve(Newton(model=MODEL, l2=l2), [separated]).arrays["theta"]
        slope = MODEL.gradient(theta, separated) + l2 * MODEL.penalty() * theta
        assert np.abs(slope).max() < 1e-8


def test_a_site_with_one_class_keeps_a_finite_fit(risk: Risk) -> None:
    cohort = risk(50)
    ones = cohort.take(cohort.outcome_flag)
    theta = solve(Newton(model=MODEL, l2=1.0), [ones]).arrays["theta"]
    slope = MODEL.gradient(theta, ones) + MODEL.penalty() * theta
    assert np.isfinite(theta).all()
    assert np.abs(slope).max() < 1e-8


def test_a_constant_column_without_a_ridge_does_not_stop_newton(risk: Risk) -> None:
    cohort = risk()
    cohort.features[:, 1] = 0.0
    theta = solve(Newton(model=MODEL, l2=0.0), [cohort]).arrays["theta"]
    assert np.abs(MODEL.gradient(theta, cohort)).max() < 1e-7
    assert abs(theta[1]) < 1e-12


def test_a_far_anchor_is_walked_back_from(risk: Risk) -> None:
    # From here Newton's full step overshoots: it must be shortened and halved.
    cohort = risk(30)
    anchor = np.array([40.0, -40.0, 40.0, -40.0, 40.0])
    theta = solve(Newton(model=MODEL, l2=1e-3, anchor=anchor), [cohort]).arrays["theta"]
    slope = MODEL.gradient(theta, cohort) + 1e-3 * MODEL.penalty() * (theta - anchor)
    assert np.abs(slope).max() < 1e-7


def test_the_row_bound_holds_on_the_corners(risk: Risk) -> None:
    cohort = risk(100)
    cohort.features[:] = 3.0 * np.sign(cohort.features)
    for row in range(100):
        one = cohort.take(np.array([row]))
        for theta in (np.zeros(5), parameters(row) * 10):
            assert np.abs(MODEL.gradient(theta, one)).max() <= MODEL.row_bound()
            assert np.abs(MODEL.curvature(theta, one)).max() <= MODEL.row_bound()


def test_the_clipped_gradient_is_a_loop_over_patients(risk: Risk) -> None:
    cohort = risk(120, repeated=50)
    total = np.zeros(MODEL.size)
    for patient in np.unique(cohort.patient):
        slope = MODEL.gradient(parameters(), cohort.take(cohort.patient == patient))
        total += slope * min(1.0, 0.8 / float(np.linalg.norm(slope)))
    found = MODEL.clipped_gradient(parameters(), cohort, 0.8)
    np.testing.assert_allclose(found, total, rtol=1e-12, atol=1e-12)


def test_a_wide_clip_norm_changes_nothing(risk: Risk) -> None:
    cohort = risk(120, repeated=50)
    found = MODEL.clipped_gradient(parameters(), cohort, 1e9)
    np.testing.assert_allclose(found, MODEL.gradient(parameters(), cohort), rtol=1e-12)


def test_the_sigmoid_overflows_nowhere() -> None:
    found = sigmoid(np.array([-1e308, -800.0, -1.0, 0.0, 1.0, 800.0, 1e308]))
    assert found.tolist()[:2] == [0.0, 0.0]
    assert found.tolist()[3] == 0.5
    assert found.tolist()[5:] == [1.0, 1.0]
    assert found[2] + found[4] == 1.0


def test_newton_is_for_convex_models_and_a_ridge_of_at_least_zero() -> None:
    with pytest.raises(ConfigError) as refused:
        Newton(model=Mlp(features=4, bound=3.0))
    assert refused.value.code == "not_convex"
    for l2 in (-1.0, float("nan")):
        with pytest.raises(ConfigError) as refused:
            Newton(model=MODEL, l2=l2)
        assert refused.value.code == "l2_range"
    assert Newton(model=Cox(features=4, bound=3.0, horizon_days=1.0)).l2 == 1.0


def test_a_model_without_curvature_says_so(risk: Risk) -> None:
    with pytest.raises(PolicyError) as refused:
        Mlp(features=4, bound=3.0).curvature(np.zeros(97), risk())
    assert refused.value.code == "not_convex"


def test_it_predicts_what_scikit_learn_predicts(risk: Risk) -> None:
    train, test = risk(), risk(seed=9)
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    oracle.fit(train.features.astype(np.float64), train.label)
    theta = solve(Newton(model=MODEL, l2=0.0), [train]).arrays["theta"]
    expected = oracle.predict_proba(test.features.astype(np.float64))[:, 1]
    np.testing.assert_allclose(MODEL.predict(theta, test).risk, expected, atol=1e-8)
