"""The book: the ledger's state and its rules, as pure functions of what was written.

Spent and set aside are kept apart: a reservation holds a plan's whole price from before its
first computation, a charge turns a part of it into something spent, closing gives the rest
back. Refusing is a function of the book and the request alone, never of a patient: it is the
same on neighbouring data.

Source of the rule: see `privacy.budget`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import BudgetExceededError, PolicyError
from ..mechanism import Mechanism
from .charges import Charge, Opening, Reservation, Unmasking

__all__ = ["Account", "Book", "MemoryLedger"]


@dataclass(slots=True, kw_only=True)
class Account:
    """One plan in the book.

    Attributes:
        reservation: What it may spend.
        charges: What was paid, in order.
        unmasked: Rounds whose sums the site helped to open, in order.
        closed: Whether it has ended.
    """

    reservation: Reservation
    charges: list[Charge] = field(default_factory=list)
    unmasked: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def executed(self) -> int:
        """Noisy sums that were paid."""
        return sum(charge.releases for charge in self.charges)

    @property
    def unused(self) -> bool:
        """Whether it ended before anything was paid: such a plan may begin again."""
        return self.closed and not self.charges

    @property
    def held(self) -> int:
        """Noisy sums that count against the budget: all until the plan is closed."""
        return self.executed if self.closed else self.reservation.releases


class Book:
    """The state of one ledger.

    Args:
        opening: What it is fixed to.
    """

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self._accounts: dict[str, Account] = {}
        self._prices: dict[Mechanism, float] = {}  # sampled ones take a while

    @property
    def accounts(self) -> Mapping[str, Account]:
        """Every plan, in the order of its reservation."""
        return MappingProxyType(self._accounts)

    @property
    def limit(self) -> float:
        """What costs may add up to, in Renyi DP at the ledger's order."""
        return 0.0 if self.opening.budget is None else self.opening.budget.limit

    @property
    def spent(self) -> float:
        """What was paid."""
        return self._total(lambda account: account.executed)

    @property
    def reserved(self) -> float:
        """What is set aside on top for plans that have not ended."""
        return max(0.0, self._total(lambda account: account.held) - self.spent)

    @property
    def left(self) -> float:
        """What a new plan can still cost, >= 0."""
        return max(0.0, self.limit - self._total(lambda account: account.held))

    @property
    def unnoised(self) -> int:
        """Vectors that left without noise."""
        return sum(
            len(account.charges)
            for account in self._accounts.values()
            if account.reservation.mechanism is None
        )

    def cost(self, mechanism: Mechanism | None, releases: int) -> float:
        """Return what so many releases cost at the ledger's order; infinite without a budget."""
        if mechanism is None or releases == 0:
            return 0.0
        if self.opening.budget is None:
            return math.inf
        try:
            if mechanism not in self._prices:
                self._prices[mechanism] = mechanism.rdp(self.opening.budget.order)
            cost = releases * self._prices[mechanism]
        except ArithmeticError:  # more releases or less noise than a float can count
            return math.inf
        return cost if cost >= 0 else math.inf  # a price that is no number is never paid

    def reserve(self, reservation: Reservation) -> bool:
        """Set a plan aside; return whether anything changed.

        Raises:
            PolicyError: See `Ledger.reserve`.
        """
        known = self._accounts.get(reservation.plan_sha256)
        if known is not None and not known.unused:
            _check_same(known, reservation)
            return False
        if reservation.mechanism is None and not self.opening.unnoised:
            raise PolicyError(
                "unnoised_refused",
                "this ledger was opened for noisy releases only, and the plan adds no noise",
                hint="Ask for a plan with epsilon and delta.",
            )
        if self.opening.kind == "site" and reservation.sharing == "sum" and not reservation.masked:
            raise PolicyError(
                "noise_needs_masks",
                "the plan shares its noise out over the hospitals and does not mask their sums: "
                "the coordinator would see one share only",
                hint="Ask for secagg=masked, or for noise that each hospital adds in full.",
            )
        cost = self.cost(reservation.mechanism, reservation.releases)
        budget = self.opening.budget
        held = self._total(lambda account: account.held)
        noisy = reservation.mechanism is not None
        if noisy and (budget is None or not budget.holds(held + cost)):
            raise BudgetExceededError(
                "budget_exceeded",
                f"the plan costs {cost:.4g}, {self.left:.4g} is left (Renyi DP at order "
                f"{'-' if budget is None else budget.order})",
                hint="Ask for fewer rounds or more noise; a plan cannot raise the budget.",
            )
        self._accounts.pop(reservation.plan_sha256, None)
        self._accounts[reservation.plan_sha256] = Account(reservation=reservation)
        return True

    def charge(self, charge: Charge) -> None:
        """Pay for one release out of its plan's reservation.

        Raises:
            PolicyError: See `Ledger.charge`.
        """
        account = self._open(charge.plan_sha256)
        reservation = account.reservation
        last = account.charges[-1].round if account.charges else -1
        if charge.round <= last:
            raise PolicyError(
                "round_already_paid",
                f"round {charge.round} of this plan, or a later one, was paid before",
                hint="A sum is made once: a site that lost its answer waits for the next round.",
            )
        if charge.mechanism != reservation.mechanism:
            raise PolicyError(
                "mechanism_differs",
                "the release adds other noise than its plan has reserved",
                hint="Ask for a plan that states the noise of its analysis.",
            )
        if (
            charge.round >= reservation.rounds
            or account.executed + charge.releases > reservation.releases
        ):
            raise BudgetExceededError(
                "reservation_exceeded",
                f"the release is more than the plan has reserved: {reservation.rounds} rounds, "
                f"{reservation.releases} noisy sums",
                hint="Ask for a plan that states all of its releases.",
            )
        account.charges.append(charge)

    def unmask(self, unmasking: Unmasking) -> None:
        """Note that the site helps to open a round's sum; once, and never of an earlier round.

        Raises:
            PolicyError: See `Ledger.check_unspent`.
        """
        self.check_unspent(unmasking)
        self._accounts[unmasking.plan_sha256].unmasked.append(unmasking.round)

    def check_unspent(self, unmasking: Unmasking) -> None:
        """Refuse where a round's vector may be in an opened sum, or was never paid.

        A later charge counts too: rounds go forward, so an earlier one is opened or given up.

        Raises:
            PolicyError: See `Ledger.check_unspent`.
        """
        account = self._open(unmasking.plan_sha256)
        paid = [charge.round for charge in account.charges]
        if unmasking.round not in paid:
            raise PolicyError(
                "round_not_paid",
                f"round {unmasking.round} of this plan was never paid here",
                hint="Nothing leaves that this ledger does not know: was a file put back?",
            )
        if unmasking.round in account.unmasked or unmasking.round != paid[-1]:
            raise PolicyError(
                "sum_spent",
                f"this site helped to open the sum of round {unmasking.round} before, or paid for "
                "a later round since",
                hint="One vector is in one opened sum. Was a file of this site put back from a "
                "backup? Ask for a new plan.",
            )

    def close(self, plan_sha256: str) -> bool:
        """End a plan; return whether anything changed."""
        account = self._accounts.get(plan_sha256)
        if account is None or account.closed:
            return False
        account.closed = True
        return True

    def _open(self, plan_sha256: str) -> Account:
        account = self._accounts.get(plan_sha256)
        if account is None:
            raise PolicyError(
                "not_reserved",
                "the release belongs to no plan that was reserved here",
                hint="Propose the plan first.",
            )
        if account.closed:
            raise _closed()
        return account

    def _total(self, releases: Callable[[Account], int]) -> float:
        return math.fsum(
            self.cost(account.reservation.mechanism, releases(account))
            for account in self._accounts.values()
        )


class MemoryLedger:
    """A ledger that dies with its process: for sums without noise in simulations, and for tests.

    Args:
        opening: What it is fixed to; of kind `simulation`.
    """

    def __init__(self, opening: Opening) -> None:
        if opening.kind != "simulation":
            raise ValueError("a site's ledger is kept in a file")
        self.book = Book(opening)

    def reserve(self, reservation: Reservation) -> str:
        """See `Ledger.reserve`."""
        self.book.reserve(reservation)
        return f"memory-{len(self.book.accounts)}"

    def charge(self, charge: Charge) -> str:
        """See `Ledger.charge`."""
        self.book.charge(charge)
        return f"memory-{charge.plan_sha256[:8]}-{charge.round}"

    def unmask(self, unmasking: Unmasking) -> str:
        """See `Ledger.unmask`."""
        self.book.unmask(unmasking)
        return f"memory-{unmasking.plan_sha256[:8]}-{unmasking.round}-unmask"

    def check_unspent(self, unmasking: Unmasking) -> None:
        """See `Ledger.check_unspent`."""
        self.book.check_unspent(unmasking)

    def close(self, plan_sha256: str) -> None:
        """See `Ledger.close`."""
        self.book.close(plan_sha256)


def _check_same(known: Account, reservation: Reservation) -> None:
    if known.closed:
        raise _closed()
    if known.reservation != reservation:
        raise PolicyError(
            "plan_differs",
            "a plan of this hash was reserved with other terms",
            hint="Both sides must run the same release.",
        )


def _closed() -> PolicyError:
    return PolicyError(
        "plan_closed",
        "the plan has ended here; what it did not spend was given back",
        hint="A plan runs once: ask for a new one.",
    )
