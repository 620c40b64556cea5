"""Whitened descent: one noisy sum of the features' moments, then few noisy gradients in its metric.

Gradients are mapped to the space in which the features are uncorrelated and of like size, and
clipped there: a patient who is far out in a rare direction is cut no more than others, and the
noise meets every direction alike. A step of length 1 then is Newton's step with one curvature for
all patients. For rare outcomes and unlike features it needs far fewer rounds than `gradient`.

The proof of privacy is in `_gram`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..analysis import Vector
from ._gram import GramDescent

__all__ = ["ANALYSIS", "Whitened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitened(GramDescent):
    """See the module's docstring; its fields are `GramDescent`'s."""

    whitens: ClassVar[bool] = True

    def mapped(self) -> int:
        """The directions of the features, the common level, and the baseline's own."""
        return self.linear.features + 1 + self.linear.extra

    def map_of(self, directions: Vector) -> Vector:
        """Gradients are mapped to the whitened directions."""
        return directions


ANALYSIS = Whitened
