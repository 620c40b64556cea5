"""The comparison: repeated paired splits, every arm on each, then summaries and verdicts.

All arms of a repeat see the same split, so that their differences are paired. Intervals are
corrected for the overlap of the splits; a verdict is about one hospital's own test patients.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..datasets import Extract, split
from .arms import Fit, train_arms
from .planning import Planner
from .reporting.results import ALL, GIVEN_SPLIT, Curve, Row, Summary, Verdict
from .scores.curves import CurveKeeper
from .scores.evaluate import PRIMARY, score
from .scores.intervals import mean_interval, verdict
from .simulation.ledgers import RunLedgers

__all__ = ["Comparison", "compare"]

Progress = Callable[[int, str, int], None]
_Key = tuple[str, str, float | None]  # arm, algorithm, epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything a run found.

    Attributes:
        fits: The first repeat's trained arms: what their plans cost. No model of a repeat is saved;
            see `full_fit`.
        rows: Every metric of every arm, place and repeat.
        summary: Means and intervals.
        verdicts: One per hospital and kind of model.
        curves: For the picture.
        dropped: Sites missing in at least one opened sum, of any repeat.
        liars: Sites that handed over wrong shares in at least one sum.
    """

    fits: tuple[Fit, ...]
    rows: tuple[Row, ...]
    summary: tuple[Summary, ...]
    verdicts: tuple[Verdict, ...]
    curves: tuple[Curve, ...]
    dropped: tuple[str, ...]
    liars: tuple[str, ...]


def compare(
    planner: Planner,
    extract: Extract,
    progress: Progress | None = None,
    *,
    folder: Path | None = None,
) -> Comparison:
    """Run the comparison.

    Args:
        planner: Settings, schema and sites.
        extract: The cohorts.
        progress: Called with (repeat, arm, rounds done).
        folder: Where the sites' throw-away ledgers go; in memory without one.

    Raises:
        FedCohortError: A refusal of any arm ends the run; nothing is left half done.
    """
    settings = planner.settings
    model = planner.model()
    delta = None if settings.privacy is None else settings.privacy.delta
    rows: list[Row] = []
    costs: dict[_Key, list[Fit]] = defaultdict(list)
    keeper = CurveKeeper()
    fits: list[Fit] = []
    tell = progress or (lambda repeat, arm, done: None)
    for repeat in range(settings.repeats):
        splits = split(
            extract.cohorts,
            repeat=repeat,
            seed=settings.seed,
            test_fraction=settings.test_fraction,
        )

        def on_round(arm: str, done: int, repeat: int = repeat) -> None:
            tell(repeat, arm, done)

        current = replace(planner, masked=planner.masked and settings.secagg.masks(repeat))
        ledgers = RunLedgers(folder=folder, repeat=repeat)
        trained = train_arms(current, [train for train, _ in splits], on_round, ledgers)
        fits = fits or trained
        for fit in trained:
            scored = score(fit, model, splits, extract.external, repeat=repeat, delta=delta)
            rows += scored.rows
            costs[fit.arm, fit.algorithm, fit.epsilon].append(fit)
            keeper.keep(fit, scored, repeat)
        tell(repeat, "", -1)
    sizes = _sizes(extract, settings.test_fraction)
    primary = PRIMARY[extract.schema.task]
    return Comparison(
        fits=tuple(fits),
        rows=tuple(rows),
        summary=_summaries(rows, costs, primary, sizes, delta),
        verdicts=_verdicts(rows, planner, primary, sizes),
        curves=keeper.curves(),
        dropped=tuple(sorted({s for kept in costs.values() for fit in kept for s in fit.dropped})),
        liars=tuple(sorted({s for kept in costs.values() for fit in kept for s in fit.liars})),
    )


def _sizes(extract: Extract, test_fraction: float) -> Mapping[str, tuple[int, int]]:
    """Training and test patients, by place: the correction needs their ratio only."""

    def parts(patients: int) -> tuple[int, int]:
        tested = max(1, round(test_fraction * patients))
        return max(1, patients - tested), tested

    sizes = {cohort.site: parts(cohort.patients) for cohort in extract.cohorts}
    everyone = sum(cohort.patients for cohort in extract.cohorts)
    sizes[ALL] = parts(everyone)
    # An external cohort is never split: only the training sets overlap, by the same share.
    return defaultdict(lambda: parts(everyone), sizes)


def _summaries(
    rows: Sequence[Row],
    costs: Mapping[_Key, Sequence[Fit]],
    primary: str,
    sizes: Mapping[str, tuple[int, int]],
    delta: float | None,
) -> tuple[Summary, ...]:
    values: dict[tuple[_Key, str, str], list[float | None]] = defaultdict(list)
    for row in rows:
        values[(row.arm, row.algorithm, row.epsilon), row.site, row.metric].append(row.value)
    return tuple(
        _summary(key, site, metric, found, costs[key], primary, sizes[site], delta)
        for (key, site, metric), found in values.items()
    )


def _summary(
    key: _Key,
    site: str,
    metric: str,
    values: Sequence[float | None],
    fits: Sequence[Fit],
    primary: str,
    sizes: tuple[int, int],
    delta: float | None,
) -> Summary:
    arm, algorithm, epsilon = key
    known = [value for value in values if value is not None]
    interval = mean_interval(values, *sizes)
    bound = next((fit.plan.privacy.bound for fit in fits if fit.plan and fit.plan.privacy), None)
    rounds = [fit.rounds for fit in fits if fit.rounds is not None]
    sent = [fit.bytes_up for fit in fits if fit.bytes_up is not None]
    return Summary(
        arm=arm,
        algorithm=algorithm,
        primary=metric == primary,
        site=site,
        metric=metric,
        epsilon=epsilon,
        epsilon_spent=fits[0].epsilon_spent,
        epsilon_scope=None if fits[0].epsilon_spent is None else GIVEN_SPLIT,
        bound=bound,
        delta=None if epsilon is None else delta,
        mean=float(np.mean(known)) if known else None,
        sd=None if interval is None else interval.sd,
        ci_low=None if interval is None else interval.low,
        ci_high=None if interval is None else interval.high,
        repeats=len(known),
        rounds=max(rounds) if rounds else None,
        bytes_up=sent[0] if sent else None,  # of the first repeat: later ones may go unmasked
        seconds=float(np.mean([fit.seconds for fit in fits])),
    )


def _verdicts(
    rows: Sequence[Row], planner: Planner, primary: str, sizes: Mapping[str, tuple[int, int]]
) -> tuple[Verdict, ...]:
    """Personalised if it was run, else federated, minus local, on each hospital's own patients."""
    arms = planner.settings.arms
    if "local" not in arms:
        return ()
    joined = next((arm for arm in ("personalised", "federated") if arm in arms), None)
    if joined is None:
        return ()
    scored = [row for row in rows if row.metric == primary and row.arm in ("local", joined)]
    chosen = {(row.arm, row.epsilon, row.site, row.repeat): row.value for row in scored}
    reasons = {row.site: row.reason for row in scored if row.value is None}
    epsilons = sorted(
        {epsilon for arm, epsilon, _, _ in chosen if arm == joined},
        key=lambda epsilon: math.inf if epsilon is None else epsilon,
        reverse=True,
    )
    found = []
    for epsilon in epsilons:
        for site in planner.sites:
            differences = [
                _difference(
                    chosen.get((joined, epsilon, site, repeat)),
                    chosen.get(("local", None, site, repeat)),
                )
                for repeat in range(planner.settings.repeats)
            ]
            one = _verdict(site, joined, epsilon, primary, differences, sizes[site])
            if one.repeats == 0:  # more repeats would not help
                one = replace(one, reason=reasons.get(site, one.reason))
            found.append(one)
    return tuple(found)


def _difference(joined: float | None, local: float | None) -> float | None:
    return None if joined is None or local is None else joined - local


def _verdict(
    site: str,
    arm: str,
    epsilon: float | None,
    metric: str,
    differences: Sequence[float | None],
    sizes: tuple[int, int],
) -> Verdict:
    known = [value for value in differences if value is not None]
    # Half of the repeats must be scorable: the others are no random choice of repeats.
    enough = max(3, math.ceil(len(differences) / 2))
    decision, interval = verdict(differences, *sizes, minimum_repeats=enough)
    return Verdict(
        site=site,
        arm=arm,
        epsilon=epsilon,
        metric=metric,
        verdict=decision,
        mean=float(np.mean(known)) if known else None,
        ci_low=None if interval is None else interval.low,
        ci_high=None if interval is None else interval.high,
        repeats=len(known),
        reason="few_repeats" if decision == "not measurable" else None,
    )
