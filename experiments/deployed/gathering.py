"""What came of a plan: its coefficients, its model with a card, and the table on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...fl_server.coordinator import Outcome
from ...study.analysis import Vector
from ...study.linear import Linear
from ...study.plan import Plan
from ..cards import card_of, epsilon_covers
from ..guarantee import guarantee_of
from ..reporting.models import save_model
from ..reporting.results import FROM_THE_EXTRACT_ON
from .arm_run import ArmRun
from .held_out import figures_of
from .plans import Planned

__all__ = ["coefficients_of", "gather", "show_arms"]


def gather(planned: Planned, arm: ArmRun, outcome: Outcome, folder: Path) -> ArmRun:
    """Save an arm's model and return the arm with what came of it."""
    planner, plan = planned.planner, arm.plan
    theta = outcome.result.arrays["theta"]
    terms = plan.privacy
    card = card_of(
        planner,
        planned.codebook,
        arm=arm.arm,
        algorithm=plan.analysis,
        site=None,
        epsilon=arm.epsilon,
        epsilon_spent=None if terms is None else guarantee_of(terms).epsilon,
        epsilon_scope=None if terms is None else FROM_THE_EXTRACT_ON,
        epsilon_covers=None if terms is None else epsilon_covers(terms),
        delta=None if terms is None else terms.delta,
        starts_from_epsilon=None,
        plan_sha256=plan.sha256,
        trained_on=_trained_on(plan),
        sites=len(plan.sites),
        intended_use="Research: what hospitals learn together without showing a record.",
    )
    saved = save_model(folder, arm.name, {"theta": theta}, card)
    return replace(
        arm,
        outcome=outcome,
        figures=figures_of(plan, outcome),
        coefficients=coefficients_of(planned, theta),
        model=f"{saved.parent.name}/{saved.name}",
    )


def _trained_on(plan: Plan) -> str:
    who = "all patients" if plan.holdout is None else "patients that the plan does not hold out"
    return f"{who}, of {', '.join(plan.sites)}, by plan {plan.sha256[:12]} (deployed)"


def coefficients_of(planned: Planned, theta: Vector) -> dict[str, float] | None:
    """Return each feature's coefficient; None for models that have none of their own."""
    model = planned.planner.model()
    if not isinstance(model, Linear):
        return None
    # A risk ends with its intercept, a hazard begins with its baseline.
    weights = theta[: model.features] if model.task == "risk" else theta[-model.features :]
    names = planned.planner.schema.features
    return {name: float(weight) for name, weight in zip(names, weights, strict=True)}


def show_arms(arms: Sequence[ArmRun], console: Console) -> None:
    """Print how each arm ended."""
    table = Table(title="What the hospitals answered")
    heads = ["arm", "epsilon spent", "sums", "seconds", "bytes up", "dropped", "ended"]
    judged = any(arm.figures for arm in arms)
    heads[2:2] = ["AUROC / C-index, held out"] if judged else []
    for head in heads:
        table.add_column(
            head,
            justify="left" if head in ("arm", "ended") else "right",
            min_width=11 if head == "arm" else None,  # dp_sum-eps3
        )
    for arm in arms:
        outcome, terms = arm.outcome, arm.plan.privacy
        cells = [
            arm.name,
            "-" if terms is None else f"{guarantee_of(terms).epsilon:.3f} ({terms.bound})",
            *([_judged(arm)] if judged else []),
            "-" if outcome is None else str(outcome.rounds),
            "-" if outcome is None else f"{outcome.seconds:.1f}",
            "-" if outcome is None else f"{outcome.bytes_up:,}",
            "-" if outcome is None else ", ".join(outcome.dropped) or "nobody",
            arm.state.phase + (f" ({arm.state.code})" if arm.state.code else ""),
        ]
        table.add_row(*map(Text, cells))
    console.print(table)


def _judged(arm: ArmRun) -> str:
    found = (arm.figures or {}).get("discrimination") or {}
    if found.get("value") is None:
        return str(found.get("reason") or "-")
    return f"{found['value']:.3f} ± {found['standard_error']:.3f}"
