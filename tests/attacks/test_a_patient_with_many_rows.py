"""One patient with five hundred rows, or with values no table should hold, tries to stand out.

The adversary knows everyone else's rows and sees the sum before any noise. Whatever a patient
brings, leaving that patient out may move the sum by the clip norm and no more, for every model
that differential privacy is allowed for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analysis import State, Vector
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.model import Model
from fedcohort.study.models.hazard import Hazard
from fedcohort.study.models.logistic import Logistic

CLIP = 0.25
WIDTH = 4
HORIZON = 365.0
MANY = 500
VISITOR = np.uint64(10**9)  # the patient with many rows


def model_named(name: str) -> Model:
    if name == "logistic":
        return Logistic(features=WIDTH, bound=3.0)
    if name == "hazard":
        return Hazard(features=WIDTH, bound=3.0, horizon_days=HORIZON, intervals=6)
    pytest.importorskip("torch")
    pytest.importorskip("opacus")
    if name == "mlp":
        from fedcohort.study.models.mlp import Mlp

        return Mlp(features=WIDTH, bound=3.0, hidden=(5,))
    from fedcohort.study.models.hazard_mlp import HazardMlp

    return HazardMlp(features=WIDTH, bound=3.0, horizon_days=HORIZON, intervals=6, hidden=(5,))


@pytest.fixture(params=["logistic", "hazard", "mlp", "hazard_mlp"])
def model(request: pytest.FixtureRequest) -> Model:
    """Every model whose loss is a sum over patients."""
    return model_named(str(request.param))


def cohort_for(model: Model, features: np.ndarray, patient: np.ndarray, *, seed: int = 0) -> Cohort:
    draw, rows = np.random.default_rng(seed), (features.shape[0],)
    risk = model.task == "risk"
    return Cohort(
        site="a",
        schema=Schema(
            name="attacked",
            task=model.task,
            features=tuple(f"x{number}" for number in range(WIDTH)),
            bound=3.0,
            outcome="y",
            codebook_sha256="0" * 64,
            horizon_days=None if risk else HORIZON,
        ),
        features=features.astype(np.float32),
        patient=patient.astype(np.uint64),
        label=(draw.random(rows) < 0.4).astype(np.float64) if risk else None,
        time=None if risk else draw.exponential(200.0, rows),
        event=None if risk else draw.random(rows) < 0.6,
    )


def theta_for(model: Model, seed: int = 3) -> Vector:
    return model.initial() + 0.5 * np.random.default_rng(seed).normal(size=model.size)


def patient_level_sum(model: Model, cohort: Cohort) -> Vector:
    """What a site hands to the door in a round of private training."""
    analysis = Gradient(model=model, clip=CLIP)
    state = State(round=1, arrays={"theta": theta_for(model)})
    return analysis.contribution(cohort, state).total


def row_level_sum(model: Model, cohort: Cohort) -> Vector:
    """The known-bad variant: every row is clipped as if it were a patient."""
    rows = np.arange(cohort.rows, dtype=np.uint64)
    return patient_level_sum(model, replace(cohort, patient=rows))


Sum = Callable[[Model, Cohort], Vector]


def influence(total: Sum, model: Model, cohort: Cohort, patient: np.uint64) -> float:
    """How far leaving one patient out moves a sum."""
    rest = cohort.take(cohort.patient != patient)
    return float(np.linalg.norm(total(model, cohort) - total(model, rest)))


def crowd(model: Model) -> Cohort:
    """399 patients of one row, one of 500, their rows in no order."""
    draw = np.random.default_rng(8)
    features = np.clip(draw.normal(size=(399 + MANY, WIDTH)), -3, 3)
    features[399:] = np.array([2.0, -2.0, 1.0, 3.0])
    patient = np.append(np.arange(399, dtype=np.uint64), np.full(MANY, VISITOR))
    shuffled = draw.permutation(399 + MANY)
    cohort = cohort_for(model, features, patient)
    if cohort.label is not None:
        cohort.label[399:] = 1.0
    if cohort.time is not None and cohort.event is not None:
        cohort.time[399:], cohort.event[399:] = 10.0, True
    return cohort.take(shuffled)


def test_the_attack_works_on_row_level_clipping(model: Model) -> None:  # the positive control
    assert influence(row_level_sum, model, crowd(model), VISITOR) > 50 * CLIP


def test_a_patient_with_500_rows_moves_our_sum_by_the_clip_and_no_more(model: Model) -> None:
    cohort = crowd(model)
    moved = influence(patient_level_sum, model, cohort, VISITOR)
    assert moved <= CLIP * (1 + 1e-6)
    assert moved > 0.99 * CLIP  # and is not simply ignored


# Each is one patient's rows. What is not finite, or squares to infinity, is in float32's range.
HOSTILE: dict[str, list[list[float]]] = {
    "nan": [[np.nan] * WIDTH],
    "one nan": [[0.1, np.nan, 0.2, 0.3]],
    "infinity": [[np.inf] * WIDTH],
    "minus infinity": [[0.1, -np.inf, 0.2, 0.3]],
    "both infinities": [[np.inf, -np.inf, 0.0, 0.0]],
    "1e30": [[1e30] * WIDTH],
    "largest float32": [[3.4e38, -3.4e38, 3.4e38, -3.4e38]],
    "smallest float32": [[1e-45] * WIDTH],
    "zeros": [[0.0] * WIDTH],
    "many zeros": [[0.0] * WIDTH] * MANY,
    "duplicates": [[3.0, -3.0, 3.0, -3.0]] * MANY,
    "many nan": [[np.nan] * WIDTH] * MANY,
    "a nan among rows": [*[[1.0, 2.0, 3.0, -1.0]] * 20, [np.nan] * WIDTH],
    "infinities that cancel": [[np.inf, 0.0, 0.0, 0.0], [-np.inf, 0.0, 0.0, 0.0]],
    "1e30 that cancels": [[1e30, 0.0, 0.0, 0.0], [-1e30, 0.0, 0.0, 0.0]],
}
OUTCOMES = [(0.0, 0), (1.0, 1), (10.0, 1), (HORIZON, 1), (1e30, 0), (np.inf, 1), (np.nan, 1)]


def joined(model: Model, cohort: Cohort, rows: list[list[float]], time: float, flag: int) -> Cohort:
    """The cohort with one more patient, of these rows and this outcome."""
    features = np.vstack([cohort.features, np.array(rows, dtype=np.float32)])
    count = len(rows)
    patient = np.append(cohort.patient, np.full(count, VISITOR))
    whole = cohort_for(model, features, patient)
    if whole.label is not None and cohort.label is not None:
        whole.label[:-count], whole.label[-count:] = cohort.label, float(flag)
    if whole.time is not None and whole.event is not None:
        assert cohort.time is not None
        assert cohort.event is not None
        whole.time[:-count], whole.time[-count:] = cohort.time, time
        whole.event[:-count], whole.event[-count:] = cohort.event, bool(flag)
    return whole


@pytest.mark.parametrize("rows", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_values_move_our_sum_by_the_clip_and_no_more(
    model: Model, rows: list[list[float]]
) -> None:
    draw = np.random.default_rng(4)
    others = cohort_for(model, draw.normal(size=(40, WIDTH)), np.arange(40))
    for time, flag in OUTCOMES:
        whole = joined(model, others, rows, time, flag)
        total = patient_level_sum(model, whole)
        assert np.isfinite(total).all()
        change = total - patient_level_sum(model, others)
        assert np.linalg.norm(change) <= CLIP * (1 + 1e-6)


def test_hostile_parameters_from_the_coordinator_change_nothing_about_it(model: Model) -> None:
    # The state is the coordinator's to choose: it may try to blow one patient's gradient up.
    cohort = crowd(model).take(np.arange(300))
    for value in (0.0, 1e6, -1e6, 1e300, np.inf, np.nan):
        theta = np.full(model.size, value)
        sums = [
            model.clipped_gradient(theta, part, CLIP)
            for part in (cohort, cohort.take(cohort.patient != VISITOR))
        ]
        assert np.isfinite(sums[0]).all()
        assert np.linalg.norm(sums[0] - sums[1]) <= CLIP * (1 + 1e-6)


def test_leaving_any_one_patient_out_moves_the_sum_by_the_clip_at_most(model: Model) -> None:
    # All of 300, or 120 where Opacus makes each look a hundred times slower.
    count = 300 if model.convex else 120
    draw = np.random.default_rng(6)
    features = draw.normal(size=(2 * count, WIDTH))
    features *= 10.0 ** draw.integers(-6, 7, size=(2 * count, 1))
    patient = np.append(np.arange(count), draw.integers(0, count, count))  # some with many rows
    cohort = cohort_for(model, features, patient)
    whole = patient_level_sum(model, cohort)
    moved = [
        np.linalg.norm(whole - patient_level_sum(model, cohort.take(patient != one)))
        for one in range(count)
    ]
    assert max(moved) <= CLIP * (1 + 1e-6)
    assert np.mean(moved) > 0.2 * CLIP


def test_any_order_of_rows_and_any_label_flip_moves_no_more_than_a_patient_twice(
    model: Model,
) -> None:
    # A patient exchanged for another is one removed and one added.
    cohort = crowd(model)
    flipped = cohort.take(np.arange(cohort.rows))
    theirs = cohort.patient == VISITOR
    if flipped.label is not None:
        flipped.label[theirs] = 1.0 - flipped.label[theirs]
    if flipped.event is not None:
        flipped.event[theirs] = ~flipped.event[theirs]
    change = patient_level_sum(model, cohort) - patient_level_sum(model, flipped)
    assert np.linalg.norm(change) <= 2 * CLIP * (1 + 1e-6)
    shuffled = cohort.take(np.random.default_rng(1).permutation(cohort.rows))
    same = patient_level_sum(model, cohort) - patient_level_sum(model, shuffled)
    assert np.linalg.norm(same) <= 1e-9


def test_the_count_of_the_first_round_moves_by_the_clip_whatever_a_patient_brings(
    model: Model,
) -> None:
    analysis = Gradient(model=model, clip=CLIP)
    cohort = crowd(model)

    def first(part: Cohort) -> float:
        return float(analysis.contribution(part, analysis.initial()).total[0])

    assert first(cohort) == pytest.approx(400 * CLIP)
    without = cohort.take(cohort.patient != VISITOR)
    assert first(cohort) - first(without) == pytest.approx(CLIP)
