"""The picture of a comparison, in three panels: who gains, what privacy costs, how honest.

1. each hospital's gain over training alone, with its interval;
2. the primary metric against epsilon (or, with fewer than two epsilons, the arms side by side);
3. calibration of the predicted risks, or predicted against observed survival.

The SVG depends on the results alone: fixed hash salt, no date, text kept as text (so that any
script of a hospital's name is drawn by the reader's fonts). Colours are Okabe and Ito's, and
never alone: verdicts and arms differ in shape too.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ._ink import MUTED, PAPER, TINY, shorten, text_width, write
from ._panels import (
    MOST_SITES,
    VERDICT_LOOK,
    curve_label,
    draw_costs,
    draw_curves,
    draw_gains,
    in_years,
    phrase,
)
from ._view import View
from ._wording import PICTURE, VERDICT, Words
from .results import Results, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NOTHING", "STYLE", "comparison_svg", "picture_words"]

WIDTH = 10.4  # inches; at 900 px the smallest text is about 10 px
TOP, BOTTOM = 0.66, 0.78  # inches
LEFTS, SPAN = (0.14, 3.92, 7.62), 2.62  # inches: where panels begin, and the last one's width
STYLE: Any = {
    "svg.hashsalt": "fedcohort",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
}
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))


class _Size(NamedTuple):
    """The first panel, in inches: the column of names, the plot's width and height."""

    label: float
    width: float
    height: float


def comparison_svg(results: Results) -> str:
    """Return the picture as an SVG document; the same results give the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    view = View(results)
    verdicts, note = _shown_verdicts(view)
    with mpl.rc_context(), warnings.catch_warnings():
        # The reader's fonts draw what ours lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        rows = max(len(verdicts), len(view.lines) if len(view.epsilons) < 2 else 0)
        plot = max(2.75, 0.3 * rows)
        figure = Figure(figsize=(WIDTH, TOP + plot + BOTTOM), facecolor=PAPER)
        FigureCanvasSVG(figure)
        _lay_out(figure, view, verdicts, note, plot)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=NOTHING)
    return text.getvalue()


def picture_words(results: Results) -> dict[str, str]:
    """Return the Chinese of every text of the picture, by its English."""
    view = View(results)
    words = [*_titles(view), *VERDICT.values(), *PICTURE.values()]
    words += [line.name for line in view.lines] + [line.label for line in view.lines]
    words += [curve_label(curve) for curve in results.picture.curves]
    note = _shown_verdicts(view)[1]
    return {word.en: word.zh for word in [*words, *([note] if note else [])]}


def _lay_out(
    figure: Figure, view: View, verdicts: Sequence[Verdict], note: Words | None, plot: float
) -> None:
    names = [shorten(verdict.site) for verdict in verdicts]
    label = 0.085 * max((text_width(name) for name in names), default=0) + 0.08
    arms = len(view.epsilons) < 2
    frames = (
        (LEFTS[0] + label, 3.12 - label),
        (LEFTS[1] + (1.5 if arms else 0.5), 1.45 if arms else 1.98),
        (LEFTS[2] + 0.42, SPAN - 0.42),
    )
    panels = [
        figure.add_axes((x / WIDTH, BOTTOM / (h := TOP + plot + BOTTOM), w / WIDTH, plot / h))
        for x, w in frames
    ]
    for axes in panels:
        axes.set_facecolor("none")
    titles = _titles(view)
    for place, (panel, left, frame) in enumerate(zip(panels, LEFTS, frames, strict=True)):
        x = (left - frame[0]) / frame[1]
        title, under = titles[2 * place : 2 * place + 2]
        inside: Any = {"x_axes": True, "y_axes": True, "ha": "left"}
        write(panel, x, 1 + 0.44 / plot, title.en, size=11.0, weight="bold", **inside)
        write(panel, x, 1 + 0.22 / plot, under.en, size=8.4, color=MUTED, **inside)
    if verdicts:
        draw_gains(panels[0], verdicts, names)
        size = _Size(label=label, width=frames[0][1], height=plot)
        _verdict_key(panels[0], {v.verdict for v in verdicts}, note, size)
    else:
        write(panels[0], 0, 0.5, PICTURE["no_verdicts"].en, x_axes=True, y_axes=True, color=MUTED)
        panels[0].set_axis_off()
    draw_costs(panels[1], view)
    if not arms:
        _below(panels[1], PICTURE["epsilon_axis"], plot)
    draw_curves(panels[2], view.results.picture.curves)
    if view.results.picture.curves:
        _below(panels[2], _time_words(view), plot)


def _below(axes: Axes, words: Words, plot: float) -> None:
    write(axes, 0.5, -0.4 / plot, words.en, x_axes=True, y_axes=True, size=8.4, color=MUTED)


def _verdict_key(axes: Axes, present: Iterable[str], note: Words | None, size: _Size) -> None:
    """Explain the shapes in one line under the panel, from its left edge."""
    used = set(present) | {"gains", "no clear difference"}
    inside: Any = {"x_axes": True, "y_axes": True, "size": TINY, "color": MUTED}
    y = -0.43 / size.height
    for name, inches in (("gains", 0.06), ("no clear difference", 0.78), ("loses", 2.14)):
        if name in used:
            look, x = VERDICT_LOOK[name], (inches - size.label) / size.width
            place = axes.transAxes
            axes.plot(x, y, look.marker, color=look.color, ms=5.5, transform=place, clip_on=False)
            beside = x + 0.11 / size.width
            write(axes, beside, y, VERDICT[name].en, ha="left", **inside)
    if note:
        write(axes, -size.label / size.width, -0.64 / size.height, note.en, ha="left", **inside)


def _shown_verdicts(view: View) -> tuple[list[Verdict], Words | None]:
    """Return the verdicts of panel 1; of very many hospitals, the lowest and highest gains."""
    verdicts = next(iter(view.verdict_groups().values()), [])
    if len(verdicts) <= MOST_SITES:
        return verdicts, None
    ranked = sorted(verdicts, key=lambda v: (v.mean is None, v.mean or 0.0))
    kept = ranked[: MOST_SITES // 2] + [v for v in ranked if v.mean is not None][-MOST_SITES // 2 :]
    return kept, phrase("fewer", count=str(len(verdicts)))


def _titles(view: View) -> list[Words]:
    """Return title and subtitle of each panel."""
    survival = view.results.task == "survival"
    kind = "survival" if survival else "calibration"
    return [
        PICTURE["gain"],
        phrase("gain_axis", metric=view.metric, level=f"{view.results.method.level:.0%}"),
        PICTURE["arms" if len(view.epsilons) < 2 else "cost"],
        phrase("cost_axis", metric=view.metric),
        PICTURE[kind],
        PICTURE[f"{kind}_axis"],
    ]


def _time_words(view: View) -> Words:
    if view.results.task == "risk":
        return PICTURE["calibration_x"]
    return PICTURE["survival_x" if in_years(view.results.picture.curves) else "survival_days"]
