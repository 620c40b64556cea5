"""Newton's method with a noisy Gram matrix: gradients clipped as they are, steps in its metric.

The same rounds as `whitened`. A patient's gradient is clipped in the units of the parameters;
only the coordinator uses the metric, to turn the noisy gradient into a step. It is the simpler
and the older of the two.

The proof of privacy is in `_gram`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..analysis import Vector
from ._gram import GramDescent

__all__ = ["ANALYSIS", "NewtonGram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonGram(GramDescent):
    """See the module's docstring; its fields are `GramDescent`'s."""

    whitens: ClassVar[bool] = False

    def mapped(self) -> int:
        """The parameters."""
        return self.model.size

    def map_of(self, directions: Vector) -> Vector:
        """Gradients stay as they are."""
        return np.eye(self.model.size)


ANALYSIS = NewtonGram
