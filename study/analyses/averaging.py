"""Federated averaging: sites take local steps, the coordinator averages their weights.

Without privacy the average is weighted by patients, the count travelling inside the sum.
With a noise multiplier it is the usual recipe that comparisons need as a baseline: every
local step is a noisy clipped gradient over a Poisson sample of the patients, every site adds its
own full noise, weights are averaged equally. Locally trained weights have no per-patient bound,
so that noise in the sum cannot protect them; the noise has to be inside each step, and every
step is paid for. The count of round 0 is a sample's too, so that one mechanism is all there is.

The noise is discrete. In Renyi DP at integer orders, which ledgers add up, sampled steps cost what
steps with a continuous Gaussian cost, exactly. The epsilon that is stated by privacy loss
distribution holds the difference as a term of its own (`privacy.discreteness`).

Source: McMahan et al. 2017 (FedAvg); Liu, Hu, Wu, Smith 2022 (silo-specific sample-level DP);
Abadi et al. 2016 (DP-SGD).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...privacy.clipping import check_clip
from ...privacy.errors import ConfigError
from ...privacy.noise import discrete_gaussian
from ...privacy.sampling import poisson_sample
from ...privacy.secagg.encoding import Encoding
from ..analysis import (
    Analysis,
    Contribution,
    LocalNoise,
    Result,
    State,
    Total,
    Vector,
    within_reach,
)
from ..cohort import Cohort
from ..model import Model

__all__ = ["ANALYSIS", "Averaging"]

_FEWEST = 20.0
_LARGEST_WEIGHT = 1e3  # public bound on a parameter, for the integer grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging(Analysis):
    """See the module's docstring.

    Args:
        model: Any model; with noise, one whose loss is a sum over patients.
        rounds: Rounds of averaging.
        local_steps: Steps at each site per round.
        learning_rate: Step per mean gradient.
        l2: Ridge, shared out over sites by their number.
        clip: C, with `noise_multiplier`.
        noise_multiplier: z of every local step, at every site; None without privacy.
        sampling_probability: q, with which a patient is in a noisy step; 1: full batches.
        max_patients: Public bound on a site's patients, for the noise and its grid.
    """

    model: Model
    rounds: int = 40
    local_steps: int = 5
    learning_rate: float = 0.5
    l2: float = 1.0
    clip: float | None = None
    noise_multiplier: float | None = None
    sampling_probability: float = 1.0
    max_patients: int = 2**17

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.local_steps < 1:
            raise ConfigError("steps_range", "rounds and local_steps must be >= 1")
        if (self.clip is None) != (self.noise_multiplier is None):
            raise ConfigError("clip_range", "clip and noise_multiplier go together")
        if not 0 < self.sampling_probability <= 1:
            raise ConfigError(
                "sampling_range",
                f"sampling_probability must lie in (0, 1], got {self.sampling_probability}",
            )
        if self.clip is None and self.sampling_probability < 1:
            raise ConfigError("sampling_range", "only noisy steps are sampled; leave it at 1")
        if self.clip is not None:
            check_clip(self.clip)
            self.model.require_per_patient()

    @property
    def releases(self) -> int | None:
        """A noisy count, then every local step of every round."""
        return None if self.clip is None else 1 + self.rounds * self.local_steps

    def releases_in(self, number: int) -> int:
        """The count, or every local step."""
        return 1 if number == 0 else self.local_steps

    @property
    def most_rounds(self) -> int:
        """A count, then the rounds."""
        return self.rounds + 1

    def initial(self) -> State:
        """Start at the model's public starting point."""
        return State(round=0, arrays={"theta": self.model.initial(), "count": np.zeros(1)})

    def size(self, state: State) -> int:
        """A count in round 0; then the weights, and without privacy the count again."""
        if state.round == 0:
            return 1
        return self.model.size + (self.clip is None)

    def site_bound(self, max_patients: int) -> float:
        """See `Analysis.site_bound`."""
        return max_patients * _LARGEST_WEIGHT

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: the count, or weights after this site's local steps."""
        patients = float(cohort.patients)
        if state.round == 0:
            count = np.array([patients])
            if self.clip is not None:
                sampled = np.array([float(self._sample(cohort).patients)])
                count = self._noisy(sampled, 1.0) / self.sampling_probability
            return self._handed_over(count, cohort, releases=1)
        read = state.vector if self.clip is None else state.parameters
        theta = read("theta", self.model.size)
        # Without privacy a site divides by its own count; with it, by the noisy mean count.
        divisor = patients if self.clip is None else float(state.vector("count", 1)[0])
        for _ in range(self.local_steps):
            slope = self._slope(theta, cohort, state)
            theta = theta - self.learning_rate / max(divisor, 1.0) * slope
            theta = theta if self.clip is None else within_reach(theta)
        if self.clip is None:
            theta = np.append(patients * theta, patients)
        return self._handed_over(theta, cohort, releases=self.local_steps)

    def _slope(self, theta: Vector, cohort: Cohort, state: State) -> Vector:
        # Each site carries the share of the ridge that its patients are of all patients, so
        # that the sites' objectives add up to the pooled objective.
        share = 1.0
        if self.clip is None:
            share = cohort.patients / max(float(state.vector("total", 1)[0]), 1.0)
        ridge = share * self.l2 * self.model.penalty() * (theta - self.model.initial())
        if self.clip is None:
            return self.model.gradient(theta, cohort) + ridge
        sampled = self.model.clipped_gradient(theta, self._sample(cohort), self.clip)
        # Divided by q here and by the noisy count later: both public, whoever was drawn.
        return self._noisy(sampled, self.clip) / self.sampling_probability + ridge

    def _sample(self, cohort: Cohort) -> Cohort:
        """Draw patients, each with all of its rows; a sample of nobody is a cohort of nobody."""
        if self.sampling_probability == 1:
            return cohort
        ids, index = np.unique(cohort.patient, return_inverse=True)
        return cohort.take(poisson_sample(ids.size, self.sampling_probability)[index])

    def _noisy(self, values: Vector, sensitivity: float) -> Vector:
        """Add one site's full noise on the integer grid."""
        multiplier = self.noise_multiplier or 0.0
        encoding = Encoding.for_noisy_sum(
            clip_norm=sensitivity,
            max_patients=self.max_patients,
            sites=1,
            noise_multiplier=multiplier,
            size=values.size,
        )
        sigma = multiplier * encoding.sensitivity_units(sensitivity, values.size, self.max_patients)
        return encoding.decode(
            encoding.encode_noisy(values) + discrete_gaussian(values.size, sigma)
        )

    def _handed_over(self, total: Vector, cohort: Cohort, *, releases: int) -> Contribution:
        local = None
        if self.noise_multiplier is not None:
            local = LocalNoise(
                noise_multiplier=self.noise_multiplier,
                releases=releases,
                sampling_probability=self.sampling_probability,
            )
        return Contribution(total=total, patients=cohort.patients, sensitivity=None, local=local)

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: average, equally with noise, by patients without."""
        sites = len(total.sites)
        if state.round == 0:
            count = np.maximum(total.vector / sites, _FEWEST)
            arrays = {"theta": state.arrays["theta"], "count": count, "total": total.vector}
            return State(round=1, arrays=arrays)
        if self.clip is None:
            theta = total.vector[:-1] / max(total.vector[-1], 1.0)
        else:
            theta = within_reach(total.vector / sites)
        if state.round == self.rounds:
            return Result(arrays={"theta": theta}, rounds=state.round + 1)
        return State(round=state.round + 1, arrays={**state.arrays, "theta": theta})


ANALYSIS = Averaging
