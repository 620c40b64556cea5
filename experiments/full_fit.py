"""The fit on all patients: every model that a run saves, and the card beside it.

A stratified split depends on everybody: when one patient leaves the file, others change sides
between training and test. An epsilon of a model fitted on one part of a split therefore holds
*given the split*, and not from the file on. So what a run saves is fitted once more, after the
comparison, on all patients of the participating hospitals and without a split: through the
same plans, the same door and throw-away ledgers of its own. Test hospitals never train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..datasets import Extract
from .arms import Fit, OnRound, train_arms
from .cards import LIMITS, card_of, epsilon_covers
from .guarantee import guarantee_of
from .planning import Planner
from .reporting.folder import file_slug
from .reporting.models import save_model
from .reporting.results import FROM_THE_EXTRACT_ON, ModelFact
from .simulation.ledgers import RunLedgers

__all__ = ["fit_all_patients", "model_facts", "save_fits"]

_AT_HOME = " Fitted on one hospital's records without noise: it must stay there."
_SCORES = (
    "The scores in results.json are from repeated splits of the same procedure; this model itself "
    "was fitted on every patient and was not scored."
)


def fit_all_patients(
    planner: Planner,
    extract: Extract,
    on_round: OnRound | None = None,
    *,
    folder: Path | None = None,
) -> tuple[Fit, ...]:
    """Train every arm once on all patients of the participating hospitals.

    Args:
        planner: Settings, schema and sites. Sums are masked wherever it says so, whichever
            repeats of the comparison are.
        extract: Its `cohorts` train; its `external` ones do not.
        on_round: Called with (arm, rounds done), for progress.
        folder: Where the sites' throw-away ledgers go; in memory without one.

    Returns:
        One fit per arm and, for noisy arms and what is personalised from them, per epsilon.

    Guarantee:
        The epsilon of a noisy arm holds for the extract with and without any one patient's
        rows: no step between the extract's cohorts and the sums depends on other patients.

    Raises:
        FedCohortError: A refusal of any arm.
    """
    ledgers = RunLedgers(folder=folder, repeat=None)
    return tuple(train_arms(planner, extract.cohorts, on_round, ledgers))


def save_fits(
    folder: Path, fits: Sequence[Fit], planner: Planner, extract: Extract, plan_sha256: str
) -> None:
    """Save the models of `fit_all_patients`, one file for all sites or one per site, with cards."""
    for fit in fits:
        for site, theta in fit.parameters.items():
            card = _card(fit, site, planner, extract, plan_sha256)
            save_model(folder, _name(fit, site), {"theta": theta}, card)


def _name(fit: Fit, site: str | None) -> str:
    parts = [fit.arm]
    parts += [] if fit.epsilon is None else [f"eps{fit.epsilon:g}"]
    parts += [] if site is None else [file_slug(site)]
    return "-".join(parts)


def _card(
    fit: Fit, site: str | None, planner: Planner, extract: Extract, plan_sha256: str
) -> dict[str, Any]:
    personal = fit.arm == "personalised"
    terms = None if fit.plan is None else fit.plan.privacy
    # A hospital's own model is fitted there alone, whatever it starts from.
    sites = (site,) if fit.arm == "local" and site is not None else planner.sites
    trained_on = f"all patients of {', '.join(sites)} (simulation), without a split"
    if personal:
        trained_on += f"; then fitted at {site} on all of its own patients"
    return card_of(
        planner,
        extract.codebook,
        arm=fit.arm,
        algorithm=fit.algorithm,
        site=site,
        epsilon=None if personal else fit.epsilon,
        epsilon_spent=fit.epsilon_spent,
        epsilon_scope=None if terms is None else FROM_THE_EXTRACT_ON,
        epsilon_covers=None if terms is None else epsilon_covers(terms),
        delta=None if terms is None else terms.delta,
        starts_from_epsilon=fit.epsilon if personal else None,
        plan_sha256=plan_sha256,
        trained_on=trained_on,
        sites=len(sites),
        scores=_SCORES,
        intended_use="Research: comparing federated with local and pooled training.",
        limits=LIMITS + (_AT_HOME if site is not None else ""),
    )


def model_facts(fits: Sequence[Fit], extract: Extract) -> tuple[ModelFact, ...]:
    """Return what `results.json` says of the saved models: one entry per arm and epsilon."""
    patients = len({int(one) for cohort in extract.cohorts for one in cohort.patient})
    return tuple(_fact(fit, len(extract.cohorts), patients) for fit in fits)


def _fact(fit: Fit, sites: int, patients: int) -> ModelFact:
    terms = None if fit.plan is None else fit.plan.privacy
    given = None if terms is None else guarantee_of(terms)
    return ModelFact(
        arm=fit.arm,
        algorithm=fit.algorithm,
        epsilon=fit.epsilon,
        epsilon_spent=fit.epsilon_spent,
        epsilon_scope=None if terms is None else FROM_THE_EXTRACT_ON,
        delta=None if terms is None else terms.delta,
        bound=None if terms is None else terms.bound,
        files=tuple(f"models/{_name(fit, site)}.safetensors" for site in fit.parameters),
        sites=sites,
        patients=patients,
        stays_home=not fit.is_global,
        masked=None if fit.plan is None else fit.plan.secagg == "masked",
        rounds=fit.rounds,
        releases=None if terms is None else terms.releases,
        bytes_up=fit.bytes_up,
        seconds=fit.seconds,
        ledger_order=None if given is None else given.order,
        ledger_cost=None if given is None else given.cost,
        ledger_limit=None if given is None else given.limit,
    )
