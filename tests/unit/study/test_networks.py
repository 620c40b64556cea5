"""Small networks: derivatives, and per-patient clipping against a loop over single patients."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

import torch
from torch import nn

from fedcohort.privacy.errors import PolicyError
from fedcohort.study.analysis import Vector
from fedcohort.study.cohort import Cohort
from fedcohort.study.models._network import Network, refuse_unknown_layers
from fedcohort.study.models.hazard import BASE_LOGIT, person_periods
from fedcohort.study.models.hazard_mlp import HazardMlp
from fedcohort.study.models.mlp import Mlp

Make = Callable[..., Cohort]
Differences = Callable[..., Vector]
MLP = Mlp(features=4, bound=3.0, hidden=(5, 3), seed=7)
CURVES = HazardMlp(features=3, bound=3.0, horizon_days=365.0, intervals=4, hidden=(6,), seed=7)


def moved(model: Mlp | HazardMlp, seed: int = 1) -> Vector:
    return model.initial() + 0.3 * np.random.default_rng(seed).normal(size=model.size)


def forward(theta: Vector, features: Vector, widths: tuple[int, ...]) -> Vector:
    """The network's outputs in numpy: weights [out, in] then biases, layer after layer."""
    at, values = 0, features
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weights = theta[at : at + inputs * outputs].reshape(outputs, inputs)
        at += inputs * outputs
        values = values @ weights.T + theta[at : at + outputs]
        at += outputs
        if number < len(widths) - 2:
            values = np.tanh(values)
    assert at == theta.size
    return values


def loss_of_mlp(theta: Vector, cohort: Cohort) -> float:
    assert cohort.label is not None
    scores = forward(theta, cohort.features.astype(np.float64), (4, 5, 3, 1))[:, 0]
    return float((np.logaddexp(0.0, scores) - cohort.label * scores).sum())


def loss_of_curves(theta: Vector, cohort: Cohort) -> float:
    at_risk, event = person_periods(cohort, CURVES.edges)
    scores = forward(theta, cohort.features.astype(np.float64), (3, 6, 4))
    return float((at_risk * np.logaddexp(0.0, scores) - event * scores).sum())


def test_the_gradient_of_a_network_is_the_slope_of_its_loss(
    risk: Make, differences: Differences
) -> None:
    cohort = risk(40)
    slope = differences(lambda theta: loss_of_mlp(theta, cohort), moved(MLP))
    np.testing.assert_allclose(MLP.gradient(moved(MLP), cohort), slope, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_hazard_network_is_the_slope_of_its_loss(
    survival: Make, differences: Differences
) -> None:
    cohort = survival(40)
    slope = differences(lambda theta: loss_of_curves(theta, cohort), moved(CURVES))
    np.testing.assert_allclose(CURVES.gradient(moved(CURVES), cohort), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("repeated", [0, 25, 59])
@pytest.mark.parametrize("clip", [0.05, 0.5, 1e6])
@pytest.mark.parametrize("kind", ["risk", "survival"])
def test_clipping_by_opacus_is_a_loop_over_single_patients(
    risk: Make, survival: Make, kind: str, clip: float, repeated: int
) -> None:
    model: Mlp | HazardMlp = MLP if kind == "risk" else CURVES
    cohort = (risk if kind == "risk" else survival)(60, repeated=repeated)
    theta, total = moved(model), np.zeros(model.size)
    for patient in np.unique(cohort.patient):
        slope = model.gradient(theta, cohort.take(cohort.patient == patient))
        total += slope * min(1.0, clip / max(float(np.linalg.norm(slope)), 1e-12))
    found = model.clipped_gradient(theta, cohort, clip)
    assert np.linalg.norm(found - total) <= 1e-6 * np.linalg.norm(total)


@pytest.mark.parametrize("kind", ["risk", "survival"])
def test_nobody_and_one_patient_are_answered_like_many(
    risk: Make, survival: Make, kind: str
) -> None:
    model: Mlp | HazardMlp = MLP if kind == "risk" else CURVES
    cohort = (risk if kind == "risk" else survival)(20)
    nobody = cohort.take(np.zeros(20, dtype=bool))
    for part in (nobody, cohort.take(np.array([3])), cohort):
        found = model.clipped_gradient(moved(model), part, 1.0)
        assert found.shape == (model.size,)
        assert found.dtype == np.float64
    assert not model.clipped_gradient(moved(model), nobody, 1.0).any()


def test_per_sample_gradients_come_from_hooks_and_never_from_ghosts(
    risk: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ghost clipping is void for losses that are no column (facts: leave-one-out 172 for 1)."""
    import opacus.grad_sample

    made: list[str] = []

    class Noted(opacus.grad_sample.GradSampleModule):  # type: ignore[misc]
        def __init__(self, module: nn.Module, **options: object) -> None:
            made.append(type(self).__mro__[1].__name__)
            assert options == {"loss_reduction": "sum"}
            super().__init__(module, **options)

    monkeypatch.setattr(opacus.grad_sample, "GradSampleModule", Noted)
    found = MLP.clipped_gradient(moved(MLP), risk(6), 1.0)
    assert made == ["GradSampleModule"]
    assert np.isfinite(found).all()


def test_bad_parameters_fail_with_and_without_patients(risk: Make) -> None:
    # A failure that needs a patient would tell that there is one.
    for cohort in (risk(5), risk(5).take(np.zeros(5, dtype=bool))):
        with pytest.raises(RuntimeError):
            MLP.clipped_gradient(np.zeros(MLP.size - 1), cohort, 1.0)


def test_one_call_leaves_nothing_behind_for_the_next(risk: Make) -> None:
    cohort, other = risk(40), risk(40, seed=3)
    first = MLP.clipped_gradient(moved(MLP), cohort, 0.5)
    MLP.gradient(moved(MLP, 2), other)
    MLP.clipped_gradient(moved(MLP, 3), other, 2.0)
    MLP.predict(moved(MLP, 4), other)
    assert np.array_equal(MLP.clipped_gradient(moved(MLP), cohort, 0.5), first)


def test_the_start_is_public_and_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = Network((4, 5, 1), 7, 0.0).initial, Network((4, 5, 1), 7, 0.0).initial
    assert np.array_equal(one, other)
    assert not np.array_equal(one, Network((4, 5, 1), 8, 0.0).initial)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_starts_where_its_docstring_says() -> None:
    assert MLP.initial()[-1] == 0.0
    assert (CURVES.initial()[-4:] == BASE_LOGIT).all()
    assert CURVES.penalty()[-4:].tolist() == [0.01] * 4


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),  # mixes patients
        nn.GroupNorm(1, 3),
        nn.Dropout(0.5),
        nn.Embedding(3, 3),
        nn.LSTM(3, 3),
        nn.Bilinear(3, 3, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_proof_is_refused(layer: nn.Module) -> None:
    for module in (layer, nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), layer))):
        with pytest.raises(PolicyError, match=type(layer).__name__) as refused:
            refuse_unknown_layers(module)
        assert refused.value.code == "layer_not_allowed"


def test_a_subclass_of_a_proven_layer_is_not_that_layer() -> None:
    class Mixing(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input - input.mean(dim=0))

    with pytest.raises(PolicyError) as refused:
        refuse_unknown_layers(nn.Sequential(Mixing(3, 3)))
    assert refused.value.code == "layer_not_allowed"


def test_a_weight_that_is_used_twice_is_refused() -> None:
    twice = nn.Linear(3, 3)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    tied[2].weight = tied[0].weight
    for module in (nn.Sequential(twice, nn.Tanh(), twice), tied):
        with pytest.raises(PolicyError, match="two places") as refused:
            refuse_unknown_layers(module)
        assert refused.value.code == "layer_not_allowed"


def test_proven_layers_pass() -> None:
    refuse_unknown_layers(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1), nn.ReLU()))


def test_predictions_are_the_forward_pass(risk: Make, survival: Make) -> None:
    cohort = risk(15)
    scores = forward(moved(MLP), cohort.features.astype(np.float64), (4, 5, 3, 1))[:, 0]
    found = MLP.predict(moved(MLP), cohort).risk
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-scores)), rtol=1e-12)
    others = survival(15)
    logits = forward(moved(CURVES), others.features.astype(np.float64), (3, 6, 4))
    answer = CURVES.predict(moved(CURVES), others)
    assert answer.survival is not None
    expected = np.cumprod(1 - 1 / (1 + np.exp(-logits)), axis=1)
    np.testing.assert_allclose(answer.survival, expected, rtol=1e-12)
    np.testing.assert_allclose(answer.risk, 1 - expected[:, -1], rtol=1e-12)
