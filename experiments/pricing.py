"""What a run would send and cost, before anything is computed: `dry_run=true`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..study.analysis import State
from ..study.plan import Plan, analysis_of
from ..study.rounds import encoding_for
from .guarantee import guarantee_of
from .planning import Planner
from .settings import DP_ARMS

__all__ = ["plans_of", "price", "show_prices", "show_trainings"]


def plans_of(planner: Planner) -> dict[str, Plan]:
    """Return every plan that passes the wire, by arm and requested epsilon.

    Raises:
        ConfigError: An arm cannot be planned.
        PolicyError: The model cannot be trained with privacy.
    """
    settings = planner.settings
    plans: dict[str, Plan] = {}
    if {"federated", "personalised"} & set(settings.arms):
        plans["federated"] = planner.federated()
    for arm in (arm for arm in settings.arms if arm in DP_ARMS):
        for epsilon in () if settings.privacy is None else settings.privacy.epsilons:
            plans[f"{arm}-eps{epsilon:g}"] = planner.private(arm, epsilon)
    for plan in plans.values():
        analysis_of(plan)  # refuses here what a site would refuse later
    return plans


def price(plans: dict[str, Plan]) -> list[dict[str, Any]]:
    """Return, per plan, the vectors that leave each site (bytes) and what they cost a patient.

    The messages of secure aggregation come on top: about 400 bytes a round and 36 a site.
    """
    return [_priced(name, plan) for name, plan in plans.items()]


def _priced(name: str, plan: Plan) -> dict[str, Any]:
    analysis = analysis_of(plan)
    rounds = _rounds(plan)
    # Sizes depend on the round's number only: nothing about a site is in them.
    sizes = [analysis.size(State(round=number, arrays={})) for number in range(rounds or 1)]
    if plan.holdout is not None and plan.holdout.histogram:
        sizes.append(analysis.size(State(round=plan.max_rounds - 1, arrays={})))
    sent = [size * encoding_for(plan, analysis, size).word_bits // 8 for size in sizes]
    terms = plan.privacy
    given = None if terms is None else guarantee_of(terms)
    return {
        "plan": name,
        "plan_sha256": plan.sha256,
        "analysis": plan.analysis,
        "sites": list(plan.sites),
        "rounds": None if rounds is None else len(sizes),
        "bytes_up_per_site": sum(sent) if rounds else None,
        "bytes_up_per_round": max(sent),
        "epsilon": None if terms is None else terms.epsilon,
        "epsilon_spent": None if given is None else given.epsilon,
        "delta": None if terms is None else terms.delta,
        "bound": None if terms is None else terms.bound,
        "same_variance_epsilon": None if given is None else given.same_variance_epsilon,
        "sites_per_person": None if given is None else list(given.sites_per_person),
        "noise_multiplier": None if terms is None else terms.noise_multiplier,
        "sampling_probability": None if terms is None else terms.sampling_probability,
        "releases": None if terms is None else terms.releases,
        "clip": None if terms is None else terms.clip,
        # Of a fresh ledger whose budget is the plan's epsilon: what a simulated hospital has.
        "ledger": None
        if given is None
        else {
            "order": given.order,
            "cost": given.cost,
            "limit": given.limit,
            "left": {site: max(0.0, given.limit - given.cost) for site in plan.sites},
        },
    }


def _rounds(plan: Plan) -> int | None:
    """Number of rounds where the plan fixes it; Newton ends when it has converged."""
    if plan.analysis == "newton":
        return None
    parameters = plan.parameters
    return 1 + int(parameters.get("steps", parameters.get("rounds", 0)))


def show_prices(prices: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the prices as a table."""
    table = Table(title="What would leave each site, and what it costs a patient")
    heads = ("plan", "rounds", "bytes up / site", "epsilon", "delta", "noise", "cost", "left")
    for head in heads:
        table.add_column(
            head, justify="left" if head == "plan" else "right", no_wrap=head == "plan"
        )
    for entry in prices:
        sent, ledger = entry["bytes_up_per_site"], entry["ledger"]
        table.add_row(
            entry["plan"],
            str(entry["rounds"] or "until converged"),
            f"{sent:,}" if sent else f"{entry['bytes_up_per_round']:,} a round",
            "-" if ledger is None else f"{entry['epsilon_spent']:.3f} ({entry['bound']})",
            "-" if ledger is None else f"{entry['delta']:g}",
            "-" if ledger is None else f"{entry['noise_multiplier']:.3f}",
            "-" if ledger is None else f"{ledger['cost']:.4f}",
            "-" if ledger is None else f"{max(ledger['left'].values()):.4f}",
        )
    console.print(table)
    if any(entry["ledger"] for entry in prices):
        console.print(
            "Cost and what is left: Renyi DP in each hospital's ledger, were its budget the plan's "
            "epsilon. `fedcohort ledger price PLAN LEDGER` asks a hospital's own."
        )
    console.print("Nothing was computed and nothing was sent.")


def show_trainings(repeats: int, console: Console) -> None:
    """Print how often a simulation runs each plan: each training is paid for by itself."""
    times = "once" if repeats == 1 else f"{repeats} times"
    console.print(
        f"A run trains each plan {times} for the comparison, where epsilon holds given the split, "
        "and once more on all patients, for the model that is saved, where it holds from the "
        "extract on. Each training costs this price, under ledgers of its own."
    )
