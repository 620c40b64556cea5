"""Who decides at a site: asked about every plan and every round, before anything is computed.

A deployed node asks the hospital's policy and its people (`site_gate.py`); a simulated one knows
the plan that it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ..privacy.errors import PolicyError
from ..study.analysis import Vector
from ..study.cohort import Cohort
from ..study.plan import Plan

__all__ = ["NO_POLICY", "Gate", "PlanGate"]

NO_POLICY = "0" * 64  # what replies and logs name where no policy is in force


class Gate(Protocol):
    """Says no by raising; what it does not refuse may go on."""

    def proposed(self, plan_json: str, jurisdiction: str) -> Plan:
        """Read a plan that came in, and decide whether it may run here.

        Args:
            plan_json: As it came in.
            jurisdiction: The country that the coordinator declares; empty in a simulation.

        Raises:
            PolicyError: It may not, or cannot be read.
        """
        ...

    def asked(self, plan: Plan, round_: int | None, phase: str = "") -> None:
        """Decide whether a plan may still go on.

        Args:
            plan: Accepted before.
            round_: The sum that is asked for; None for a phase that carries no vector.
            phase: The phase's name.

        Raises:
            PolicyError: It may not.
        """
        ...

    def present(self, plan: Plan, cohort: Cohort) -> Cohort:
        """Return the cohort without those who said no since."""
        ...

    def exact(self, plan: Plan, cohort: Cohort) -> None:
        """Decide whether a sum without noise over these patients may be made at all.

        Raises:
            DisclosureError: It differs by few of them from one that left before.
        """
        ...

    def released(self, plan: Plan, round_: int, size: int) -> None:
        """Hear that a vector of so many bytes is about to leave."""
        ...

    def refused(self, plan_sha256: str, code: str) -> None:
        """Hear that a message was answered by a code."""
        ...

    def closed(self, plan_sha256: str, result: Mapping[str, Vector]) -> None:
        """Hear that a plan has ended, and what came of it: nothing where it failed.

        Also where this life of the node never heard of it.
        """
        ...


class PlanGate:
    """A simulation's: runs the plans it was told of, and keeps no log.

    Args:
        approves: Whether this site approved a plan.
    """

    def __init__(self, approves: Callable[[Plan], bool]) -> None:
        self._approves = approves

    def proposed(self, plan_json: str, jurisdiction: str) -> Plan:
        """See `Gate.proposed`.

        Raises:
            PolicyError: `plan_unreadable` or `plan_not_approved`.
        """
        plan = Plan.from_json(plan_json)
        if not self._approves(plan):
            raise PolicyError(
                "plan_not_approved",
                "the plan's hash is not among those this site approved",
                hint="Ask the site's data team to look at the plan and approve its hash.",
            )
        return plan

    def asked(self, plan: Plan, round_: int | None, phase: str = "") -> None:
        """See `Gate.asked`: a plan that was approved stays so."""

    def present(self, plan: Plan, cohort: Cohort) -> Cohort:
        """See `Gate.present`: nobody opts out of a simulation."""
        return cohort

    def exact(self, plan: Plan, cohort: Cohort) -> None:
        """See `Gate.exact`: the researcher holds every record anyway."""

    def released(self, plan: Plan, round_: int, size: int) -> None:
        """See `Gate.released`."""

    def refused(self, plan_sha256: str, code: str) -> None:
        """See `Gate.refused`."""

    def closed(self, plan_sha256: str, result: Mapping[str, Vector]) -> None:
        """See `Gate.closed`."""
