"""The card of a trained model: what it is, what encodes a patient for it, where it came from."""

from __future__ import annotations

from typing import Any

from ..datasets import Codebook
from ..study.plan import PrivacyTerms
from .planning import Planner

__all__ = ["LIMITS", "card_of", "epsilon_covers"]

LIMITS = (
    "Not a medical device. Validate on local patients before any use; the training data may be "
    "decades old."
)


def card_of(planner: Planner, codebook: Codebook, **own: Any) -> dict[str, Any]:
    """Return a model's card.

    Args:
        planner: Of the study.
        codebook: What encodes a patient.
        **own: What is this model's alone; see `reporting.models.CARD_FIELDS`.
    """
    schema = planner.schema
    return {
        "features": list(schema.features),
        "outcome": schema.outcome,
        "task": schema.task,
        "schema_sha256": schema.sha256,
        "codebook_sha256": schema.codebook_sha256,
        "schema_document": {
            "name": schema.name,
            "bound": schema.bound,
            "public": schema.public,
            "horizon_days": schema.horizon_days,
        },
        "codebook": codebook.document,
        "model": planner.model_parameters(),
        "limits": LIMITS,
        **own,
    }


def epsilon_covers(terms: PrivacyTerms) -> str:
    """Return what the epsilon of a noisy model holds for, in words."""
    return (
        "This model, from the extract on: with or without the rows of any one patient of one "
        "hospital, the probability of any model changes by at most a factor e^epsilon, plus "
        f"delta = {terms.delta:g}. It covers no score, no verdict and no other model of the run."
    )
