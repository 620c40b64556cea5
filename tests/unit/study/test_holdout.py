"""A plan that holds patients out: what it refuses, what it costs, which round does what."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from fedcohort.privacy.errors import DataError, FedCohortError, PolicyError
from fedcohort.study.analyses.counts import Counts
from fedcohort.study.analysis import Result, State, Total, solve
from fedcohort.study.cohort import Cohort, concatenate
from fedcohort.study.evaluated import HISTOGRAM, HeldOut, parts
from fedcohort.study.holdout import Holdout
from fedcohort.study.model import Model
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of, model_of, reservation_of
from fedcohort.study.rounds import terms_for
from fedcohort.study.score_histogram import score_histogram, score_scale, table_shape

Make = Callable[..., Cohort]

HOLDOUT = Holdout(key="0f" * 32, test_fraction=0.3, histogram=True, bins=10)
LOGISTIC = {"name": "logistic", "features": 4, "bound": 3.0}
SURVIVAL = {"features": 3, "bound": 3.0, "horizon_days": 365.0}
PARAMETERS: dict[str, dict[str, Any]] = {
    "newton": {"model": LOGISTIC},
    "gradient": {"model": LOGISTIC, "steps": 5, "clip": 0.5},
    "whitened": {"model": LOGISTIC, "steps": 4, "clip": 0.5, "noise_scale": 1.0},
    "averaging": {"model": LOGISTIC, "rounds": 3, "local_steps": 2},
    "counts": {"rows": "sex", "row_values": ["f", "m"], "private": True},
}


def plan_of(analysis: str, holdout: Holdout | None = HOLDOUT, **changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "study": "s",
        "purpose": "p",
        "analysis": analysis,
        "parameters": PARAMETERS[analysis],
        "schema_sha256": "0" * 64,
        "sites": ("a", "b"),
        "privacy": None,
        "max_rounds": 100,
        "max_patients_per_site": 1000,
        "min_sites": 2,
        "secagg": "plain",
        "colluders": 1,
        "roster": "simulation",
        "expires": "9999-12-31",
        "holdout": holdout,
    }
    return Plan(**(facts | changes))


def terms(sharing: Literal["sum", "each", "local"] = "sum") -> PrivacyTerms:
    return PrivacyTerms(
        epsilon=3.0,
        delta=1e-5,
        noise_multiplier=8.0,
        releases=7,
        clip=0.5,
        sharing=sharing,
        min_survivors=2,
        colluders=0,
        bound="rdp",
    )


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as caught:
        make()
    return caught.value.code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key": "0f" * 31}, "holdout_key"),
        ({"key": "0F" * 32}, "holdout_key"),
        ({"key": "0f" * 32 + "\n"}, "holdout_key"),
        ({"test_fraction": 0.04}, "holdout_range"),
        ({"test_fraction": 0.96}, "holdout_range"),
        ({"test_fraction": float("nan")}, "holdout_range"),
        ({"bins": 1}, "holdout_range"),
        ({"bins": 101}, "holdout_range"),
    ],
)
def test_a_holdout_out_of_its_range_is_refused(change: dict[str, Any], code: str) -> None:
    assert refused(lambda: dataclasses.replace(HOLDOUT, **change)) == code


def test_a_plan_with_a_holdout_read_back_is_the_plan() -> None:
    plan = plan_of("newton")
    assert Plan.from_json(plan.to_json()) == plan
    assert analysis_of(Plan.from_json(plan.to_json())) == analysis_of(plan)


@pytest.mark.parametrize(
    "change",
    [
        {"key": 5},
        {"test_fraction": "0.3"},
        {"test_fraction": True},
        {"histogram": 1},
        {"histogram": None},
        {"bins": 10.0},
        {"bins": True},
        {"seed": 1},
    ],
)
def test_a_holdout_of_another_type_or_with_more_in_it_is_unreadable(change: dict[str, Any]) -> None:
    document = json.loads(plan_of("newton").to_json())
    document["holdout"] |= change
    assert refused(lambda: Plan.from_json(json.dumps(document))) == "plan_unreadable"


def test_a_plan_that_does_not_say_whether_it_holds_out_is_unreadable() -> None:
    document = json.loads(plan_of("newton").to_json())
    del document["holdout"]
    assert refused(lambda: Plan.from_json(json.dumps(document))) == "plan_unreadable"


def test_a_histogram_that_no_noise_would_meet_is_refused() -> None:
    private = PARAMETERS["averaging"] | {"clip": 0.5, "noise_multiplier": 8.0}
    asked: dict[str, Any] = {"privacy": terms("local"), "parameters": private}
    assert refused(lambda: plan_of("averaging", **asked)) == "holdout_local_noise"
    unpriced = plan_of("averaging", parameters=private)
    assert refused(lambda: analysis_of(unpriced)) == "holdout_local_noise"
    # The restriction to training patients alone is no release.
    without = dataclasses.replace(HOLDOUT, histogram=False)
    evaluated = analysis_of(plan_of("averaging", without, **asked))
    assert evaluated.releases == 1 + 3 * 2
    assert (evaluated.releases_in(0), evaluated.releases_in(1)) == (1, 2)


def test_a_histogram_needs_a_model_and_rounds() -> None:
    assert refused(lambda: analysis_of(plan_of("counts"))) == "holdout_no_model"
    without = dataclasses.replace(HOLDOUT, histogram=False)
    assert analysis_of(plan_of("counts", without)).releases == 1
    short = plan_of("gradient", max_rounds=6)
    analysis = analysis_of(short)
    assert refused(lambda: terms_for(short, analysis, analysis.initial(), "00")) == "holdout_rounds"


@pytest.mark.parametrize("analysis", ["newton", "gradient", "whitened", "averaging"])
def test_the_histogram_is_one_round_and_one_release_more(analysis: str) -> None:
    inner = analysis_of(plan_of(analysis, None))
    evaluated = analysis_of(plan_of(analysis))
    assert isinstance(evaluated, HeldOut)
    assert evaluated.most_rounds == inner.most_rounds + 1
    assert evaluated.releases == (None if inner.releases is None else inner.releases + 1)
    # What a node reads to check a price is the inner analysis' own.
    assert evaluated.clip == getattr(inner, "clip", None)
    assert evaluated.noise_multiplier is None
    assert evaluated.sampling_probability == 1.0
    assert evaluated.size(evaluated.initial()) == inner.size(inner.initial())
    last = State(round=inner.most_rounds, arrays={})
    assert evaluated.size(last) == 20
    assert evaluated.is_table(last.round)
    assert not evaluated.is_table(last.round - 1)
    assert evaluated.site_bound(7) >= max(inner.site_bound(7), 7 * (evaluated.clip or 1.0))


def test_the_ledger_sets_the_histogram_aside() -> None:
    plan = plan_of("gradient", privacy=terms(), max_rounds=7)
    reserved = reservation_of(plan)
    assert (reserved.releases, reserved.rounds) == (7, 7)
    assert analysis_of(plan).releases == 7


def held(cohort: Cohort, every: int = 3) -> Cohort:
    return dataclasses.replace(cohort, held_out=cohort.patient % every == 0)


def test_a_cohort_keeps_who_is_held_out(risk: Make) -> None:
    cohort = held(risk(60))
    assert cohort.held_out is not None
    some = np.arange(60) % 2 == 0
    np.testing.assert_array_equal(cohort.take(some).held_out, cohort.held_out[some])
    assert cohort.at_most(5).held_out is not None
    training, out = parts(cohort)
    assert training.rows + out.rows == 60
    assert not set(training.patient.tolist()) & set(out.patient.tolist())
    both = concatenate([training, out], site="both")
    assert both.held_out is not None
    assert int(both.held_out.sum()) == out.rows
    with pytest.raises(DataError):
        concatenate([cohort, risk(5, seed=1)], site="both")
    with pytest.raises(DataError):
        dataclasses.replace(cohort, held_out=np.zeros(3, dtype=bool))


def test_a_cohort_that_does_not_say_who_is_held_out_gives_nothing(risk: Make) -> None:
    analysis = analysis_of(plan_of("gradient"))
    with pytest.raises(PolicyError) as caught:
        analysis.contribution(risk(20), analysis.initial())
    assert caught.value.code == "holdout_missing"


@pytest.mark.parametrize("analysis", ["newton", "gradient", "whitened", "averaging"])
def test_the_result_is_the_inner_one_on_training_patients_and_the_histogram(
    risk: Make, analysis: str
) -> None:
    cohorts = [held(risk(90, seed=seed, repeated=9, site=f"s{seed}")) for seed in (1, 2)]
    training = [parts(cohort)[0] for cohort in cohorts]
    expected = solve(analysis_of(plan_of(analysis, None)), training)
    found = solve(analysis_of(plan_of(analysis)), cohorts)
    assert set(found.arrays) == set(expected.arrays) | {HISTOGRAM}
    np.testing.assert_array_equal(found.arrays["theta"], expected.arrays["theta"])
    assert found.rounds == expected.rounds + 1
    table = found.arrays[HISTOGRAM]
    assert table.shape == (2, 10)
    assert table.sum() == pytest.approx(sum(parts(cohort)[1].patients for cohort in cohorts))


def test_a_histogram_asked_for_early_is_a_training_sum(risk: Make) -> None:
    """A coordinator chooses its states; it does not choose which round is the histogram's."""
    analysis = analysis_of(plan_of("gradient"))
    inner = analysis_of(plan_of("gradient", None))
    cohort = held(risk(30))
    state = State(round=1, arrays={"theta": np.ones(5), "training_rounds": np.ones(1)})
    expected = inner.contribution(parts(cohort)[0], state)
    np.testing.assert_array_equal(analysis.contribution(cohort, state).total, expected.total)


def test_parameters_out_of_reach_are_refused_before_anybody_is_scored(risk: Make) -> None:
    analysis = analysis_of(plan_of("gradient"))
    far = State(round=6, arrays={"theta": np.full(5, 1e18)})
    assert refused(lambda: analysis.contribution(held(risk(9)), far)) == "state_unreadable"


def test_noise_in_the_histogram_stays_as_it_is() -> None:
    analysis = analysis_of(plan_of("gradient"))
    state = State(round=6, arrays={"theta": np.zeros(5), "training_rounds": np.array([6.0])})
    noisy = np.linspace(-1.0, 1.0, 20)
    done = analysis.step(state, Total(vector=noisy, sites=("a", "b")))
    assert isinstance(done, Result)
    np.testing.assert_allclose(done.arrays[HISTOGRAM].ravel(), noisy / 0.5)
    assert done.rounds == 7


MODELS: list[dict[str, Any]] = [
    LOGISTIC,
    {"name": "hazard", "intervals": 5, **SURVIVAL},
    {"name": "cox", **SURVIVAL},
    {"name": "mlp", "features": 4, "bound": 3.0, "hidden": [4]},
]


def drawn(spec: dict[str, Any], risk: Make, survival: Make, **size: int) -> tuple[Model, Cohort]:
    if spec["name"] == "mlp":
        pytest.importorskip("torch")
    model = model_of(spec)
    return model, risk(80, repeated=8, **size) if model.task == "risk" else survival(80, **size)


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: str(spec["name"]))
def test_every_patient_is_in_the_histogram_once(
    risk: Make, survival: Make, spec: dict[str, Any]
) -> None:
    model, cohort = drawn(spec, risk, survival)
    theta = np.linspace(-1.0, 1.0, model.size)
    table = score_histogram(model, theta, cohort, 10)
    assert table.shape == table_shape(model, 10)
    assert table.sum() == pytest.approx(cohort.patients)
    if cohort.event is not None and cohort.time is not None:
        intervals = table.shape[0] // 2
        seen = cohort.event & (cohort.time <= 365.0)
        assert table[:intervals].sum() == seen.sum()
        assert table[-1].sum() == (cohort.time > 365.0).sum()


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: str(spec["name"]))
def test_a_score_does_not_hang_on_who_else_is_there(
    risk: Make, survival: Make, spec: dict[str, Any]
) -> None:
    """To the last bit: at a bin's edge a bit would move a patient because another is gone."""
    # Wide rows: only there do kernels sum a row otherwise when it stands elsewhere.
    model, cohort = drawn(spec | {"features": 20}, risk, survival, width=20)
    for seed in range(10):
        theta = np.random.default_rng(seed).normal(0, 0.3, model.size)
        whole = score_scale(model, theta, cohort)
        for kept in (np.arange(1, cohort.rows), np.arange(0, cohort.rows, 3)):
            np.testing.assert_array_equal(whole[kept], score_scale(model, theta, cohort.take(kept)))


def test_scores_that_are_no_numbers_are_in_a_bin_all_the_same(risk: Make) -> None:
    model, cohort = model_of(LOGISTIC), risk(20)
    for bad in (np.nan, np.inf, -np.inf):
        table = score_histogram(model, np.full(5, bad), cohort, 10)
        assert table.sum() == pytest.approx(20)
    assert score_histogram(model, np.zeros(5), cohort.take(np.arange(0)), 10).sum() == 0


def test_a_table_of_training_patients_is_still_a_table() -> None:
    table = Counts(rows="outcome", row_values=("0", "1"))
    assert HeldOut(inner=table, holdout=dataclasses.replace(HOLDOUT, histogram=False)).is_table(0)
