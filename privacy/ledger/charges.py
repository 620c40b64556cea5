"""What is asked of a ledger: an opening, reservations, charges, unmaskings; all of it public."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..budget import Budget
from ..mechanism import Mechanism

__all__ = ["Charge", "Kind", "Ledger", "Opening", "Reservation", "Unmasking"]

Kind = Literal["site", "simulation"]
_LEAST_NOISE = 1e-3  # what is paid must be statable also for a patient of several hospitals


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a ledger is fixed to, once and for all, before anything is asked of it.

    Attributes:
        hospital: Whose ledger it is.
        population: The declared population and data epoch that it counts for.
        kind: `site`, or `simulation`: a throw-away one that no site takes.
        budget: What all noisy releases may cost together; None: none may be made.
        unnoised: Whether releases without noise may be written down; they have no price, and
            no guarantee holds for a population that has one.
    """

    hospital: str
    population: str
    kind: Kind
    budget: Budget | None
    unnoised: bool

    def __post_init__(self) -> None:
        if self.kind not in ("site", "simulation"):
            raise ValueError(f"a ledger is of kind site or simulation, not {self.kind!r}")
        if not self.hospital or not self.population:
            raise ValueError("a ledger names its hospital and its population")

    def to_json(self) -> dict[str, Any]:
        """Return it as a chain's first entry holds it."""
        budget = self.budget
        return {
            "hospital": self.hospital,
            "population": self.population,
            "kind": self.kind,
            "unnoised": self.unnoised,
            "unit": "patient",
            "relation": "add_or_remove_one",
            "budget": None
            if budget is None
            else {
                "epsilon": budget.epsilon,
                "delta": budget.delta,
                "order": budget.order,
                "limit": budget.limit,
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Opening:
        """Read it back; order and limit are computed anew, never believed."""
        told = document["budget"]
        budget = None
        if told is not None:
            budget = Budget(epsilon=float(told["epsilon"]), delta=float(told["delta"]))
        opening = cls(
            hospital=str(document["hospital"]),
            population=str(document["population"]),
            kind=document["kind"],
            budget=budget,
            unnoised=document["unnoised"] is True,
        )
        expected = opening.to_json()
        if told is not None and math.isclose(told["limit"], expected["budget"]["limit"]):
            expected["budget"]["limit"] = told["limit"]  # another machine's logarithm, one ulp
        if expected != document:
            raise ValueError("the opening is not what its own numbers give")
        return opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a whole plan may spend. Nothing in it depends on data.

    Attributes:
        plan_sha256: The plan; it is reserved once.
        study: Its study's name.
        purpose: What the study is for.
        analysis: What computes the sums.
        rounds: Most vectors that leave.
        releases: Most noisy sums in them together; 0 without noise.
        mechanism: One noisy sum; None: no noise is added.
        clip: Sensitivity: the L2 bound of one patient in one sum; None without noise.
        sharing: `sum`, `each` or `local`, as in the plan; None without noise.
        masked: Whether the coordinator opens sums only. Shares of a noise protect from it
            nowhere else.
        min_survivors: m, fewest sites whose shares of the noise are in an opened sum.
        colluders: c, sites assumed to pool what they see with the coordinator.
    """

    plan_sha256: str
    study: str
    purpose: str
    analysis: str
    rounds: int
    releases: int
    mechanism: Mechanism | None
    clip: float | None
    sharing: str | None
    min_survivors: int
    colluders: int
    masked: bool = True

    def __post_init__(self) -> None:
        whole = (self.rounds, self.releases, self.min_survivors, self.colluders)
        if not all(type(number) is int and number >= 0 for number in whole) or self.rounds < 1:
            raise ValueError("rounds, releases, min_survivors and colluders are counts")
        names = (self.plan_sha256, self.study, self.purpose, self.analysis)
        if not all(isinstance(name, str) for name in names) or type(self.masked) is not bool:
            raise ValueError("plan, study, purpose and analysis are texts, masked is true or false")
        noisy = self.mechanism is not None
        if noisy != (self.releases > 0):
            raise ValueError("releases and a mechanism go together")
        if self.mechanism is not None and self.mechanism.noise_multiplier < _LEAST_NOISE:
            raise ValueError(f"noise_multiplier must be >= {_LEAST_NOISE:g} to be stated for ever")
        clip = 1.0 if self.clip is None else self.clip
        if noisy != (self.clip is not None) or not (math.isfinite(clip) and clip > 0):
            raise ValueError("a noisy sum has a finite clip norm > 0, and no other has one")
        if noisy and self.sharing not in ("sum", "each", "local"):
            raise ValueError(f"unknown sharing {self.sharing!r}")

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of the chain holds it."""
        return {
            "plan_sha256": self.plan_sha256,
            "study": self.study,
            "purpose": self.purpose,
            "analysis": self.analysis,
            "rounds": self.rounds,
            "releases": self.releases,
            "mechanism": _mechanism_json(self.mechanism),
            "clip": self.clip,
            "sharing": self.sharing,
            "min_survivors": self.min_survivors,
            "colluders": self.colluders,
            "masked": self.masked,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reservation:
        """Read it back, strictly."""
        reservation = cls(**{**document, "mechanism": _mechanism(document["mechanism"])})
        if reservation.to_json() != document:
            raise ValueError("a field is missing")
        return reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One paid release: written down before its bytes leave.

    Attributes:
        plan_sha256: The plan under which it is made.
        round: Number of the round, 0-based; each is paid once.
        releases: Noisy sums inside it (local steps; else 1, or 0 without noise).
        mechanism: One of these noisy sums; None without noise.
    """

    plan_sha256: str
    round: int
    releases: int
    mechanism: Mechanism | None

    def __post_init__(self) -> None:
        whole = (self.round, self.releases)
        if not all(type(number) is int and number >= 0 for number in whole):
            raise ValueError("round and releases are counts")
        if not isinstance(self.plan_sha256, str):
            raise ValueError("a plan is named by its hash")
        if (self.mechanism is not None) != (self.releases > 0):
            raise ValueError("releases and a mechanism go together")

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of the chain holds it."""
        return {
            "plan_sha256": self.plan_sha256,
            "round": self.round,
            "releases": self.releases,
            "mechanism": _mechanism_json(self.mechanism),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Charge:
        """Read it back, strictly."""
        fields = {**document, "mechanism": _mechanism(document["mechanism"])}
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasking:
    """A site's help to open one masked sum: written down before its shares leave.

    It costs nothing: its round was paid for. It says that the site's vector of this round is in
    an opened sum and must never be in a second one, whatever files beside the ledger say. Only
    the ledger can say so: a ledger that is put back from a backup is found.

    Attributes:
        plan_sha256: The plan.
        round: Number of the round, 0-based; each is unmasked once.
    """

    plan_sha256: str
    round: int

    def __post_init__(self) -> None:
        if type(self.round) is not int or self.round < 0:
            raise ValueError("a round is a count")
        if not isinstance(self.plan_sha256, str):
            raise ValueError("a plan is named by its hash")

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of the chain holds it."""
        return {"plan_sha256": self.plan_sha256, "round": self.round}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Unmasking:
        """Read it back, strictly."""
        return cls(**document)


class Ledger(Protocol):
    """Whoever pays: what it returns from is durable."""

    def reserve(self, reservation: Reservation) -> str:
        """Set a plan's whole price aside, before any of its work; the same plan again is free.

        Returns:
            The id of the entry.

        Raises:
            BudgetExceededError: It costs more than is left. The budget is unchanged.
            PolicyError: `plan_closed`, `plan_differs`, `unnoised_refused` or the ledger itself
                cannot be trusted.
        """
        ...

    def charge(self, charge: Charge) -> str:
        """Pay; only after this returns may the release leave the process.

        Returns:
            The id of the entry.

        Raises:
            PolicyError: `not_reserved`, `plan_closed`, `round_already_paid`,
                `mechanism_differs` or `reservation_exceeded`. Nothing was paid.
        """
        ...

    def unmask(self, unmasking: Unmasking) -> str:
        """Note that the site helps to open a sum; only then may its shares leave the process.

        Returns:
            The id of the entry.

        Raises:
            PolicyError: As `check_unspent`. Nothing was noted.
        """
        ...

    def check_unspent(self, unmasking: Unmasking) -> None:
        """Refuse where a round's vector may not be handed over again; nothing is written.

        Raises:
            PolicyError: `sum_spent`: its sum was unmasked, or a later round was paid;
                `round_not_paid`, `not_reserved` or `plan_closed`.
        """
        ...

    def close(self, plan_sha256: str) -> None:
        """End a plan and give back what was set aside and never charged; twice is once."""
        ...


def _mechanism_json(mechanism: Mechanism | None) -> dict[str, Any] | None:
    if mechanism is None:
        return None
    return {
        "family": mechanism.family,
        "noise_multiplier": mechanism.noise_multiplier,
        "sampling_probability": mechanism.sampling_probability,
    }


def _mechanism(document: Mapping[str, Any] | None) -> Mechanism | None:
    if document is None:
        return None
    mechanism = Mechanism(
        noise_multiplier=float(document["noise_multiplier"]),
        sampling_probability=float(document["sampling_probability"]),
    )
    if _mechanism_json(mechanism) != document:
        raise ValueError("unknown mechanism")  # refused, never guessed
    return mechanism
