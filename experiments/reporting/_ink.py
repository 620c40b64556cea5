"""Pens for the picture: colours, literal text, round ticks, labels that keep apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._view import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "FAINT",
    "INK",
    "LINE",
    "MUTED",
    "PAPER",
    "SMALL",
    "TINY",
    "Look",
    "height_of",
    "shorten",
    "spread",
    "text_width",
    "ticks",
    "write",
]

INK, MUTED, FAINT, PAPER = "#1b2430", "#5b6675", "#d5dae1", "#ffffff"
SMALL, TINY = 8.4, 7.6  # points
LINE = 0.155  # inches from one line of small text to the next


@dataclass(frozen=True, slots=True)
class Look:
    """How one thing is drawn: colour and shape, never colour alone."""

    color: str
    marker: str
    dash: str | tuple[float, tuple[float, ...]] = "-"


def write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    x_axes: bool = False,
    y_axes: bool = False,
    box: bool = False,
    **style: Any,
) -> None:
    """Write literally: no formula, no control character, whatever a hospital is called."""
    transforms: Mapping[tuple[bool, bool], Any] = {
        (False, False): axes.transData,
        (True, False): axes.get_yaxis_transform(),
        (False, True): axes.get_xaxis_transform(),
        (True, True): axes.transAxes,
    }
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "size": 9.0, **style}
    if box:
        look["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "pad": 2.0}
    where = transforms[x_axes, y_axes]
    axes.text(x, y, text, transform=where, parse_math=False, clip_on=False, **look)


def ticks(
    axes: Axes,
    *,
    x_low: float | None = None,
    x_high: float | None = None,
    y_low: float | None = None,
    y_high: float | None = None,
    signed: bool = False,
) -> None:
    """Set limits and few, round ticks with light grid lines."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def text(value: float, _: int | None) -> str:
        short = f"{value:+.4g}" if signed and abs(value) > 1e-12 else f"{value:.4g}"
        return "0" if abs(value) <= 1e-12 else short.replace("-", "\N{MINUS SIGN}")

    for axis, low, high, limit in (
        (axes.xaxis, x_low, x_high, axes.set_xlim),
        (axes.yaxis, y_low, y_high, axes.set_ylim),
    ):
        if low is not None and high is not None:
            limit(low, high)
            axis.set_major_locator(MaxNLocator(3 if signed else 4, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(FuncFormatter(text))
            axis.grid(visible=True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=4, labelsize=SMALL, labelcolor=MUTED)
    for spine in axes.spines.values():
        spine.set_color("#9aa4b1")


def height_of(axes: Axes) -> float:
    """Return the height of a panel, inches."""
    figure = axes.get_figure(root=True)
    return float(axes.get_position().height * figure.get_figheight()) if figure else 1.0


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move labels apart until no two are closer than a gap, staying near their values.

    >>> spread([0.5, 0.5], gap=0.25, low=0.0, high=1.0)
    [0.375, 0.625]
    """
    # With each label's wish lowered by the gaps below it, keeping apart is keeping the order:
    # isotonic regression, and clipping to the panel leaves its result in order.
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    blocks: list[tuple[float, int]] = []  # sum of wishes, how many
    for rank, index in enumerate(order):
        total, count = values[index] - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before, size = blocks.pop()
            total, count = total + before, count + size
        blocks.append((total, count))
    starts = [total / count for total, count in blocks for _ in range(count)]
    top = max(low, high - (len(values) - 1) * gap)
    result = [0.0] * len(values)
    for rank, (start, index) in enumerate(zip(starts, order, strict=True)):
        result[index] = min(max(start, low), top) + rank * gap
    return result


def shorten(name: str, *, units: int = 18) -> str:
    """Return a name that fits its column: wide characters count twice, controls are dropped.

    >>> shorten("a very long name of a hospital")
    'a very long name…'
    """
    clean = printable(name).replace("_", " ")
    kept, used = "", 0
    for character in clean:
        used += text_width(character)
        if used > units:
            return kept[:-1].rstrip() + "…"
        kept += character
    return kept


def text_width(text: str) -> int:
    """Return the width of a text; a Chinese character is as wide as two letters."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
