"""Leave one patient out: whoever it is, the sum before noise moves by the clip norm at most.

For every model that private training is allowed for, every private analysis and every kind of
round, 1,000 patients join a small crowd one at a time: drawn ones with values over eighty orders of
magnitude, and ones made to stand out (NaN, infinities, 1e30, zeros, ten thousand visits, rows
that repeat or cancel, flipped and impossible outcomes). The bound is C (1 + 1e-6), the factor that
the integer grid's sensitivity includes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fedcohort.privacy import clipping
from fedcohort.study.analyses import _gram, averaging
from fedcohort.study.analyses._gram import GramDescent
from fedcohort.study.analyses.averaging import Averaging
from fedcohort.study.analyses.counts import Counts
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.kaplan_meier import KaplanMeier
from fedcohort.study.analyses.newton_gram import NewtonGram
from fedcohort.study.analyses.whitened import Whitened
from fedcohort.study.analysis import LARGEST_PARAMETER, Analysis, State, Total, Vector
from fedcohort.study.cohort import Cohort, Schema, Task
from fedcohort.study.linear import Linear
from fedcohort.study.model import Model
from fedcohort.study.models.hazard import Hazard
from fedcohort.study.models.logistic import Logistic

WIDTH, HORIZON, CLIP = 4, 365.0, 0.7
PATIENTS = 1000
CROWD = 12
NEWCOMER = np.uint64(5)  # between the ids of the crowd: positions of the others shift
VISITS = 10_000
BOUND = 1 + 1e-6


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """One patient's rows."""

    features: np.ndarray
    label: np.ndarray
    time: np.ndarray
    event: np.ndarray


def newcomer(rows: Any, *, label: float = 1.0, time: float = 30.0, event: bool = True) -> Newcomer:
    features = np.asarray(rows, dtype=np.float32).reshape(-1, WIDTH)
    count = features.shape[0]
    return Newcomer(
        features=features,
        label=np.full(count, label),
        time=np.full(count, time),
        event=np.full(count, event),
    )


def made_to_stand_out() -> Iterator[Newcomer]:
    """Yield the adversarial patients."""
    far = [3.0, -3.0, 3.0, -3.0]
    rows: list[Any] = [
        [0.0] * WIDTH,
        [1e30] * WIDTH,
        [3.4e38, -3.4e38, 3.4e38, -3.4e38],
        [1e-45] * WIDTH,
        [np.nan] * WIDTH,
        [0.1, np.nan, 0.2, 0.3],
        [np.inf] * WIDTH,
        [np.inf, -np.inf, 0.0, 0.0],
        [far] * 2,
        [far, [-value for value in far]],
        [[np.inf, 0, 0, 0], [-np.inf, 0, 0, 0]],
        [[1e30, 0, 0, 0], [-1e30, 0, 0, 0]],
        [[1.0, 2.0, 3.0, -1.0], [np.nan] * WIDTH],
        [far] * 500,
    ]
    outcomes: list[dict[str, Any]] = [
        {"label": 1.0, "time": 10.0, "event": True},
        {"label": 0.0, "time": 10.0, "event": False},  # the flip
        {"label": np.nan, "time": np.nan, "event": True},
        {"label": np.inf, "time": np.inf, "event": True},
        {"label": 1e30, "time": 1e30, "event": False},
        {"label": -7.0, "time": -7.0, "event": True},
        {"label": 0.5, "time": HORIZON, "event": True},
        {"label": 1.0, "time": 0.0, "event": False},
    ]
    for features in rows:
        for outcome in outcomes:
            yield newcomer(features, **outcome)
    yield newcomer([far] * VISITS)
    yield newcomer(np.random.default_rng(1).normal(size=(VISITS, WIDTH)), label=0.0, event=False)


def everyone() -> list[Newcomer]:
    """Return 1,000 patients: the adversarial ones, then drawn ones."""
    found = list(made_to_stand_out())
    draw = np.random.default_rng(7)
    while len(found) < PATIENTS:
        rows = draw.normal(size=(int(draw.choice([1, 1, 2, 3, 9])), WIDTH))
        rows = np.clip(rows * 10.0 ** draw.integers(-40, 38), -3e38, 3e38)
        found.append(
            newcomer(
                rows,
                label=float(draw.integers(0, 2)),
                time=float(draw.exponential(200.0)),
                event=bool(draw.integers(0, 2)),
            )
        )
    return found


EVERYONE = everyone()


def crowd(task: Task) -> Cohort:
    """Twelve ordinary patients, two of them with several rows."""
    draw = np.random.default_rng(3)
    rows = CROWD + 4
    patient = np.append(np.arange(CROWD), [2, 2, 9, 9]) * 10
    risk = task == "risk"
    return Cohort(
        site="a",
        schema=Schema(
            name="left",
            task=task,
            features=tuple(f"x{number}" for number in range(WIDTH)),
            bound=3.0,
            outcome="y",
            codebook_sha256="0" * 64,
            horizon_days=None if risk else HORIZON,
        ),
        features=draw.normal(size=(rows, WIDTH)).astype(np.float32),
        patient=patient.astype(np.uint64),
        label=(draw.random(rows) < 0.4).astype(np.float64) if risk else None,
        time=None if risk else draw.exponential(200.0, rows),
        event=None if risk else draw.random(rows) < 0.6,
        groups={"sex": draw.choice(["f", "m"], rows)},
    )


def joined(others: Cohort, one: Newcomer) -> Cohort:
    count = one.features.shape[0]

    def column(ours: Any, theirs: Any) -> Any:
        return None if ours is None else np.append(ours, theirs)

    return replace(
        others,
        features=np.vstack([others.features, one.features]),
        patient=np.append(others.patient, np.full(count, NEWCOMER)),
        label=column(others.label, one.label),
        time=column(others.time, one.time),
        event=column(others.event, one.event),
        groups={"sex": np.append(others.groups["sex"], np.full(count, "?"))},
    )


# ---- every model, every private analysis, every kind of round


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


def theta_of(model: Model, spread: float) -> Vector:
    far = model.initial() + spread * np.random.default_rng(2).normal(size=model.size)
    return np.clip(far, -LARGEST_PARAMETER, LARGEST_PARAMETER)


Sum = Callable[[Cohort], Vector]
Round = Callable[[str, pytest.MonkeyPatch], tuple[Task, float, Sum]]


def summed(analysis: Analysis, state: State) -> Sum:
    return lambda cohort: analysis.contribution(cohort, state).total


def gradient_count(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    analysis = Gradient(model=model_named(name), clip=CLIP)
    return analysis.model.task, CLIP, summed(analysis, analysis.initial())


def gradient_step(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    analysis = Gradient(model=model_named(name), clip=CLIP)
    state = State(round=1, arrays={"theta": theta_of(analysis.model, 0.5)})
    return analysis.model.task, CLIP, summed(analysis, state)


def hostile_step(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    """The coordinator chooses the parameters, too."""
    analysis = Gradient(model=model_named(name), clip=CLIP)
    state = State(round=1, arrays={"theta": theta_of(analysis.model, LARGEST_PARAMETER)})
    return analysis.model.task, CLIP, summed(analysis, state)


def local_step(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    """What the baseline hands to its noise in a local step, by a sample of everybody."""
    model, seen = model_named(name), []

    def noted(self: Averaging, values: Vector, sensitivity: float) -> Vector:
        assert sensitivity == CLIP
        seen.append(values)
        return values

    monkeypatch.setattr(Averaging, "_noisy", noted)
    monkeypatch.setattr(averaging, "poisson_sample", lambda count, q: np.ones(count, dtype=bool))
    analysis = Averaging(
        model=model, local_steps=1, clip=CLIP, noise_multiplier=4.0, sampling_probability=0.5
    )
    state = State(round=1, arrays={"theta": theta_of(model, 0.5), "count": np.array([20.0])})

    def total(cohort: Cohort) -> Vector:
        analysis.contribution(cohort, state)
        return seen.pop()

    return model.task, CLIP, total


def gram_of(kind: type[GramDescent], name: str) -> GramDescent:
    model = model_named(name)
    assert isinstance(model, Linear)
    return kind(model=model, clip=CLIP, noise_scale=1.0)


def moments(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    analysis = gram_of(Whitened, name)
    return analysis.model.task, CLIP, summed(analysis, analysis.initial())


def _mapped(kind: type[GramDescent], name: str) -> tuple[Task, float, Sum]:
    analysis = gram_of(kind, name)
    first = analysis.contribution(crowd(analysis.model.task), analysis.initial()).total
    state = analysis.step(analysis.initial(), Total(vector=first, sites=("a",)))
    assert isinstance(state, State)
    return analysis.model.task, CLIP, summed(analysis, state)


def whitened_step(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    return _mapped(Whitened, name)


def newton_step(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    return _mapped(NewtonGram, name)


def hostile_map(name: str, _: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    """The coordinator chooses the map, as wildly as sites accept."""
    analysis = gram_of(Whitened, name)
    size = analysis.mapped() * analysis.model.size
    mapping = np.random.default_rng(4).uniform(-1e4, 1e4, size)
    arrays = {"theta": theta_of(analysis.model, 50.0), "map": mapping}
    return analysis.model.task, CLIP, summed(analysis, State(round=1, arrays=arrays))


def curve(_: str, __: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    analysis = KaplanMeier(horizon_days=HORIZON, private=True)
    return "survival", 1.0, summed(analysis, analysis.initial())


def table(_: str, __: pytest.MonkeyPatch) -> tuple[Task, float, Sum]:
    analysis = Counts(
        rows="sex", row_values=("f", "m"), columns="outcome", column_values=("0", "1"), private=True
    )
    return "risk", 1.0, summed(analysis, analysis.initial())


ALL = ("logistic", "hazard", "mlp", "hazard_mlp")
LINEAR = ("logistic", "hazard")
CASES: list[tuple[Round, str]] = [
    *((gradient_count, name) for name in LINEAR),
    *((gradient_step, name) for name in ALL),
    *((hostile_step, name) for name in ALL),
    *((local_step, name) for name in LINEAR),
    *((moments, name) for name in LINEAR),
    *((whitened_step, name) for name in LINEAR),
    *((newton_step, name) for name in LINEAR),
    *((hostile_map, name) for name in LINEAR),
    (curve, "-"),
    (table, "-"),
]


def influences(task: Task, total: Sum, people: list[Newcomer]) -> Vector:
    """Return how far each of them moves the sum by joining."""
    others = crowd(task)
    without = total(others)
    return np.array([np.linalg.norm(total(joined(others, one)) - without) for one in people])


@pytest.mark.parametrize(
    ("kind", "name"), CASES, ids=[f"{kind.__name__}, {name}" for kind, name in CASES]
)
def test_nobody_moves_a_sum_by_more_than_the_clip_norm(
    kind: Round, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, clip, total = kind(name, monkeypatch)
    moved = influences(task, total, EVERYONE)
    assert np.isfinite(moved).all()
    assert moved.max() <= clip * BOUND
    assert moved.max() > 0.5 * clip  # they are not simply ignored


def test_there_are_a_thousand_of_them_and_two_have_ten_thousand_visits() -> None:
    assert len(EVERYONE) == PATIENTS
    assert sum(one.features.shape[0] == VISITS for one in EVERYONE) == 2


# ---- positive controls: each bound taken away, somebody stands out


def not_shortened(rows: Vector, clip_norm: float) -> Vector:
    return np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)


def not_cut(norms: Vector, clip_norm: float) -> Vector:
    return np.where(np.isfinite(norms), 1.0, 0.0)


@pytest.mark.parametrize("name", LINEAR)
def test_rows_that_are_not_shortened_stand_out_of_the_moments(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gram, "bounded_rows", not_shortened)
    task, clip, total = moments(name, monkeypatch)
    assert influences(task, total, EVERYONE[:112]).max() > 100 * clip


@pytest.mark.parametrize("name", LINEAR)
def test_visits_that_are_not_cut_together_stand_out_of_the_moments(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gram, "clip_factors", not_cut)
    task, clip, total = moments(name, monkeypatch)
    assert influences(task, total, EVERYONE[:114]).max() > 100 * clip


@pytest.mark.parametrize("kind", [gradient_step, whitened_step, newton_step])
@pytest.mark.parametrize("name", LINEAR)
def test_gradients_that_are_not_cut_stand_out(
    kind: Round, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, clip, total = kind(name, monkeypatch)
    monkeypatch.setattr(clipping, "clip_factors", not_cut)
    monkeypatch.setattr("fedcohort.study.models.hazard.clip_factors", not_cut)
    assert influences(task, total, EVERYONE[:114]).max() > 100 * clip
