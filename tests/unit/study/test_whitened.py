"""Noisy-Gram methods: without noise they are Newton's steps; with it, nobody weighs more than C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedcohort.privacy.errors import ConfigError, PolicyError, ProtocolError
from fedcohort.study.analyses import _gram
from fedcohort.study.analyses._gram import GramDescent
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analyses.newton_gram import NewtonGram
from fedcohort.study.analyses.whitened import Whitened
from fedcohort.study.analysis import Result, State, Total, Vector, solve
from fedcohort.study.cohort import Cohort, Schema, concatenate
from fedcohort.study.linear import Linear, design
from fedcohort.study.models.cox import Cox
from fedcohort.study.models.hazard import BASE_LOGIT, Hazard
from fedcohort.study.models.logistic import Logistic

Make = Callable[..., Cohort]
LOGISTIC = Logistic(features=4, bound=3.0)
HAZARD = Hazard(features=3, bound=3.0, horizon_days=365.0, intervals=6)
METHODS = (Whitened, NewtonGram)


def method(kind: type[GramDescent], model: Linear, **changes: Any) -> GramDescent:
    fields: dict[str, Any] = {"steps": 8, "clip": 1.0, "noise_scale": 0.0, **changes}
    return kind(model=model, **fields)


@pytest.fixture(params=["risk", "survival"])
def people(request: pytest.FixtureRequest) -> Make:
    """Makers of cohorts for the logistic model and for the hazard."""
    make: Make = request.getfixturevalue(request.param)
    return make


def model_for(cohort: Cohort) -> Linear:
    return LOGISTIC if cohort.label is not None else HAZARD


def moments(analysis: GramDescent, cohort: Cohort) -> tuple[Vector, Vector]:
    """Read the Gram matrix and the marks back from a site's first vector."""
    total = analysis.contribution(cohort, analysis.initial()).total
    marks, width = analysis.linear.outcomes, analysis.linear.features + 1
    upper = np.triu_indices(width)
    gram = np.zeros((width, width))
    gram[upper] = total[:-marks] / np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
    gram = gram + np.triu(gram, 1).T
    reach = (_gram._REACH**2) * width
    return gram * reach / _gram._MOMENTS / analysis.clip, total[-marks:] / _gram._MARKS


# ---- what the first sum says


def test_the_first_sum_is_the_gram_matrix_of_the_shortened_rows(people: Make) -> None:
    cohort = people()
    analysis = method(Whitened, model_for(cohort), clip=0.7)
    rows = design(cohort)
    reach = _gram._REACH * np.sqrt(rows.shape[1])
    rows = rows * np.minimum(1.0, reach / np.linalg.norm(rows, axis=1))[:, None]
    gram, marks = moments(analysis, cohort)
    np.testing.assert_allclose(gram, rows.T @ rows, atol=1e-10)
    assert marks.sum() / analysis.clip == pytest.approx(200)  # with the outcome, and without


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("length", [1.0, 1.001, 50.0, np.inf, np.nan])
def test_marks_that_are_longer_than_a_model_may_make_them_are_bounded(
    kind: type[GramDescent], length: float, risk: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model states marks of norm 1; the sum's sensitivity does not rest on its word."""
    monkeypatch.setattr(
        Logistic, "marks", lambda self, cohort: np.tile([length, 0.0], (cohort.rows, 1))
    )
    analysis, everyone = method(kind, LOGISTIC, clip=0.7), risk()
    whole = analysis.contribution(everyone, analysis.initial()).total
    for left_out in range(0, everyone.rows, 37):
        rest = everyone.take(np.arange(everyone.rows) != left_out)
        moved = whole - analysis.contribution(rest, analysis.initial()).total
        assert np.linalg.norm(moved) <= 0.7 * (1 + 1e-9)


def test_it_tells_how_many_have_the_outcome(risk: Make, survival: Make) -> None:
    cohort = risk()
    assert cohort.label is not None
    marks = moments(method(Whitened, LOGISTIC), cohort)[1]
    assert marks == pytest.approx([cohort.label.sum(), (1 - cohort.label).sum()])
    late = survival()
    assert late.event is not None
    assert late.time is not None
    seen = int((late.event & (late.time <= 365)).sum())
    assert moments(method(Whitened, HAZARD), late)[1] == pytest.approx([seen, 200 - seen])


def test_sums_of_sites_are_the_sum_of_all(people: Make) -> None:
    sites = [people(40, seed=seed, repeated=seed * 5) for seed in range(3)]
    everyone = concatenate(sites, site="all")
    analysis = method(Whitened, model_for(everyone))
    parts = [analysis.contribution(site, analysis.initial()).total for site in sites]
    whole = analysis.contribution(everyone, analysis.initial()).total
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, atol=1e-10)


def test_a_patients_rows_are_summed_and_cut_once(risk: Make) -> None:
    cohort = risk(30)
    analysis = method(Whitened, LOGISTIC, clip=0.5)
    one = replace(cohort, patient=np.zeros(30, dtype=np.uint64))
    total = analysis.contribution(one, analysis.initial()).total
    assert np.linalg.norm(total) == pytest.approx(0.5)
    each = analysis.contribution(cohort, analysis.initial()).total
    np.testing.assert_allclose(total, each / np.linalg.norm(each) * 0.5, atol=1e-12)


# ---- where it goes


def test_without_noise_whitened_descent_arrives_where_newton_does(people: Make) -> None:
    sites = [people(300, seed=seed, site=f"s{seed}") for seed in range(2)]
    model = model_for(sites[0])
    exact = solve(Newton(model=model, l2=3.0), sites).arrays["theta"]
    for kind in METHODS:
        walk = method(kind, model, clip=1e3, l2=3.0, steps=900, learning_rate=0.5)
        found = solve(walk, sites).arrays["theta"]
        np.testing.assert_allclose(found, exact, atol=5e-4)


def test_eight_steps_come_nearer_than_eight_plain_ones(risk: Make) -> None:
    # Features of unlike size: what plain descent walks along slowly, the metric evens out.
    cohort = risk(800)
    cohort = replace(
        cohort, features=cohort.features * np.array([3, 1, 0.3, 0.1], dtype=np.float32)
    )
    exact = solve(Newton(model=LOGISTIC), [cohort]).arrays["theta"]
    clip = {"clip": 1e3, "steps": 8}
    ours = solve(method(Whitened, LOGISTIC, **clip), [cohort]).arrays["theta"]
    plain = solve(Gradient(model=LOGISTIC, clip=1e3, steps=8), [cohort]).arrays["theta"]
    assert np.linalg.norm(ours - exact) < 0.25 * np.linalg.norm(plain - exact)


def test_units_of_a_feature_do_not_matter_to_it(risk: Make) -> None:
    cohort = risk(500)
    scale = np.array([0.5, 0.25, 1, 1], dtype=np.float32)  # powers of two: exact in float32
    scaled = replace(cohort, features=cohort.features * scale)
    walk = method(Whitened, LOGISTIC, clip=1e3, l2=0.0)
    # Short rows: the public row norm cuts nobody.
    small = replace(cohort, features=cohort.features * np.float32(0.25))
    small_scaled = replace(scaled, features=scaled.features * np.float32(0.25))
    ours, other = (solve(walk, [one]).arrays["theta"] for one in (small, small_scaled))
    np.testing.assert_allclose(ours[:4], other[:4] * scale, rtol=1e-3, atol=1e-6)


def test_it_starts_at_the_share_of_outcomes_or_at_the_public_rate() -> None:
    start = LOGISTIC.start(np.array([30.0, 70.0]))
    assert start.theta[-1] == pytest.approx(np.log(3 / 7))
    assert (start.curvature, start.patients) == pytest.approx((0.21, 100.0))
    late = HAZARD.start(np.array([30.0, 70.0]))
    assert late.theta.tolist() == [BASE_LOGIT] * 6 + [0.0] * 3
    assert (late.curvature, late.patients) == pytest.approx((0.3, 100.0))


@pytest.mark.parametrize("totals", [[-500.0, 3.0], [1e9, -1e9], [0.0, 0.0], [-1.0, -1.0]])
def test_noise_may_say_anything_and_the_start_is_finite(totals: list[float]) -> None:
    for model in (LOGISTIC, HAZARD):
        start = model.start(np.array(totals))
        assert np.isfinite(start.theta).all()
        assert start.curvature >= 0.1
        assert start.patients >= 20.0


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e6])
def test_moments_of_noise_alone_are_floored(kind: type[GramDescent], size: float) -> None:
    """Negative eigenvalues, a singular matrix, zeros: a map that sites accept comes out."""
    draw = np.random.default_rng(0)
    for model in (LOGISTIC, HAZARD):
        analysis = method(kind, model, noise_scale=1.0)
        vector = size * draw.normal(size=analysis.size(analysis.initial()))
        state = analysis.step(analysis.initial(), Total(vector=vector, sites=("a",)))
        assert isinstance(state, State)
        for name, array in state.arrays.items():
            assert np.isfinite(array).all(), name
        assert np.abs(state.arrays["map"]).max() <= _gram._LARGEST
        nobody = nobody_for(model)
        assert not analysis.contribution(nobody, state).total.any()


def nobody_for(model: Linear) -> Cohort:
    survival = model.task == "survival"
    return Cohort(
        site="a",
        schema=Schema(
            name="n",
            task=model.task,
            features=tuple(f"x{number}" for number in range(model.features)),
            bound=3.0,
            outcome="y",
            codebook_sha256="0" * 64,
            horizon_days=365.0 if survival else None,
        ),
        features=np.zeros((0, model.features), dtype=np.float32),
        patient=np.zeros(0, dtype=np.uint64),
        label=None if survival else np.zeros(0),
        time=np.zeros(0) if survival else None,
        event=np.zeros(0, dtype=bool) if survival else None,
    )


# ---- the contract


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("rows", [0, 1, 2, 200, 201])
def test_every_round_has_its_public_size_and_the_clip_as_its_sensitivity(
    people: Make, kind: type[GramDescent], rows: int
) -> None:
    """Checklist: nobody, one patient, N and N + 1 send the same messages in as many rounds."""
    cohort = people(300).take(np.arange(rows))
    model = model_for(cohort)
    analysis = method(kind, model, clip=0.5, steps=3, noise_scale=2.0)
    state, seen = analysis.initial(), []
    while True:
        part = analysis.contribution(cohort, state)
        assert part.sensitivity == 0.5
        assert part.local is None
        assert part.total.shape == (analysis.size(state),)
        seen.append(part.total.size)
        after = analysis.step(state, Total(vector=part.total, sites=("a",)))
        if isinstance(after, Result):
            break
        state = after
    assert len(seen) == analysis.releases == analysis.most_rounds == after.rounds == 4
    width = model.features + 1
    mapped = width + model.extra if kind is Whitened else model.size
    assert seen == [width * (width + 1) // 2 + 2, mapped, mapped, mapped]
    assert np.isfinite(after.arrays["theta"]).all()
    assert after.arrays["theta"].shape == (model.size,)


def test_the_ridge_is_added_to_the_opened_sum_and_never_at_a_site(risk: Make) -> None:
    cohort = risk(50)
    one, other = (method(Whitened, LOGISTIC, l2=l2) for l2 in (0.0, 1e6))
    state = one.step(
        one.initial(),
        Total(vector=one.contribution(cohort, one.initial()).total, sites=("a",)),
    )
    assert isinstance(state, State)
    ours, others = (analysis.contribution(cohort, state).total for analysis in (one, other))
    assert np.array_equal(ours, others)


@pytest.mark.parametrize(
    "mapping",
    [np.full(25, np.nan), np.full(25, np.inf), np.full(25, 1e7), np.zeros(24), None],
    ids=["nan", "infinite", "huge", "short", "missing"],
)
def test_a_map_that_no_honest_coordinator_sends_is_refused_whoever_the_patients_are(
    risk: Make, mapping: Vector | None
) -> None:
    analysis = method(Whitened, LOGISTIC)
    arrays = {"theta": np.zeros(5)} | ({} if mapping is None else {"map": mapping})
    for rows in (0, 1, 40):
        with pytest.raises(ProtocolError) as refused:
            analysis.contribution(risk(40).take(np.arange(rows)), State(round=1, arrays=arrays))
        assert refused.value.code == "state_unreadable"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"steps": 0}, "steps_range"),
        ({"clip": 0.0}, "clip_range"),
        ({"clip": np.nan}, "clip_range"),
        ({"noise_scale": -1.0}, "noise_range"),
        ({"noise_scale": np.nan}, "noise_range"),
        ({"model": Logistic(features=101, bound=3.0)}, "too_many_features"),
    ],
)
@pytest.mark.parametrize("kind", METHODS)
def test_impossible_settings_are_refused(
    kind: type[GramDescent], changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        method(kind, **{"model": LOGISTIC, **changes})
    assert refused.value.code == code


def test_a_hundred_features_are_not_too_many() -> None:
    assert method(Whitened, Logistic(features=100, bound=3.0)).releases == 9


@pytest.mark.parametrize("kind", METHODS)
def test_cox_is_refused_with_a_pointer_to_the_hazard(kind: type[GramDescent]) -> None:
    with pytest.raises(PolicyError) as refused:
        kind(model=Cox(features=3, bound=3.0, horizon_days=365.0), clip=1.0, noise_scale=1.0)
    assert refused.value.code == "no_per_patient_gradient"
    assert "hazard" in refused.value.hint


@pytest.mark.parametrize("kind", METHODS)
def test_a_network_is_refused_with_a_pointer_to_plain_descent(kind: type[GramDescent]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("opacus")
    from fedcohort.study.models.mlp import Mlp

    with pytest.raises(ConfigError) as refused:
        kind(model=Mlp(features=3, bound=3.0), clip=1.0, noise_scale=1.0)
    assert refused.value.code == "not_linear"
    assert "gradient" in refused.value.hint


def test_row_gradients_add_up_to_the_gradient(people: Make) -> None:
    cohort = people(50)
    model = model_for(cohort)
    theta = model.initial() + np.random.default_rng(0).normal(size=model.size)
    found = model.row_gradients(theta, cohort).sum(axis=0)
    np.testing.assert_allclose(found, model.gradient(theta, cohort), atol=1e-10)
