"""How good a model is on a test cohort: ranking, and the likelihood that it gives a patient."""

from __future__ import annotations

import numpy as np

from fedcohort.experiments.scores.metrics import auroc
from fedcohort.experiments.scores.survival_metrics import concordance
from fedcohort.study.analysis import Vector
from fedcohort.study.cohort import Cohort
from fedcohort.study.model import Model
from fedcohort.study.models.hazard import Hazard, person_periods

__all__ = ["Loss", "quality"]

Loss = tuple[float, float]  # of AUROC or C-index, and of log-likelihood per patient
_SMALLEST = 1e-12  # probability, in a logarithm


def quality(model: Model, theta: Vector, test: Cohort) -> Loss:
    """Return AUROC or C-index, and the mean log-likelihood of a patient."""
    said = model.predict(theta, test)
    if test.label is not None:
        risk = np.clip(said.risk, _SMALLEST, 1 - _SMALLEST)
        likely = np.where(test.label > 0, np.log(risk), np.log1p(-risk))
        return auroc(test.label, said.risk), float(likely.mean())
    if not isinstance(model, Hazard) or said.survival is None or test.time is None:
        raise TypeError("survival tables are for the hazard")
    before = np.column_stack([np.ones(test.rows), said.survival[:, :-1]])
    hazards = np.clip(1 - said.survival / np.maximum(before, _SMALLEST), _SMALLEST, 1 - 1e-9)
    at_risk, event = person_periods(test, model.edges)
    likely = (event * np.log(hazards) + (at_risk - event) * np.log1p(-hazards)).sum(axis=1)
    end = model.horizon_days
    seen = event.any(axis=1)
    return concordance(np.minimum(test.time, end), seen, said.risk), float(likely.mean())
