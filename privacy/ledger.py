"""The ledger: what a site pays for before anything leaves it.

This is the seam and the simulation's ledger, held in memory for the life of one run. It
refuses what the plan has not priced; the hospital's durable ledger takes its place behind
the same `Ledger` protocol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from .errors import BudgetExceededError

__all__ = ["Charge", "Ledger", "SimulationLedger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One paid mechanism. Every field is public: it may be printed, logged and signed.

    Attributes:
        plan_sha256: The plan under which the release is made.
        round: Number of the round, 0-based.
        mechanism: `discrete_gaussian_sum`, `local_discrete_gaussian` or `no_noise`.
        releases: How many noisy sums this release contains (local steps; else 1 or 0).
        rho: zCDP cost of all of them; 0 where no noise was promised.
    """

    plan_sha256: str
    round: int
    mechanism: str
    releases: int
    rho: float


class Ledger(Protocol):
    """Whoever pays: `charge` returns only when the payment is durable."""

    def charge(self, charge: Charge) -> str:
        """Pay; only after this returns may the release leave the process.

        Returns:
            The id of the entry.

        Raises:
            BudgetExceededError: It costs more than is left. The ledger is unchanged.
        """
        ...


class SimulationLedger:
    """A throw-away ledger for one plan at one simulated site.

    Args:
        rho: The whole budget, in zCDP, finite and >= 0.

    Raises:
        ValueError: The budget is no such number; NaN would admit every charge.
    """

    def __init__(self, rho: float) -> None:
        _check_rho(rho)
        self._budget = rho
        self._entries: list[Charge] = []

    @property
    def entries(self) -> tuple[Charge, ...]:
        """What was paid, in order."""
        return tuple(self._entries)

    @property
    def left(self) -> float:
        """What can still be paid, in zCDP, >= 0."""
        return max(0.0, self._budget - self._spent)

    @property
    def _spent(self) -> float:
        return math.fsum(entry.rho for entry in self._entries)

    def charge(self, charge: Charge) -> str:
        """See `Ledger.charge`. A relative slack of 1e-9, once in all, absorbs float addition.

        Raises:
            ValueError: The cost is negative or not finite: it would pay out, or hide itself.
        """
        _check_rho(charge.rho)
        if self._spent + charge.rho > self._budget * (1 + 1e-9):
            raise BudgetExceededError(
                "budget_exceeded",
                f"the release costs {charge.rho:.4g}, {self.left:.4g} is left (zCDP)",
                hint="Ask for fewer rounds or more noise; a plan cannot raise its own budget.",
            )
        self._entries.append(charge)
        return f"sim-{len(self._entries)}"


def _check_rho(rho: float) -> None:
    if not (math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho must be finite and >= 0, got {rho}")
