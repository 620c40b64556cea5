"""What the audits share: measured noise, and lower bounds on epsilon, printed and asserted."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.privacy.audit import Audit, audit

# Of the assertions, not of what is printed: once in a million for each.
SURE = 1 - 1e-6
ERRORS = 5.0  # standard errors: of exact noise, once in a million again
WITHIN = 0.02  # of the planned deviation, where there are draws enough to tell

Floats = NDArray[np.float64]


@pytest.fixture
def bounds() -> Callable[..., tuple[Audit, Audit]]:
    """Bound epsilon by scores: what is printed, at 95 %, and at all but a millionth."""

    def bounded(
        name: str, without: Floats, with_patient: Floats, *, claim: float, delta: float
    ) -> tuple[Audit, Audit]:
        printed = audit(without, with_patient, delta=delta)
        print(f"\n{name}, claimed epsilon {claim}: {printed}")  # noqa: T201 - `pytest -rP` shows it
        return printed, audit(without, with_patient, delta=delta, confidence=SURE)

    return bounded


@pytest.fixture
def measured() -> Callable[..., tuple[float, bool]]:
    """Measure noise against z C: the ratio of deviations, and whether it is the planned noise."""

    def compared(name: str, draws: Floats, *, planned: float, grid: float) -> tuple[float, bool]:
        """Compare.

        Args:
            name: For what is printed.
            draws: What remains of sums when all that is known is subtracted.
            planned: z C.
            grid: By what share noise may be larger, for the rounding of sums to integers.
        """
        ratio = float(np.sqrt(np.mean(draws**2))) / planned
        error = 1 / math.sqrt(2 * draws.size)
        print(f"\n{name}: sd / (z C) = {ratio:.4f} +- {error:.4f}, {draws.size} draws")  # noqa: T201
        within = abs(ratio - 1) <= max(WITHIN, ERRORS * error)
        return ratio, within and -ERRORS * error <= ratio - 1 <= grid + ERRORS * error

    return compared
