"""The third panel's curves, gathered over repeats: calibration bins, or survival curves."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ...study.analyses.kaplan_meier import KaplanMeier
from ...study.analysis import Vector, solve
from ...study.cohort import Cohort
from ..arms import Fit
from ..reporting.results import Curve
from .evaluate import Scored

__all__ = ["CurveKeeper"]

_SHOWN = ("pooled", "federated", "personalised", "dp_sum", "dp_fedavg")
_BINS = 10


class CurveKeeper:
    """Keeps what the picture needs of each scored arm."""

    def __init__(self) -> None:
        self._risks: dict[tuple[str, float | None], list[tuple[Vector, Vector]]] = defaultdict(list)
        self._survival: dict[tuple[str, float | None], list[tuple[Vector, Vector]]] = defaultdict(
            list
        )
        self._observed: dict[int, tuple[Vector, Vector]] = {}

    def keep(self, fit: Fit, scored: Scored, repeat: int) -> None:
        """Take one arm's predictions on the pooled test set of one repeat."""
        if scored.test is None or scored.prediction is None or fit.arm not in _SHOWN:
            return
        key = fit.arm, fit.epsilon
        if scored.test.label is not None:
            self._risks[key].append((scored.prediction.risk, scored.test.label))
        elif scored.prediction.survival is not None and scored.prediction.grid_days is not None:
            mean = scored.prediction.survival.mean(axis=0)
            self._survival[key].append((scored.prediction.grid_days, mean))
            if repeat not in self._observed:
                self._observed[repeat] = _observed(scored.test, scored.prediction.grid_days)

    def curves(self) -> tuple[Curve, ...]:
        """Return the curves, averaged over repeats."""
        found = [
            Curve(arm=arm, epsilon=epsilon, kind="calibration", x=x, y=y)
            for (arm, epsilon), parts in self._risks.items()
            for x, y in [_calibration(parts)]
        ]
        for (arm, epsilon), lines in self._survival.items():
            found.append(_survival_curve(arm, epsilon, lines))
        if self._observed:
            found.append(_survival_curve("observed", None, list(self._observed.values())))
        return tuple(found)


def _calibration(parts: list[tuple[Vector, Vector]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean risk and observed share in ten bins of equal size over all repeats' test patients."""
    risk = np.concatenate([part[0] for part in parts])
    label = np.concatenate([part[1] for part in parts])
    bins = np.array_split(np.argsort(risk, kind="stable"), _BINS)
    filled = [chosen for chosen in bins if chosen.size]
    return (
        tuple(float(risk[chosen].mean()) for chosen in filled),
        tuple(float(label[chosen].mean()) for chosen in filled),
    )


def _survival_curve(arm: str, epsilon: float | None, lines: list[tuple[Vector, Vector]]) -> Curve:
    grid = lines[0][0]
    mean = np.mean([line[1] for line in lines], axis=0)
    return Curve(
        arm=arm,
        epsilon=epsilon,
        kind="survival",
        x=(0.0, *map(float, grid)),
        y=(1.0, *map(float, mean)),
    )


def _observed(test: Cohort, grid: Vector) -> tuple[Vector, Vector]:
    """Kaplan-Meier of the test patients, by the same analysis that runs federated."""
    analysis = KaplanMeier(horizon_days=float(grid[-1]), intervals=120)
    arrays = solve(analysis, [test]).arrays
    return grid, np.interp(grid, arrays["grid_days"], arrays["survival"])
