"""What joining brought this hospital: its own patients, its own model, and the shared one.

Run at the hospital, over its own records, for its own screen. The same model is fitted once more on
the hospital's training patients alone, without noise; both then predict the held-out patients, whom
neither has seen. Nothing here passes the door, and no epsilon covers it: a verdict is made of
patients' outcomes, so whoever hands it on releases something about them.

The interval is a bootstrap over patients, paired: both models are scored on the same draw. It tells
how sure the difference is for patients like these, the two models as they are; what another
training set would have given, it does not tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...privacy.errors import DataError
from ...study.analyses.averaging import Averaging
from ...study.analyses.breslow import Breslow
from ...study.analyses.newton import Newton
from ...study.analysis import Analysis, Vector, solve
from ...study.cohort import Cohort
from ...study.evaluated import parts
from ...study.model import Model, Prediction
from ...study.models.cox import Cox
from ...study.plan import Plan, model_of
from ..reporting.results import Decision
from ..scores.evaluate import PRIMARY, metrics_of
from ..scores.metrics import Measured
from ..scores.paired import Interval, paired_interval

__all__ = ["Compared", "Verdict", "alone", "verdict"]

_ARMS = {None: "federated", "sum": "dp_sum", "each": "dp_each", "local": "dp_fedavg"}
_METRICS = ("auroc", "auprc", "brier", "c_index", "ibs")
_LOWER_IS_BETTER = ("brier", "ibs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One metric of both models on the same held-out patients.

    Attributes:
        metric: Its name, as in results.
        shared: Of the study's model; None with a reason.
        local: Of the hospital's own; None with a reason.
        difference: Shared minus local.
        low: Lower end of the 95 % interval of the difference; None where none is made.
        high: Upper end.
        reason: Why there is no value, or what to mind about it.
    """

    metric: str
    shared: float | None
    local: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def lower_is_better(self) -> bool:
        """True for Brier scores."""
        return self.metric in _LOWER_IS_BETTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one hospital gains by the study's model. For that hospital only.

    Attributes:
        site: The hospital.
        study: The plan's.
        plan_sha256: The plan.
        arm: `federated`, or the `dp_*` arm whose noise the plan asked for.
        epsilon: Of the plan; None without noise.
        metric: The one that decides: `auroc` or `c_index`.
        verdict: The same words as in a comparison, see `docs/explanation/comparison.md`.
        training_patients: The hospital's patients in training.
        held_out_patients: The hospital's patients that both models are judged on.
        compared: Every metric.
        reason: Why it is `not measurable`; None otherwise.
    """

    site: str
    study: str
    plan_sha256: str
    arm: str
    epsilon: float | None
    metric: str
    verdict: Decision
    training_patients: int
    held_out_patients: int
    compared: tuple[Compared, ...]
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a file in the hospital's own folder."""
        return {"schema": "fedcohort.site-verdict/1", **dataclasses.asdict(self)}


def verdict(cohort: Cohort, plan: Plan, arrays: Mapping[str, Vector], *, site: str) -> Verdict:
    """Judge a study's model on a hospital's own held-out patients.

    Args:
        cohort: The hospital's, with `held_out` as the plan draws it.
        plan: What was run; it trains a model.
        arrays: Of the result; `theta` is the model.
        site: The hospital's name.

    Raises:
        PolicyError: `holdout_missing`.
        DataError: `result_unfit`: the result holds no parameters of the plan's model.
    """
    training, held_out = parts(cohort)
    model = model_of(plan.parameters.get("model", {}))
    shared = _shared(model, arrays, training)
    metric = PRIMARY[model.task]
    found: tuple[Compared, ...] = ()
    reason: str | None = "few_patients"
    if training.patients and held_out.patients:
        local = _fitted(plan, model, training)
        predictions = model.predict(shared, held_out), model.predict(local, held_out)
        found = _compared(training, held_out, *predictions)
    decides = next((one for one in found if one.metric == metric), None)
    if decides is not None:
        # Too few draws had a pair to compare: the same as too few with the outcome.
        reason = decides.reason or ("few_events" if decides.low is None else None)
    return Verdict(
        site=site,
        study=plan.study,
        plan_sha256=plan.sha256,
        arm=_ARMS[None if plan.privacy is None else plan.privacy.sharing],
        epsilon=None if plan.privacy is None else plan.privacy.epsilon,
        metric=metric,
        verdict="not measurable" if decides is None or reason is not None else _word(decides),
        training_patients=training.patients,
        held_out_patients=held_out.patients,
        compared=found,
        reason=reason,
    )


def _shared(model: Model, arrays: Mapping[str, Vector], training: Cohort) -> Vector:
    theta = arrays.get("theta")
    if theta is None or theta.shape != (model.size,) or not np.isfinite(theta).all():
        raise DataError(
            "result_unfit",
            "the result holds no parameters of the plan's model",
            hint="Fetch the result of this plan; its hash is on both.",
        )
    return _with_baseline(model, theta, training)


def alone(plan: Plan, model: Model) -> Analysis:
    """Return how a hospital trains the plan's model alone, without noise.

    The plan's ridge, and where the model is not convex the plan's steps, if it has noise-free ones:
    so many noisy steps as a budget allows would be no fair fit.
    """
    asked = plan.parameters
    l2 = float(asked.get("l2", 1.0))
    if model.convex:
        return Newton(model=model, l2=l2)
    names = ("rounds", "local_steps", "learning_rate")
    own = plan.analysis == "averaging" and plan.privacy is None
    return Averaging(model=model, l2=l2, **{n: asked[n] for n in names if own and n in asked})


def _fitted(plan: Plan, model: Model, training: Cohort) -> Vector:
    theta = solve(alone(plan, model), [training]).arrays["theta"]
    return _with_baseline(model, theta, training)


def _with_baseline(model: Model, theta: Vector, training: Cohort) -> Vector:
    """Append a Cox model's baseline: the hospital's own, for the shared weights too."""
    if not isinstance(model, Cox):
        return theta
    breslow = Breslow(
        theta=tuple(theta.tolist()), horizon_days=model.horizon_days, bound=model.bound
    )
    return np.append(theta, solve(breslow, [training]).arrays["baseline"])


def _compared(
    training: Cohort, held_out: Cohort, shared: Prediction, local: Prediction
) -> tuple[Compared, ...]:
    # The censoring weights are those of the hospital's own follow-up, for both models.
    ours, theirs = (metrics_of(held_out, said, training) for said in (shared, local))
    return tuple(
        _one(name, ours[name], theirs[name], paired_interval(name, held_out, shared, local))
        for name in _METRICS
        if name in ours
    )


def _one(metric: str, shared: Measured, local: Measured, interval: Interval | None) -> Compared:
    reason = shared.reason or local.reason
    if reason is not None or shared.value is None or local.value is None:
        return Compared(metric=metric, shared=None, local=None, difference=None, reason=reason)
    return Compared(
        metric=metric,
        shared=shared.value,
        local=local.value,
        difference=shared.value - local.value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        reason=shared.warning or local.warning,
    )


def _word(one: Compared) -> Decision:
    if one.low is None or one.high is None:
        return "not measurable"
    if one.low <= 0 <= one.high:
        return "no clear difference"
    return "gains" if (one.low > 0) != one.lower_is_better else "loses"
