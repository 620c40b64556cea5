"""What differential privacy costs, table by table: paired gaps to the pooled fit without noise.

Every arm runs as a plan through Flower, the door and its integer noise, masks on in the first
repeat, as `fedcohort run` does it. The tables: the two shipped studies, scikit-learn's breast
cancer over five sites, and drawn ones of 20,000 rows, with common and with rare outcomes. Drawn
tables have other seeds than the development data that the presets were chosen on; scikit-learn's
is among those.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from hydra import compose, initialize_config_module

if TYPE_CHECKING:
    import benchmarks._common as bench
    from benchmarks._development_data import breast_cancer, drawn_risk, drawn_survival
    from benchmarks._quality import quality
else:
    import _common as bench
    from _development_data import breast_cancer, drawn_risk, drawn_survival
    from _quality import quality

from fedcohort.conf.schema import register
from fedcohort.datasets import LoadOptions, load_catalogue, split
from fedcohort.experiments.arms import train_arms
from fedcohort.experiments.planning import Planner
from fedcohort.experiments.settings import Settings
from fedcohort.study.cohort import Cohort, concatenate

__all__ = ["EPSILONS", "GAPS", "RARE", "Gaps", "Split", "gaps_of"]

EPSILONS = (1.0, 3.0)
RARE = 0.15  # share of patients with the outcome, and below
ARMS = ("dp_sum", "dp_fedavg")
SHARES = (0.35, 0.25, 0.2, 0.12, 0.08)  # of a table's patients, by site


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A table over its sites, and how it is asked for.

    Attributes:
        name: For people.
        make: Makes one cohort a site.
        overrides: Of `fedcohort run`: model and delta.
        heavy: Fewer repeats do: the table is large, and a repeat's gap steady.
    """

    name: str
    make: Callable[[], Sequence[Cohort]]
    overrides: tuple[str, ...]
    heavy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What was measured on one table.

    Attributes:
        name: The table.
        metric: `AUROC` or `C-index`.
        patients: In the table.
        rarity: Share with the outcome.
        ranking: By (arm, epsilon): private minus pooled, AUROC or C-index, per repeat.
        log_loss: The same of the mean negative log-likelihood of a patient.
    """

    name: str
    metric: str
    patients: int
    rarity: float
    ranking: Mapping[tuple[str, float], Sequence[float]]
    log_loss: Mapping[tuple[str, float], Sequence[float]]


def over_sites(whole: Cohort) -> list[Cohort]:
    """Deal a table out to five sites of unequal size."""
    order = np.random.default_rng(17).permutation(whole.rows)
    cuts = (np.cumsum(SHARES)[:-1] * whole.rows).astype(int)
    return [
        replace(whole.take(np.sort(rows)), site=f"site{number}")
        for number, rows in enumerate(np.split(order, cuts), start=1)
    ]


_OWN = ("data=table", "data.path=drawn.csv", "data.site=s", "data.patient=p")
_RISK = (*_OWN, "data.outcome=y", "model=logistic", "privacy.delta=1e-5")
_SURVIVAL = (*_OWN, "data.time=t", "data.event=y", "model=hazard", "privacy.delta=1e-5")

GAPS = (
    Split(
        name="heart-disease",
        make=lambda: load_catalogue("heart-disease", LoadOptions()).cohorts,
        overrides=("study=heart-disease",),
    ),
    Split(
        name="breast-recurrence",
        make=lambda: load_catalogue("breast-recurrence", LoadOptions()).cohorts,
        overrides=("study=breast-recurrence",),
    ),
    Split(
        name="scikit-learn breast cancer",
        make=lambda: over_sites(breast_cancer().cohort),
        overrides=(*_RISK[:-1], "privacy.delta=1e-4"),
    ),
    Split(
        name="drawn, 20,000 rows",
        make=lambda: over_sites(drawn_risk("drawn", 20_000, 0.3, 20, 105).cohort),
        overrides=_RISK,
        heavy=True,
    ),
    Split(
        name="drawn, 20,000 rows, 8 %",
        make=lambda: over_sites(drawn_risk("rare", 20_000, 0.08, 20, 106).cohort),
        overrides=_RISK,
        heavy=True,
    ),
    Split(
        name="drawn survival, 20,000 rows, 8 %",
        make=lambda: over_sites(drawn_survival("rare", 20_000, 0.08, 15, 107).cohort),
        overrides=_SURVIVAL,
        heavy=True,
    ),
)


def gaps_of(table: Split, repeats: int) -> Gaps:
    """Measure every arm of one table on paired splits."""
    started, cohorts = time.monotonic(), list(table.make())
    planner = planner_for(table, cohorts)
    model, settings = planner.model(), planner.settings
    ranking, log_loss = defaultdict(list), defaultdict(list)
    for repeat in range(repeats):
        parts = split(cohorts, repeat=repeat, seed=0, test_fraction=settings.test_fraction)
        test = concatenate([tested for _, tested in parts], site="all")
        current = replace(planner, masked=settings.secagg.masks(repeat))
        found = {
            (fit.arm, fit.epsilon): quality(model, fit.parameters[None], test)
            for fit in train_arms(current, [train for train, _ in parts])
        }
        exact = found.pop(("pooled", None))
        for (arm, epsilon), said in found.items():
            ranking[arm, epsilon or 0.0].append(said[0] - exact[0])
            log_loss[arm, epsilon or 0.0].append(exact[1] - said[1])
    seconds = time.monotonic() - started
    bench.console.print(f"{table.name}, {repeats} repeats  ({seconds:.0f} s)", style="dim")
    flags = np.concatenate([cohort.outcome_flag for cohort in cohorts])
    return Gaps(
        name=table.name,
        metric="AUROC" if model.task == "risk" else "C-index",
        patients=sum(cohort.patients for cohort in cohorts),
        rarity=float(flags.mean()),
        ranking=ranking,
        log_loss=log_loss,
    )


def planner_for(table: Split, cohorts: Sequence[Cohort]) -> Planner:
    """Return what `fedcohort run` would plan for these cohorts."""
    asked = [*table.overrides, "privacy.epsilon=[1,3]", f"arms=[pooled,{','.join(ARMS)}]"]
    register()
    with initialize_config_module(config_module="fedcohort.conf", version_base="1.3"):
        settings = Settings.of(compose(config_name="config", overrides=asked))
    return Planner(
        settings=settings,
        schema=cohorts[0].schema,
        sites=tuple(cohort.site for cohort in cohorts),
        today=dt.datetime.now(dt.UTC).date(),
        masked=True,
    )
