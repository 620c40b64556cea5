"""The arms of a comparison: how each one trains, on one split.

`local`, `pooled` and `consensus` are computed here, in one process, and never pass the wire;
`federated` and the `dp_*` arms run as plans through Flower, the door and its noise;
`personalised` starts from a global model and stays at its site.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..fl_server.coordinator import Outcome
from ..study.analyses.breslow import Breslow
from ..study.analysis import Vector, solve
from ..study.cohort import Cohort, concatenate
from ..study.model import Model
from ..study.plan import Plan
from .guarantee import guarantee_of
from .planning import Planner, personal, unfederated
from .settings import DP_ARMS
from .simulation.federate import federate
from .simulation.ledgers import RunLedgers

__all__ = ["Fit", "train_arms"]

OnRound = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One trained arm.

    Attributes:
        arm: Name of the arm.
        algorithm: How it was trained.
        epsilon: What was asked for; None without noise. Of `personalised`: of the shared model
            that it starts from.
        epsilon_spent: What the executed releases cost; None without noise, and for a fit on
            a site's own records.
        parameters: One vector for all sites (key None), or one per site.
        plan: The plan it ran under, for arms that pass the wire.
        rounds: Sums opened; None for arms that pass no wire.
        bytes_up: Bytes of vectors that all sites sent.
        seconds: Wall-clock seconds of training.
        dropped: Sites missing in at least one opened sum.
        liars: Sites that handed over wrong shares.
    """

    arm: str
    algorithm: str
    epsilon: float | None = None
    epsilon_spent: float | None = None
    parameters: Mapping[str | None, Vector]
    plan: Plan | None = None
    rounds: int | None = None
    bytes_up: int | None = None
    seconds: float
    dropped: tuple[str, ...] = ()
    liars: tuple[str, ...] = ()

    def theta(self, site: str) -> Vector | None:
        """Return the parameters that serve a site; None where the arm has none for it."""
        return self.parameters.get(site, self.parameters.get(None))

    @property
    def is_global(self) -> bool:
        """Whether one model serves every site."""
        return None in self.parameters


def train_arms(
    planner: Planner,
    trains: Sequence[Cohort],
    on_round: OnRound | None = None,
    ledgers: RunLedgers | None = None,
) -> list[Fit]:
    """Train every arm that was asked for, on the training parts of one split.

    Args:
        planner: Settings, schema and sites.
        trains: One training cohort per site, in the planner's order.
        on_round: Called with (arm, rounds done), for progress.
        ledgers: The sites' throw-away ledgers; in memory unless told otherwise.

    Returns:
        One fit per arm and, for noisy arms and what is personalised from them, per epsilon.
    """
    asked = planner.settings.arms
    model = planner.model()
    ledgers = ledgers or RunLedgers(folder=None, repeat=0)
    trainer = _Trainer(planner, model, trains, on_round or (lambda arm, done: None), ledgers)
    fits: list[Fit] = []
    if "local" in asked or "consensus" in asked:
        local = trainer.local()
        fits += [local] if "local" in asked else []
        fits += [trainer.consensus(local)] if "consensus" in asked else []
    if "pooled" in asked:
        fits.append(trainer.pooled())
    if "federated" in asked or "personalised" in asked:
        shared = trainer.federated()
        fits += [shared] if "federated" in asked else []
        fits += [trainer.personalised(shared)] if "personalised" in asked else []
    privacy = planner.settings.privacy
    for arm in (arm for arm in asked if arm in DP_ARMS):
        for epsilon in () if privacy is None else privacy.epsilons:
            private = trainer.private(arm, epsilon)
            fits.append(private)
            if arm == "dp_sum" and "personalised" in asked:
                fits.append(trainer.personalised(private))
    return fits


class _Trainer:
    """Trains arms on one split."""

    def __init__(
        self,
        planner: Planner,
        model: Model,
        trains: Sequence[Cohort],
        on_round: OnRound,
        ledgers: RunLedgers,
    ) -> None:
        self._planner = planner
        self._model = model
        self._trains = trains
        self._on_round = on_round
        self._ledgers = ledgers

    @property
    def _is_cox(self) -> bool:
        return self._planner.settings.model.name == "cox"

    def local(self) -> Fit:
        started = time.monotonic()
        analysis = unfederated(self._planner, self._model)
        parameters: dict[str | None, Vector] = {}
        for train in self._trains:
            theta = solve(analysis, [train]).arrays["theta"]
            parameters[train.site] = self._with_baseline(theta, [train])
        return self._fit("local", "alone", parameters, started)

    def pooled(self) -> Fit:
        started = time.monotonic()
        everyone = concatenate(self._trains, site="pooled")
        theta = solve(unfederated(self._planner, self._model), [everyone]).arrays["theta"]
        return self._fit(
            "pooled", "pooled", {None: self._with_baseline(theta, [everyone])}, started
        )

    def consensus(self, local: Fit) -> Fit:
        mean = np.mean(list(local.parameters.values()), axis=0)
        fit = self._fit("consensus", "one_shot_mean", {None: mean}, time.monotonic())
        return replace(fit, seconds=local.seconds)

    def federated(self) -> Fit:
        started = time.monotonic()
        plan = self._planner.federated()
        outcome = self._run(plan, "federated")
        theta, bytes_up, rounds = outcome.result.arrays["theta"], outcome.bytes_up, outcome.rounds
        if self._is_cox:
            extra = self._run(self._planner.baseline_hazard(tuple(theta.tolist())), "federated")
            theta = np.append(theta, extra.result.arrays["baseline"])
            bytes_up, rounds = bytes_up + extra.bytes_up, rounds + extra.rounds
        algorithm = self._planner.settings.model.algorithm
        fit = self._fit("federated", algorithm, {None: theta}, started)
        return replace(
            fit,
            plan=plan,
            rounds=rounds,
            bytes_up=bytes_up,
            dropped=outcome.dropped,
            liars=outcome.liars,
        )

    def private(self, arm: str, epsilon: float) -> Fit:
        started = time.monotonic()
        plan = self._planner.private(arm, epsilon)
        outcome = self._run(plan, arm)
        algorithm = "fedavg" if arm == "dp_fedavg" else plan.analysis
        fit = self._fit(arm, algorithm, {None: outcome.result.arrays["theta"]}, started)
        terms = plan.privacy
        spent = None
        if terms is not None:
            spent = guarantee_of(terms).epsilon
        return replace(
            fit,
            epsilon=epsilon,
            epsilon_spent=spent,
            plan=plan,
            rounds=outcome.rounds,
            bytes_up=outcome.bytes_up,
            dropped=outcome.dropped,
            liars=outcome.liars,
        )

    def personalised(self, shared: Fit) -> Fit:
        """Fit each site's own model with a ridge towards the shared one; nothing leaves."""
        started = time.monotonic()
        anchor = shared.parameters[None][: self._model.size]
        analysis = personal(self._planner, self._model, anchor)
        parameters: dict[str | None, Vector] = {}
        for train in self._trains:
            theta = solve(analysis, [train]).arrays["theta"]
            parameters[train.site] = self._with_baseline(theta, [train])
        fit = self._fit("personalised", "ridge", parameters, started)
        return replace(
            fit,
            epsilon=shared.epsilon,  # of the model it starts from; its own fit has no noise
            rounds=shared.rounds,
            bytes_up=shared.bytes_up,
            seconds=fit.seconds + shared.seconds,
        )

    def _with_baseline(self, theta: Vector, cohorts: Sequence[Cohort]) -> Vector:
        """Append a Cox model's baseline, from the same cohorts that trained its weights."""
        horizon = self._planner.schema.horizon_days
        if not self._is_cox or horizon is None:
            return theta
        breslow = Breslow(
            theta=tuple(theta.tolist()), horizon_days=horizon, bound=self._planner.schema.bound
        )
        return np.append(theta, solve(breslow, cohorts).arrays["baseline"])

    def _run(self, plan: Plan, arm: str) -> Outcome:
        epsilon = None if plan.privacy is None else plan.privacy.epsilon
        with self._ledgers.of(arm, epsilon) as ledgers:
            return federate(
                plan,
                self._trains,
                patience=self._planner.settings.patience,
                on_round=lambda done: self._on_round(arm, done),
                ledgers=ledgers,
            )

    @staticmethod
    def _fit(
        arm: str, algorithm: str, parameters: Mapping[str | None, Vector], started: float
    ) -> Fit:
        seconds = time.monotonic() - started
        return Fit(arm=arm, algorithm=algorithm, parameters=parameters, seconds=seconds)
