"""How well predicted risks match a 0/1 label, and when a test set is too small to say.

The functions compute and raise; `risk_metrics` applies the rule of publication and never
raises on data: a metric is given only for 10 test patients or more and one row of each
class, and carries a warning below 5 rows of a class. What is not given says why.

Metrics are over rows (a patient may have several); the 10 are counted in patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

__all__ = [
    "FEW_EVENTS",
    "MINIMUM_PATIENTS",
    "Measured",
    "Reason",
    "Warned",
    "accuracy",
    "auprc",
    "auroc",
    "brier",
    "calibration",
    "risk_metrics",
    "sensitivity_at_specificity",
]

Reason = Literal[
    "few_patients",  # fewer than MINIMUM_PATIENTS in the test set
    "one_class",  # a class (or, in survival: an event, a case or a control) is absent
    "no_pairs",  # survival: no comparable pair
    "not_finite",  # the model predicted NaN or infinity
    "not_estimable",  # the likelihood has no maximum: separation, or one risk for all
    "no_support",  # survival: beyond the follow-up the censoring weights are known for
]
Warned = Literal["few_events"]

MINIMUM_PATIENTS = 10
FEW_EVENTS = 5  # below this many of a class, a value is given with a warning
_EDGE = 1e-8  # calibration: risks of 0 and 1 have no logit, they are moved in by this much

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One metric on one test set: a finite value, or the reason why there is none.

    Raises:
        ValueError: Both or neither of value and reason, a value that is not finite, or a
            warning about a value that is not there.

    >>> Measured(value=0.75).value
    0.75
    >>> Measured(reason="one_class").value is None
    True
    """

    value: float | None = None
    reason: Reason | None = None
    warning: Warned | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"either a value or a reason, got {self.value} and {self.reason}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a value must be finite, got {self.value}; say `not_finite`")
        if self.value is None and self.warning is not None:
            raise ValueError(f"a warning needs a value, got {self.warning} and none")


def auroc(label: ArrayLike, risk: ArrayLike) -> float:
    """Return the area under the ROC curve; ties between the classes count 1/2.

    Args:
        label: [n], 0 or 1.
        risk: [n], probability of 1, in [0, 1].

    Raises:
        ValueError: Shapes, labels or risks are off, or a class is absent.

    Source: Hanley & McNeil 1982; equals sklearn.metrics.roc_auc_score.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    events, others = _counts(*_checked(label, risk))
    below = others.sum() - np.cumsum(others)
    return float((events * (below + 0.5 * others)).sum() / (events.sum() * others.sum()))


def auprc(label: ArrayLike, risk: ArrayLike) -> float:
    """Return average precision: precision at each distinct risk, weighted by recall gained.

    No interpolation; tied rows enter together. Its value under chance is the prevalence.

    Args:
        label: [n], 0 or 1.
        risk: [n], probability of 1, in [0, 1].

    Raises:
        ValueError: Shapes, labels or risks are off, or a class is absent.

    Source: sklearn.metrics.average_precision_score.

    >>> round(auprc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    events, others = _counts(*_checked(label, risk))
    true, false = np.cumsum(events), np.cumsum(others)
    return float((events * (true / (true + false))).sum() / true[-1])


def brier(label: ArrayLike, risk: ArrayLike) -> float:
    """Return the mean squared difference of risk and label (Brier 1950); lower is better.

    Args:
        label: [n], 0 or 1.
        risk: [n], probability of 1, in [0, 1].

    Raises:
        ValueError: Shapes, labels or risks are off, or a class is absent.

    >>> brier([0, 1], [0.5, 1.0])
    0.125
    """
    case, value = _checked(label, risk)
    return float(np.mean((value - case) ** 2))


def accuracy(label: ArrayLike, risk: ArrayLike) -> float:
    """Return the share of rows classed right when a risk of 0.5 or more is called a 1.

    Args:
        label: [n], 0 or 1.
        risk: [n], probability of 1, in [0, 1].

    Raises:
        ValueError: Shapes, labels or risks are off, or a class is absent.

    >>> accuracy([0, 0, 1, 1], [0.1, 0.7, 0.5, 0.8])
    0.75
    """
    case, value = _checked(label, risk)
    return float(np.mean((value >= 0.5) == case))


def sensitivity_at_specificity(
    label: ArrayLike, risk: ArrayLike, specificity: float = 0.9
) -> float:
    """Return the best sensitivity of any cut-off that keeps this specificity.

    Every observed risk is a cut-off (called a 1 from there up), nothing is interpolated. The
    cut-off is chosen on these very rows, so the value is slightly optimistic on small sets.

    Args:
        label: [n], 0 or 1.
        risk: [n], probability of 1, in [0, 1].
        specificity: Least share of rows without event that are called a 0, in [0, 1].

    Raises:
        ValueError: Shapes, labels, risks or specificity are off, or a class is absent.

    >>> sensitivity_at_specificity([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.5
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity must be in [0, 1], got {specificity}")
    events, others = _counts(*_checked(label, risk))
    allowed = (1 - specificity) * others.sum() + 1e-9  # (1 - 0.9) * 10 is below 1 in floats
    kept = np.cumsum(events)[np.cumsum(others) <= allowed]
    return float(kept.max(initial=0.0) / events.sum())


def calibration(label: ArrayLike, risk: ArrayLike) -> tuple[float | None, float]:
    """Return calibration slope and calibration in the large.

    The slope is b in logit P(1) = a + b logit(risk): below 1 where risks are too extreme. The
    intercept is a in logit P(1) = a + logit(risk), slope held at 1: above 0 where risks are
    too low on the whole. Risks are first clipped to [1e-8, 1 - 1e-8].

    Args:
        label: [n], 0 or 1.
        risk: [n], probability of 1, in [0, 1].

    Returns:
        (slope, intercept). The slope is None where its likelihood has no maximum: a cut-off
        parts the classes (rows at the cut-off itself apart), or all risks are equal.

    Raises:
        ValueError: Shapes, labels or risks are off, or a class is absent.

    Source: Cox 1958; Van Calster et al. 2016 (doi:10.1016/j.jclinepi.2015.12.005).

    >>> slope, intercept = calibration([0, 1, 0, 1], [0.2, 0.2, 0.8, 0.8])
    >>> round(abs(slope), 6), round(abs(intercept), 6)
    (0.0, 0.0)
    """
    case, value = _checked(label, risk)
    inside = np.clip(value, _EDGE, 1 - _EDGE)
    logit = np.log(inside) - np.log1p(-inside)
    return _slope(case, logit), _intercept(case, logit)


def risk_metrics(
    label: ArrayLike,
    risk: ArrayLike,
    *,
    patients: int | None = None,
    specificity: float = 0.9,
) -> dict[str, Measured]:
    """Return every metric that these test rows allow, and a reason for every other.

    Args:
        label: [n], 0 or 1.
        risk: [n], predicted probability of 1, in [0, 1]; NaN and infinity are reported.
        patients: Patients behind the n rows; n when left out.
        specificity: For the sensitivity, in [0, 1].

    Returns:
        `auroc`, `auprc`, `brier`, `calibration_slope`, `calibration_intercept`, `accuracy`,
        `sensitivity_at_specificity`. The first reason that applies is given, in the order
        `few_patients`, `one_class`, `not_finite`, `not_estimable`.

    Raises:
        ValueError: The caller's mistakes only: shapes, labels other than 0 and 1, finite
            risks outside [0, 1], more patients than rows.

    >>> risk_metrics([0, 1], [0.2, 0.9])["auroc"].reason
    'few_patients'
    """
    case, value = _shaped(label, risk)
    count = case.size if patients is None else patients
    if not 0 <= count <= case.size:
        raise ValueError(f"patients must be in 0..{case.size} (the rows), got {count}")
    reason = _why_not(case, value, count)
    fewest = min(case.sum(), (~case).sum())
    warning: Warned | None = "few_events" if fewest < FEW_EVENTS else None

    def measured(metric: Callable[[], float | None]) -> Measured:
        if reason is not None:
            return Measured(reason=reason)
        result = metric()
        if result is None:
            return Measured(reason="not_estimable")
        return Measured(value=result, warning=warning)

    return {
        "auroc": measured(lambda: auroc(case, value)),
        "auprc": measured(lambda: auprc(case, value)),
        "brier": measured(lambda: brier(case, value)),
        "calibration_slope": measured(lambda: calibration(case, value)[0]),
        "calibration_intercept": measured(lambda: calibration(case, value)[1]),
        "accuracy": measured(lambda: accuracy(case, value)),
        "sensitivity_at_specificity": measured(
            lambda: sensitivity_at_specificity(case, value, specificity)
        ),
    }


def _why_not(case: _Bools, value: _Floats, patients: int) -> Reason | None:
    """Return why no metric is given for these rows, None if they are."""
    if patients < MINIMUM_PATIENTS:
        return "few_patients"
    if case.all() or not case.any():
        return "one_class"
    if not np.isfinite(value).all():
        return "not_finite"
    return None


def _shaped(label: ArrayLike, risk: ArrayLike) -> tuple[_Bools, _Floats]:
    """Return label [n] as bool and risk [n] as float; risks may be NaN or infinite."""
    given, value = np.asarray(label), np.asarray(risk, dtype=np.float64)
    if given.ndim != 1 or given.shape != value.shape:
        raise ValueError(f"label and risk must be [n] both, got {given.shape} and {value.shape}")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("label must be 0 or 1 everywhere")
    finite = value[np.isfinite(value)]
    if ((finite < 0) | (finite > 1)).any():
        raise ValueError(f"risk must be in [0, 1], got {finite.min()} to {finite.max()}")
    return given.astype(np.bool_), value


def _checked(label: ArrayLike, risk: ArrayLike) -> tuple[_Bools, _Floats]:
    """As `_shaped`, and refuse risks that are not finite and labels of one class."""
    case, value = _shaped(label, risk)
    if not np.isfinite(value).all():
        raise ValueError("risk must be finite everywhere")
    if case.all() or not case.any():
        raise ValueError(f"both classes must be present, got {case.sum()} ones in {case.size}")
    return case, value


def _counts(case: _Bools, value: _Floats) -> tuple[_Floats, _Floats]:
    """Return rows with and without event at each distinct risk, highest risk first."""
    _, level = np.unique(-value, return_inverse=True)
    groups = int(level.max()) + 1
    events = np.bincount(level, weights=case, minlength=groups)
    others = np.bincount(level, weights=~case, minlength=groups)
    return events.astype(np.float64), others.astype(np.float64)


def _slope(case: _Bools, logit: _Floats) -> float | None:
    """Return b of the logistic fit a + b logit, by Newton with halved steps; None if none."""
    ones, zeros = logit[case], logit[~case]
    if zeros.max() <= ones.min() or ones.max() <= zeros.min():
        return None  # separated, but for ties: the likelihood grows for ever
    centre, scale = logit.mean(), logit.std()
    design = np.column_stack((np.ones_like(logit), (logit - centre) / scale))

    def likelihood(beta: _Floats) -> float:
        eta = design @ beta
        return float(eta[case].sum() - np.logaddexp(0, eta).sum())

    beta, last = np.zeros(2), likelihood(np.zeros(2))
    for _ in range(100):
        weight, missing = _fit(case, design @ beta)
        information = design.T @ (weight[:, None] * design)
        if not np.linalg.det(information) > 0:
            return None
        gradient = design.T @ missing
        step = np.linalg.solve(information, gradient)
        if gradient @ step < 1e-14:  # one more step squares what is left
            return float((beta + step)[1] / scale)
        while likelihood(beta + step) < last - 1e-12 * (1 + abs(last)):
            step = step / 2
        beta = beta + step
        last = likelihood(beta)
    return None


def _intercept(case: _Bools, logit: _Floats) -> float:
    """Return a of the logistic fit a + offset(logit): Newton, kept inside a bracket."""
    target = math.log(case.sum() / (~case).sum())
    low, high = target - float(logit.max()), target - float(logit.min())
    shift = (low + high) / 2
    for _ in range(100):  # the bracket alone would be down to rounding by then
        weight, missing = _fit(case, shift + logit)
        low, high = (shift, high) if missing.sum() > 0 else (low, shift)
        new = shift + float(missing.sum() / weight.sum())
        if not low <= new <= high:
            new = (low + high) / 2
        if abs(new - shift) <= 1e-13 * max(1.0, abs(new)):
            return new
        shift = new
    return shift


def _fit(case: _Bools, eta: _Floats) -> tuple[_Floats, _Floats]:
    """Return p (1 - p) and label - p at linear predictor eta, without cancellation at p = 1."""
    up, down = expit(eta), expit(-eta)
    return up * down, np.where(case, down, -up)
