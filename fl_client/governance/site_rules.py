"""The disclosure rules of one plan at one site: the policy's numbers, the plan's shape.

Used only where a plan adds no noise; with noise no rule may look at the cohort.
"""

from __future__ import annotations

import numpy as np

from ...privacy.disclosure import Classes, SiteRules
from ...privacy.errors import PolicyError
from ...study.cohort import Cohort
from ...study.plan import Plan, analysis_of
from .policy import Policy

__all__ = ["classes_of", "site_rules"]

_MOST_VALUES = 3  # of a feature that divides patients: yes, no, and what stands in for missing
_LOOK = 1000  # rows that tell a feature of many values


def site_rules(policy: Policy, plan: Plan) -> SiteRules:
    """Return the rules for a plan's sums: for the door's `disclosure`.

    A model's parameters count; of an analysis without a model every number that leaves does.

    Raises:
        PolicyError: `clip_without_noise`.
    """
    analysis = analysis_of(plan)
    if plan.privacy is None and getattr(analysis, "clip", None) is not None:
        raise PolicyError(  # it weighs the cells that `min_cell_count` is held against
            "clip_without_noise",
            "the plan clips patients and adds no noise",
            hint="Ask for noise, or leave the clip norm out.",
        )
    model = getattr(analysis, "model", None)
    parameters = analysis.size(analysis.initial()) if model is None else int(model.size)
    return SiteRules(minimums=policy.disclosure, parameters=parameters)


def classes_of(cohort: Cohort) -> Classes:
    """Count the patients on each side of what divides them: the outcome, features of few values.

    Counted on the cohort of the sum itself, opt-outs and surplus patients taken off.
    """
    with_outcome = int(np.unique(cohort.patient[cohort.outcome_flag]).size)
    features = []
    for column in cohort.features.T:
        if np.unique(column[:_LOOK]).size > _MOST_VALUES:
            continue
        values = np.unique(column)
        if values.size <= _MOST_VALUES:
            features.append(
                tuple(int(np.unique(cohort.patient[column == value]).size) for value in values)
            )
    return Classes(outcome=(with_outcome, cohort.patients - with_outcome), features=tuple(features))
