"""How well predicted survival matches right-censored follow-up.

Brier score and AUC weight patients by the inverse of the probability of being uncensored
(IPCW), a Kaplan-Meier estimate G on the training patients. G is known up to the last training
follow-up and useful while it is above 0: that is its *support*, and nothing is said beyond.
Two arms are comparable only on one G and one grid: hand every arm that is compared on a test
set the same `train_time` and `train_event`, whatever each was trained on.

Conventions (ties, G at t and not just before it, range of the grid) are those of
scikit-survival 0.28, which is the oracle of the tests; it raises where the test follow-up
exceeds the support, we leave out the part of the grid that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import FEW_EVENTS, MINIMUM_PATIENTS, Measured, Reason

__all__ = [
    "Curve",
    "brier_at",
    "concordance",
    "cumulative_dynamic_auc",
    "integrated_brier",
    "kaplan_meier",
    "supported",
    "survival_metrics",
]

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]

_TIED = 1e-8  # risks this close are ties
_BLOCK = 2**22  # pairs compared at once: 4 Mi, some 40 MiB of work space


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A Kaplan-Meier step function: 1 before the first time, right-continuous.

    Attributes:
        times: [k], distinct times, days, increasing.
        values: [k], the curve at and after each time, in [0, 1].
    """

    times: _Floats
    values: _Floats

    def at(self, days: ArrayLike) -> _Floats:
        """Return the curve at these days (same shape), NaN where it is not known.

        Beyond the last time it is 0 if it has come down to 0, not known otherwise.

        >>> kaplan_meier([1, 2, 3], [True, True, False]).at([0.5, 1, 2.9, 4]).round(3)
        array([1.   , 0.667, 0.333,   nan])
        """
        asked = np.asarray(days, dtype=np.float64)
        steps = np.concatenate(([1.0], self.values))
        found = steps[np.searchsorted(self.times, asked, side="right")]
        last = self.times[-1] if self.times.size else -np.inf
        return np.where((asked > last) & (steps[-1] > 0), np.nan, found)


def kaplan_meier(time: ArrayLike, event: ArrayLike, *, censoring: bool = False) -> Curve:
    """Return the Kaplan-Meier curve of the event, or of being censored.

    Args:
        time: [n], follow-up, days, >= 0.
        event: [n], True where it ended with the event, False where censored.
        censoring: Estimate G, the chance of not yet being censored, for IPCW. Events come
            before censorings of the same day.

    Raises:
        ValueError: Shapes or values are off.

    Source: Kaplan & Meier 1958; sksurv.nonparametric.kaplan_meier_estimator.

    >>> kaplan_meier([1, 2, 2, 3], [True, True, False, False]).values
    array([0.75, 0.5 , 0.5 ])
    >>> kaplan_meier([1, 2, 2, 3], [True, True, False, False], censoring=True).values
    array([1. , 0.5, 0. ])
    """
    days, ended = _followed(time, event)
    times, position = np.unique(days, return_inverse=True)
    events = np.bincount(position, weights=ended, minlength=times.size)
    total = np.bincount(position, minlength=times.size)
    at_risk = days.size - np.cumsum(total) + total
    leaving = total - events if censoring else events
    exposed = at_risk - events if censoring else at_risk
    hazard = np.divide(leaving, exposed, out=np.zeros(times.size), where=leaving > 0)
    return Curve(times=times, values=np.cumprod(1 - hazard))


def concordance(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> float:
    """Return Harrell's C: the share of comparable pairs that the risk orders right.

    A pair is comparable if the first has the event and the second is followed for longer, or
    as long and censored. The first should have the higher risk; ties (1e-8) count 1/2.
    Takes n**2 / 2**22 blocks of work, so memory stays flat: 5,000 patients take a moment.

    Args:
        time: [n], follow-up, days, >= 0.
        event: [n], True where it ended with the event.
        risk: [n], any increasing function of risk, finite.

    Raises:
        ValueError: Shapes or values are off, or no pair is comparable.

    Source: Harrell et al. 1996; sksurv.metrics.concordance_index_censored.

    >>> concordance([1, 2, 3], [True, True, False], [0.9, 0.3, 0.3])
    0.8333333333333334
    """
    days, ended = _followed(time, event)
    score = _finite("risk", risk, days.shape)
    cases = np.flatnonzero(ended)
    step = max(1, _BLOCK // max(1, days.size))
    right = ties = pairs = 0
    for start in range(0, cases.size, step):
        first = cases[start : start + step, None]
        longer = (days > days[first]) | ((days == days[first]) & ~ended)
        above = score[first] - score
        ties += int((longer & (np.abs(above) <= _TIED)).sum())
        right += int((longer & (above > _TIED)).sum())
        pairs += int(longer.sum())
    if not pairs:
        raise ValueError(f"no pair is comparable: {cases.size} events in {days.size} patients")
    return (right + ties / 2) / pairs


def supported(
    train_time: ArrayLike, train_event: ArrayLike, time: ArrayLike, days: ArrayLike
) -> _Bools:
    """Return which days [k] can be scored: inside the test follow-up and the support of G.

    Args:
        train_time: [m], training follow-up, days.
        train_event: [m], True where it ended with the event.
        time: [n], test follow-up, days.
        days: [k], asked.

    Returns:
        [k]: min(time) <= day < max(time), as scikit-survival asks, and 0 < G(day), which also
        makes the weight of every event up to that day finite.

    Raises:
        ValueError: Shapes or values are off.

    >>> supported([1, 5], [False, True], [2, 9], [1, 2, 5, 6, 9])
    array([False,  True,  True, False, False])
    """
    return _inside(kaplan_meier(train_time, train_event, censoring=True), time, days)


def brier_at(
    train_time: ArrayLike,
    train_event: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    days: ArrayLike,
) -> _Floats:
    """Return the IPCW Brier score at each day; lower is better.

    Args:
        train_time: [m], training follow-up, days; with train_event it gives G.
        train_event: [m], True where it ended with the event.
        time: [n], test follow-up, days; may exceed the training follow-up.
        event: [n], True where it ended with the event.
        survival: [n, k], predicted probability of being free of the event after each day.
        days: [k], strictly increasing, each `supported`.

    Returns:
        [k].

    Raises:
        ValueError: Shapes or values are off, or a day is not supported.

    Source: Graf et al. 1999; sksurv.metrics.brier_score.

    >>> brier_at([1, 9], [True, True], [1, 2, 3], [True, True, True], [[0.5]] * 3, [2])
    array([0.25])
    """
    asked = np.asarray(days, dtype=np.float64)
    duration, ended = _followed(time, event)
    chance = _finite("survival", _shares(survival), (duration.size, asked.size))
    if asked.ndim != 1 or not (np.diff(asked) > 0).all():
        raise ValueError("days must be [k] and strictly increasing")
    censoring = kaplan_meier(train_time, train_event, censoring=True)
    if not _inside(censoring, duration, asked).all():
        raise ValueError("a day is outside the test follow-up or the support of the weights")
    case, control = _cases(duration, ended, asked)
    weight = np.where(case, _inverse(censoring, duration)[:, None], 0.0)
    weight += control / censoring.at(asked)
    scores: _Floats = np.mean(weight * (chance - control) ** 2, axis=0)
    return scores


def integrated_brier(
    train_time: ArrayLike,
    train_event: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    days: ArrayLike,
) -> float:
    """Return the mean of `brier_at` over the time from the first to the last day.

    The trapezoidal rule over the days, divided by their span; lower is better.

    Args:
        train_time: [m], training follow-up, days.
        train_event: [m], True where it ended with the event.
        time: [n], test follow-up, days.
        event: [n], True where it ended with the event.
        survival: [n, k], predicted probability of being free of the event after each day.
        days: [k >= 2], strictly increasing, each `supported`.

    Raises:
        ValueError: As `brier_at`, or fewer than two days.

    Source: Graf et al. 1999; sksurv.metrics.integrated_brier_score.

    >>> half = [[0.5, 0.5]] * 3
    >>> integrated_brier([1, 9], [True, True], [1, 2, 3], [True, True, True], half, [1, 2])
    0.25
    """
    asked = np.asarray(days, dtype=np.float64)
    if asked.ndim != 1 or asked.size < 2:
        raise ValueError(f"days must be [k >= 2], got shape {asked.shape}")
    scores = brier_at(train_time, train_event, time, event, survival, asked)
    area = (np.diff(asked) * (scores[1:] + scores[:-1]) / 2).sum()
    return float(area / (asked[-1] - asked[0]))


def cumulative_dynamic_auc(
    train_time: ArrayLike,
    train_event: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    day: float,
) -> float:
    """Return the AUC of the risk for having the event by a day, against going on beyond it.

    Cases are weighted by 1 / G at their event; who is censored by the day is neither. Chains
    of risks within 1e-8 are tied.

    Args:
        train_time: [m], training follow-up, days; with train_event it gives G.
        train_event: [m], True where it ended with the event.
        time: [n], test follow-up, days; may exceed the training follow-up.
        event: [n], True where it ended with the event.
        risk: [n], any increasing function of the risk by that day, finite.
        day: t, days, `supported`.

    Raises:
        ValueError: Shapes or values are off, the day is not supported, or there is no case by
            it or no control beyond it.

    Source: Uno et al. 2007; Hung & Chiang 2010; sksurv.metrics.cumulative_dynamic_auc.

    >>> train = [1, 9], [True, True]
    >>> cumulative_dynamic_auc(*train, [1, 2, 3], [True] * 3, [0.9, 0.1, 0.3], 2)
    0.5
    """
    duration, ended = _followed(time, event)
    score = _finite("risk", risk, duration.shape)
    censoring = kaplan_meier(train_time, train_event, censoring=True)
    if not _inside(censoring, duration, [day]).all():
        raise ValueError(f"day {day} is outside the test follow-up or the support of the weights")
    case, control = (flag[:, 0] for flag in _cases(duration, ended, np.array([day])))
    if not case.any() or not control.any():
        raise ValueError(f"{case.sum()} cases by day {day} and {control.sum()} controls beyond it")
    weight = np.where(case, _inverse(censoring, duration), 0.0)
    order = np.argsort(-score, kind="stable")
    group = np.concatenate(([0], np.cumsum(-np.diff(score[order]) > _TIED)))
    true = np.bincount(group, weights=weight[order])
    false = np.bincount(group, weights=control[order])
    below = false.sum() - np.cumsum(false)
    return float((true * (below + false / 2)).sum() / (true.sum() * false.sum()))


def survival_metrics(
    train_time: ArrayLike,
    train_event: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    survival: ArrayLike,
    grid_days: ArrayLike,
    auc_days: Sequence[float] = (1095, 1825),
    *,
    patients: int | None = None,
) -> dict[str, Measured]:
    """Return every metric that these test patients allow, and a reason for every other.

    Args:
        train_time: [m], training follow-up, days; may be empty (then `no_support`).
        train_event: [m], True where it ended with the event.
        time: [n], test follow-up, days.
        event: [n], True where it ended with the event.
        risk: [n], any increasing function of risk; for `c_index` and the AUC.
        survival: [n, grid], predicted probability of being free of the event; for `ibs`.
        grid_days: [grid], days, strictly increasing. `ibs` is over those that are
            `supported`; at least two must be, or it has `no_support`.
        auc_days: Days of the AUC; 365 days make a year in the key.
        patients: Patients behind the n rows; n when left out.

    Returns:
        `c_index`, `ibs`, and `auc_3y`, `auc_5y` by `auc_days`. All need 10 patients and one
        event (`few_patients`, `one_class`) and predictions that are numbers (`not_finite`);
        `c_index` a comparable pair (`no_pairs`); the AUC a day that is `supported`
        (`no_support`) with a case by it and a control beyond it (`one_class`). `few_events`
        warns below 5 events, for the AUC below 5 cases or controls.

    Raises:
        ValueError: The caller's mistakes only: shapes, times, grid, more patients than rows.

    >>> flat = [[0.5]] * 2
    >>> survival_metrics([1], [True], [1, 2], [True, False], [0, 1], flat, [1])["ibs"].reason
    'few_patients'
    """
    duration, ended = _followed(time, event)
    score = _shaped("risk", risk, duration.shape)
    grid = np.asarray(grid_days, dtype=np.float64)
    chance = _shaped("survival", _shares(survival), (duration.size, grid.size))
    if grid.ndim != 1 or not (np.diff(grid) > 0).all():
        raise ValueError("grid_days must be [grid] and strictly increasing")
    count = duration.size if patients is None else patients
    if not 0 <= count <= duration.size:
        raise ValueError(f"patients must be in 0..{duration.size} (the rows), got {count}")
    keys = {f"auc_{day / 365:g}y": float(day) for day in auc_days}
    reason: Reason | None = None
    if count < MINIMUM_PATIENTS:
        reason = "few_patients"
    elif not ended.any():
        reason = "one_class"
    if reason is not None:
        return {key: Measured(reason=reason) for key in ("c_index", "ibs", *keys)}
    train = _followed(train_time, train_event)
    return {
        "c_index": _measured_concordance(duration, ended, score),
        "ibs": _measured_brier(train, duration, ended, chance, grid),
        **{key: _measured_auc(train, duration, ended, score, day) for key, day in keys.items()},
    }


def _measured_concordance(time: _Floats, event: _Bools, risk: _Floats) -> Measured:
    if not np.isfinite(risk).all():
        return Measured(reason="not_finite")
    first = time[event].min()
    if not ((time > first) | ((time == first) & ~event)).any():
        return Measured(reason="no_pairs")
    return _measured(concordance(time, event, risk), int(event.sum()))


def _measured_brier(
    train: tuple[_Floats, _Bools], time: _Floats, event: _Bools, survival: _Floats, grid: _Floats
) -> Measured:
    kept = supported(*train, time, grid)
    if kept.sum() < 2:
        return Measured(reason="no_support")
    if not np.isfinite(survival[:, kept]).all():
        return Measured(reason="not_finite")
    score = integrated_brier(*train, time, event, survival[:, kept], grid[kept])
    return _measured(score, int(event.sum()))


def _measured_auc(
    train: tuple[_Floats, _Bools], time: _Floats, event: _Bools, risk: _Floats, day: float
) -> Measured:
    if not np.isfinite(risk).all():
        return Measured(reason="not_finite")
    case, control = _cases(time, event, np.array([day]))
    fewest = int(min(case.sum(), control.sum()))
    if not fewest:
        return Measured(reason="one_class")
    if not supported(*train, time, [day]).all():
        return Measured(reason="no_support")
    return _measured(cumulative_dynamic_auc(*train, time, event, risk, day), fewest)


def _measured(value: float, fewest: int) -> Measured:
    return Measured(value=value, warning="few_events" if fewest < FEW_EVENTS else None)


def _cases(time: _Floats, event: _Bools, days: _Floats) -> tuple[_Bools, _Bools]:
    """Return who had the event by each day and who went on beyond it, both [n, k]."""
    beyond = time[:, None] > days
    return ~beyond & event[:, None], beyond


def _inside(censoring: Curve, time: ArrayLike, days: ArrayLike) -> _Bools:
    asked, followed = np.asarray(days, dtype=np.float64), np.asarray(time, dtype=np.float64)
    if not followed.size:
        return np.zeros(asked.shape, dtype=np.bool_)
    inside = (asked >= followed.min()) & (asked < followed.max())
    known: _Bools = inside & (censoring.at(asked) > 0)  # not known is NaN, and not above 0
    return known


def _inverse(censoring: Curve, time: _Floats) -> _Floats:
    """Return 1 / G [n], 0 where G is 0 or not known: such patients are no cases yet."""
    known = censoring.at(time)
    return np.divide(1.0, known, out=np.zeros(time.size), where=known > 0)


def _followed(time: ArrayLike, event: ArrayLike) -> tuple[_Floats, _Bools]:
    days, ended = np.asarray(time, dtype=np.float64), np.asarray(event)
    if days.ndim != 1 or days.shape != ended.shape:
        raise ValueError(f"time and event must be [n] both, got {days.shape} and {ended.shape}")
    if not np.isin(ended, (0, 1)).all():
        raise ValueError("event must be True or False everywhere")
    if not (np.isfinite(days) & (days >= 0)).all():
        raise ValueError("time must be finite and >= 0 everywhere")
    return days, ended.astype(np.bool_)


def _shaped(name: str, values: ArrayLike, shape: tuple[int, ...]) -> _Floats:
    given = np.asarray(values, dtype=np.float64)
    if given.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {given.shape}")
    return given


def _shares(survival: ArrayLike) -> _Floats:
    """Refuse numbers that are no probabilities, such as hazards; rounding is let through."""
    given = np.asarray(survival, dtype=np.float64)
    finite = given[np.isfinite(given)]
    if ((finite < -1e-6) | (finite > 1 + 1e-6)).any():
        raise ValueError(f"survival must be in [0, 1], got {finite.min()} to {finite.max()}")
    return given


def _finite(name: str, values: ArrayLike, shape: tuple[int, ...]) -> _Floats:
    given = _shaped(name, values, shape)
    if not np.isfinite(given).all():
        raise ValueError(f"{name} must be finite everywhere")
    return given
