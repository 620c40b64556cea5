"""The statement: what a ledger's chain says, in numbers that any reader can compute again.

It is made of the chain alone. The guarantee is the budget: it holds at any time, however
requests were chosen. What is spent is a gauge, stated beside it: the Renyi DP that the ledger
has added up at its order, and the epsilons that this and single plans would have for who could
fix all parameters beforehand. So is the epsilon of continuous noise of the same variance, which
is smaller: true of some lists (`is_gaussian_proved`), and never what the ledger counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..accounting import BOUND, for_sites
from ..mechanism import Mechanism
from .book import Account, Book
from .chain import Chain, Entry
from .charges import Reservation
from .curves import NOTHING, best_epsilon, curve

__all__ = ["STATEMENT_FORMAT", "statement"]

STATEMENT_FORMAT = "fedcohort.budget/1"
_CRUMB = 1e-9
_SITES = (1, 2, 3)  # hospitals a person may be a patient of, for which epsilon is stated


def statement(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return what a ledger says, JSON values only.

    Args:
        entries: The whole chain.

    Raises:
        PolicyError: `ledger_broken`.
    """
    kept = list(entries)
    chain = Chain.of(kept)
    book, opening = chain.book, chain.book.opening
    asked = [account.reservation for account in book.accounts.values()]
    return {
        "format": STATEMENT_FORMAT,
        "hospital": opening.hospital,
        "population": opening.population,
        "kind": opening.kind,
        "unit": "patient",
        "relation": "add_or_remove_one",
        "adversary": _adversary([plan for plan in asked if plan.mechanism is not None]),
        "bound": BOUND,
        "guarantee_valid_adaptively": True,
        "budget": opening.to_json()["budget"],
        **_amounts(book),
        "same_variance": _same_variance(book),
        "sites_per_person": _sites_per_person(book),
        "plans": _plans(book, kept),
        "refused": [_refusal(book, entry) for entry in chain.refused],
        "unnoised_allowed": opening.unnoised,
        "unnoised_releases": book.unnoised,
        "chain": {
            "entries": chain.head.number,
            "head": str(chain.head),
            "first": kept[0].time,
            "last": kept[-1].time,
        },
    }


def _adversary(noisy: list[Reservation]) -> dict[str, Any]:
    """Return against whom the noise of these plans stands, the weakest of them counting.

    Shares of a noise protect from the coordinator where sums were masked; elsewhere, which a
    hospital's own ledger refuses, only from who sees no more than the total.
    """
    shared = [plan for plan in noisy if plan.sharing == "sum"]
    return {
        "coordinator": all(plan.masked for plan in shared),
        "colluders": min((plan.colluders for plan in shared), default=None),
        "all_other_hospitals": bool(noisy) and not shared,
        "staff_of_the_hospital": False,
    }


def _amounts(book: Book) -> dict[str, dict[str, float | None]]:
    """Return what is spent, set aside and left: the sum at the ledger's order adds up.

    An epsilon beside it is that of this part alone, and such epsilons do not add up: of what
    was released, of what is set aside, and of noise in sums that would cost all that is left.
    """
    budget = book.opening.budget
    if budget is None:
        nothing = {"rdp": 0.0, "share": None, "epsilon": None}
        return {"spent": nothing, "reserved": dict(nothing), "left": dict(nothing)}
    spent, held = NOTHING, NOTHING
    for account in book.accounts.values():
        if (mechanism := account.reservation.mechanism) is not None:
            spent = spent + curve(mechanism, account.executed)
            held = held + curve(mechanism, account.held - account.executed)
    # A crumb that floats leave over would need more noise than there is: it is nothing.
    left = curve(_full(budget.order, book.left)) if book.left > _CRUMB else NOTHING
    parts = {"spent": (book.spent, spent), "reserved": (book.reserved, held)}
    return {
        name: {
            "rdp": rdp,
            "share": rdp / budget.limit,
            "epsilon": best_epsilon(total, budget.delta),
        }
        for name, (rdp, total) in {**parts, "left": (book.left, left)}.items()
    }


def _full(order: int, rdp: float) -> Mechanism:
    """Return the one noisy sum that costs so much at an order."""
    return Mechanism(noise_multiplier=math.sqrt(order / (2.0 * rdp)))


def _plans(book: Book, entries: list[Entry]) -> list[dict[str, Any]]:
    """Return one row a plan: what it is, what it may do, what it did, what that cost."""
    times: dict[str, list[str]] = {}
    for entry in entries:
        if entry.kind == "reserve":  # again, where a plan ended before anything was paid
            times[str(entry.body["plan_sha256"])] = [entry.time]
        elif entry.kind == "charge":
            times[str(entry.body["plan_sha256"])].append(entry.time)
    rows = []
    budget, together = book.opening.budget, NOTHING
    for plan_sha256, account in book.accounts.items():
        asked, mechanism = account.reservation, account.reservation.mechanism
        own = NOTHING if mechanism is None else curve(mechanism, account.executed)
        together = together + own
        noisy = mechanism is not None and budget is not None
        rows.append(
            {
                **asked.to_json(),
                "status": _status(account),
                "rounds_executed": len(account.charges),
                "releases_executed": account.executed,
                "reserved_at": times[plan_sha256][0],
                "last_release_at": times[plan_sha256][-1] if account.charges else None,
                "rdp": book.cost(mechanism, account.executed) if noisy else None,
                "rdp_planned": book.cost(mechanism, asked.releases) if noisy else None,
                "epsilon_alone": None
                if mechanism is None or budget is None
                else best_epsilon(own, budget.delta),
                "epsilon_together": None
                if budget is None
                else best_epsilon(together, budget.delta),
            }
        )
    return rows


def _status(account: Account) -> str:
    if not account.closed:
        return "open"
    return "finished" if account.charges else "ended_before_a_release"


def _sites_per_person(book: Book) -> list[dict[str, float | int | None]]:
    """Return epsilon for a patient of 1, 2 and 3 hospitals, as spent now and used up.

    Used up: by noise in sums, which is the worst of the sharings for who is in several.
    """
    budget = book.opening.budget
    if budget is None:
        return []
    full = _full(budget.order, budget.limit)
    rows: list[dict[str, float | int | None]] = []
    for sites in _SITES:
        spent = NOTHING
        for account in book.accounts.values():
            asked = account.reservation
            if asked.mechanism is not None:
                seen = for_sites(asked.mechanism, sites, asked.sharing or "sum")
                spent = spent + curve(seen, account.executed)
        used_up = best_epsilon(curve(for_sites(full, sites, "sum")), budget.delta)
        rows.append(
            {
                "sites": sites,
                "epsilon_spent": best_epsilon(spent, budget.delta),
                "epsilon_budget": budget.epsilon if sites == 1 else used_up,
            }
        )
    return rows


def _same_variance(book: Book) -> dict[str, Any] | None:
    """Return the epsilon of continuous noise of the same variance: a gauge, never the guarantee."""
    budget = book.opening.budget
    executed: Counter[Mechanism] = Counter()
    for account in book.accounts.values():
        if account.reservation.mechanism is not None and account.executed:
            executed[account.reservation.mechanism] += account.executed
    if budget is None or not executed:
        return None
    from dp_accounting import ComposedDpEvent  # here: it takes most of a second

    from ..pld import price

    events = [mechanism.same_variance(releases) for mechanism, releases in executed.items()]
    epsilon = price(ComposedDpEvent(events), budget.delta).epsilon
    return {"epsilon": epsilon, "bound": "pld", "is_the_bound": False}


def _refusal(book: Book, entry: Entry) -> dict[str, Any]:
    """Return what was refused, and what it would have cost where that has a price."""
    request = entry.body["request"]
    account = book.accounts.get(request["plan_sha256"])
    return {
        "time": entry.time,
        "asked": entry.body["asked"],
        "code": entry.body["code"],
        "plan_sha256": request["plan_sha256"],
        "study": request.get("study") if account is None else account.reservation.study,
        "rdp_asked": _asked(book, entry.body["asked"], request),
    }


def _asked(book: Book, kind: str, request: Mapping[str, Any]) -> float | None:
    if kind != "reserve":
        return None
    reservation = Reservation.from_json(request)
    if reservation.mechanism is None or book.opening.budget is None:
        return None
    cost = book.cost(reservation.mechanism, reservation.releases)
    return cost if math.isfinite(cost) else None
