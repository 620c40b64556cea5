"""Held-out patients of a deployed study: what plans say of them, and what a result says.

The two functions here are the one place where a study meets the plan's holdout.
"""

from __future__ import annotations

from typing import Any

from ...fl_server.coordinator import Outcome
from ...study.plan import Plan
from ..planning import Planner

__all__ = ["figures_of", "holding_out"]


def holding_out(planner: Planner, *, noised: bool) -> Planner:
    """Return a planner whose plans hold patients out.

    Args:
        planner: Of the study; its settings say how many are held out, and `runtime.histograms`.
        noised: Whether the plan adds noise to its sums.
    """
    # HOLDOUT: plans have no field for it in this release; nobody is held out.
    return planner


def figures_of(plan: Plan, outcome: Outcome) -> dict[str, Any] | None:
    """Return the histogram of held-out patients' scores and its figures; None where none was made.

    Returns:
        `table`, float [rows][bins]; and the figures by their names.
    """
    # HOLDOUT: see above.
    return None
