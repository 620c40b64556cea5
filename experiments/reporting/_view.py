"""What tables, pictures and reports all ask of the results: order, labels, numbers as text."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ._wording import Words, arm_name, metric_name
from .results import ALL, ARMS, MEAN_OF_SITES, Results, Summary, Verdict

__all__ = [
    "Line",
    "View",
    "bytes_text",
    "cost_text",
    "epsilon_text",
    "gain_text",
    "headline",
    "printable",
    "score_text",
    "seconds_text",
    "with_epsilon",
]

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_VERDICT_ORDER = ("personalised", "federated")  # what a hospital would be offered, first


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One arm at one requested epsilon, with the primary metric at every place."""

    arm: str
    algorithm: str
    epsilon: float | None
    name: Words
    places: Mapping[str, Summary]

    @property
    def any(self) -> Summary:
        """A summary to read costs from, which are the same at every place."""
        return self.places.get(ALL) or next(iter(self.places.values()))

    @property
    def private(self) -> bool:
        """Whether all it learnt from patients carries noise.

        A model personalised from a noisy one has an epsilon, but is fitted at home without.
        """
        return self.epsilon is not None and self.arm.startswith("dp_")

    @property
    def label(self) -> Words:
        """Name with the requested epsilon, where there is one."""
        return with_epsilon(self.name, self.epsilon)


class View:
    """The results as people read them."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.sites = [site.site for site in results.sites]
        self.metric = metric_name(results.primary_metric)
        self.lines = self._lines(s for s in results.summary if s.primary)

    def _lines(self, summaries: Iterable[Summary]) -> list[Line]:
        found: dict[tuple[str, str, float | None], dict[str, Summary]] = {}
        for summary in sorted(summaries, key=_order):
            key = (summary.arm, summary.algorithm, summary.epsilon)
            found.setdefault(key, {})[summary.site] = summary
        algorithms = Counter((arm, epsilon) for arm, _, epsilon in found)
        return [
            Line(
                arm=arm,
                algorithm=algorithm,
                epsilon=epsilon,
                name=self._name(arm, algorithm if algorithms[arm, epsilon] > 1 else ""),
                places=places,
            )
            for (arm, algorithm, epsilon), places in found.items()
        ]

    @staticmethod
    def _name(arm: str, algorithm: str) -> Words:
        name = arm_name(arm)
        return Words(*(f"{word} ({algorithm})" for word in name)) if algorithm else name

    @property
    def metrics(self) -> list[str]:
        """All metrics, the primary one first."""
        names = dict.fromkeys(s.metric for s in self.results.summary)
        return sorted(names, key=lambda name: name != self.results.primary_metric)

    def lines_of(self, metric: str) -> list[Line]:
        """The lines of another metric."""
        return self._lines(s for s in self.results.summary if s.metric == metric)

    @property
    def epsilons(self) -> list[float]:
        """Requested epsilons of the private arms, ascending."""
        return sorted({line.epsilon or 0.0 for line in self.lines if line.private})

    def verdict_groups(self) -> dict[tuple[str, float | None, str], list[Verdict]]:
        """Verdicts by (arm, epsilon, metric); the one that answers the question comes first."""
        groups: dict[tuple[str, float | None, str], dict[str, Verdict]] = {}
        for verdict in self.results.verdicts:
            key = (verdict.arm, verdict.epsilon, verdict.metric)
            groups.setdefault(key, {})[verdict.site] = verdict

        def order(key: tuple[str, float | None, str]) -> tuple[object, ...]:
            arm, epsilon, metric = key
            known = _VERDICT_ORDER.index(arm) if arm in _VERDICT_ORDER else len(_VERDICT_ORDER)
            other = metric != self.results.primary_metric
            return (other, epsilon is not None, known, arm, epsilon or 0.0, metric)

        places = {site: number for number, site in enumerate(self.sites)}
        return {
            key: sorted(groups[key].values(), key=lambda v: places.get(v.site, len(places)))
            for key in sorted(groups, key=order)
        }


def headline(view: View) -> tuple[Words, Words | None]:
    """Return the answer in one sentence, and what the strongest privacy tried cost."""
    return _gain_sentence(view), _cost_sentence(view)


def _gain_sentence(view: View) -> Words:
    groups = view.verdict_groups()
    if not groups:
        return Words("No hospital could be compared with itself.", "没有可供比较的医院。")
    (arm, epsilon, _), verdicts = next(iter(groups.items()))
    how = _how(arm, epsilon)
    count = Counter(verdict.verdict for verdict in verdicts)
    total, gains, loses = len(verdicts), count["gains"], count["loses"]
    blank = count["not measurable"]
    hospitals = "hospital" if total == 1 else "hospitals"
    if blank == total:
        return Words("No hospital's difference could be measured.", "没有一家医院的差异可以测量。")
    lost = f"{loses} lost" if loses else "none lost"
    en = f"Federating{how.en} helped {gains} of {total} {hospitals}; {lost}."
    if not gains:
        en = f"No hospital clearly gained by federating{how.en}; {lost}."
    zh = f"{gains} 家医院受益" if gains else "没有医院明显受益"
    zh = f"联邦学习{how.zh}：{total} 家医院中，{zh}，"
    zh += f"{loses} 家受损。" if loses else "没有医院受损。"
    if blank:
        en += f" {blank} could not be measured."
        zh += f"{blank} 家无法测量。"
    return Words(en, zh)


def _how(arm: str, epsilon: float | None) -> Words:
    """Return which kind of federating a verdict is about, in brackets; '' for the plain one."""
    parts = [] if arm == "federated" else [arm_name(arm)]
    if epsilon is not None:
        parts.append(Words(*(f"ε = {epsilon_text(epsilon)}",) * 2))
    en, zh = (", ".join(part[language] for part in parts) for language in (0, 1))
    return Words(f" ({en.lower()})", f"（{zh}）") if parts else Words("", "")


def _cost_sentence(view: View) -> Words | None:
    """Compare the first private arm at the strictest epsilon with the federated one.

    The arm is the first of `ARMS`, not the best of this run: the best is picked by its test
    scores. The score is the mean of hospitals, as in the tiles beside it.
    """
    plain = next((line for line in view.lines if line.arm == "federated"), None)
    for line in view.lines:
        if not line.private or line.epsilon != min(view.epsilons) or plain is None:
            continue
        scored, base = line.places.get(MEAN_OF_SITES), plain.places.get(MEAN_OF_SITES)
        if scored is None or base is None or scored.mean is None or base.mean is None:
            continue
        change = gain_text(scored.mean - base.mean)
        asked = epsilon_text(line.epsilon)
        return Words(
            f"At ε = {asked} for each patient, {line.name.en} changed {view.metric.en} by {change} "
            "against the federated model without noise (mean of hospitals).",
            f"每名患者 ε = {asked} 时，{line.name.zh}与不加噪声的联邦模型相比，"
            f"{view.metric.zh}的变化为 {change}（各医院均值）。",
        )
    return None


def _order(summary: Summary) -> tuple[object, ...]:
    arm = ARMS.index(summary.arm) if summary.arm in ARMS else len(ARMS)
    return (arm, summary.arm, summary.algorithm, summary.epsilon or 0.0)


def with_epsilon(name: Words, epsilon: float | None) -> Words:
    """Return a name followed by the epsilon asked for, where there is one."""
    if epsilon is None:
        return name
    return Words(*(f"{word}, ε = {epsilon_text(epsilon)}" for word in name))


def score_text(summary: Summary | None, *, digits: int = 3) -> str:
    """Return `0.886 ± 0.013`: the mean and half the width of its interval."""
    if summary is None or summary.mean is None:
        return DASH
    text = f"{summary.mean:.{digits}f}"
    if summary.ci_low is None or summary.ci_high is None:
        return text
    return f"{text} ± {(summary.ci_high - summary.ci_low) / 2:.{digits}f}"


def gain_text(value: float | None, *, digits: int = 3) -> str:
    """Return a signed difference, with a true minus sign.

    >>> gain_text(0.0123)
    '+0.012'
    """
    if value is None:
        return DASH
    text = f"{value:+.{digits}f}"
    if float(text) == 0:  # an interval that ends near zero shows on which side
        text = f"{value:+.{digits + 1}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def printable(text: str) -> str:
    """Return a text without control characters, which a terminal or an SVG would obey."""
    return "".join(c for c in text if unicodedata.category(c)[0] != "C")


def epsilon_text(value: float | None) -> str:
    """Return an epsilon as short as it is exact.

    >>> epsilon_text(3.0)
    '3'
    """
    return DASH if value is None else f"{value:.4g}"


def cost_text(value: float | None) -> str:
    """Return an epsilon with three decimals, rounded up: a cost is never shown too low.

    >>> cost_text(2.9981)
    '2.999'
    """
    return DASH if value is None else f"{math.ceil(value * 1000 - 1e-9) / 1000:.3f}"


def seconds_text(value: float | None) -> str:
    """Return a duration in seconds.

    >>> seconds_text(0.024)
    '0.02'
    """
    return DASH if value is None else f"{value:.{2 if value < 1 else 1}f}"


def bytes_text(value: int | None) -> str:
    """Return a size in steps of 1024.

    >>> bytes_text(412_672)
    '403 KiB'
    """
    if value is None:
        return DASH
    size, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
