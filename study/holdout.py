"""The holdout: which patients a plan leaves out of training, so that its model can be judged.

Deployed, nobody has the pooled table: each hospital judges the model on patients of its own that
the model has never seen, and the coordinator sees at most one summed histogram of their scores.
A patient's side is a keyed hash of the patient's token, which every hospital computes alike: a
patient of two hospitals is wholly on one side, today and after the next extract. Nobody's side
depends on who else is there, on which the sensitivity of every training sum rests. The key is in
the plan, for everybody to read: it keeps nothing secret, and makes the split of one study another
than the next one's.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..privacy.errors import ConfigError

__all__ = ["Holdout"]

_FRACTIONS = (0.05, 0.95)
_BINS = (2, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """How a plan splits patients. No field has a default: each is part of what is approved.

    Args:
        key: 64 lower-case hex digits, public; see `experiments/deployed/held_out.py`.
        test_fraction: Expected share of patients left out of training, in [0.05, 0.95].
        histogram: Whether the study ends with one more sum: the scores of held-out patients
            by public bins, float64 [2, bins] for a risk, [2 J + 1, bins] for survival in J
            intervals. It is one release more, at the price of every other.
        bins: Equal bins of the score's range [0, 1], 2..100; of no effect without a histogram.

    Raises:
        ConfigError: `holdout_key`, `holdout_range`.
    """

    key: str
    test_fraction: float
    histogram: bool
    bins: int

    def __post_init__(self) -> None:
        if re.fullmatch(r"[0-9a-f]{64}", self.key) is None:
            raise ConfigError(
                "holdout_key",
                "the key of a holdout is 64 lower-case hex digits",
                hint="Draw it at random: python -c 'import secrets; print(secrets.token_hex(32))'.",
            )
        low, high = _FRACTIONS
        if not (math.isfinite(self.test_fraction) and low <= self.test_fraction <= high):
            raise ConfigError(
                "holdout_range",
                f"test_fraction must lie in [{low}, {high}], got {self.test_fraction}",
            )
        if not _BINS[0] <= self.bins <= _BINS[1]:
            raise ConfigError(
                "holdout_range", f"bins must lie in [{_BINS[0]}, {_BINS[1]}], got {self.bins}"
            )
