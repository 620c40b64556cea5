"""A private analysis over one cohort, noise included, in one process: no wire, no masks.

The integers are the real ones: encoded on the plan's grid, noised by OpenDP's exact sampler. A
sum over sites is the sum over their patients, so one cohort and all of its noise are enough.
"""

from __future__ import annotations

import math

from fedcohort.privacy.noise import discrete_gaussian
from fedcohort.privacy.secagg.encoding import Encoding
from fedcohort.study.analysis import Analysis, Result, Total, Vector
from fedcohort.study.cohort import Cohort

__all__ = ["SITES", "noise_scale", "private_fit"]

SITES, COLLUDERS = 5, 1  # shares of noise in a sum, and how many of them do not count


def noise_scale(noise_multiplier: float) -> float:
    """Return the standard deviation of an opened sum's noise, over the clip norm."""
    return noise_multiplier * math.sqrt(SITES / (SITES - COLLUDERS))


def private_fit(
    analysis: Analysis, cohort: Cohort, *, clip: float, noise_multiplier: float
) -> Vector:
    """Return the parameters that a private analysis ends with."""
    state = analysis.initial()
    while True:
        size = analysis.size(state)
        encoding = Encoding.for_noisy_sum(
            clip_norm=clip,
            max_patients=2**17,
            sites=SITES,
            noise_multiplier=noise_multiplier,
            size=size,
        )
        sigma = noise_scale(noise_multiplier) * encoding.sensitivity_units(clip, size, 2**17)
        units = encoding.encode_noisy(analysis.contribution(cohort, state).total)
        vector = encoding.decode(units + discrete_gaussian(size, sigma))
        after = analysis.step(state, Total(vector=vector, sites=(cohort.site,)))
        if isinstance(after, Result):
            return after.arrays["theta"]
        state = after
