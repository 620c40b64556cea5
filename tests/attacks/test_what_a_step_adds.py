"""What surrounds a private gradient: ridge, step size and loss shape must stay outside the clip.

The adversary is the author of the next model: a penalty added before clipping, a loss whose
shape broadcasts, a denominator that follows the batch. Each is a defect found in the wild.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fedcohort.privacy.errors import PolicyError
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analysis import State, Total
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.models.logistic import Logistic

MODEL = Logistic(features=2, bound=3.0)


def cohort_of(patients: int) -> Cohort:
    draw = np.random.default_rng(patients)
    return Cohort(
        site="a",
        schema=Schema(
            name="drawn",
            task="risk",
            features=("x0", "x1"),
            bound=3.0,
            outcome="y",
            codebook_sha256="0" * 64,
        ),
        features=np.clip(draw.normal(size=(patients, 2)), -3, 3).astype(np.float32),
        patient=np.arange(patients, dtype=np.uint64),
        label=(draw.random(patients) < 0.4).astype(np.float64),
    )


def at(analysis: Gradient, theta: float) -> State:
    arrays = dict(analysis.initial().arrays) | {
        "theta": np.full(3, theta),
        "count": np.full(1, 50.0),
    }
    return State(round=1, arrays=arrays)


def test_ridge_and_step_size_are_added_to_the_opened_sum_and_never_at_a_site() -> None:
    plain, heavy = (
        Gradient(model=MODEL, clip=0.5, steps=4, l2=l2, learning_rate=rate)
        for l2, rate in ((0.0, 1.0), (1e6, 1e3))
    )
    cohort, state = cohort_of(40), at(plain, 2.0)
    np.testing.assert_array_equal(
        plain.contribution(cohort, state).total, heavy.contribution(cohort, state).total
    )
    nobody = cohort_of(0)
    assert not heavy.contribution(nobody, state).total.any()  # no patient, no decay either
    # The control: they do act, on what everybody may see.
    total = Total(vector=np.ones(3), sites=("a", "b"))
    after = [analysis.step(state, total).arrays["theta"] for analysis in (plain, heavy)]
    assert not np.allclose(after[0], after[1])


def test_a_step_divides_by_the_noisy_count_and_by_nothing_that_a_site_knows() -> None:
    analysis = Gradient(model=MODEL, clip=0.5, steps=4, l2=0.0, learning_rate=1.0)
    state, total = at(analysis, 0.0), Total(vector=np.full(3, 10.0), sites=("a", "b"))
    np.testing.assert_allclose(analysis.step(state, total).arrays["theta"], -10.0 / 50.0)
    doubled = dataclasses.replace(state, arrays={**state.arrays, "count": np.full(1, 100.0)})
    np.testing.assert_allclose(analysis.step(doubled, total).arrays["theta"], -10.0 / 100.0)


@pytest.mark.parametrize(("shape", "width"), [("column", 3), ("matrix", 4), ("scalar", 5)])
def test_a_loss_that_is_not_one_number_a_row_is_refused(
    shape: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("opacus")
    from fedcohort.study.models import _network
    from fedcohort.study.models.mlp import Mlp

    model, cohort = Mlp(features=2, bound=3.0, hidden=(width,)), cohort_of(8)
    assert model.clipped_gradient(model.initial(), cohort, 1.0).any()
    right = _network._loss

    def wrong(*arguments: Any) -> Any:
        losses = right(*arguments)
        column = losses[:, None]
        return {"column": column, "matrix": column - losses, "scalar": losses.sum()}[shape]

    monkeypatch.setattr(_network, "_loss", wrong)
    with pytest.raises(PolicyError) as refused:
        model.clipped_gradient(model.initial(), cohort, 1.0)
    assert refused.value.code == "loss_shape"


def test_a_site_half_remembers_nothing_of_whom_it_saw_before() -> None:
    # No mean, scale or moment is kept: who was there a round ago is in that round's sum alone.
    cohort, analysis = cohort_of(40), Gradient(model=MODEL, clip=0.5, steps=4)
    drawn = np.arange(40) < 20
    alone = analysis.contribution(cohort.take(drawn), at(analysis, 1.0)).total
    analysis.contribution(cohort, at(analysis, 1.0))
    again = analysis.contribution(cohort.take(drawn), at(analysis, 1.0)).total
    np.testing.assert_array_equal(alone, again)
