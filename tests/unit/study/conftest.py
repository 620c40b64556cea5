"""Cohorts drawn from a seed, and derivatives by differences, for everything in `study`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.study.analysis import Vector
from fedcohort.study.cohort import Cohort, Schema, Task

HORIZON = 365.0


def _schema(task: Task, width: int) -> Schema:
    return Schema(
        name="drawn",
        task=task,
        features=tuple(f"x{number}" for number in range(width)),
        bound=3.0,
        outcome="y",
        codebook_sha256="0" * 64,
        horizon_days=HORIZON if task == "survival" else None,
    )


def _features(draw: np.random.Generator, rows: int, width: int) -> NDArray[np.float32]:
    return np.clip(draw.normal(size=(rows, width)), -3, 3).astype(np.float32)


def _patients(rows: int, repeated: int, seed: int) -> NDArray[np.uint64]:
    """Ids, the first `repeated` patients with several rows, in no order."""
    ids = np.arange(rows) % max(rows - repeated, 1)
    return (np.random.default_rng(seed).permutation(ids) + 1000 * seed).astype(np.uint64)


@pytest.fixture
def risk() -> Callable[..., Cohort]:
    """Return a maker of risk cohorts from a true logistic model."""

    def make(
        rows: int = 200, width: int = 4, *, seed: int = 0, repeated: int = 0, site: str = "a"
    ) -> Cohort:
        draw = np.random.default_rng(seed)
        features = _features(draw, rows, width)
        logits = features.astype(np.float64) @ np.linspace(1.0, -1.0, width) - 0.3
        label = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float64)
        return Cohort(
            site=site,
            schema=_schema("risk", width),
            features=features,
            patient=_patients(rows, repeated, seed),
            label=label,
            groups={
                "sex": draw.choice(["f", "m"], rows),
                "age_band": draw.choice(["<50", "50-69", ">=70"], rows),
            },
        )

    return make


@pytest.fixture
def survival() -> Callable[..., Cohort]:
    """Return a maker of survival cohorts: exponential times, some beyond the horizon."""

    def make(
        rows: int = 200,
        width: int = 3,
        *,
        seed: int = 0,
        repeated: int = 0,
        site: str = "a",
        whole_days: float | None = None,
    ) -> Cohort:
        draw = np.random.default_rng(seed)
        features = _features(draw, rows, width)
        scale = 300 * np.exp(-features.astype(np.float64) @ np.linspace(0.7, -0.7, width))
        time, censored = draw.exponential(scale), draw.uniform(20, 600, rows)
        event = time <= censored
        time = np.minimum(time, censored)
        if whole_days is not None:  # many patients at the same moment
            time = np.ceil(time / whole_days) * whole_days
        return Cohort(
            site=site,
            schema=_schema("survival", width),
            features=features,
            patient=_patients(rows, repeated, seed),
            time=time,
            event=event,
        )

    return make


@pytest.fixture
def timed() -> Callable[..., Cohort]:
    """Return a maker of survival cohorts with given times and events, one feature of zero."""

    def make(time: list[float], event: list[int], *, site: str = "a") -> Cohort:
        return Cohort(
            site=site,
            schema=_schema("survival", 1),
            features=np.zeros((len(time), 1), dtype=np.float32),
            patient=np.arange(len(time), dtype=np.uint64),
            time=np.array(time, dtype=np.float64),
            event=np.array(event, dtype=bool),
        )

    return make


@pytest.fixture
def differences() -> Callable[..., Vector]:
    """Return the gradient (or Jacobian, by rows) of a function by central differences."""

    def gradient(
        function: Callable[[Vector], float | Vector], at: Vector, step: float = 1e-5
    ) -> Vector:
        columns = []
        for unit in np.eye(at.size):
            above, below = function(at + step * unit), function(at - step * unit)
            columns.append((np.asarray(above) - np.asarray(below)) / (2 * step))
        return np.stack(columns)

    return gradient
