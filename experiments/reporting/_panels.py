"""The three panels of the picture; `plots` lays them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ._ink import FAINT, INK, LINE, MUTED, PAPER, SMALL, TINY, Look, height_of, spread, ticks, write
from ._view import Line, View, epsilon_text, gain_text, with_epsilon
from ._wording import PICTURE, VERDICT, Words, arm_name
from .results import ALL, MEAN_OF_SITES, Curve, Summary, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_costs", "draw_curves", "draw_gains", "phrase"]

MOST_SITES = 30
MOST_CURVES = 4
TELLING = ("federated", "dp_sum", "local", "pooled")  # the curves to draw if there are more


VERDICT_LOOK = {
    "gains": Look("#009e73", "^"),
    "no clear difference": Look(MUTED, "o"),
    "loses": Look("#d55e00", "v"),
}
ARM_LOOK = {
    "local": Look("#8a94a3", "s", (0, (1, 1.6))),
    "pooled": Look(INK, "D", (0, (4, 2))),
    "federated": Look("#0072b2", "o"),
    "personalised": Look("#cc79a7", "P"),
    "consensus": Look("#e69f00", "X", (0, (4, 1.5, 1, 1.5))),
    "dp_sum": Look("#009e73", "o"),
    "dp_each": Look("#56b4e9", "s"),
    "dp_fedavg": Look("#d55e00", "^"),
    "observed": Look(INK, "", "-"),
}
OTHER = Look(MUTED, "*", (0, (2, 1)))


def phrase(key: str, **values: str | Words) -> Words:
    """Return one of the picture's phrases with its blanks filled, in both languages."""
    english, chinese = PICTURE[key]
    filled = {name: v if isinstance(v, Words) else Words(v, v) for name, v in values.items()}
    return Words(
        english.format(**{name: value.en for name, value in filled.items()}),
        chinese.format(**{name: value.zh for name, value in filled.items()}),
    )


def draw_gains(axes: Axes, verdicts: Sequence[Verdict], names: Sequence[str]) -> None:
    """Draw each hospital's gain over its local model, one row each."""
    for row, (verdict, name) in enumerate(zip(verdicts, names, strict=True)):
        write(axes, -0.03, row, name, x_axes=True, ha="right")
        look = VERDICT_LOOK.get(verdict.verdict)
        if look is None or verdict.mean is None:
            write(axes, 0, row, VERDICT["not measurable"].en, color=MUTED, size=TINY, box=True)
            continue
        if verdict.ci_low is not None and verdict.ci_high is not None:
            axes.plot([verdict.ci_low, verdict.ci_high], [row, row], color=look.color, lw=2.2)
        axes.plot(verdict.mean, row, look.marker, color=look.color, ms=7, mec=PAPER, mew=0.8)
        value = gain_text(verdict.mean)
        write(axes, 1.02, row, value, x_axes=True, color=MUTED, size=SMALL, ha="left")
    axes.axvline(0, color=INK, lw=1, zorder=0)
    axes.set_ylim(max(len(verdicts), 1) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    ticks(axes, x_low=_reach(verdicts)[0], x_high=_reach(verdicts)[1], signed=True)


def _reach(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    ends = [0.0] + [
        end for v in verdicts for end in (v.mean, v.ci_low, v.ci_high) if end is not None
    ]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 0.01
    return min(low - room, -room), max(high + room, room)


def draw_costs(axes: Axes, view: View) -> None:
    """Draw the primary metric against epsilon; with fewer than two epsilons, the arms."""
    place = ALL if any(ALL in line.places for line in view.lines) else MEAN_OF_SITES
    scored = [(line, summary) for line in view.lines if (summary := _scored(line, place))]
    if not scored:
        write(axes, 0.5, 0.5, PICTURE["no_scores"].en, x_axes=True, y_axes=True, color=MUTED)
        axes.set_axis_off()
    elif len(view.epsilons) < 2:
        _draw_arms(axes, scored)
    else:
        _draw_epsilons(axes, scored, view.epsilons)


def _scored(line: Line, place: str) -> Summary | None:
    summary = line.places.get(place)
    return summary if summary is not None and summary.mean is not None else None


def _draw_epsilons(
    axes: Axes, scored: Sequence[tuple[Line, Summary]], epsilons: Sequence[float]
) -> None:
    spots = {epsilon: math.log10(epsilon) for epsilon in epsilons}
    span = max(spots.values()) - min(spots.values())
    curves: dict[tuple[str, str], list[tuple[Line, Summary]]] = {}
    for line, summary in scored:
        if line.private or line.arm in ("pooled", "federated", "local"):
            curves.setdefault((line.arm, line.algorithm), []).append((line, summary))
    noisy = [key for key, points in curves.items() if points[0][0].epsilon is not None]
    labels: list[tuple[float, str, str]] = []
    ends: list[float] = []
    for key, points in curves.items():
        look = ARM_LOOK.get(key[0], OTHER)
        means = [summary.mean or 0.0 for _, summary in points]
        if key in noisy:
            shift = (noisy.index(key) - (len(noisy) - 1) / 2) * 0.022 * span
            xs = [spots[line.epsilon or 1.0] + shift for line, _ in points]
            ends += _draw_line(axes, xs, [summary for _, summary in points], look)
        else:
            axes.axhline(means[0], color=look.color, lw=1.3, ls=look.dash, zorder=1)
        ends += means
        labels.append((means[-1], points[-1][0].name.en, look.color))
    room = 0.06 * (max(ends) - min(ends)) or 0.01
    axes.set_xlim(min(spots.values()) - 0.1 * span, max(spots.values()) + 0.1 * span)
    ticks(axes, y_low=min(ends) - room, y_high=max(ends) + room)
    _label_right(axes, labels)
    _label_epsilons(axes, spots, span)


def _draw_line(
    axes: Axes, xs: Sequence[float], summaries: Sequence[Summary], look: Look
) -> list[float]:
    """Draw one noisy arm with its intervals; return their ends."""
    ends: list[float] = []
    for x, summary in zip(xs, summaries, strict=True):
        low, high = _interval(summary)
        axes.plot([x, x], [low, high], color=look.color, lw=1.1, alpha=0.55)
        ends += [low, high]
    style: dict[str, Any] = {"marker": look.marker, "ms": 5.5, "mec": PAPER, "mew": 0.7}
    means = [summary.mean or 0.0 for summary in summaries]
    axes.plot(xs, means, color=look.color, lw=1.7, zorder=3, **style)
    return ends


def _label_right(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Name each line beside its end, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = LINE / height_of(axes) * (high - low)
    heights = spread([label[0] for label in labels], gap=gap, low=low, high=high)
    beside = axes.get_yaxis_transform()
    for (mean, name, color), y in zip(labels, heights, strict=True):
        axes.plot([1.01, 1.05], [mean, y], color=color, lw=0.9, transform=beside, clip_on=False)
        write(axes, 1.07, y, name, x_axes=True, ha="left", size=SMALL)


def _label_epsilons(axes: Axes, spots: Mapping[float, float], span: float) -> None:
    """Mark the epsilons asked for; close neighbours take turns in two lines."""
    axes.set_xticks([])
    below = axes.get_xaxis_transform()
    places = sorted(spots.values())
    crowded = min(b - a for a, b in pairwise(places)) < 0.09 * span
    for number, epsilon in enumerate(sorted(spots)):
        x = spots[epsilon]
        drop = 0.045 if crowded and number % 2 else 0.0
        axes.plot([x, x], [0, -0.018], color=INK, lw=0.8, transform=below, clip_on=False)
        text = epsilon_text(epsilon)
        write(axes, x, -0.055 - drop, text, y_axes=True, size=SMALL, color=MUTED)


def _draw_arms(axes: Axes, scored: Sequence[tuple[Line, Summary]]) -> None:
    ends: list[float] = []
    for row, (line, summary) in enumerate(scored):
        look = ARM_LOOK.get(line.arm, OTHER)
        low, high = _interval(summary)
        axes.plot([low, high], [row, row], color=look.color, lw=2.2)
        axes.plot(
            summary.mean or 0.0, row, look.marker, color=look.color, ms=6.5, mec=PAPER, mew=0.8
        )
        write(axes, -0.03, row, line.label.en, x_axes=True, ha="right", size=SMALL)
        value = f"{summary.mean:.3f}"
        write(axes, 1.03, row, value, x_axes=True, ha="left", size=SMALL, color=MUTED)
        ends += [low, high]
    room = 0.05 * (max(ends) - min(ends)) or 0.01
    axes.set_ylim(len(scored) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    ticks(axes, x_low=min(ends) - room, x_high=max(ends) + room)


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw calibration or survival curves: the observed one, and the most telling arms."""
    kind = curves[0].kind if curves else "calibration"
    shown = _telling([curve for curve in curves if curve.kind == kind and curve.x])
    if not shown:
        write(axes, 0.5, 0.5, PICTURE["no_curves"].en, x_axes=True, y_axes=True, color=MUTED)
        axes.set_axis_off()
        return
    scale, last = 1.0, max(curve.x[-1] for curve in shown)
    if kind == "calibration":
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1.4, zorder=0)
        ticks(axes, x_low=-0.02, x_high=1.02, y_low=-0.02, y_high=1.02)
    else:
        scale = 365.25 if in_years(shown) else 1.0
        ticks(axes, x_low=0.0, x_high=last / scale, y_low=0.0, y_high=1.02)
    for curve in shown:
        look = ARM_LOOK.get(curve.arm, OTHER)
        axes.plot(
            [x / scale for x in curve.x],
            curve.y,
            marker=look.marker if kind == "calibration" else "",
            drawstyle="steps-post" if curve.arm == "observed" else "default",
            color=look.color,
            ls=look.dash,
            lw=1.6,
            ms=5,
            mec=PAPER,
            mew=0.6,
        )
    step = LINE / height_of(axes) * 1.25
    _key(axes, shown, top=0.95 if kind == "calibration" else step * len(shown), step=step)


def _telling(curves: Sequence[Curve]) -> list[Curve]:
    """Choose one curve an arm, at its middle epsilon, and of the arms the telling ones."""
    arms: dict[str, list[Curve]] = {}
    for curve in curves:
        arms.setdefault(curve.arm, []).append(curve)
    one = [
        next((curve for curve in found if curve.epsilon is None), found[len(found) // 2])
        for arm, found in arms.items()
        if arm != "observed"
    ]
    ranked = sorted(one, key=lambda c: TELLING.index(c.arm) if c.arm in TELLING else len(TELLING))[
        :MOST_CURVES
    ]
    return arms.get("observed", []) + [curve for curve in one if curve in ranked]


def in_years(curves: Sequence[Curve]) -> bool:
    """Whether the time axis is long enough to be drawn in years."""
    return max((curve.x[-1] for curve in curves if curve.x), default=0.0) > 730


def curve_label(curve: Curve) -> Words:
    """Return the name of a curve."""
    return with_epsilon(arm_name(curve.arm), curve.epsilon)


def _key(axes: Axes, curves: Sequence[Curve], *, top: float, step: float) -> None:
    """Write the legend inside the panel, where such curves leave room."""
    for number, curve in enumerate(curves):
        look = ARM_LOOK.get(curve.arm, OTHER)
        y = top - step * number
        axes.plot(
            [0.03, 0.1], [y, y], color=look.color, ls=look.dash, lw=1.8, transform=axes.transAxes
        )
        name = curve_label(curve).en
        write(axes, 0.125, y, name, x_axes=True, y_axes=True, ha="left", size=SMALL)


def _interval(summary: Summary) -> tuple[float, float]:
    mean = summary.mean or 0.0
    low = mean if summary.ci_low is None else summary.ci_low
    return low, mean if summary.ci_high is None else summary.ci_high
