"""The budget report's pictures: a bar of the budget and the trade-off curves, as inline SVG.

Drawn by hand, so that they need no font and no script, print in black and white, and are the
same bytes for the same numbers. They hold numbers of ours only: no text from a ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._budget_odds import (
    detection_by_epsilon,
    detection_by_noise,
    detection_by_order,
    mu_of_budget,
)

__all__ = ["CURVES", "budget_bar", "proved_detection", "trade_off"]

CURVES = ("worst", "proved", "noise")  # as the page's key names them
_WIDTH, _HEIGHT = 440, 330
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 12, 12, 46
_DASHES = {"worst": "7 4", "proved": "none", "noise": "2 4"}
_POINTS = 120


def budget_bar(spent: float, reserved: float, *, number: int) -> str:
    """Return a bar of 0 to 100 %: spent (full), set aside (hatched), left (empty).

    Args:
        spent: Share of the budget, >= 0.
        reserved: The same.
        number: Tells the bars of a page apart.
    """
    first = 1000 * min(1.0, max(0.0, spent))
    second = min(1000 - first, 1000 * max(0.0, reserved))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="bar-svg" viewBox="0 0 1000 40" '
        'preserveAspectRatio="none" aria-hidden="true">'
        f'<defs><pattern id="hatch-{number}" width="16" height="16" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="bar-left" width="16" height="16"/>'
        '<rect class="bar-spent" width="6" height="16"/></pattern></defs>'
        '<rect class="bar-left" x="0" y="0" width="1000" height="40"/>'
        f'<rect class="bar-spent" x="0" y="0" width="{first:.2f}" height="40"/>'
        f'<rect x="{first:.2f}" y="0" width="{second:.2f}" height="40" '
        f'fill="url(#hatch-{number})"/>'
        '<rect class="bar-frame" x="0" y="0" width="1000" height="40"/></svg>'
    )


def proved_detection(fpr: float, budget: Mapping[str, Any]) -> float:
    """Return the most that a used-up budget lets a test detect: by its order, or by epsilon."""
    return min(
        detection_by_order(fpr, budget["order"], budget["limit"]),
        detection_by_epsilon(fpr, budget["epsilon"], budget["delta"]),
    )


def trade_off(budget: Mapping[str, Any]) -> str:
    """Return the curves of detection over false alarms once a budget is used up.

    The axes carry numbers only; the page names them, and the curves, in both languages.
    """
    mu = mu_of_budget(budget["order"], budget["limit"])
    curves: dict[str, Callable[[float], float]] = {
        "worst": lambda fpr: detection_by_epsilon(fpr, budget["epsilon"], budget["delta"]),
        "proved": lambda fpr: proved_detection(fpr, budget),
        "noise": lambda fpr: detection_by_noise(fpr, mu),
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="trade-off" viewBox="0 0 {_WIDTH} '
        f'{_HEIGHT}" aria-hidden="true">',
        *_grid(),
        *(_line(name, curves[name]) for name in CURVES),
        "</svg>",
    ]
    return "".join(parts)


def _grid() -> Sequence[str]:
    parts = []
    for percent in (0, 25, 50, 75, 100):
        x, y = _place(percent / 100, percent / 100)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="{"end" if percent == 100 else "middle"}">{percent} %</text>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>'
        )
    low, high = _place(0, 0), _place(1, 1)
    parts.append(
        f'<line class="guess" x1="{low[0]:.1f}" y1="{low[1]:.1f}" '
        f'x2="{high[0]:.1f}" y2="{high[1]:.1f}"/>'
    )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        '<tspan lang="en">false alarms</tspan><tspan lang="zh-CN">误报率</tspan></text>'
    )
    return parts


def _line(name: str, curve: Callable[[float], float]) -> str:
    # Denser towards both ends, where the curves bend.
    steps = [step / _POINTS for step in range(_POINTS + 1)]
    at = [t * t * (3 - 2 * t) for t in steps]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(fpr, curve(fpr)) for fpr in at))
    return (
        f'<polyline class="curve {name}" fill="none" stroke-dasharray="{_DASHES[name]}" '
        f'points="{points}"/>'
    )


def _place(fpr: float, tpr: float) -> tuple[float, float]:
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return _LEFT + wide * fpr, _HEIGHT - _BOTTOM - high * tpr
