"""How accurate each arm is on the two shipped data sets, over paired splits, against set bars.

    python benchmarks/accuracy.py [--repeats 20] [--quick]

Prints every bar with what was measured, and writes docs/reference/accuracy.md and
benchmarks/results/accuracy.json. `--quick` (3 repeats) writes and judges nothing: it shows that
the machinery runs. The bars were set before this was measured; a missed one ends with exit
code 1 and stays in the table.

All differences are paired by repeat: the same seed gives every run the same splits. Their 95 %
interval is the corrected resampled t interval (Nadeau & Bengio 2003).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import benchmarks._common as bench
    import benchmarks._oracles as oracles
else:  # a script's own folder is on its path
    import _common as bench
    import _oracles as oracles

from fedcohort.experiments.intervals import corrected_interval
from fedcohort.experiments.results import ALL, MEAN_OF_SITES, Results

HEART = ("study=heart-disease", "privacy.epsilon=[1,3]")
BREAST = ("study=breast-recurrence", "privacy.epsilon=1")
COX = ("study=breast-recurrence", "model=cox", "arms=[local,pooled,federated,personalised]")
# Five simulated Rotterdam hospitals train, GBSG is never trained on. With data.site=centre a
# single site would be left, whose noise no other site could share.
EXTERNAL = ("study=breast-recurrence", "data.test_sites=[GBSG]", "privacy.epsilon=1")
SHOWN = {
    "risk": ("auroc", "auprc", "brier", "calibration_slope", "accuracy"),
    "survival": ("c_index", "ibs", "auc_1095d", "auc_1825d", "calibration_slope"),
}
REPEATS, QUICK, FEWEST = 20, 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: what was to be reached and what was.

    Attributes:
        what: In words; the sign of the numbers follows it.
        measured: The mean over repeats (or the largest deviation, or a count).
        low: Lower end of the 95 % corrected interval; None where there is none.
        high: Upper end.
        rule: `>=` or `<=`, how the mean must stand to the limit.
        limit: The bar.
    """

    what: str
    measured: float
    low: float | None = None
    high: float | None = None
    rule: str
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the mean reaches the bar."""
        return self.measured >= self.limit if self.rule == ">=" else self.measured <= self.limit


Key = tuple[str, float | None]  # arm, epsilon
Series = Mapping[int, float]  # value by repeat


def series(results: Results, key: Key, site: str, metric: str) -> Series:
    """Return a metric by repeat, where it could be scored."""
    wanted = (*key, site, metric)
    return {
        row.repeat: row.value
        for row in results.rows
        if (row.arm, row.epsilon, row.site, row.metric) == wanted and row.value is not None
    }


def difference(first: Series, second: Series) -> list[float]:
    """Return first minus second, repeat by repeat."""
    return [first[repeat] - second[repeat] for repeat in sorted(set(first) & set(second))]


def measured(results: Results, what: str, values: Sequence[float], rule: str, limit: float) -> Bar:
    """Return a bar on a mean with its corrected interval.

    Args:
        results: Whose patients and test fraction correct the interval.
        what: In words.
        values: One number a repeat.
        rule: `>=` or `<=`.
        limit: The bar.
    """
    tested = results.method.test_fraction
    patients = sum(site.patients for site in results.sites if site.role == "participant")
    sizes = round((1 - tested) * patients), round(tested * patients)
    interval = corrected_interval(values, *sizes)
    return Bar(
        what=what,
        measured=interval.mean,
        low=interval.low,
        high=interval.high,
        rule=rule,
        limit=limit,
    )


def heart_bars(results: Results) -> list[Bar]:
    """Return the bars on heart disease, core features, AUROC on all test patients."""

    def minus(first: Key, second: Key) -> list[float]:
        parts = (series(results, key, ALL, "auroc") for key in (first, second))
        return difference(*parts)

    pooled: Key = ("pooled", None)
    federated = minus(("federated", None), pooled)
    return [
        measured(results, "heart: federated - pooled, AUROC", federated, ">=", -0.003),
        measured(results, "heart: federated - pooled, AUROC (above)", federated, "<=", 0.003),
        *(
            measured(
                results,
                f"heart: dp_sum eps {epsilon:g} - pooled, AUROC",
                minus(("dp_sum", epsilon), pooled),
                ">=",
                -limit,
            )
            for epsilon, limit in ((3.0, 0.010), (1.0, 0.020))
        ),
        measured(
            results,
            "heart: dp_sum - dp_fedavg, both eps 1, AUROC",
            minus(("dp_sum", 1.0), ("dp_fedavg", 1.0)),
            ">=",
            0.005,
        ),
    ]


def breast_bars(hazard: Results, cox: Results, external: Results) -> list[Bar]:
    """Return the bars on breast cancer: private hazard against pooled Cox, and GBSG."""

    def minus(metric: str) -> list[float]:
        private = series(hazard, ("dp_sum", 1.0), ALL, metric)
        return difference(private, series(cox, ("pooled", None), ALL, metric))

    gbsg = next(site.site for site in external.sites if site.role == "external")
    outside = list(series(external, ("dp_sum", 1.0), gbsg, "c_index").values())
    return [
        measured(
            hazard,
            "breast: dp_sum eps 1 (hazard) - pooled Cox, C-index",
            minus("c_index"),
            ">=",
            -0.005,
        ),
        measured(
            hazard, "breast: dp_sum eps 1 (hazard) - pooled Cox, IBS", minus("ibs"), "<=", 0.005
        ),
        measured(
            external,
            "breast: dp_sum eps 1, trained on Rotterdam's hospitals, C-index on GBSG",
            outside,
            ">=",
            0.680,
        ),
    ]


def personal_bars(results: Results, name: str) -> list[Bar]:
    """Return the bars on personalised models: nobody loses, and the mean hospital gains."""
    verdicts = [v for v in results.verdicts if v.arm == "personalised" and v.epsilon is None]
    losing = sum(verdict.verdict == "loses" for verdict in verdicts)
    metric = results.primary_metric
    gain = difference(
        series(results, ("personalised", None), MEAN_OF_SITES, metric),
        series(results, ("local", None), MEAN_OF_SITES, metric),
    )
    return [
        Bar(
            what=f"{name}: hospitals of {len(verdicts)} that lose by personalising",
            measured=losing,
            rule="<=",
            limit=0,
        ),
        measured(
            results,
            f"{name}: personalised - local, {metric}, mean of hospitals",
            gain,
            ">=",
            0.005,
        ),
    ]


def exact_bars() -> list[Bar]:
    """Return the bars on exactness: federated fits against statsmodels on the pooled table."""
    return [
        Bar(what=f"{what}: largest deviation", measured=value, rule="<=", limit=1e-8)
        for what, value in (
            ("logistic, federated Newton against statsmodels Logit", oracles.logistic_deviation()),
            ("Cox by hospital, federated against statsmodels PHReg", oracles.cox_deviation()),
        )
    ]


def number(value: float, signed: bool = False) -> str:
    """Return a number as the tables show it."""
    if value == int(value) or abs(value) >= 1e-5:
        return f"{value:+.4f}" if signed else f"{value:.3f}"
    return f"{value:.1e}"


def bar_line(bar: Bar) -> list[str]:
    """Return a bar as cells: what, measured, interval, bar, reached."""
    count = bar.low is None and float(bar.limit).is_integer()
    signed = " - " in bar.what
    mean = f"{bar.measured:.0f}" if count else number(bar.measured, signed)
    interval = "-"
    if bar.low is not None and bar.high is not None:
        interval = f"[{number(bar.low, signed)}, {number(bar.high, signed)}]"
    return [bar.what, mean, interval, f"{bar.rule} {bar.limit:g}", "yes" if bar.reached else "NO"]


BAR_HEAD = ("what", "mean", "95 % interval", "bar", "reached")


def arm_table(results: Results, site: str) -> tuple[list[str], list[list[str]]]:
    """Return every arm's metrics at one place: mean and half the corrected interval."""
    metrics = [
        metric for metric in SHOWN[results.task] if any(s.metric == metric for s in results.summary)
    ]
    found = {(s.arm, s.epsilon, s.metric): s for s in results.summary if s.site == site}
    rows = []
    for arm, epsilon in dict.fromkeys((arm, epsilon) for arm, epsilon, _ in found):
        cells = [arm if epsilon is None else f"{arm}, eps {epsilon:g}"]
        for metric in metrics:
            entry = found.get((arm, epsilon, metric))
            if entry is None or entry.mean is None:
                cells.append("-")
            elif entry.ci_high is None:
                cells.append(f"{entry.mean:.3f}")
            else:
                cells.append(f"{entry.mean:.3f} ± {entry.ci_high - entry.mean:.3f}")
        rows.append(cells)
    return ["arm", *metrics], rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="paired splits")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repeats, nothing written")
    asked = parser.parse_args(arguments)
    repeats = QUICK if asked.quick else asked.repeats
    if repeats < FEWEST:
        parser.error(f"--repeats must be >= {FEWEST}: an interval needs two")
    runs = {
        name: bench.run_study([*overrides, f"repeats={repeats}"])
        for name, overrides in (
            ("heart", HEART),
            ("breast", BREAST),
            ("cox", COX),
            ("external", EXTERNAL),
        )
    }
    bars = [
        *heart_bars(runs["heart"]),
        *breast_bars(runs["breast"], runs["cox"], runs["external"]),
        *personal_bars(runs["heart"], "heart"),
        *personal_bars(runs["breast"], "breast"),
        *exact_bars(),
    ]
    bench.show(f"bars, {repeats} paired repeats", BAR_HEAD, [bar_line(bar) for bar in bars])
    if asked.quick:
        return 0
    write(runs, bars, repeats)
    return 0 if all(bar.reached for bar in bars) else 1
