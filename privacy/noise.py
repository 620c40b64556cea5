"""Noise: exact discrete Gaussian shares on the integer grid, from OpenDP and nowhere else.

A float drawn from a Gaussian betrays its input through its low-order bits; an integer from
an exact sampler cannot. Each site adds one share to its encoded sum; the shares of the sites
that do not collude add up to the noise that the guarantee needs.

The slack. A sum of n discrete Gaussian shares is not quite one discrete Gaussian. With D the
sensitivity and s a share's deviation, in grid units, and d the vector's length, the sum obeys
zCDP with rho = eps^2 / 2, where

    eps <= D / (sqrt(n) s) + tau sqrt(d),   tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k+1)).

For s >= 2 and n <= 200, tau < 7.2e-17, so that tau sqrt(d) < 1e-11 with a wide margin for d up to
10^7 (2.3e-13). As D / (sqrt(n) s) is 1 / z, it is as if the sensitivity were longer by the factor
1 + z tau sqrt(d); `Encoding.sensitivity_units` pays for 1 + 1e-5 or more, which covers it for every
z up to 10^6. Below 2 grid units tau soon counts (5e-4 at 1, 0.85 at 0.5): such shares are refused.

Source: Kairouz, Liu, Steinke 2021 (arXiv:2102.06387), Theorem 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from opendp.domains import atom_domain, vector_domain
from opendp.measurements import make_gaussian
from opendp.metrics import l2_distance
from opendp.mod import enable_features

__all__ = ["MINIMUM_SHARE", "NoiseTerms", "Sharing", "discrete_gaussian"]

Sharing = Literal["sum", "each"]

MINIMUM_SHARE = 2.0  # grid units; below it the sum no longer follows the Gaussian's zCDP


@lru_cache(maxsize=64)
def _sampler(scale: float) -> Any:
    enable_features("contrib")  # the discrete Gaussian is proven, yet carries this flag
    return make_gaussian(vector_domain(atom_domain(T="i64")), l2_distance(T="f64"), scale=scale)


def discrete_gaussian(size: int, sigma: float) -> NDArray[np.int64]:
    """Draw independent discrete Gaussians from OpenDP's exact sampler (operating system's RNG).

    Args:
        size: How many, >= 0.
        sigma: Scale in grid units, >= `MINIMUM_SHARE`.

    Returns:
        int64 [size].

    Raises:
        ValueError: sigma is not finite or too small for the sum to follow the Gaussian's zCDP.
    """
    if not (math.isfinite(sigma) and sigma >= MINIMUM_SHARE):
        raise ValueError(f"a noise share needs sigma >= {MINIMUM_SHARE} grid units, got {sigma}")
    return np.asarray(_sampler(float(sigma))([0] * size), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTerms:
    """How much noise a round's sum must carry: all of it public, agreed in the plan.

    Attributes:
        noise_multiplier: z = sigma / sensitivity, of the noise that counts, > 0.
        sharing: `sum`: the honest sites' shares add up to z; `each`: every site adds all of z.
        min_survivors: m, the fewest sites whose shares are in an opened sum.
        colluders: c, sites assumed to pool what they see with the coordinator.

    Guarantee:
        For `sum`, the shares of any m - c sites have together variance (z * sensitivity)^2:
        the coordinator with c sites can subtract at most c shares. More survivors add noise
        that is never credited.
    """

    noise_multiplier: float
    sharing: Sharing
    min_survivors: int
    colluders: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(f"noise_multiplier must be > 0, got {self.noise_multiplier}")
        if self.colluders < 0 or self.min_survivors <= self.colluders:
            raise ValueError(
                f"min_survivors ({self.min_survivors}) must exceed colluders ({self.colluders})"
            )

    def share_sigma(self, sensitivity: float) -> float:
        """Return the standard deviation of one site's share, in the units of `sensitivity`."""
        total = self.noise_multiplier * sensitivity
        if self.sharing == "each":
            return total
        return total / math.sqrt(self.min_survivors - self.colluders)

    @property
    def rho(self) -> float:
        """ZCDP cost of one release under these terms. Source: Bun & Steinke 2016, Prop. 1.6."""
        return 1.0 / (2.0 * self.noise_multiplier**2)
