"""A mechanism: one kind of noisy release, and its Renyi DP at an integer order.

Two are known. A sum with discrete Gaussian noise and every patient in it obeys the zCDP of the
Gaussian of the same variance. A Poisson-sampled Gaussian step is what local DP-SGD, the
comparison's baseline, is made of. Whatever is not one of them is refused, not guessed.

Sources: Bun & Steinke 2016, Prop. 1.6 (zCDP); Mironov, Talwar, Zhang 2019 (arXiv:1908.10530),
section 3.3 (sampled Gaussian, integer orders; it bounds adding and removing alike).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import dp_accounting

__all__ = ["FAMILIES", "Mechanism", "is_gaussian_proved"]

FAMILIES = ("discrete_gaussian", "sampled_gaussian")
_LEAST, _MOST = 1e-4, 1e6  # as in `events`: whatever is paid can be stated
_RAREST = 1e-6  # least sampling probability, likewise
_LEAST_PROVED = 0.125  # z: noise of 1024 grid units, where a clipped patient weighs 8192 or more
_LARGEST_PROVED = 1e4  # epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One release of this kind, for one patient added or removed.

    Attributes:
        noise_multiplier: z = sigma / sensitivity of the noise that counts, in
            [1e-4, 1e6].
        sampling_probability: q, with which a patient is in a release, in [1e-6, 1]; 1 where
            everybody is in every one.

    Raises:
        ValueError: A number is out of its range (NaN included).

    >>> Mechanism(noise_multiplier=2.0).rdp(8)
    1.0
    """

    noise_multiplier: float
    sampling_probability: float = 1.0

    def __post_init__(self) -> None:
        if not _LEAST <= self.noise_multiplier <= _MOST:  # NaN fails too
            raise ValueError(
                f"noise_multiplier must be > 0, in [{_LEAST:g}, {_MOST:g}], "
                f"got {self.noise_multiplier}"
            )
        if not _RAREST <= self.sampling_probability <= 1:  # NaN fails too
            raise ValueError(
                f"sampling_probability must lie in [{_RAREST:g}, 1], "
                f"got {self.sampling_probability}"
            )

    @property
    def family(self) -> str:
        """Name of the mechanism, one of `FAMILIES`."""
        return FAMILIES[0] if self.sampling_probability == 1 else FAMILIES[1]

    def event(self, releases: int = 1) -> dp_accounting.DpEvent:
        """Return the event of so many releases, for Google's accountants."""
        import dp_accounting  # here, for it takes most of a second and few need an event

        if releases == 0:
            return dp_accounting.NoOpDpEvent()
        return dp_accounting.SelfComposedDpEvent(self._single(), releases)

    def _single(self) -> dp_accounting.DpEvent:
        import dp_accounting

        if self.sampling_probability == 1:
            return dp_accounting.ZCDpEvent(rho=1.0 / (2.0 * self.noise_multiplier**2))
        gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        return dp_accounting.PoissonSampledDpEvent(self.sampling_probability, gaussian)

    def same_variance(self, releases: int = 1) -> dp_accounting.DpEvent:
        """Return the event with continuous noise of the same variance.

        Its epsilon is a gauge: no ledger counts it. `is_gaussian_proved` says of which releases
        it is true.
        """
        import dp_accounting

        single: Any = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        if self.sampling_probability < 1:
            single = dp_accounting.PoissonSampledDpEvent(self.sampling_probability, single)
        return dp_accounting.SelfComposedDpEvent(single, releases)

    def rdp(self, order: int) -> float:
        """Return the Renyi DP of one release at an integer order >= 2.

        For z too small to tell it is infinite: such a release can never be paid.
        """
        if order < 2:
            raise ValueError(f"the order must be an integer >= 2, got {order}")
        half = 1.0 / (2.0 * self.noise_multiplier**2)
        if self.sampling_probability == 1:
            return order * half
        from scipy.special import gammaln, logsumexp

        k = np.arange(order + 1)
        log_q, log_rest = (
            math.log(self.sampling_probability),
            math.log1p(-self.sampling_probability),
        )
        terms = (
            gammaln(order + 1)
            - gammaln(k + 1)
            - gammaln(order - k + 1)
            + k * log_q
            + (order - k) * log_rest
            + (k * k - k) * half
        )
        # Rounded up: the logarithm of a number near 1 has an absolute error.
        found = max(0.0, float(logsumexp(terms))) + 1e-15 * order
        return found / (order - 1) * (1 + 1e-12)


def is_gaussian_proved(
    noise: Iterable[tuple[float, float]], *, epsilon: float, delta: float
) -> bool:
    """Return whether an epsilon of continuous noise is proved for integer noise of its variance.

    Args:
        noise: Noise multiplier z and sampling probability q of each kind of release, all of them
            made through the door, whose grid gives a clipped patient 8192 units or more.
        epsilon: By the privacy loss distribution of the continuous noise.
        delta: That it is stated at.

    Guarantee:
        Where this is true, so is (epsilon, delta) of these releases together, fixed beforehand,
        for up to 10,000 shares a sum. It is not what a ledger counts, and no rule to stop by.

    Source: docs/explanation/exact-pricing.md, Corollaries 1, 2 and 4.

    >>> is_gaussian_proved([(6.2, 1.0)], epsilon=3.0, delta=1e-4)
    True
    >>> is_gaussian_proved([(6.2, 1.0), (1.0, 0.2)], epsilon=3.0, delta=1e-4)
    False
    """
    if not (1e-20 <= delta < 0.5 and 0 < epsilon <= _LARGEST_PROVED):  # NaN fails too
        return False
    return all(q == 1 and z >= _LEAST_PROVED for z, q in noise)
