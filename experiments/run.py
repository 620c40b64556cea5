"""One `fedcohort run`: load, plan, compare, and put everything into the run's folder."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Literal

import numpy as np
from rich.console import Console

from ..datasets import Extract
from ..privacy.secagg.suite import INTL
from ..study.cohort import Cohort
from ..study.plan import Plan
from .arms import Fit
from .compare import Comparison, compare
from .extracts import check_epsilon, load
from .full_fit import fit_all_patients, model_facts, save_fits
from .guarantee import guarantee_of
from .planning import Planner
from .pricing import plans_of, price, show_prices, show_trainings
from .progress import RunProgress
from .reporting.folder import RunFolder, default_folder
from .reporting.notes import NOT_COVERED, NOTES, PLAIN_SUMS, masked_note
from .reporting.plots import comparison_svg
from .reporting.report import render
from .reporting.results import (
    GIVEN_SPLIT,
    DataSource,
    Method,
    Note,
    PictureData,
    PrivacyFact,
    Results,
    SecAggInfo,
    SiteInfo,
    Warned,
)
from .reporting.tables import show
from .scores.evaluate import PRIMARY
from .settings import Settings

__all__ = ["run"]

_SOFTWARE = ("fedcohort", "flwr", "numpy", "opendp", "dp-accounting", "pandas", "scipy")
COMPARISON_FORMAT = "fedcohort.comparison/1"


def run(settings: Settings, *, command: str, console: Console) -> dict[str, Any]:
    """Run a study here or on deployed hospitals, or price it.

    Args:
        settings: What was asked for.
        command: The command line, for the results.
        console: Where people read.

    Returns:
        What scripts read on stdout: the files made, or the prices of a dry run.

    Raises:
        FedCohortError: A refusal; nothing was written.
    """
    now = dt.datetime.now(dt.UTC)
    if settings.deployed is not None:
        from .deployed.research import run_deployed  # what speaks to a coordinator takes a second

        return run_deployed(settings, command=command, console=console, now=now)
    extract = load(settings)
    sites = tuple(cohort.site for cohort in extract.cohorts)
    planner = Planner(
        settings=settings,
        schema=extract.schema,
        sites=sites,
        today=now.date(),
        masked=settings.secagg.mode == "masked" and settings.federates,
    )
    planner.model()
    if settings.privacy is not None:
        check_epsilon(extract)
    plans = plans_of(planner)
    if settings.dry_run:
        prices = price(plans)
        show_prices(prices, console)
        show_trainings(settings.repeats, console)
        trainings = {"given_split": settings.repeats, "all_patients": 1}
        return {"dry_run": True, "plans": prices, "trainings": trainings}
    out = settings.out or default_folder(settings.study, now)
    with RunFolder(out, overwrite=settings.overwrite) as folder:
        plan_json = _plan_document(planner, plans)
        plan_sha256 = hashlib.sha256(plan_json.encode()).hexdigest()
        with RunProgress(settings.repeats, console) as progress:
            comparison = compare(planner, extract, progress, folder=folder.partial)
            with progress.full_fit() as on_round:
                fits = fit_all_patients(planner, extract, on_round, folder=folder.partial)
        finished = dt.datetime.now(dt.UTC)
        results = _results(planner, extract, comparison, fits, plan_sha256, command, finished)
        folder.write("plan.json", plan_json)
        save_fits(folder.partial, fits, planner, extract, plan_sha256)
        svg = comparison_svg(results)
        folder.write("comparison.svg", svg)
        folder.write("report.html", render(results.document(), svg))
        folder.write_results(results)
    paths = {name: out / name for name in ("results.json", "comparison.svg", "report.html")}
    show(results, console=console, paths=[*paths.values()])
    return {"out": str(out), **{path.stem: str(path) for path in paths.values()}}


def _plan_document(planner: Planner, plans: Mapping[str, Plan]) -> str:
    """Return `plan.json`: what fixes a comparison, with every plan a hospital would approve."""
    settings = planner.settings
    document = {
        "format": COMPARISON_FORMAT,
        "study": settings.study,
        "arms": list(settings.arms),
        "seed": settings.seed,
        "repeats": settings.repeats,
        "test_fraction": settings.test_fraction,
        "models": "all_patients",
        "schema_sha256": planner.schema.sha256,
        "model": planner.model_parameters(),
        "personal_l2": settings.model.personal_l2,
        "l2": settings.model.l2,
        "test_sites": list(settings.options.test_sites),
        "plans": {name: json.loads(plan.to_json()) for name, plan in plans.items()},
    }
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _results(
    planner: Planner,
    extract: Extract,
    comparison: Comparison,
    fits: Sequence[Fit],
    plan_sha256: str,
    command: str,
    now: dt.datetime,
) -> Results:
    settings = planner.settings
    source = extract.source
    return Results(
        study=settings.study,
        task=extract.schema.task,
        primary_metric=PRIMARY[extract.schema.task],
        plan_sha256=plan_sha256,
        created=now.isoformat(timespec="seconds"),
        command=command,
        software={name: metadata.version(name) for name in _SOFTWARE},
        seed=settings.seed,
        repeats=settings.repeats,
        method=Method(test_fraction=settings.test_fraction),
        secagg=_secagg(planner, comparison, fits),
        data=DataSource(
            name=extract.schema.name,
            title=source.title,
            source=f"doi:{source.doi}" if source.doi else source.note,
            licence=source.licence,
            citation=source.citation,
        ),
        sites=(
            *(_site(cohort, "participant") for cohort in extract.cohorts),
            *(_site(cohort, "external") for cohort in extract.external),
        ),
        warnings=_warnings(settings, extract),
        verdicts=comparison.verdicts,
        privacy=tuple(_privacy(fit) for fit in comparison.fits if _is_private(fit)),
        models=model_facts(fits, extract),
        rows=comparison.rows,
        summary=comparison.summary,
        notes=_notes(planner),
        picture=PictureData(curves=comparison.curves),
    )


def _secagg(planner: Planner, comparison: Comparison, fits: Sequence[Fit]) -> SecAggInfo:
    dropped = {*comparison.dropped, *(site for fit in fits for site in fit.dropped)}
    liars = {*comparison.liars, *(site for fit in fits for site in fit.liars)}
    return SecAggInfo(
        mode="masked" if planner.masked else "plain",
        suite=INTL.name if planner.masked else None,
        repeats=_masked_repeats(planner),
        sites=len(planner.sites),
        threshold=planner.threshold,
        colluders=planner.colluders,
        min_survivors=planner.min_sites,
        dropped=tuple(sorted(dropped)),
        liars=tuple(sorted(liars)),
    )


def _notes(planner: Planner) -> tuple[Note, ...]:
    if not planner.settings.federates:
        return NOTES
    made = masked_note(_masked_repeats(planner)) if planner.masked else PLAIN_SUMS
    return (*NOTES, made)


def _masked_repeats(planner: Planner) -> Literal["first", "all", "none"]:
    """Return which repeats were really masked; of one repeat, the first is all."""
    settings = planner.settings
    if not planner.masked:
        return "none"
    return "all" if settings.secagg.repeats == "all" or settings.repeats == 1 else "first"


def _warnings(settings: Settings, extract: Extract) -> tuple[Warned, ...]:
    found = [
        Warned(code=w.code, column=w.column, site=w.site, text=w.text) for w in extract.warnings
    ]
    most = settings.max_patients_per_site
    found += [
        Warned(
            code="site_above_bound",
            site=cohort.site,
            text=f"{cohort.site} has more patients than secagg.max_patients_per_site={most}: sums "
            "without noise are over so many of them, the same ones each time",
        )
        for cohort in extract.cohorts
        if settings.federates and cohort.patients > most
    ]
    patients = sum(cohort.patients for cohort in extract.cohorts)
    if settings.privacy is not None and settings.privacy.delta * patients >= 1:
        found.append(
            Warned(
                code="delta_large",
                text="privacy.delta is not below 1 / patients: it would allow a mechanism that "
                "publishes one patient's record outright",
            )
        )
    return tuple(found)


def _site(cohort: Cohort, role: Any) -> SiteInfo:  # a Literal of SiteInfo
    return SiteInfo(
        site=cohort.site,
        patients=cohort.patients,
        rows=cohort.rows,
        events_or_positives=int(np.unique(cohort.patient[cohort.outcome_flag]).size),
        role=role,
    )


def _is_private(fit: Fit) -> bool:
    return fit.plan is not None and fit.plan.privacy is not None


def _privacy(fit: Fit) -> PrivacyFact:
    terms = None if fit.plan is None else fit.plan.privacy
    if terms is None:
        raise ValueError(f"{fit.arm} has no privacy terms")
    given = guarantee_of(terms)
    return PrivacyFact(
        arm=fit.arm,
        epsilon=fit.epsilon,
        epsilon_spent=fit.epsilon_spent,
        epsilon_scope=GIVEN_SPLIT,
        delta=terms.delta,
        bound=terms.bound,
        colluders=terms.colluders,
        noise_multiplier=terms.noise_multiplier,
        clip=terms.clip,
        rounds=fit.rounds,
        sharing=terms.sharing,
        masked=fit.plan is not None and fit.plan.secagg == "masked",
        min_survivors=terms.min_survivors,
        releases=terms.releases,
        sampling_probability=terms.sampling_probability,
        same_variance_epsilon=given.same_variance_epsilon,
        sites_per_person=given.sites_per_person,
        ledger_order=given.order,
        ledger_cost=given.cost,
        ledger_limit=given.limit,
        not_covered=NOT_COVERED,
    )
