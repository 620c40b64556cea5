"""From settings to plans: one approvable plan per federated arm and epsilon.

Also the models that the arms `local` and `pooled` train in one process, so that every arm
of a comparison differs in how it was trained and in nothing else.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..privacy.accounting import BOUND, calibrate
from ..privacy.errors import ConfigError, PolicyError, ProtocolError
from ..privacy.secagg.roster import threshold_for
from ..study.analyses.averaging import Averaging
from ..study.analyses.gradient import Gradient
from ..study.analyses.newton import Newton
from ..study.analysis import Analysis, Vector
from ..study.cohort import Schema
from ..study.holdout import Holdout
from ..study.model import Model
from ..study.plan import Plan, PrivacyTerms, analysis_of, model_of
from .settings import SHARING, Settings

__all__ = ["Planner", "personal", "unfederated"]

# The usual recipe, as a baseline: 20 rounds of one local epoch, in 5 steps over a fifth of the
# patients each, drawn anew for every step.
_USUAL = {
    "rounds": 20,
    "local_steps": 5,
    "learning_rate": 1.0,
    "l2": 10.0,
    "sampling_probability": 0.2,
}
_USUAL_CLIP = 2.0
_USUAL_BOUND = "pld"  # of continuous noise on Poisson samples; see `study.analyses.averaging`


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes plans and models for one study.

    Args:
        settings: What was asked for.
        schema: The cohorts' schema.
        sites: The participants, sorted.
        today: When the plans are made; they expire a year later.
        masked: Whether plans mask their sums; see `SecAggSettings.masks`.
        holdout: Which patients plans keep out of training; None: nobody.
    """

    settings: Settings
    schema: Schema
    sites: tuple[str, ...]
    today: dt.date
    masked: bool
    holdout: Holdout | None = None

    def model_parameters(self) -> dict[str, Any]:
        """Return the model as a plan names it.

        Raises:
            ConfigError: `model_task`: the model is for another kind of outcome.
        """
        asked = self.settings.model
        spec: dict[str, Any] = {
            "name": asked.name,
            "features": len(self.schema.features),
            "bound": self.schema.bound,
        }
        if asked.hidden is not None:
            spec |= {"hidden": list(asked.hidden), "seed": asked.seed}
        if asked.name in ("hazard", "hazard_mlp", "cox"):
            if self.schema.horizon_days is None:
                raise self._wrong_task("risk")
            spec["horizon_days"] = self.schema.horizon_days
        if asked.intervals is not None:
            spec["intervals"] = asked.intervals
        return spec

    def model(self) -> Model:
        """Return the model; see `model_parameters` for what it refuses."""
        model = model_of(self.model_parameters())
        if model.task != self.schema.task:
            raise self._wrong_task(self.schema.task)
        return model

    def federated(self) -> Plan:
        """Return the plan of the arm `federated`."""
        asked = self.settings.model
        parameters: dict[str, Any] = {"model": self.model_parameters(), "l2": asked.l2}
        if asked.algorithm == "newton":
            return self._plan("newton", parameters)
        if asked.algorithm == "gradient":
            fit = asked.fedavg
            parameters |= {
                "steps": fit.rounds * fit.local_steps,
                "learning_rate": fit.learning_rate,
            }
            return self._plan("gradient", parameters)
        return self._plan("averaging", parameters | self._averaging())

    def baseline_hazard(self, theta: tuple[float, ...]) -> Plan:
        """Return the plan that adds a baseline to Cox weights."""
        parameters = {
            "theta": list(theta),
            "horizon_days": self.schema.horizon_days,
            "bound": self.schema.bound,
        }
        return self._plan("breslow", parameters, histogram=False)  # it trains no model

    def private(self, arm: str, epsilon: float) -> Plan:
        """Return the plan of a `dp_*` arm.

        Raises:
            PolicyError: `codebook_required`.
            ConfigError: `too_few_sites` for noise in the sum.
        """
        asked = self.settings.privacy
        preset = self.settings.model.private
        if asked is None or preset is None:
            raise ConfigError("privacy_missing", f"{arm} needs privacy.epsilon and privacy.delta")
        if not self.schema.public:
            raise PolicyError(
                "codebook_required",
                "without a codebook, scaling looked at the data: no epsilon would be true",
                hint="Give data.codebook=FILE; draft one with `fedcohort data codebook TABLE`.",
            )
        clip = asked.clip or preset.clip
        parameters: dict[str, Any] = {"model": self.model_parameters()}
        if arm == "dp_fedavg":
            clip = asked.clip or _USUAL_CLIP
            releases = 1 + int(_USUAL["rounds"]) * int(_USUAL["local_steps"])
            terms = self._terms(arm, epsilon, releases, clip, _USUAL["sampling_probability"])
            parameters |= _USUAL | {"clip": clip, "noise_multiplier": terms.noise_multiplier}
            parameters["max_patients"] = self.settings.max_patients_per_site
            return self._plan("averaging", parameters, terms)
        # The histogram of held-out scores costs what every other sum costs.
        extra = int(self.holdout is not None and self.holdout.histogram)
        terms = self._terms(arm, epsilon, preset.releases + extra, clip)
        parameters |= preset.parameters(clip, _noise_scale(terms, len(self.sites)))
        return self._plan(preset.name, parameters, terms)

    def _averaging(self) -> dict[str, Any]:
        fit = self.settings.model.fedavg
        return {
            "rounds": fit.rounds,
            "local_steps": fit.local_steps,
            "learning_rate": fit.learning_rate,
        }

    def _terms(
        self,
        arm: str,
        epsilon: float,
        releases: int,
        clip: float,
        sampling_probability: float = 1.0,
    ) -> PrivacyTerms:
        asked = self.settings.privacy
        if asked is None:
            raise ConfigError("privacy_missing", f"{arm} needs privacy.epsilon and privacy.delta")
        sharing: Literal["sum", "each", "local"] = SHARING[arm]  # type: ignore[assignment]
        # Noise that every site adds in full needs no other site's help against colluders.
        # No more sites can collude than there are others.
        colluders = self.colluders if sharing == "sum" else 0
        survivors = self._min_survivors()
        if survivors <= colluders:
            raise ConfigError(
                "too_few_sites",
                f"{arm}: noise in the sum of {survivors} of {len(self.sites)} sites does not stand "
                f"{colluders} colluders among them",
                hint="Raise secagg.min_survivors, use dp_each, or set secagg.colluders=0 (and "
                "say why you may).",
            )
        return PrivacyTerms(
            epsilon=epsilon,
            delta=asked.delta,
            noise_multiplier=calibrate(epsilon, asked.delta, releases, sampling_probability),
            releases=releases,
            clip=clip,
            sharing=sharing,
            min_survivors=survivors,
            colluders=colluders,
            bound=BOUND if sampling_probability == 1 else _USUAL_BOUND,
            sampling_probability=sampling_probability,
        )

    @property
    def threshold(self) -> int | None:
        """T of the masks; None without masks.

        Raises:
            ConfigError: `secagg_too_few_sites` or `secagg_too_many_colluders`.
        """
        if not self.masked:
            return None
        try:
            return threshold_for(len(self.sites), self.colluders)
        except ProtocolError as error:
            raise ConfigError(f"secagg_{error.code}", str(error), hint=error.hint) from error

    @property
    def min_sites(self) -> int:
        """Fewest sites in a sum without noise: all of them, unless a smaller number was asked for.

        Two sums of one state that differ in one site give that site's vector away; noise pays
        for that, and where there is none nobody may be left out.
        """
        asked = self.settings.secagg.min_survivors
        return len(self.sites) if asked is None else self._min_survivors()

    @property
    def colluders(self) -> int:
        """Return c: no more sites can collude than there are others."""
        return min(self.settings.secagg.colluders, len(self.sites) - 1)

    def _min_survivors(self) -> int:
        count = len(self.sites)
        asked = self.settings.secagg.min_survivors
        if asked is None:
            return count if count <= 6 else 2 * count // 3 + 1
        fewest = self.threshold or 1
        if not fewest <= asked <= count:
            raise ConfigError(
                "secagg_min_survivors_invalid",
                f"secagg.min_survivors must lie in [{fewest}, {count}], got {asked}",
                hint="Leave it out: the default survives no drop-out up to six sites.",
            )
        return asked

    def _plan(
        self,
        analysis: str,
        parameters: dict[str, Any],
        privacy: PrivacyTerms | None = None,
        *,
        histogram: bool = True,
    ) -> Plan:
        _ = self.threshold  # refuses in our words what the plan would refuse in its own
        holdout = self.holdout
        if holdout is not None and not histogram:
            holdout = replace(holdout, histogram=False)
        plan = Plan(
            study=self.settings.study,
            purpose=self.settings.purpose,
            analysis=analysis,
            parameters=parameters,
            schema_sha256=self.schema.sha256,
            sites=self.sites,
            privacy=privacy,
            max_rounds=1,
            max_patients_per_site=self.settings.max_patients_per_site,
            min_sites=self.min_sites,
            secagg="masked" if self.masked else "plain",
            colluders=self.colluders,
            roster="simulation",
            expires=(self.today + dt.timedelta(days=365)).isoformat(),
            holdout=holdout,
        )
        return replace(plan, max_rounds=analysis_of(plan).most_rounds)

    def _wrong_task(self, task: str) -> ConfigError:
        fitting = "logistic or mlp" if task == "risk" else "hazard, hazard_mlp or cox"
        return ConfigError(
            "model_task",
            f"model={self.settings.model.name} does not fit an outcome of kind {task!r}",
            hint=f"Use model={fitting}.",
        )


def _noise_scale(terms: PrivacyTerms, sites: int) -> float:
    """Return the noise of an opened sum of all sites, over the clip norm: each adds a share."""
    noise = terms.noise()
    return 0.0 if noise is None else noise.share_sigma(1.0) * math.sqrt(sites)


def unfederated(planner: Planner, model: Model) -> Analysis:
    """Return how `local` and `pooled` train: the same model and effort, without a federation."""
    asked = planner.settings.model
    if model.convex:
        return Newton(model=model, l2=asked.l2)
    fit = asked.fedavg
    return Averaging(
        model=model,
        l2=asked.l2,
        rounds=fit.rounds,
        local_steps=fit.local_steps,
        learning_rate=fit.learning_rate,
    )


def personal(planner: Planner, model: Model, theta: Vector) -> Analysis:
    """Return how a site personalises: a ridge towards the global parameters."""
    asked = planner.settings.model
    if model.convex:
        return Newton(model=model, l2=asked.personal_l2, anchor=theta)
    rate = asked.fedavg.learning_rate / 2
    return Gradient(model=model, steps=60, learning_rate=rate, l2=asked.personal_l2, anchor=theta)
