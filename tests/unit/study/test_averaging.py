"""Averaging and gradient descent: the same walk, by one sum a round or by weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedcohort.privacy.errors import ConfigError
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Result, State, Total, solve
from fedcohort.study.cohort import Cohort, concatenate
from fedcohort.study.models.logistic import Logistic

Risk = Callable[..., Cohort]
MODEL = Logistic(features=4, bound=3.0)


def private(**changes: Any) -> Averaging:
    fields: dict[str, Any] = {
        "rounds": 3,
        "local_steps": 2,
        "clip": 0.5,
        "noise_multiplier": 4.0,
        **changes,
    }
    return Averaging(model=MODEL, **fields)


def test_one_site_with_one_local_step_is_gradient_descent(risk: Risk) -> None:
    cohort = risk()
    walk = Averaging(model=MODEL, rounds=25, local_steps=1, learning_rate=0.7, l2=3.0)
    plain = Gradient(model=MODEL, steps=25, learning_rate=0.7, l2=3.0)
    found, expected = solve(walk, [cohort]).arrays["theta"], solve(plain, [cohort]).arrays["theta"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_local_steps_at_one_site_are_just_more_steps(risk: Risk) -> None:
    cohort = risk()
    many = Averaging(model=MODEL, rounds=4, local_steps=5, learning_rate=0.7, l2=3.0)
    single = Averaging(model=MODEL, rounds=20, local_steps=1, learning_rate=0.7, l2=3.0)
    np.testing.assert_allclose(
        solve(many, [cohort]).arrays["theta"],
        solve(single, [cohort]).arrays["theta"],
        rtol=0,
        atol=1e-13,
    )


def test_over_sites_one_local_step_walks_down_the_pooled_objective(risk: Risk) -> None:
    """The sites' shares of the ridge add up to the ridge; weights by patients to the mean."""
    sites = [risk(rows, seed=rows, site=f"s{rows}") for rows in (25, 60, 140)]
    pooled = concatenate(sites, site="pooled")
    walk = Averaging(model=MODEL, rounds=25, local_steps=1, learning_rate=0.7, l2=9.0)
    np.testing.assert_allclose(
        solve(walk, sites).arrays["theta"], solve(walk, [pooled]).arrays["theta"], atol=1e-12
    )


def test_it_arrives_where_newton_does(risk: Risk) -> None:
    sites = [risk(rows, seed=rows, site=f"s{rows}") for rows in (60, 140)]
    exact = solve(Newton(model=MODEL, l2=9.0), sites).arrays["theta"]
    walk = Averaging(model=MODEL, rounds=3000, local_steps=1, learning_rate=1.0, l2=9.0)
    found = solve(walk, sites, max_rounds=4000).arrays["theta"]
    np.testing.assert_allclose(found, exact, atol=1e-7)


def test_local_steps_at_unlike_sites_do_drift(risk: Risk) -> None:
    # The control of the tests above: only one local step is the pooled walk.
    sites = [risk(rows, seed=rows, site=f"s{rows}") for rows in (25, 60)]
    walk = Averaging(model=MODEL, rounds=40, local_steps=10, learning_rate=1.0, l2=0.1)
    exact = solve(Newton(model=MODEL, l2=0.1), sites).arrays["theta"]
    assert np.abs(solve(walk, sites).arrays["theta"] - exact).max() > 1e-3


def test_a_site_with_nobody_changes_nothing(risk: Risk) -> None:
    site = risk(60)
    nobody = site.take(np.zeros(60, dtype=bool))
    for analysis in (
        Averaging(model=MODEL, rounds=5, local_steps=3),
        Gradient(model=MODEL, steps=5, clip=0.5),
        Newton(model=MODEL),
    ):
        np.testing.assert_allclose(
            solve(analysis, [site, nobody]).arrays["theta"],
            solve(analysis, [site]).arrays["theta"],
            atol=1e-14,
        )


def test_gradient_descent_with_a_wide_clip_averages_the_walk_without_one(risk: Risk) -> None:
    cohort = risk()
    steps = [
        solve(Gradient(model=MODEL, steps=number), [cohort]).arrays["theta"]
        for number in range(6, 11)
    ]
    clipped = solve(Gradient(model=MODEL, steps=10, clip=1e6), [cohort]).arrays["theta"]
    np.testing.assert_allclose(clipped, np.mean(steps, axis=0), atol=1e-12)


def test_every_round_of_private_descent_has_the_clip_as_its_sensitivity(risk: Risk) -> None:
    cohort, analysis = risk(), Gradient(model=MODEL, steps=2, clip=0.5)
    state, seen = analysis.initial(), 0
    while True:
        part = analysis.contribution(cohort, state)
        assert part.sensitivity == 0.5
        assert part.total.shape == (analysis.size(state),)
        seen += 1
        after = analysis.step(state, Total(vector=part.total, sites=("a",)))
        if isinstance(after, Result):
            break
        state = after
    assert seen == analysis.releases == 3


def test_a_noisy_count_that_is_tiny_or_negative_leaves_a_finite_step() -> None:
    analysis = Gradient(model=MODEL, steps=2, clip=0.5)
    for count in (-1e6, 0.0, 3.0):
        after = analysis.step(analysis.initial(), Total(vector=np.array([count]), sites=("a",)))
        assert isinstance(after, State)
        assert after.arrays["count"][0] == 20.0


def test_the_baseline_with_local_noise_pays_for_every_step(risk: Risk) -> None:
    cohort, analysis = risk(), private()
    state, paid = analysis.initial(), 0
    while True:
        part = analysis.contribution(cohort, state)
        assert part.sensitivity is None  # weights have no bound: noise in the sum is refused
        assert part.local is not None
        assert part.local.noise_multiplier == 4.0
        paid += part.local.releases
        after = analysis.step(state, Total(vector=part.total, sites=("a",)))
        if isinstance(after, Result):
            break
        state = after
    assert paid == analysis.releases == 1 + 3 * 2


def test_the_baseline_with_local_noise_is_noisy_from_its_first_number(risk: Risk) -> None:
    cohort, analysis = risk(), private()
    counts = {float(analysis.contribution(cohort, analysis.initial()).total[0]) for _ in range(8)}
    assert len(counts) > 4  # of 8; two in 100,000 grid units may meet
    state = State(
        round=1,
        arrays={"theta": np.zeros(5), "count": np.array([200.0]), "total": np.array([200.0])},
    )
    walks = {analysis.contribution(cohort, state).total.tobytes() for _ in range(8)}
    assert len(walks) == 8


def test_without_noise_the_count_is_what_the_ridge_is_shared_by(risk: Risk) -> None:
    analysis = Averaging(model=MODEL)
    part = analysis.contribution(risk(60, repeated=20), analysis.initial())
    assert part.total.tolist() == [40.0]  # patients, not rows
    assert part.local is None


def test_impossible_settings_are_refused() -> None:
    for fields, code in (
        ({"rounds": 0}, "steps_range"),
        ({"local_steps": 0}, "steps_range"),
        ({"noise_multiplier": None}, "clip_range"),
        ({"clip": None}, "clip_range"),
    ):
        with pytest.raises(ConfigError) as refused:
            private(**fields)
        assert refused.value.code == code
    with pytest.raises(ConfigError) as refused:
        Gradient(model=MODEL, steps=0)
    assert refused.value.code == "steps_range"
