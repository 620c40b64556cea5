"""Development data: tables that private methods are chosen on, none of them a shipped study.

Scikit-learn's breast cancer, WHAS500 and FLChain from scikit-survival, and tables drawn from known
models. Features are scaled by round public constants, as a codebook would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sksurv.datasets import load_flchain, load_whas500

from fedcohort.study.cohort import Cohort, Schema, Task

__all__ = ["RISK", "SURVIVAL", "Table"]

Vector = NDArray[np.float64]
BOUND = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table as a cohort.

    Attributes:
        cohort: All patients.
        delta: Below 1 / patients.
    """

    cohort: Cohort
    delta: float

    @property
    def rarity(self) -> float:
        """Share of patients with the outcome."""
        return float(self.cohort.outcome_flag.mean())


def _table(
    name: str,
    features: Vector,
    *,
    label: Vector | None = None,
    time: Vector | None = None,
    event: NDArray[np.bool_] | None = None,
    horizon_days: float | None = None,
) -> Table:
    task: Task = "risk" if label is not None else "survival"
    rows, width = features.shape
    cohort = Cohort(
        site="all",
        schema=Schema(
            name=name,
            task=task,
            features=tuple(f"x{number}" for number in range(width)),
            bound=BOUND,
            outcome="y",
            codebook_sha256="0" * 64,
            horizon_days=horizon_days,
        ),
        features=np.clip(features, -BOUND, BOUND).astype(np.float32),
        patient=np.arange(rows, dtype=np.uint64),
        label=label,
        time=time,
        event=event,
    )
    return Table(cohort=cohort, delta=1e-4 if rows < 10_000 else 1e-5)


def breast_cancer() -> Table:
    """569 biopsies, 30 skewed measures: zero at a third of the documented range, scale a sixth."""
    data = load_breast_cancer()
    low = data.data.min(axis=0)  # as its documentation prints them
    wide = data.data.max(axis=0) - low
    scaled = ((data.data - low) / wide - 1 / 3) * 6
    return _table("breast cancer", scaled, label=(data.target == 0).astype(np.float64))


def _correlated(draw: np.random.Generator, rows: int, width: int) -> Vector:
    """Half of the columns normal and correlated, the other half 0 or 1."""
    loadings = draw.normal(size=(width, 4)) * 0.5
    values = draw.normal(size=(rows, width)) + draw.normal(size=(rows, 4)) @ loadings.T
    values /= np.sqrt(1 + (loadings**2).sum(axis=1))
    half = width // 2
    values[:, half:] = values[:, half:] > draw.uniform(-0.5, 1.2, size=width - half)
    return np.clip(values, -BOUND, BOUND)


def drawn_risk(name: str, rows: int, share: float, width: int, seed: int) -> Table:
    """Return a table from a logistic model in which this share has the outcome."""
    draw = np.random.default_rng(seed)
    features = _correlated(draw, rows, width)
    score = features @ (draw.normal(size=width) * 0.45)
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        above = (1 / (1 + np.exp(-score - middle))).mean() > share
        low, high = (low, middle) if above else (middle, high)
    label = draw.random(rows) < 1 / (1 + np.exp(-score - low))
    return _table(name, features, label=label.astype(np.float64))


def drawn_survival(name: str, rows: int, share: float, width: int, seed: int) -> Table:
    """Return Weibull times, uniform censoring, this share of events within five years."""
    draw = np.random.default_rng(seed)
    features = _correlated(draw, rows, width)
    score = features @ (draw.normal(size=width) * 0.35)
    censored = draw.uniform(300, 3650, rows)
    fast = (draw.exponential(size=rows) * np.exp(score.mean() - score)) ** (1 / 1.2)
    low, high = 1.0, 1e6
    for _ in range(80):
        middle = float(np.sqrt(low * high))
        within = ((fast * middle <= censored) & (fast * middle <= 1825)).mean()
        low, high = (middle, high) if within > share else (low, middle)
    time = fast * low
    return _table(
        name,
        features,
        time=np.minimum(time, censored),
        event=time <= censored,
        horizon_days=1825.0,
    )


def flchain_features() -> tuple[Vector, Vector, NDArray[np.bool_]]:
    """Return scaled features, days and deaths of FLChain."""
    table, outcome = load_flchain()
    columns = [
        (table["age"] - 65) / 12,
        table["sex"] == "M",
        (np.log1p(table["kappa"]) - 0.8) / 0.4,
        (np.log1p(table["lambda"]) - 0.9) / 0.4,
        (np.log1p(table["creatinine"].fillna(1.0)) - 0.7) / 0.2,
        table["mgus"] == "yes",
    ]
    features = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    return features, outcome["futime"].astype(np.float64), outcome["death"].astype(np.bool_)


def flchain_deaths() -> Table:
    """Dead within five years, among those whose five years are known: 12 %."""
    features, days, dead = flchain_features()
    known = dead | (days >= 1825)
    label = (dead & (days < 1825))[known].astype(np.float64)
    return _table("FLChain, 5 years", features[known], label=label)


def flchain() -> Table:
    """7,874 residents of a county, deaths over twelve years."""
    features, days, dead = flchain_features()
    return _table("FLChain", features, time=days, event=dead, horizon_days=4380.0)


def whas500() -> Table:
    """500 patients after a heart attack."""
    table, outcome = load_whas500()
    scales = {"age": (65, 12), "bmi": (27, 5), "diasbp": (80, 20), "hr": (80, 20)}
    scales["sysbp"] = (140, 30)
    flags = ("afb", "av3", "chf", "cvd", "gender", "miord", "mitype", "sho")
    columns = [(table[name] - centre) / scale for name, (centre, scale) in scales.items()]
    columns += [table[name] for name in flags]
    features = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    return _table(
        "WHAS500",
        features,
        time=outcome["lenfol"].astype(np.float64),
        event=outcome["fstat"].astype(np.bool_),
        horizon_days=1500.0,
    )


RISK: tuple[Callable[[], Table], ...] = (
    breast_cancer,
    lambda: drawn_risk("drawn, 600 rows", 600, 0.4, 12, 7),
    lambda: drawn_risk("drawn, 2,000 rows", 2000, 0.35, 20, 3),
    lambda: drawn_risk("drawn, 1,200 rows, 15 %", 1200, 0.15, 10, 13),
    lambda: drawn_risk("drawn, 5,000 rows, 8 %", 5000, 0.08, 20, 4),
    flchain_deaths,
    lambda: drawn_risk("drawn, 20,000 rows", 20_000, 0.3, 20, 5),
    lambda: drawn_risk("drawn, 20,000 rows, 10 %", 20_000, 0.1, 20, 6),
)
SURVIVAL: tuple[Callable[[], Table], ...] = (
    whas500,
    lambda: drawn_survival("drawn, 700 rows", 700, 0.45, 10, 1),
    lambda: drawn_survival("drawn, 3,000 rows", 3000, 0.4, 12, 2),
    lambda: drawn_survival("drawn, 5,000 rows, 10 %", 5000, 0.1, 12, 3),
    flchain,
    lambda: drawn_survival("drawn, 20,000 rows", 20_000, 0.3, 15, 4),
    lambda: drawn_survival("drawn, 20,000 rows, 6 %", 20_000, 0.06, 15, 5),
)
