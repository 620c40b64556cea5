"""Patients that a plan holds out change no training sum; one patient changes the histogram by C."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcohort.experiments.scores.histograms import noise_of
from fedcohort.experiments.simulation.federate import federate
from fedcohort.privacy.accounting import BOUND, calibrate
from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.study.analysis import Result, State, Total, solve
from fedcohort.study.cohort import Cohort, Schema, Task, concatenate
from fedcohort.study.evaluated import HISTOGRAM, HeldOut, parts
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of

WIDTH, BOUND_X, HORIZON, CLIP = 3, 2.0, 365.0, 0.6
GRID_ERROR = 1e-9
HOLDOUT = Holdout(key="5a" * 32, test_fraction=0.3, histogram=True, bins=8)
LOGISTIC = {"name": "logistic", "features": WIDTH, "bound": BOUND_X}
HAZARD = {
    "name": "hazard", "features": WIDTH, "bound": BOUND_X, "horizon_days": HORIZON, "intervals": 5,
}  # fmt: skip
PRIVATE = {"steps": 4, "clip": CLIP, "noise_scale": 2.0}
TRAINED: list[tuple[Task, str, dict[str, Any]]] = [
    ("risk", "newton", {"model": LOGISTIC, "l2": 1.0}),
    ("survival", "newton", {"model": HAZARD, "l2": 1.0}),
    ("risk", "gradient", {"model": LOGISTIC, "steps": 4, "clip": CLIP}),
    ("risk", "whitened", {"model": LOGISTIC, **PRIVATE}),
    ("survival", "whitened", {"model": HAZARD, **PRIVATE}),
    ("survival", "newton_gram", {"model": HAZARD, **PRIVATE}),
]


def cohort_of(seed: int, *, task: Task = "risk", site: str = "site0", patients: int = 40) -> Cohort:
    """Draw a cohort; for a risk some patients have several rows, all on one side."""
    draw = np.random.default_rng(seed)
    rows = patients + (patients // 2 if task == "risk" else 0)
    patient = (np.arange(rows) % patients + 10_000 * (1 + int(site[-1]))).astype(np.uint64)
    schema = Schema(
        name="drawn",
        task=task,
        features=tuple(f"x{number}" for number in range(WIDTH)),
        bound=BOUND_X,
        outcome="y",
        codebook_sha256="0" * 64,
        horizon_days=HORIZON if task == "survival" else None,
    )
    features = np.clip(draw.normal(size=(rows, WIDTH)), -BOUND_X, BOUND_X).astype(np.float32)
    flag = draw.random(rows) < 0.4
    return Cohort(
        site=site,
        schema=schema,
        features=features,
        patient=patient,
        label=flag.astype(np.float64) if task == "risk" else None,
        time=np.ceil(draw.exponential(200.0, rows)) if task == "survival" else None,
        event=flag if task == "survival" else None,
        held_out=(draw.random(patients) < 0.4)[np.arange(rows) % patients],
    )


def plan_of(
    analysis: str,
    parameters: dict[str, Any],
    cohorts: list[Cohort],
    privacy: PrivacyTerms | None = None,
    **changes: Any,
) -> Plan:
    facts: dict[str, Any] = {
        "study": "held out",
        "purpose": "Judge a model on patients it has not seen.",
        "analysis": analysis,
        "parameters": parameters,
        "schema_sha256": cohorts[0].schema.sha256,
        "sites": tuple(cohort.site for cohort in cohorts),
        "privacy": privacy,
        "max_rounds": 100,
        "max_patients_per_site": 2_000,
        "min_sites": len(cohorts),
        "secagg": "plain",
        "colluders": 1,
        "roster": "simulation",
        "expires": (dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)).isoformat(),
        "holdout": HOLDOUT,
    }
    return Plan(**(facts | changes))


def states(analysis: HeldOut, cohort: Cohort) -> Iterator[State]:
    """Yield the states of a run over one cohort, the histogram's last."""
    state = analysis.initial()
    while True:
        yield state
        total = analysis.contribution(cohort, state).total
        after = analysis.step(state, Total(vector=total, sites=(cohort.site,)))
        if isinstance(after, Result):
            return
        state = after


def evaluated(analysis: str, parameters: dict[str, Any], cohort: Cohort) -> HeldOut:
    found = analysis_of(plan_of(analysis, parameters, [cohort]))
    assert isinstance(found, HeldOut)
    return found


NAMES = [f"{analysis} {task}" for task, analysis, _ in TRAINED]


@pytest.mark.parametrize(("task", "analysis", "parameters"), TRAINED, ids=NAMES)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31))
def test_the_federated_fit_is_that_of_everybodys_training_patients(
    task: Task, analysis: str, parameters: dict[str, Any], seed: int
) -> None:
    cohorts = [cohort_of(seed + n, task=task, site=f"site{n}") for n in range(3)]
    plan = plan_of(analysis, parameters, cohorts)
    pooled = concatenate([parts(cohort)[0] for cohort in cohorts], site="pooled")
    expected = solve(analysis_of(dataclasses.replace(plan, holdout=None)), [pooled])
    outcome = federate(plan, cohorts)
    theta = outcome.result.arrays["theta"]
    np.testing.assert_allclose(
        theta, expected.arrays["theta"], rtol=GRID_ERROR, atol=GRID_ERROR
    )  # fmt: skip
    held = sum(parts(cohort)[1].patients for cohort in cohorts)
    assert outcome.result.arrays[HISTOGRAM].sum() == pytest.approx(held, abs=1e-6)
    # The control: with the held-out patients the fit is another.
    everybody = solve(analysis_of(dataclasses.replace(plan, holdout=None)), cohorts)
    assert np.abs(everybody.arrays["theta"] - theta).max() > 1000 * GRID_ERROR


@pytest.mark.parametrize(("task", "analysis", "parameters"), TRAINED, ids=NAMES)
def test_no_held_out_patient_changes_a_training_sum(
    task: Task, analysis: str, parameters: dict[str, Any]
) -> None:
    cohort = cohort_of(7, task=task)
    trained = evaluated(analysis, parameters, cohort)
    assert cohort.held_out is not None
    without = cohort.take(~cohort.held_out)
    seen = list(states(trained, cohort))
    assert len(seen) > 2
    for state in seen[:-1]:
        one, other = (trained.contribution(part, state) for part in (cohort, without))
        np.testing.assert_array_equal(one.total, other.total)
        assert one.patients == other.patients
    last = seen[-1]
    assert trained.is_table(last.round)
    only = cohort.take(cohort.held_out)
    np.testing.assert_array_equal(
        trained.contribution(cohort, last).total, trained.contribution(only, last).total
    )
    assert trained.contribution(without, last).total.sum() == 0


@pytest.mark.parametrize(
    ("task", "analysis", "parameters"),
    [case for case in TRAINED if "clip" in case[2]],
    ids=[name for name, case in zip(NAMES, TRAINED, strict=True) if "clip" in case[2]],
)
def test_one_patient_changes_every_sum_by_the_clip_at_most(
    task: Task, analysis: str, parameters: dict[str, Any]
) -> None:
    cohort = cohort_of(11, task=task)
    trained = evaluated(analysis, parameters, cohort)
    largest = 0.0
    for state in states(trained, cohort):
        whole = trained.contribution(cohort, state)
        assert whole.sensitivity == CLIP
        for patient in np.unique(cohort.patient):
            left = trained.contribution(cohort.take(cohort.patient != patient), state)
            moved = float(np.linalg.norm(whole.total - left.total))
            assert moved <= CLIP * (1 + 1e-9)
            if trained.is_table(state.round):
                largest = max(largest, moved)
    # The control: a patient of one row moves the histogram by all of it.
    assert largest == pytest.approx(CLIP)


def private_plan(cohorts: list[Cohort], *, releases: int, **changes: Any) -> Plan:
    terms = PrivacyTerms(
        epsilon=3.0,
        delta=1e-5,
        noise_multiplier=calibrate(3.0, 1e-5, releases),
        releases=releases,
        clip=CLIP,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        bound=BOUND,
    )
    parameters = {"model": LOGISTIC, "steps": 4, "clip": CLIP}
    facts: dict[str, Any] = {"secagg": "masked", "max_rounds": 6}
    return plan_of("gradient", parameters, cohorts, terms, **(facts | changes))


def test_a_masked_noisy_study_ends_with_its_histogram_and_pays_for_it() -> None:
    cohorts = [cohort_of(n, site=f"site{n}", patients=200) for n in range(3)]
    plan = private_plan(cohorts, releases=6)  # a count, 4 gradients, the histogram
    ledgers: list[MemoryLedger] = []

    def open_ledger(opening: Opening) -> MemoryLedger:
        ledgers.append(MemoryLedger(opening))
        return ledgers[-1]

    outcome = federate(plan, cohorts, ledgers=open_ledger)
    assert (outcome.rounds, outcome.result.rounds) == (6, 6)
    table = outcome.result.arrays[HISTOGRAM]
    held = sum(parts(cohort)[1].patients for cohort in cohorts)
    noise = noise_of(plan, 3)
    assert noise == pytest.approx(plan.privacy.noise_multiplier * np.sqrt(3 / 2))  # type: ignore[union-attr]
    # Nine standard deviations of the sum of 16 cells: false alarm below 1e-18.
    assert abs(table.sum() - held) < 9 * noise * np.sqrt(table.size) * 1.01
    assert np.abs(table - np.rint(table)).max() > 1e-6  # it is noisy
    for ledger in ledgers:
        (account,) = ledger.book.accounts.values()
        assert account.executed == 6


def test_a_price_without_the_histogram_is_refused() -> None:
    cohorts = [cohort_of(n, site=f"site{n}") for n in range(3)]
    with pytest.raises(PolicyError) as caught:
        federate(private_plan(cohorts, releases=5), cohorts)
    assert caught.value.code == "plan_underpriced"
    without = dataclasses.replace(HOLDOUT, histogram=False)
    done = federate(private_plan(cohorts, releases=5, max_rounds=5, holdout=without), cohorts)
    assert set(done.result.arrays) == {"theta"}
