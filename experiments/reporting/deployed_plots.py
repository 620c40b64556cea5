"""The picture of a deployed study: how the shared models order held-out patients, what they weigh.

There is no score per hospital here: those stay at the hospitals. What the coordinator has is one
summed histogram of scores an arm, where the plan asked for one, and the models themselves.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._ink import FAINT, INK, MUTED, PAPER, SMALL, TINY, height_of, shorten, ticks, write
from ._panels import ARM_LOOK, OTHER
from ._view import with_epsilon
from ._wording import arm_name
from .plots import NOTHING, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DrawnArm", "deployed_svg"]

_MOST = 24  # features with a line of their own
_PANEL, _LABELS, _GAP = 2.75, 1.5, 0.75  # inches
_ABOVE, _BELOW = 0.62, 0.72


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnArm:
    """What is drawn of one arm.

    Attributes:
        arm: Its name.
        epsilon: What was asked for; None without noise.
        coefficients: By feature; None for models that have none of their own.
        histogram: Held-out patients by outcome and score bin, [outcome 0, outcome 1][bins]; None
            where there is none. A table of another height is no risk's and is not drawn.
    """

    arm: str
    epsilon: float | None
    coefficients: Mapping[str, float] | None
    histogram: Sequence[Sequence[float]] | None

    @property
    def label(self) -> str:
        """Its name for people."""
        return with_epsilon(arm_name(self.arm), self.epsilon).en

    @property
    def is_judged(self) -> bool:
        """Whether there is a curve to draw."""
        return self.histogram is not None and len(self.histogram) == 2


def deployed_svg(arms: Sequence[DrawnArm]) -> str | None:
    """Return the picture; None where there is nothing to draw. Equal arms give equal bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    judged = [arm for arm in arms if arm.is_judged]
    weighed = [arm for arm in arms if arm.coefficients]
    if not judged and not weighed:
        return None
    names = _heaviest(weighed)
    width = _GAP + (_PANEL + _GAP) * bool(judged) + (_LABELS + _PANEL + _GAP) * bool(weighed)
    plot = max(_PANEL, 0.2 * len(names))
    height = _ABOVE + plot + _BELOW + 0.17 * len(arms)
    with mpl.rc_context(), warnings.catch_warnings():
        # The reader's fonts draw what ours lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), facecolor=PAPER)
        FigureCanvasSVG(figure)
        left, low = _GAP, height - _ABOVE - plot
        panels: list[Axes] = []

        def panel(x: float) -> Axes:
            axes = figure.add_axes((x / width, low / height, _PANEL / width, plot / height))
            axes.set_facecolor("none")
            panels.append(axes)
            return axes

        if judged:
            _draw_roc(panel(left), judged)
            left += _PANEL + _GAP
        if weighed:
            _draw_weights(panel(left + _LABELS), weighed, names)
        _draw_key(panels[0], arms, plot)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=NOTHING)
    return text.getvalue()


def _heaviest(arms: Sequence[DrawnArm]) -> list[str]:
    """Return the features in the models' order; of very many, those that weigh most anywhere."""
    names = list(dict.fromkeys(name for arm in arms for name in arm.coefficients or {}))
    if len(names) <= _MOST:
        return names
    weights = [arm.coefficients or {} for arm in arms]
    most = {name: max(abs(of.get(name, 0.0)) for of in weights) for name in names}
    kept = set(sorted(names, key=lambda name: -most[name])[:_MOST])
    return [name for name in names if name in kept]


def _title(axes: Axes, title: str, under: str) -> None:
    inches = height_of(axes)
    for text, above, size in ((title, 0.38, 11.0), (under, 0.18, SMALL)):
        look: dict[str, Any] = {"weight": "bold"} if above > 0.3 else {"color": MUTED}
        y = 1 + above / inches
        write(axes, 0, y, text, x_axes=True, y_axes=True, ha="left", size=size, **look)


def _draw_roc(axes: Axes, arms: Sequence[DrawnArm]) -> None:
    """Draw sensitivity against 1 - specificity, bin by bin from the highest score."""
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1)
    for arm in arms:
        others, events = np.maximum(np.asarray(arm.histogram, dtype=np.float64), 0.0)
        if not (others.sum() > 0 and events.sum() > 0):
            continue
        x, y = (np.append(0.0, np.cumsum(row[::-1]) / row.sum()) for row in (others, events))
        look = ARM_LOOK.get(arm.arm, OTHER)
        axes.plot(x, y, color=look.color, ls=look.dash, marker=look.marker, ms=3.5, lw=1.6)
    ticks(axes, x_low=0, x_high=1, y_low=0, y_high=1)
    _title(axes, "Held-out patients", "sensitivity against 1 − specificity, by score bin")


def _draw_weights(axes: Axes, arms: Sequence[DrawnArm], names: Sequence[str]) -> None:
    """Draw each feature's coefficient, the arms side by side."""
    reach = max(abs((arm.coefficients or {}).get(name, 0.0)) for arm in arms for name in names)
    reach = 1.08 * reach or 1.0
    for row, name in enumerate(names):
        axes.axhline(row, color=FAINT, lw=0.6, zorder=0)
        write(axes, -0.03, row, shorten(name), x_axes=True, ha="right", size=TINY)
        for place, arm in enumerate(arms):
            value = (arm.coefficients or {}).get(name)
            if value is not None:
                look = ARM_LOOK.get(arm.arm, OTHER)
                y = row + (place - (len(arms) - 1) / 2) * 0.5 / len(arms)
                axes.plot(value, y, look.marker, color=look.color, ms=5, mec=PAPER, mew=0.6)
    axes.axvline(0, color=INK, lw=1, zorder=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    ticks(axes, x_low=-reach, x_high=reach, signed=True)
    _title(axes, "What the model weighs", "coefficient of each encoded feature")


def _draw_key(axes: Axes, arms: Sequence[DrawnArm], plot: float) -> None:
    """Name each arm's colour and shape under the first panel, from the picture's left edge."""
    for line, arm in enumerate(arms):
        y = -(0.5 + 0.17 * line) / plot
        look = ARM_LOOK.get(arm.arm, OTHER)
        at = axes.transAxes
        axes.plot(0.02, y, look.marker, color=look.color, ms=5.5, transform=at, clip_on=False)
        write(axes, 0.06, y, arm.label, x_axes=True, y_axes=True, ha="left", size=SMALL)
