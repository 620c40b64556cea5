"""Score one trained arm on test patients: rows of the results, and curves for the picture.

Places: every site's own test patients; `all`, the pooled test set; `mean_of_sites`, the
equal-weight mean over the sites that could be scored. An arm with one model per site has no
single model for `all` unless each patient is scored by its own site's model, as for
`personalised`; `local` is not given there, since nobody would use it so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...study.analysis import Vector
from ...study.cohort import Cohort, concatenate
from ...study.model import Model, Prediction
from ..arms import Fit
from ..reporting.results import ALL, MEAN_OF_SITES, Row
from .metrics import Measured, risk_metrics
from .survival_metrics import survival_metrics

__all__ = ["PRIMARY", "Scored", "metrics_of", "resampled", "score"]

PRIMARY = {"risk": "auroc", "survival": "c_index"}
_POINTS = 28  # of the common time grid: quarters of a year up to seven years


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One arm on one split.

    Attributes:
        rows: Every metric at every place.
        test: The pooled test cohort; None where the arm has no prediction for it.
        prediction: What the arm says of it.
    """

    rows: tuple[Row, ...]
    test: Cohort | None
    prediction: Prediction | None


def score(
    fit: Fit,
    model: Model,
    splits: Sequence[tuple[Cohort, Cohort]],
    external: Sequence[Cohort],
    *,
    repeat: int,
    delta: float | None,
) -> Scored:
    """Score a fit.

    Args:
        fit: What was trained.
        model: What its parameters mean.
        splits: (train, test) per site.
        external: Whole cohorts that no arm was trained on.
        repeat: Number of the repeat, for the rows.
        delta: Of noisy arms, for the rows.
    """
    measured: dict[str, Mapping[str, Measured]] = {}
    predicted: list[tuple[Cohort, Prediction]] = []
    for train, test in splits:
        theta = fit.theta(test.site)
        if theta is None:
            continue
        prediction = model.predict(theta, test)
        predicted.append((test, prediction))
        measured[test.site] = metrics_of(test, prediction, train)
    everyone = concatenate([train for train, _ in splits], site=ALL)
    pooled_test, pooled = None, None
    if fit.arm != "local" and len(predicted) == len(splits):
        pooled_test = concatenate([test for test, _ in predicted], site=ALL)
        pooled = _joined([prediction for _, prediction in predicted])
    rows: dict[str, Mapping[str, Measured]] = {}
    if pooled_test is not None and pooled is not None:
        rows[ALL] = metrics_of(pooled_test, pooled, everyone)
    rows[MEAN_OF_SITES] = _means(list(measured.values()))
    rows |= measured
    if fit.is_global:
        for cohort in external:
            prediction = model.predict(fit.parameters[None], cohort)
            # Censoring is the cohort's own: weights from other hospitals' follow-up do not fit it.
            rows[cohort.site] = metrics_of(cohort, prediction, cohort)
    return Scored(
        rows=tuple(
            _row(fit, site, repeat, delta, metric, value)
            for site, metrics in rows.items()
            for metric, value in metrics.items()
        ),
        test=pooled_test,
        prediction=pooled,
    )


def _row(
    fit: Fit, site: str, repeat: int, delta: float | None, metric: str, value: Measured
) -> Row:
    return Row(
        arm=fit.arm,
        algorithm=fit.algorithm,
        site=site,
        repeat=repeat,
        metric=metric,
        value=value.value,
        reason=value.reason or value.warning,
        epsilon=fit.epsilon,
        delta=None if fit.epsilon is None else delta,
    )


def metrics_of(test: Cohort, prediction: Prediction, train: Cohort) -> Mapping[str, Measured]:
    """Return every metric of a prediction.

    Args:
        test: Whom it is of.
        prediction: What a model says of them.
        train: Who tells the censoring weights; of no effect for a risk.
    """
    if test.label is not None:
        return risk_metrics(test.label, prediction.risk, patients=test.patients)
    if test.time is None or test.event is None or train.time is None or train.event is None:
        raise ValueError("a survival cohort has time and event")
    if prediction.survival is None or prediction.grid_days is None:
        raise ValueError("a survival model predicts survival on a grid")
    # One grid for every model: an integrated score depends on where it is taken.
    grid = np.linspace(0.0, test.schema.horizon_days or 0.0, _POINTS + 1)[1:]
    return survival_metrics(
        train.time,
        train.event,
        test.time,
        test.event,
        prediction.risk,
        resampled(prediction.survival, prediction.grid_days, grid),
        grid,
        patients=test.patients,
    )


def resampled(survival: Vector, days: Vector, grid: Vector) -> Vector:
    """Survival [n, k] at `days` read off at `grid`: the hazard is constant in between."""
    hazard = -np.log(np.clip(survival, 1e-12, 1.0))
    hazard = np.column_stack([np.zeros(survival.shape[0]), hazard])
    ends = np.append(0.0, days)
    after = np.clip(np.searchsorted(ends, grid, side="left"), 1, days.size)
    share = np.clip((grid - ends[after - 1]) / (ends[after] - ends[after - 1]), 0.0, 1.0)
    between = hazard[:, after - 1] + share * (hazard[:, after] - hazard[:, after - 1])
    return np.asarray(np.exp(-between), dtype=np.float64)


def _means(sites: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    means: dict[str, Measured] = {}
    for metric in sites[0] if sites else ():
        values = [site[metric].value for site in sites if site[metric].value is not None]
        known = [value for value in values if value is not None]
        means[metric] = (
            Measured(value=float(np.mean(known))) if known else Measured(reason="few_patients")
        )
    return means


def _joined(parts: Sequence[Prediction]) -> Prediction:
    survival: list[Vector] = [part.survival for part in parts if part.survival is not None]
    return Prediction(
        risk=np.concatenate([part.risk for part in parts]),
        survival=np.concatenate(survival) if survival else None,
        grid_days=parts[0].grid_days,
    )
