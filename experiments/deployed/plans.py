"""From settings to the plans of deployed hospitals, and what people see of them first."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from ...datasets import Codebook
from ..extracts import public_schema
from ..planning import Planner
from ..pricing import plans_of
from ..settings import DP_ARMS
from .arm_run import ArmRun
from .federation import Federation
from .held_out import holding_out

__all__ = ["Planned", "plan_study", "show_plans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A study before anything is submitted.

    Attributes:
        federation: Who runs it.
        planner: Made the plans; its schema is the hospitals'.
        codebook: What encodes a patient.
        arms: One plan for each arm and epsilon.
    """

    federation: Federation
    planner: Planner
    codebook: Codebook
    arms: tuple[ArmRun, ...]


def plan_study(federation: Federation, today: dt.date) -> Planned:
    """Make every plan; no record is read.

    The same settings give the same plans on the same day: a plan expires a year after `today`.

    Raises:
        ConfigError: An arm cannot be planned for these hospitals.
        DataError: The codebook and the named columns do not fit.
        PolicyError: The model cannot be trained with privacy.
    """
    settings = federation.settings
    schema, codebook = public_schema(settings)
    planner = Planner(
        settings=settings,
        schema=schema,
        sites=federation.sites,
        today=today,
        masked=settings.secagg.mode == "masked",
    )
    planner.model()
    arms = []
    for noised in (False, True):
        wanted = tuple(arm for arm in settings.arms if (arm in DP_ARMS) == noised)
        part = replace(planner, settings=replace(settings, arms=wanted))
        for name, made in plans_of(holding_out(part, noised=noised)).items():
            plan = replace(made, roster=federation.roster_sha256)
            federation.check(plan)
            arms.append(ArmRun(name=name, plan=plan))
    return Planned(federation=federation, planner=planner, codebook=codebook, arms=tuple(arms))


def show_plans(planned: Planned, console: Console) -> None:
    """Print what hospitals will be asked, and the hash of each plan, whole."""
    table = Table(title="What the hospitals will be asked")
    for head in ("arm", "epsilon", "plan", "sums", "noisy", "noise", "fewest sites"):
        table.add_column(head, justify="left" if head in ("arm", "plan") else "right", no_wrap=True)
    for arm in planned.arms:
        terms = arm.plan.privacy
        table.add_row(
            arm.arm,
            "-" if terms is None else f"{terms.epsilon:g}",
            arm.plan.sha256[:12],
            f"up to {arm.plan.max_rounds}",
            "-" if terms is None else str(terms.releases),
            "-" if terms is None else f"{terms.noise_multiplier:.3f}",
            f"{arm.plan.fewest_sites} of {len(arm.plan.sites)}",
        )
    console.print(table)
    for arm in planned.arms:
        console.print(f"{arm.name}  {arm.plan.sha256}", soft_wrap=True, markup=False)
    console.print(
        f"Hospitals: {', '.join(planned.federation.sites)}. Plans expire on "
        f"{planned.arms[0].plan.expires}; planned on another day they have other hashes.",
        markup=False,
    )
