"""Whether the numbers of a statement follow from one another: what an edit would break.

Everything here is computed from the budget and from what each plan made; the ledger itself has
the last word, and who has it can check it (`docs/how-to/check-a-budget-report.md`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ...privacy.accounting import for_sites
from ...privacy.budget import Budget
from ...privacy.ledger.curves import NOTHING, best_epsilon, curve
from ...privacy.mechanism import Mechanism

__all__ = ["contradiction"]

Told = Mapping[str, Any]
_Checked = Iterator[tuple[str, float | None, float | None]]  # what, stated, computed


def contradiction(told: Told) -> str | None:
    """Return the first number of a statement that its others contradict; None if none does."""
    try:
        checked = [*_counts(told), *(_amounts(told) if told["budget"] else ())]
    except ValueError:  # a budget or a noise that cannot be
        return "budget"
    return next((what for what, stated, computed in checked if not _same(stated, computed)), None)


def _counts(told: Told) -> _Checked:
    exact = (plan["rounds_executed"] for plan in told["plans"] if plan["mechanism"] is None)
    yield "unnoised_releases", told["unnoised_releases"], sum(exact)
    yield "entries", told["chain"]["entries"], int(told["chain"]["head"].partition(":")[0])


def _amounts(told: Told) -> _Checked:
    stated = told["budget"]
    budget = Budget(epsilon=stated["epsilon"], delta=stated["delta"])
    yield "order", stated["order"], budget.order
    yield "limit", stated["limit"], budget.limit
    paid, held, together = [], [], NOTHING
    for plan in told["plans"]:
        if (mechanism := _mechanism(plan)) is not None:
            made, cost = plan["releases_executed"], mechanism.rdp(budget.order)
            together = together + curve(mechanism, made)
            paid.append(made * cost)
            held.append((plan["releases"] - made) * cost if plan["status"] == "open" else 0.0)
            yield "rdp", plan["rdp"], paid[-1]
            yield "rdp_planned", plan["rdp_planned"], plan["releases"] * cost
            alone = best_epsilon(curve(mechanism, made), budget.delta)
            yield "epsilon_alone", plan["epsilon_alone"], alone
        yield "epsilon_together", plan["epsilon_together"], best_epsilon(together, budget.delta)
    spent, reserved = math.fsum(paid), math.fsum(held)
    parts = {"spent": spent, "reserved": reserved, "left": budget.limit - spent - reserved}
    for name, rdp in parts.items():
        yield name, told[name]["rdp"], max(0.0, rdp)
        yield f"share of {name}", told[name]["share"], max(0.0, rdp) / budget.limit
    yield "epsilon of spent", told["spent"]["epsilon"], best_epsilon(together, budget.delta)
    yield from _several(told, budget)


def _several(told: Told, budget: Budget) -> _Checked:
    full = Mechanism(noise_multiplier=math.sqrt(budget.order / (2.0 * budget.limit)))
    for row in told["sites_per_person"]:
        sites, seen = row["sites"], NOTHING
        for plan in told["plans"]:
            if (mechanism := _mechanism(plan)) is not None:
                own = for_sites(mechanism, sites, plan["sharing"] or "sum")
                seen = seen + curve(own, plan["releases_executed"])
        used_up = best_epsilon(curve(for_sites(full, sites, "sum")), budget.delta)
        yield "epsilon_spent", row["epsilon_spent"], best_epsilon(seen, budget.delta)
        yield "epsilon_budget", row["epsilon_budget"], budget.epsilon if sites == 1 else used_up


def _mechanism(plan: Told) -> Mechanism | None:
    noise = plan["mechanism"]
    if noise is None:
        return None
    return Mechanism(
        noise_multiplier=noise["noise_multiplier"],
        sampling_probability=noise["sampling_probability"],
    )


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
