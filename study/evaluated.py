"""An analysis on training patients only, and at its end a histogram of held-out scores.

The site half hands the inner analysis the patients that are not held out; where the plan asks for
it, one more round sums the scores of those that are. A patient is in the training sums or in the
histogram, never in both; the price counts both all the same, for the ledger's rule is one price a
round, whoever was in it.

The histogram has a round number of its own, behind all that training may use: a site answers it
once, and a coordinator that asks for it early gets a training sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..privacy.errors import ConfigError, PolicyError
from .analysis import Analysis, Contribution, Result, State, Total, Vector
from .cohort import Cohort
from .holdout import Holdout
from .model import Model
from .score_histogram import score_histogram, table_shape

__all__ = ["HISTOGRAM", "HeldOut", "local_noise", "parts"]

HISTOGRAM = "score_histogram"  # of the result's arrays
_TOOK = "training_rounds"  # of the last round's state


def parts(cohort: Cohort) -> tuple[Cohort, Cohort]:
    """Return a cohort's training patients and its held-out ones.

    Raises:
        PolicyError: `holdout_missing`: nobody said who is held out.
    """
    if cohort.held_out is None:
        raise PolicyError(
            "holdout_missing",
            "the plan holds patients out and the cohort does not say whom",
            hint="This is a fault of the node: report it.",
        )
    return cohort.take(~cohort.held_out), cohort.take(cohort.held_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut(Analysis):
    """See the module's docstring.

    Args:
        inner: What trains.
        holdout: The plan's.

    Raises:
        ConfigError: `holdout_no_model`: a histogram of an analysis that trains no model;
            `holdout_local_noise`: of one whose noise is in its local steps, where no noise
            would meet the histogram.
    """

    inner: Analysis
    holdout: Holdout

    def __post_init__(self) -> None:
        if not self.holdout.histogram:
            return
        if self.model is None:
            raise ConfigError(
                "holdout_no_model",
                "this analysis trains no model that could score anybody",
                hint="Leave the histogram out, or plan an analysis that trains a model.",
            )
        if self.noise_multiplier is not None:
            raise local_noise()

    @property
    def model(self) -> Model | None:
        """What the inner analysis trains; None where it trains nothing."""
        found: Model | None = getattr(self.inner, "model", None)
        return found

    @property
    def clip(self) -> float | None:
        """The inner analysis' clip norm, where it has one."""
        found: float | None = getattr(self.inner, "clip", None)
        return found

    @property
    def noise_multiplier(self) -> float | None:
        """The inner analysis' own, where its noise is in local steps."""
        found: float | None = getattr(self.inner, "noise_multiplier", None)
        return found

    @property
    def max_patients(self) -> int | None:
        """The inner analysis' own, for noise inside its steps; None elsewhere."""
        found: int | None = getattr(self.inner, "max_patients", None)
        return found

    @property
    def sampling_probability(self) -> float:
        """The inner analysis' own; 1 where everybody is in every sum."""
        return float(getattr(self.inner, "sampling_probability", 1.0))

    @property
    def releases(self) -> int | None:
        """The inner analysis', and the histogram."""
        inner = self.inner.releases
        return None if inner is None else inner + self.holdout.histogram

    def releases_in(self, number: int) -> int:
        """See `Analysis.releases_in`; the histogram is one."""
        return 1 if self._is_last(number) else self.inner.releases_in(number)

    @property
    def most_rounds(self) -> int:
        """The inner analysis', and the histogram."""
        return self.inner.most_rounds + self.holdout.histogram

    def is_table(self, number: int) -> bool:
        """Whether every coordinate of this round's sum counts patients: the histogram's does."""
        return self._is_last(number) or self.inner.is_table(number)

    def used(self, cohort: Cohort, number: int) -> Cohort:
        """Training patients; for the histogram the held-out ones."""
        training, held_out = parts(cohort)
        return held_out if self._is_last(number) else training

    def _is_last(self, number: int) -> bool:
        return self.holdout.histogram and number >= self.inner.most_rounds

    def initial(self) -> State:
        """The inner analysis' start."""
        return self.inner.initial()

    def size(self, state: State) -> int:
        """The inner analysis', or the histogram's cells."""
        if self.model is not None and self._is_last(state.round):
            return int(np.prod(table_shape(self.model, self.holdout.bins)))
        return self.inner.size(state)

    def site_bound(self, max_patients: int) -> float:
        """The larger of the inner analysis' and of everybody in one cell."""
        inner = self.inner.site_bound(max_patients)
        return max(inner, max_patients * self._weight) if self.holdout.histogram else inner

    @property
    def _weight(self) -> float:
        """What one patient weighs in the histogram: as much as in any other sum."""
        return self.clip or 1.0

    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: training patients' sum; in the last round held-out patients' histogram."""
        training, held_out = parts(cohort)
        if self.model is None or not self._is_last(state.round):
            return self.inner.contribution(training, state)
        read = state.vector if self.clip is None else state.parameters
        theta = read("theta", self.model.size)
        table = score_histogram(self.model, theta, held_out, self.holdout.bins)
        return Contribution(
            total=self._weight * table.ravel(), patients=held_out.patients, sensitivity=self.clip
        )

    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: the inner step; its result goes round once more for the histogram.

        The result has the inner arrays and `score_histogram`, in patients: with noise its cells
        are no whole numbers and some lie below zero.
        """
        if self.model is not None and self._is_last(state.round):
            arrays = {name: array for name, array in state.arrays.items() if name != _TOOK}
            table: Vector = total.vector / self._weight
            arrays[HISTOGRAM] = table.reshape(table_shape(self.model, self.holdout.bins))
            return Result(arrays=arrays, rounds=int(state.arrays[_TOOK][0]) + 1)
        after = self.inner.step(state, total)
        if not isinstance(after, Result) or not self.holdout.histogram:
            return after
        took = np.array([float(after.rounds)])
        return State(round=self.inner.most_rounds, arrays={**after.arrays, _TOOK: took})


def local_noise() -> ConfigError:
    """Return the refusal of a histogram that no noise would meet."""
    return ConfigError(
        "holdout_local_noise",
        "noise inside local steps does not meet the histogram, which would leave without any",
        hint="Set histogram=false, or use a plan whose noise is in its sums.",
    )
