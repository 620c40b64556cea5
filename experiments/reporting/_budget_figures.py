"""Numbers as the budget report prints them: four figures, rounded against whoever claims less."""

from __future__ import annotations

import math
from typing import NamedTuple

from ._view import DASH

__all__ = ["NONE", "Number", "down", "figures", "percent", "plain", "up"]


class Number(NamedTuple):
    """A figure for people, and the number that it stands for."""

    text: str
    exact: float | None


NONE = Number(DASH, None)


def figures(value: float, *, floor: bool = False, most: int = 6) -> str:
    """Return a number with four figures, rounded up: a cost is never shown too low.

    Args:
        value: >= 0.
        floor: Round down instead: what is left is never shown too high.
        most: Decimals at most.

    >>> figures(1.16271), figures(0.000123456), figures(1.38439, floor=True)
    ('1.163', '0.000124', '1.384')
    """
    if value <= 0:
        return "0"
    if value >= 1e6:
        return f"{value:.3g}"
    places = min(most, max(0, 3 - math.floor(math.log10(value))))
    scaled = value * 10.0**places
    near = round(scaled)
    if abs(scaled - near) > 1e-6:  # what float arithmetic adds to a round number is no more
        near = math.floor(scaled) if floor else math.ceil(scaled)
    elif near == 0 and not floor:
        near = 1
    text = f"{near / 10.0**places:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def up(value: float | None) -> Number:
    """Return a cost."""
    return NONE if value is None else Number(figures(value), value)


def down(value: float | None) -> Number:
    """Return what is left of something."""
    return NONE if value is None else Number(figures(value, floor=True), value)


def plain(value: float | None) -> Number:
    """Return a number that was set, not computed."""
    return NONE if value is None else Number(f"{value:.10g}", value)


def percent(share: float | None, *, floor: bool = False) -> Number:
    """Return a share as per cent."""
    if share is None:
        return NONE
    return Number(f"{figures(100 * share, floor=floor, most=3)}\N{NO-BREAK SPACE}%", share)
