"""What `accuracy.py` writes: the bars as lines, and the page with every arm and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks._common import markdown_table
    from benchmarks._private_gaps import Gaps
else:
    from _common import markdown_table

from fedcohort.experiments.reporting.results import ALL, MEAN_OF_SITES, Results, SiteInfo, Summary

__all__ = ["BAR_HEAD", "Bar", "bar_line", "document", "gap_lines", "text"]

BAR_HEAD = ("what", "mean", "95 % interval", "bar", "reached")
_SHOWN = {
    "risk": ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept", "accuracy"),
    "survival": ("c_index", "ibs", "auc_3y", "auc_5y"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: what was to be reached and what was.

    Attributes:
        what: In words; `a - b` is a difference paired by repeat.
        measured: The mean over repeats (or a largest deviation, or a count).
        low: Lower end of the 95 % corrected interval; None where there is none.
        high: Upper end.
        rule: `>=` or `<=`: how the mean must stand to the limit; `+-`: at most so far from 0.
        limit: The bar.
        aim: A goal that is reported; missing it fails nothing.
    """

    what: str
    measured: float
    low: float | None = None
    high: float | None = None
    rule: str
    limit: float
    aim: bool = False

    @property
    def reached(self) -> bool:
        """Whether the mean reaches the bar."""
        if self.rule == "+-":
            return abs(self.measured) <= self.limit
        return self.measured >= self.limit if self.rule == ">=" else self.measured <= self.limit


def bar_line(bar: Bar) -> list[str]:
    """Return a bar as cells: what, mean, interval, bar, reached."""
    interval = "-"
    if bar.low is not None and bar.high is not None:
        interval = f"[{_number(bar.low)}, {_number(bar.high)}]"
    reached = "yes" if bar.reached else "NO"
    rule = f"{'aim ' if bar.aim else ''}{bar.rule} {bar.limit:g}"
    return [bar.what, _number(bar.measured), interval, rule, reached]


def _number(value: float) -> str:
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) >= 1e-5 else f"{value:.0e}"


def document(
    made: Mapping[str, Any],
    bars: Sequence[Bar],
    runs: Mapping[str, Results],
    gaps: Sequence[Gaps],
) -> dict[str, Any]:
    """Return what the JSON holds: how it was made, the bars, every arm's primary metric, gaps."""
    return {
        **made,
        "bars": [{**asdict(bar), "reached": bar.reached} for bar in bars],
        "gaps": [[*line] for table in gaps for line in gap_lines(table)],
        "runs": {name: _run(results) for name, results in runs.items()},
    }


def _run(results: Results) -> dict[str, Any]:
    return {
        "command": results.command,
        "plan_sha256": results.plan_sha256,
        "seed": results.seed,
        "repeats": results.repeats,
        "primary": [
            [s.arm, s.epsilon, s.site, _rounded(s.mean), _rounded(s.ci_low), _rounded(s.ci_high)]
            for s in results.summary
            if s.primary
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def text(bars: Sequence[Bar], runs: Mapping[str, Results], gaps: Sequence[Gaps]) -> str:
    """Return the page."""
    missed = [bar.what for bar in bars if not (bar.reached or bar.aim)]
    verdict = "Every bar is reached." if not missed else f"Missed: {'; '.join(missed)}."
    parts = [
        "# Accuracy",
        f"Bars that were set before this was measured, over {runs['heart'].repeats} paired "
        "splits into 70 % training and 30 % test patients. A mean decides; its 95 % interval "
        "is the corrected resampled t interval (Nadeau & Bengio 2003), which is wide because "
        "the splits share patients: where it reaches beyond a bar, other splits might miss it. "
        f"DP arms are fresh draws of noise: another run moves their third decimal. {verdict}",
        markdown_table(BAR_HEAD, [bar_line(bar) for bar in bars]),
        "The exactness lines compare weights trained through the wire, the door and its "
        "integers, on all patients and without a ridge, with statsmodels on the pooled table.",
        "Private methods and their numbers were chosen on [development data](development.md), with "
        "the shipped tables looked at beside them: a small leak that these figures do not pay for. "
        "See [privacy](../explanation/privacy.md#where-the-presets-come-from).",
        "## What privacy costs, table by table",
        "One configuration per model family: `logistic` and `hazard` with their default method. "
        "Private minus pooled without noise, on all test patients: AUROC or C-index, and the mean "
        "negative log-likelihood of a patient (log-loss; for the hazard of all its intervals). "
        "Integer noise, one colluder, all sites in every sum, noise that fits a ledger of that "
        "epsilon. scikit-learn's table is development data, the drawn ones are drawn anew.",
        markdown_table(GAP_HEAD, [line for table in gaps for line in gap_lines(table)]),
        "## Heart disease, four hospitals",
        _study(runs["heart"]),
        "## Breast cancer, six hospitals (five of them simulated), hazard model",
        _study(runs["breast"]),
        "## Breast cancer, the same splits, Cox stratified by hospital",
        _study(runs["cox"]),
        "## Rotterdam to GBSG: external validation",
        "Rotterdam's five simulated hospitals train on 70 % of their patients; GBSG is scored "
        "whole and never trained on. With `data.site=centre` Rotterdam would be a single site, "
        "whose noise no other site can share, so that `dp_sum` is refused there.",
        "Noise helps nobody: the lines at epsilon 1000 have next to none. Where a private arm "
        "stands above `pooled` here, clipped gradients and few steps carry over to another "
        "country better than the exact fit does. The bar on GBSG lies above the exact fit: it was "
        "set on plain descent (`model.private.method=gradient`), which starts low and moves its "
        "baseline slowly, so that grades, of which Rotterdam has no lowest, take part of it over. "
        "That happens to fit GBSG; on rare events the same method is far below every bar, which is "
        "why it is not the default.",
        _table(runs["external"], next(s.site for s in runs["external"].sites if _outside(s))),
    ]
    return "\n\n".join(parts)


GAP_HEAD = ("table", "metric", "arm", "ranking", "log-loss", "repeats")


def gap_lines(table: Gaps) -> list[list[str]]:
    """Return a table's gaps as cells, one line per arm and epsilon."""
    name = f"{table.name} ({table.patients:,} patients, {table.rarity:.0%} with the outcome)"
    return [
        [
            name,
            table.metric,
            _arm(arm, epsilon),
            f"{np.mean(found):+.4f}",
            f"{np.mean(table.log_loss[arm, epsilon]):+.4f}",
            str(len(found)),
        ]
        for (arm, epsilon), found in table.ranking.items()
    ]


def _outside(site: SiteInfo) -> bool:
    return site.role == "external"


def _study(results: Results) -> str:
    parts = [
        f"`{results.command}`",
        "All test patients in one set:",
        _table(results, ALL),
        "Mean over hospitals, each scored on its own test patients:",
        _table(results, MEAN_OF_SITES),
        f"{results.primary_metric} by hospital:",
        _by_site(results),
        "Each hospital's verdict (personalised - local):",
        _verdicts(results),
    ]
    return "\n\n".join(parts)


def _arm(arm: str, epsilon: float | None) -> str:
    return arm if epsilon is None else f"{arm}, eps {epsilon:g}"


def _cell(entry: Summary | None) -> str:
    if entry is None or entry.mean is None:
        return "-"
    if entry.ci_high is None:
        return f"{entry.mean:.3f}"
    return f"{entry.mean:.3f} ± {entry.ci_high - entry.mean:.3f}"


def _table(results: Results, site: str) -> str:
    """Return every arm's metrics at one place: mean and half the corrected interval."""
    found = {(s.arm, s.epsilon, s.metric): s for s in results.summary if s.site == site}
    arms = dict.fromkeys((arm, epsilon) for arm, epsilon, _ in found)
    metrics = [metric for metric in _SHOWN[results.task] if any(metric == key[2] for key in found)]
    rows = [[_arm(*arm), *(_cell(found.get((*arm, metric))) for metric in metrics)] for arm in arms]
    return markdown_table(["arm", *metrics], rows)


def _by_site(results: Results) -> str:
    sites = [site.site for site in results.sites if not _outside(site)]
    found = {(s.arm, s.epsilon, s.site): s for s in results.summary if s.primary}
    arms = dict.fromkeys((arm, epsilon) for arm, epsilon, site in found if site in sites)
    rows = [[_arm(*arm), *(_cell(found.get((*arm, site))) for site in sites)] for arm in arms]
    return markdown_table(["arm", *sites], rows)


def _verdicts(results: Results) -> str:
    rows = [
        [
            verdict.site,
            _arm(verdict.arm, verdict.epsilon),
            "-" if verdict.mean is None else f"{verdict.mean:+.4f}",
            f"[{_end(verdict.ci_low)}, {_end(verdict.ci_high)}]",
            verdict.verdict,
        ]
        for verdict in results.verdicts
    ]
    return markdown_table(["hospital", "arm", "mean", "95 % interval", "verdict"], rows)


def _end(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
