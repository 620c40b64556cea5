"""Held-out patients of a deployed study: what plans say of them, and what a result says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from ...fl_server.coordinator import Outcome
from ...study.evaluated import HISTOGRAM
from ...study.holdout import Holdout
from ...study.plan import Plan
from ..planning import Planner
from ..scores.histograms import histogram_figures, noise_of

__all__ = ["figures_of", "holding_out"]

_BINS = 10  # equal bins of the score; with noise, more bins are more noise in every figure
_DOMAIN = b"fedcohort holdout/1\x00"


def holding_out(planner: Planner, *, noised: bool) -> Planner:
    """Return a planner whose plans hold patients out.

    Every plan of a study holds out the same patients, so that arms can be compared: the key is
    made of what the study is, and `seed` draws another split. It is public, see `Holdout`.

    Args:
        planner: Of the study; its settings say how many are held out, and `runtime.histograms`.
        noised: Whether the plan adds noise to its sums. Without, a histogram is a table of
            patients, which small hospitals' rules refuse: `auto` asks for none.
    """
    settings = planner.settings
    asked = "never" if settings.deployed is None else settings.deployed.histograms
    named = {
        "study": settings.study,
        "schema": planner.schema.sha256,
        "seed": settings.seed,
    }
    text = json.dumps(named, sort_keys=True, ensure_ascii=False)
    holdout = Holdout(
        key=hashlib.sha256(_DOMAIN + text.encode()).hexdigest(),
        test_fraction=settings.test_fraction,
        histogram=asked == "always" or (asked == "auto" and noised),
        bins=_BINS,
    )
    return replace(planner, holdout=holdout)


def figures_of(plan: Plan, outcome: Outcome) -> dict[str, Any] | None:
    """Return the histogram of held-out patients' scores and its figures; None where none was made.

    Returns:
        `table`, float [rows][bins]; and the figures by their names, see `HistogramFigures`.
    """
    table = outcome.result.arrays.get(HISTOGRAM)
    if table is None:
        return None
    noise = noise_of(plan, len(plan.sites) - len(outcome.dropped))
    return {"table": table.tolist(), **histogram_figures(table, noise=noise).to_json()}
