"""One plan of a deployed study, from its first print to its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...fl_server.coordinator import Outcome
from ...fl_server.run_folder import RunState
from ...privacy.errors import ConfigError, FedCohortError, PolicyError, ProtocolError
from ...study.plan import Plan
from ..guarantee import guarantee_of
from ..reporting.results import FROM_THE_EXTRACT_ON

__all__ = ["ArmRun"]

_NOT_YET = RunState(phase="planned")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRun:
    """One plan and how far it is.

    Attributes:
        name: `federated`, `dp_sum-eps3`, ...: of its files.
        plan: What hospitals approve.
        run: The coordinator's number; None before it was submitted.
        state: Where it stands.
        outcome: What came of it.
        figures: Of held-out patients; None where none were asked for.
        coefficients: By feature, for models that have one for each.
        model: The model's file, below the run's folder.
    """

    name: str
    plan: Plan
    run: int | None = None
    state: RunState = _NOT_YET
    outcome: Outcome | None = None
    figures: Mapping[str, Any] | None = None
    coefficients: Mapping[str, float] | None = None
    model: str | None = None

    @property
    def arm(self) -> str:
        """The arm alone."""
        return self.name.partition("-eps")[0]

    @property
    def epsilon(self) -> float | None:
        """What was asked for; None without noise."""
        return None if self.plan.privacy is None else self.plan.privacy.epsilon

    @property
    def file(self) -> str:
        """The plan's file."""
        return f"plan-{self.name}.json"

    @property
    def refusal(self) -> FedCohortError | None:
        """Why it failed, as the kind of error that it is; None where it did not."""
        state = self.state
        if state.phase != "failed":
            return None
        kind = {PolicyError.exit_code: PolicyError, ProtocolError.exit_code: ProtocolError}.get(
            state.exit_code, ConfigError
        )
        return kind(state.code, f"{self.name}: {state.text}", hint=state.hint)

    def to_json(self) -> dict[str, Any]:
        """Return the arm's part of `deployed.json`."""
        state, outcome = self.state, self.outcome
        failed = state.phase == "failed"
        return {
            "name": self.name,
            "arm": self.arm,
            "epsilon": self.epsilon,
            "plan_sha256": self.plan.sha256,
            "file": self.file,
            "analysis": self.plan.analysis,
            "secagg": self.plan.secagg,
            "min_sites": self.plan.fewest_sites,
            "max_rounds": self.plan.max_rounds,
            "run": self.run,
            "phase": state.phase,
            "waiting_for": list(state.waiting_for),
            "rounds": state.rounds if outcome is None else outcome.rounds,
            "seconds": None if outcome is None else outcome.seconds,
            "bytes_up": None if outcome is None else outcome.bytes_up,
            "dropped": [] if outcome is None else list(outcome.dropped),
            "liars": [] if outcome is None else list(outcome.liars),
            "privacy": _privacy(self.plan),
            "figures": self.figures,
            "coefficients": self.coefficients,
            "model": self.model,
            "failure": {
                "code": state.code,
                "text": state.text,
                "hint": state.hint,
                "exit_code": state.exit_code,
            }
            if failed
            else None,
        }


def _privacy(plan: Plan) -> dict[str, Any] | None:
    terms = plan.privacy
    if terms is None:
        return None
    given = guarantee_of(terms)
    return {
        **dataclasses.asdict(terms),
        "epsilon_spent": given.epsilon,
        "epsilon_scope": FROM_THE_EXTRACT_ON,
        "same_variance_epsilon": given.same_variance_epsilon,
        "sites_per_person": list(given.sites_per_person),
        "ledger_order": given.order,
        "ledger_cost": given.cost,
    }
