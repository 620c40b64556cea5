"""The one primitive: an analysis is a pair of pure functions around a sum.

    site half          contribution(cohort, state) -> Contribution     at every hospital
    the door           encode, add noise, pay, send                    privacy, fl_client
    coordinator half   step(state, total) -> State or Result           at the coordinator

Training, survival curves and tables are all such pairs; each is one file in `analyses/`.
`solve` runs a pair over cohorts in one process, without door, noise or wire: that is what
the arms `local` and `pooled` of a comparison are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..privacy.disclosure import Classes
from ..privacy.errors import ConfigError, ProtocolError
from .cohort import Cohort

__all__ = [
    "LARGEST_PARAMETER",
    "Analysis",
    "Contribution",
    "LocalNoise",
    "Result",
    "State",
    "Total",
    "Vector",
    "solve",
    "within_reach",
]

LARGEST_PARAMETER = 100.0  # of a model under noise, see `State.parameters`

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the coordinator sends to every site: all of it is known to everybody.

    Attributes:
        round: Number of the round that this state asks for, 0-based.
        arrays: Named float64 arrays.
    """

    round: int
    arrays: Mapping[str, Vector]

    def vector(self, name: str, size: int) -> Vector:
        """Return an array of a known length: what a coordinator sends may be anything.

        A shape that only some cohorts can be computed with would make the refusal speak of them.

        Raises:
            ProtocolError: `state_unreadable`: it is missing, or not float64 [size].
        """
        array = self.arrays.get(name)
        if array is None or array.dtype != np.float64 or array.shape != (size,):
            raise ProtocolError(
                "state_unreadable", f"the round's state needs {name!r}, float64 [{size}]"
            )
        return array

    def parameters(self, name: str, size: int) -> Vector:
        """Return an array of parameters that a noisy sum is computed at, each within +-100.

        A matrix product rounds a patient's row differently when another patient is gone. At
        parameters of 1e18 that cancel, such a last bit turns a residual of 0 into 1, and one
        patient moves what others add; within reach it stays far below the slack that the
        sensitivity allows (`Encoding.sensitivity_units`).

        Raises:
            ProtocolError: `state_unreadable`: see `vector`, or one is out of reach.
        """
        array = self.vector(name, size)
        if not (np.abs(array) <= LARGEST_PARAMETER).all():  # NaN fails too
            raise ProtocolError("state_unreadable", f"the state's {name!r} is out of its range")
        return array


def within_reach(parameters: Vector) -> Vector:
    """Return parameters held where `State.parameters` takes them: post-processing."""
    held = np.clip(np.nan_to_num(parameters), -LARGEST_PARAMETER, LARGEST_PARAMETER)
    return np.asarray(held, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNoise:
    """Noise that the site half has already added itself, once per local step.

    Attributes:
        noise_multiplier: z of each step.
        releases: Number of noisy sums inside this contribution.
        sampling_probability: q of each step; 1: every patient is in every one.
    """

    noise_multiplier: float
    releases: int
    sampling_probability: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A site's sum before the door.

    Attributes:
        total: float64 [d], summed over the site's patients.
        patients: How many patients are in it; it never leaves the site.
        sensitivity: L2 bound on what one patient can change in `total`; None where there is
            no such bound, which the door refuses under differential privacy.
        local: Set when noise is inside already (baselines with local noise only).
        classes: What divides the patients, for the site's own disclosure rules where no noise is
            added; it never leaves the site.
        is_table: Whether each coordinate counts patients, for the same rules.
    """

    total: Vector
    patients: int
    sensitivity: float | None
    local: LocalNoise | None = None
    classes: Classes | None = None
    is_table: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The decoded sum over the sites of one round.

    Attributes:
        vector: float64 [d].
        sites: Names of the sites whose contributions are in it.
    """

    vector: Vector
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an analysis ends with.

    Attributes:
        arrays: Named float64 arrays: a model's parameters, a table, a curve.
        rounds: How many rounds it took.
    """

    arrays: Mapping[str, Vector]
    rounds: int


class Analysis(ABC):
    """A site half and a coordinator half. Subclasses are frozen dataclasses of plain fields.

    Attributes:
        releasable_without_noise: Whether a site's policy may let its sums leave un-noised.
    """

    releasable_without_noise: ClassVar[bool] = False

    @property
    def releases(self) -> int | None:
        """Noisy sums a patient pays for over the whole analysis; None when it has no bound."""
        return None

    def releases_in(self, number: int) -> int:
        """Noisy sums that the round of this number holds: public, known before it is computed."""
        return 1

    def is_table(self, number: int) -> bool:
        """Whether every coordinate of this round's sum counts patients."""
        return False

    def used(self, cohort: Cohort, number: int) -> Cohort:
        """Return the patients that this round's sum is over."""
        return cohort

    @property
    def most_rounds(self) -> int:
        """Rounds after which it has ended: a site answers no more of them."""
        return 1

    @abstractmethod
    def initial(self) -> State:
        """Return the public state before the first round."""

    @abstractmethod
    def size(self, state: State) -> int:
        """Return d, the length of every site's vector in this round: public, free of data."""

    @abstractmethod
    def site_bound(self, max_patients: int) -> float:
        """Return a public bound on any coordinate of one site's vector."""

    @abstractmethod
    def contribution(self, cohort: Cohort, state: State) -> Contribution:
        """Site half: sum what this site's patients have to say about the state."""

    @abstractmethod
    def step(self, state: State, total: Total) -> State | Result:
        """Coordinator half: turn the sum over sites into the next state, or the result."""


def solve(analysis: Analysis, cohorts: Sequence[Cohort], *, max_rounds: int = 1000) -> Result:
    """Run an analysis over cohorts held by one process: no door, no noise, no wire.

    For the simulation's arms `local` (one cohort) and `pooled`, and as the oracle that
    federated runs are tested against.

    Raises:
        ConfigError: `not_converged`: more than `max_rounds` rounds.
    """
    state = analysis.initial()
    names = tuple(cohort.site for cohort in cohorts)
    for _ in range(max_rounds):
        size = analysis.size(state)
        vector = np.zeros(size)
        for cohort in cohorts:
            part = analysis.contribution(cohort, state).total
            if part.shape != (size,):
                raise ProtocolError(
                    "vector_shape", f"a contribution has shape {part.shape}, not ({size},)"
                )
            vector = vector + part
        after = analysis.step(state, Total(vector=vector, sites=names))
        if isinstance(after, Result):
            return after
        state = after
    raise ConfigError("not_converged", f"the analysis did not end within {max_rounds} rounds")
