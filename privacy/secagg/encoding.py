"""Fixed point: real vectors to integers and back, with a proved no-overflow bound.

Everything that leaves a site is an integer, noise or not, so that a sum with masks and a sum
without them are the same integers. The scale comes from public values only.

No overflow. Let B = `limit` bound the absolute value of every coordinate that a site may
encode (checked: `encode` refuses, it never clips in silence) and W = 12 sigma bound its noise
(a discrete Gaussian exceeds 12 sigma with probability below 1e-31). Then n sites' sum stays
within n (B + W), and only n (B + W) <= 2^(b-2) < 2^(b-1) - 1 is admitted for words of b bits:
the sum modulo 2^b, read as a signed number, is the true sum. `float_slack` lengthens sigma by
1 % at most, which the factor of two holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DisclosureError, PolicyError, ProtocolError

__all__ = ["CLIP_BITS", "LARGEST_NOISED_COHORT", "SHORT_WORD_FROM", "Encoding", "float_slack"]

CLIP_BITS = 14  # a clip norm becomes 2^13..2^14 grid units for d <= 1,000, more above
_FEWEST_BITS = 16  # of fraction that a sum without noise needs
_LARGEST_INFLATION = 0.01  # of the sensitivity, by rounding to the grid
SHORT_WORD_FROM = 100_000  # coordinates: above, words of 32 bits save half of the traffic
_MAX_FRACTION_BITS = 45  # finer than float64 resolves for sums in the hundreds

_LEAST_SLACK = 1e-5  # of the sensitivity
_LARGEST_SLACK = 0.01
_LEAST_COVERS = 2**17  # patients
_SLACK_PER_SQUARE = 2.3e-16  # 3.5 % above 2^-52
LARGEST_NOISED_COHORT = math.isqrt(
    int((_LARGEST_SLACK - _LEAST_SLACK) / _SLACK_PER_SQUARE) + _LEAST_COVERS**2
)  # 6,591,810 patients of one site


def float_slack(max_patients: int) -> float:
    """Return by what factor, less 1, float arithmetic may lengthen the sensitivity of a sum.

    A site adds n clipped rows of norm C (1 + 1e-6) or less in float64, u = 2^-53, in an order of
    the library's choice; multiplications included, a number takes part in n + 8 roundings at most.
    So a coordinate errs by gamma sum |x_i|, with gamma = (n + 8) u / (1 - (n + 8) u), and a sum by
    gamma n C (1 + 1e-6) in L2. Two neighbouring sums err together by twice that: at n = 2^17 by
    3.82e-6 C, where n grows by 2.3e-16 C or less for each 1 that n^2 grows. The rest of 1e-5 is
    1e-6 for clipping, 1.8e-7 for the last bits of other patients' rows (measured, not proved) and
    5e-6 for the room of docs/explanation/exact-pricing.md.

    Args:
        max_patients: Most patients of one site, >= 1, by the plan: both sides know it.

    Returns:
        1e-5 up to 2^17 patients; above, 1e-5 + 2.3e-16 (n^2 - 2^34), which is 0.01 at most.

    Raises:
        PolicyError: `too_many_patients`: it would be more than 0.01.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, sections 3.1 and 4.2.

    >>> float_slack(2**17)
    1e-05
    >>> round(float_slack(10**6), 6)
    0.000236
    """
    if max_patients > LARGEST_NOISED_COHORT:
        raise PolicyError(
            "too_many_patients",
            f"max_patients_per_site is {max_patients:,}, and a noised sum may be over at most "
            f"{LARGEST_NOISED_COHORT:,} patients of a hospital: with more of them float arithmetic "
            "may move it by over 1 % of a clip norm",
            hint="Lower it; a larger hospital takes part with an extract of fewer patients.",
        )
    return _LEAST_SLACK + _SLACK_PER_SQUARE * max(0, max_patients**2 - _LEAST_COVERS**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How one round's real vectors become integers.

    Attributes:
        fraction_bits: A real value x becomes round(x * 2^fraction_bits).
        limit: Largest absolute value, in grid units, of a site's encoded coordinate before noise.
        word_bits: 64, or 32 on the wire of a masked sum.
    """

    fraction_bits: int
    limit: int
    word_bits: int = 64

    @property
    def scale(self) -> float:
        """Grid units per 1.0: a power of two, so scaling itself never rounds."""
        return math.ldexp(1.0, self.fraction_bits)

    @classmethod
    def for_sum(cls, *, site_bound: float, sites: int, word_bits: int = 64) -> Encoding:
        """Return the finest grid on which `sites` vectors of bounded coordinates cannot overflow.

        Args:
            site_bound: Largest absolute coordinate of one site's vector, public, > 0.
            sites: Number of sites in the sum, >= 1.
            word_bits: 32 or 64.

        Raises:
            PolicyError: `encoding_overflow`: no grid can hold the sum.
        """
        _check_positive(site_bound, sites)
        headroom = _headroom(word_bits)
        if word_bits == 32 and headroom / (sites * site_bound) < 2**_FEWEST_BITS:
            # Too coarse a grid to train on: what is public decides for the longer word.
            return cls.for_sum(site_bound=site_bound, sites=sites)
        bits = min(_MAX_FRACTION_BITS, math.floor(math.log2(headroom / (sites * site_bound))))
        # Rounded up: a coordinate at its bound, rounded to the grid, is still within the limit.
        limit = math.ceil(math.ldexp(site_bound, bits))
        if sites * limit > headroom:
            bits, limit = bits - 1, math.ceil(math.ldexp(site_bound, bits - 1))
        return cls._checked(bits, limit, sites, noise_units=0.0, word_bits=word_bits)

    @classmethod
    def for_noisy_sum(
        cls,
        *,
        clip_norm: float,
        max_patients: int,
        sites: int,
        noise_multiplier: float,
        size: int,
        word_bits: int = 64,
    ) -> Encoding:
        """Return the grid on which a clipped patient weighs 2^13 units or more in 64-bit words.

        Rounding inflates the sensitivity by sqrt(d) units, under 1 %. Where 32-bit words
        cannot hold so fine a grid, 64-bit words are taken: what is public decides.

        Args:
            clip_norm: L2 bound of one patient's contribution, > 0.
            max_patients: Public upper bound on the patients of one site.
            sites: Number of sites in the sum, >= 1.
            noise_multiplier: z of the sum; a site's share is never larger than the whole.
            size: d, length of the vector.
            word_bits: 32 or 64.

        Raises:
            PolicyError: `encoding_overflow`: no grid can hold the sum.
        """
        _check_positive(clip_norm, sites)
        finer = max(0, math.ceil(math.log2(math.sqrt(size / 1000)))) if size else 0
        bits = math.floor(math.log2(2 ** (CLIP_BITS + finer) / clip_norm))
        if word_bits == 32:
            reach = max_patients * clip_norm + 12 * noise_multiplier * 1.01 * clip_norm
            bits = min(bits, math.floor(math.log2(_headroom(32) / (sites * reach + sites))) - 1)
            if math.sqrt(size) > _LARGEST_INFLATION * math.ldexp(clip_norm, bits):
                return cls.for_noisy_sum(
                    clip_norm=clip_norm,
                    max_patients=max_patients,
                    sites=sites,
                    noise_multiplier=noise_multiplier,
                    size=size,
                )
        limit = math.ceil(max_patients * math.ldexp(clip_norm, bits)) + 1
        sensitivity = math.ldexp(clip_norm, bits) + math.sqrt(size)
        noise_units = 12 * noise_multiplier * sensitivity
        return cls._checked(bits, limit, sites, noise_units=noise_units, word_bits=word_bits)

    @classmethod
    def _checked(
        cls, bits: int, limit: int, sites: int, *, noise_units: float, word_bits: int
    ) -> Encoding:
        if limit < 1 or sites * (limit + noise_units) > _headroom(word_bits):
            raise PolicyError(
                "encoding_overflow",
                f"the plan's bounds leave no {word_bits}-bit grid on which the sum cannot overflow",
                hint="Lower the number of sites, max_patients_per_site or the clip norm.",
            )
        return cls(fraction_bits=bits, limit=limit, word_bits=word_bits)

    def sensitivity_units(self, sensitivity: float, size: int, max_patients: int) -> float:
        """Return the L2 sensitivity of an encoded sum, its rounding included, in grid units.

        A site rounds its sum once; on neighbouring data each coordinate's rounding error
        differs by at most one unit, so the encoded sums differ by at most s C + sqrt(d).
        `float_slack` covers float arithmetic over a site's patients, and the slack of a sum of
        discrete Gaussians.

        Args:
            sensitivity: C, L2 bound of one patient's contribution.
            size: d, length of the vector.
            max_patients: Public upper bound on the patients of one site.

        Raises:
            PolicyError: `too_many_patients`: see `float_slack`.
        """
        return (sensitivity * self.scale + math.sqrt(size)) * (1 + float_slack(max_patients))

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Round a site's sum to the grid.

        Raises:
            DisclosureError: `not_finite` or `out_of_range`: refused, never clipped in silence.
        """
        with np.errstate(over="ignore"):  # an infinity is out of range
            units = np.multiply(values, self.scale)
        np.rint(units, out=units)
        # A NaN fails every comparison; what failed is looked at only then.
        within = units.size == 0 or bool(-self.limit <= units.min() and units.max() <= self.limit)
        if not within:
            if not np.isfinite(values).all():
                raise _not_finite()
            raise DisclosureError(
                "out_of_range",
                "a coordinate of the site's sum exceeds the plan's public bound",
                hint="Raise max_patients_per_site, or check the features' ranges.",
            )
        return units.astype(np.int64)

    def encode_noisy(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Round a clipped sum to the grid, held within the limit: it refuses nothing.

        Under noise a refusal would speak of the data. Holding each coordinate within +-limit
        never moves two sums further apart, so the sensitivity stays what it was; leaving
        patients out instead would not: where one goes another comes in, and both count. What
        is not finite, which no clipped sum is, becomes nothing or the limit.
        """
        with np.errstate(over="ignore"):  # an infinity is held at the limit
            units = np.rint(np.nan_to_num(values) * self.scale)
        return np.clip(units, -self.limit, self.limit).astype(np.int64)

    def decode(self, total: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the real sum that an integer sum stands for."""
        if total.dtype not in (np.int32, np.int64):
            raise ProtocolError("vector_dtype", f"a sum must be int32 or int64, not {total.dtype}")
        return total.astype(np.float64) / self.scale


def _not_finite() -> DisclosureError:
    return DisclosureError(
        "not_finite",
        "a coordinate of the site's sum is not finite",
        hint="Check the cohort's encoding and the model's step size.",
    )


def _headroom(word_bits: int) -> int:
    """A quarter of the word's range: what a sum of bounds and 12 sigma may use."""
    if word_bits not in (32, 64):
        raise ValueError(f"words have 32 or 64 bits, not {word_bits}")
    return int(2 ** (word_bits - 2))


def _check_positive(bound: float, sites: int) -> None:
    if not (math.isfinite(bound) and bound > 0) or sites < 1:
        raise ValueError(f"need a finite bound > 0 and sites >= 1, got {bound} and {sites}")
