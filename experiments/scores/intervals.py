"""How sure a difference is when the same patients are split again and again.

The J differences of J random splits share patients, so their plain t interval is far too
narrow. The corrected interval widens the variance of the mean from 1/J to 1/J +
n_test/n_train, for what the overlap hides. It is a correction, not a proof: between two equally
good learners (200 patients, 20 splits 70/30, 3,000 simulated studies) it claims a difference
at the 5 % level in 7.3 %, the plain t in 54 %; `tests/unit/experiments/test_intervals.py`.

Source: Nadeau & Bengio 2003, Machine Learning 52, 239-281 (doi:10.1023/A:1024068626366), the
corrected resampled t test; Bouckaert & Frank 2004.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

__all__ = ["Interval", "Verdict", "corrected_interval", "mean_interval", "verdict"]

Verdict = Literal["gains", "no clear difference", "loses", "not measurable"]

_NO_SPREAD = 1e-12  # a range below this (relative, at least absolute) is rounding, not spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over repeated splits with its corrected confidence interval.

    Attributes:
        mean: Over the repeats that could be scored.
        sd: Sample standard deviation of one repeat (divisor repeats - 1), not of the mean.
        low: Lower end of the interval; not cut to the range of the metric.
        high: Upper end.
        repeats: Repeats that could be scored.
    """

    mean: float
    sd: float
    low: float
    high: float
    repeats: int


def corrected_interval(
    differences: Sequence[float], n_train: int, n_test: int, level: float = 0.95
) -> Interval:
    """Return the corrected resampled t interval of a mean over random splits.

    Args:
        differences: [J], one number a split, J >= 2, all finite.
        n_train: Patients in the training part of a split.
        n_test: Patients in the test part of a split.
        level: Confidence level, in (0, 1).

    Returns:
        mean +- t(J - 1) * sqrt(sd**2 * (1/J + n_test/n_train)). No spread gives an interval
        of no width: see `verdict` for what that may be taken to say.

    Raises:
        ValueError: Fewer than two differences, one not finite, or an argument out of range.

    Source: Nadeau & Bengio 2003, section 3.

    >>> wide = corrected_interval([0.01, 0.03, 0.02, 0.02], n_train=70, n_test=30)
    >>> round(wide.mean, 3), round(wide.low, 4), round(wide.high, 4)
    (0.02, -0.0014, 0.0414)
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"differences must be [J >= 2] and finite, got shape {values.shape}")
    if n_train < 1 or n_test < 1:
        raise ValueError(f"n_train and n_test must be >= 1, got {n_train} and {n_test}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    repeats = int(values.size)
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    quantile = float(stdtrit(repeats - 1, (1 + level) / 2))
    half = quantile * sd * math.sqrt(1 / repeats + n_test / n_train)
    return Interval(mean=mean, sd=sd, low=mean - half, high=mean + half, repeats=repeats)


def mean_interval(
    values: Sequence[float | None], n_train: int, n_test: int, level: float = 0.95
) -> Interval | None:
    """Return the corrected interval of a metric itself, None below two scorable repeats.

    Args:
        values: [J], the metric of each split; None or NaN where it could not be scored.
        n_train: Patients in the training part of a split.
        n_test: Patients in the test part of a split.
        level: Confidence level, in (0, 1).

    Raises:
        ValueError: An argument is out of range, or a value is infinite.

    Source: as `corrected_interval`.

    >>> mean_interval([0.8, None, 0.7], n_train=70, n_test=30).repeats
    2
    """
    scored = _scored(values)
    return corrected_interval(scored, n_train, n_test, level) if len(scored) > 1 else None


def verdict(
    differences: Sequence[float | None],
    n_train: int,
    n_test: int,
    *,
    minimum_repeats: int = 10,
    level: float = 0.95,
    lower_is_better: bool = False,
) -> tuple[Verdict, Interval | None]:
    """Say whether the first of two arms is better, from paired differences over splits.

    Args:
        differences: [J], metric of the first arm minus metric of the second on the same test
            patients; None or NaN where either could not be scored. Splits that cannot be
            scored are not a random choice of splits: the verdict is about the others.
        n_train: Patients in the training part of a split.
        n_test: Patients in the test part of a split.
        minimum_repeats: Scorable repeats below which nothing is said; at least 2.
        level: Confidence level, in (0, 1).
        lower_is_better: True for Brier scores. For a calibration slope hand in differences
            of the distance to 1.

    Returns:
        The verdict and the interval it rests on, in the differences' own sign. `gains` or
        `loses` only where the interval leaves out 0. `not measurable`: too few repeats (no
        interval), or the same non-zero difference in every one, which a t interval cannot
        judge (it would have no width); the same 0 in every one is `no clear difference`.

    Raises:
        ValueError: An argument is out of range, or a difference is infinite.

    Source: as `corrected_interval`.

    >>> verdict([0.02, 0.03] * 10, n_train=70, n_test=30)[0]
    'gains'
    >>> verdict([0.02, None], n_train=70, n_test=30)
    ('not measurable', None)
    """
    if minimum_repeats < 2:
        raise ValueError(f"minimum_repeats must be >= 2, got {minimum_repeats}")
    scored = _scored(differences)
    if len(scored) < minimum_repeats:
        return "not measurable", None
    interval = corrected_interval(scored, n_train, n_test, level)
    rounding = _NO_SPREAD * max(1.0, abs(interval.mean))
    if max(scored) - min(scored) <= rounding and abs(interval.mean) > rounding:
        return "not measurable", interval
    if max(scored) - min(scored) <= rounding or interval.low <= 0 <= interval.high:
        return "no clear difference", interval
    better = (interval.mean > 0) != lower_is_better
    return ("gains" if better else "loses"), interval


def _scored(values: Sequence[float | None]) -> list[float]:
    """Return the values that are numbers; infinity stays, to be refused as a mistake."""
    return [float(value) for value in values if value is not None and not math.isnan(value)]
