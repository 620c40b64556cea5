"""Averaging and gradient descent: the same walk, by one sum a round or by weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedcohort.privacy.errors import ConfigError
from fedcohort.privacy.sampling import poisson_sample
from fedcohort.study.analyses import averaging
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Result, State, Total, Vector, solve
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


# ---- the baseline's Poisson samples


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Return a list that every draw of the sampler is written to."""
    asked: list[tuple[int, float]] = []

    def note(patients: int, probability: float) -> np.ndarray:
        asked.append((patients, probability))
        return poisson_sample(patients, probability)

    monkeypatch.setattr(averaging, "poisson_sample", note)
    return asked


def test_every_noisy_step_draws_patients_anew_and_says_so(
    risk: Risk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spied(monkeypatch)
    cohort, analysis = risk(60, repeated=20), private(sampling_probability=0.2)
    state, paid = analysis.initial(), 0
    while True:
        part = analysis.contribution(cohort, state)
        assert part.local is not None
        assert part.local.sampling_probability == 0.2
        paid += part.local.releases
        after = analysis.step(state, Total(vector=part.total, sites=("a",)))
        if isinstance(after, Result):
            break
        state = after
    assert asked == [(40, 0.2)] * paid  # 40 patients, not 60 rows; the count is sampled too
    assert paid == analysis.releases == 7


def test_a_drawn_patient_comes_with_all_rows(risk: Risk, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, analysis = risk(60, repeated=20), private(sampling_probability=0.5)
    seen: list[Cohort] = []

    class Spy(Logistic):
        def clipped_gradient(self, theta: Vector, cohort: Cohort, clip_norm: float) -> Vector:
            seen.append(cohort)
            return super().clipped_gradient(theta, cohort, clip_norm)

    spying = replace(analysis, model=Spy(features=4, bound=3.0))
    spying.contribution(cohort, started(analysis))
    rows_of = {patient: int((cohort.patient == patient).sum()) for patient in cohort.patient}
    for sample in seen:
        for patient in sample.patient:
            assert int((sample.patient == patient).sum()) == rows_of[patient]
    assert len({sample.patient.tobytes() for sample in seen}) == len(seen) == 2


def started(analysis: Averaging) -> State:
    arrays = {"theta": analysis.model.initial(), "count": np.array([200.0])}
    return State(round=1, arrays=arrays)


def test_sampled_counts_and_steps_mean_what_full_ones_mean(risk: Risk) -> None:
    """Divided by q, a sample speaks for everybody; six standard errors of the means of 800."""
    cohort = risk(200)
    sampled = private(sampling_probability=0.25, noise_multiplier=0.5, local_steps=1)
    full = private(clip=None, noise_multiplier=None, local_steps=1)
    counts = [sampled.contribution(cohort, sampled.initial()).total[0] for _ in range(800)]
    assert abs(np.mean(counts) - 200) < 6 * np.std(counts) / np.sqrt(800)
    wide = replace(sampled, clip=50.0, l2=0.0, noise_multiplier=1e-3)
    walks = [wide.contribution(cohort, started(wide)).total for _ in range(800)]
    state = replace(started(full), arrays={**started(full).arrays, "total": np.array([200.0])})
    exact = replace(full, l2=0.0).contribution(cohort, state).total[:-1] / 200
    error = np.std(walks, axis=0) / np.sqrt(800)
    assert (np.abs(np.mean(walks, axis=0) - exact) < 6 * error).all()


def test_how_many_patients_there_are_changes_no_size_no_step_and_no_noise(
    risk: Risk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist: N and N + 1 have the same q, denominator, number of steps and message size."""
    scales: list[tuple[int, float]] = []

    def note(size: int, sigma: float) -> np.ndarray:
        scales.append((size, sigma))
        return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr(averaging, "discrete_gaussian", note)
    asked, found = spied(monkeypatch), []
    analysis = private(sampling_probability=0.2)
    for count in (0, 1, 50, 51):
        scales.clear()
        for state, size in ((analysis.initial(), 1), (started(analysis), 5)):
            part = analysis.contribution(risk(60).take(np.arange(count)), state)
            assert part.total.shape == (size,) == (analysis.size(state),)
        found.append(tuple(scales))
    assert len(set(found)) == 1
    assert [size for size, _ in found[0]] == [1, 5, 5]  # the count, then two local steps
    assert {q for _, q in asked} == {0.2}


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.5, float("nan")])
def test_a_sampling_probability_is_one(probability: float) -> None:
    with pytest.raises(ConfigError) as refused:
        private(sampling_probability=probability)
    assert refused.value.code == "sampling_range"


def test_steps_without_noise_are_not_sampled() -> None:
    with pytest.raises(ConfigError) as refused:
        Averaging(model=MODEL, sampling_probability=0.2)
    assert refused.value.code == "sampling_range"


def test_the_discrete_gaussian_is_the_rounded_one_as_closely_as_the_price_assumes() -> None:
    """Within 12 sigma their probabilities differ by a factor of at most 1 + 6 / sigma^2."""
    for sigma in (8.0, 40.0):
        k = np.arange(0, int(12 * sigma) + 1)
        weight = np.exp(-(k**2) / (2 * sigma**2))
        discrete = np.log(weight) - np.log(2 * weight.sum() - weight[0])
        # sf, not cdf: far out in the tail differences of cdf lose every digit.
        rounded = np.log(stats.norm.sf((k - 0.5) / sigma) - stats.norm.sf((k + 0.5) / sigma))
        assert np.abs(discrete - rounded).max() <= 6.1 / sigma**2
