"""Shamir's secret sharing of 32-byte secrets, in Python integers over a 257-bit prime field.

2^256 + 297 is the smallest prime above 2^256: every 32-byte secret is an element, and a share is
33 bytes. A polynomial of degree t - 1 with uniform coefficients says nothing about its value
at 0 to whoever holds fewer than t other values.

Source: Shamir 1979.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice

from ..errors import ProtocolError

__all__ = ["PRIME", "SHARE_BYTES", "recover", "share"]

PRIME = 2**256 + 297
SHARE_BYTES = 33
_MOST_SUBSETS = 2000  # tried to find enough honest shares before giving up

Random = Callable[[int], int]


def share(
    secret: bytes, holders: Sequence[int], threshold: int, below: Random = secrets.randbelow
) -> dict[int, bytes]:
    """Split a secret so that any `threshold` of the holders' shares give it back.

    Args:
        secret: 32 bytes.
        holders: Distinct positions >= 1; each is its share's x.
        threshold: t, 1 <= t <= number of holders.
        below: Uniform random integer below its argument; replaced by tests only.

    Returns:
        33 bytes per holder.
    """
    if len(secret) != 32:
        raise ValueError("a secret is 32 bytes")
    if len(set(holders)) != len(holders) or min(holders) < 1:
        raise ValueError("holders are distinct positions from 1")
    if not 1 <= threshold <= len(holders):
        raise ValueError(f"threshold must lie in [1, {len(holders)}], got {threshold}")
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [below(PRIME) for _ in range(threshold - 1)]
    return {x: _value(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in holders}


def recover(
    shares: Mapping[int, bytes], threshold: int, fits: Callable[[bytes], bool]
) -> tuple[bytes, tuple[int, ...]]:
    """Return the secret that fits its commitment, and the holders whose shares are wrong.

    Args:
        shares: 33 bytes per holder; some may lie.
        threshold: t.
        fits: Whether a candidate matches the commitment.

    Returns:
        (secret, holders that lied), the latter sorted.

    Raises:
        ProtocolError: `too_few_shares`, or `shares_wrong` when no t of them fit.
    """
    values = {x: int.from_bytes(y, "big") for x, y in shares.items()}
    bad = {x for x, y in shares.items() if len(y) != SHARE_BYTES or values[x] >= PRIME}
    good = sorted(set(values) - bad)
    if len(good) < threshold:
        raise ProtocolError("too_few_shares", f"{len(good)} usable shares, {threshold} needed")
    for chosen in islice(combinations(good, threshold), _MOST_SUBSETS):
        secret = _interpolated(values, chosen, 0)
        if secret < 2**256 and fits(secret.to_bytes(32, "big")):
            liars = {x for x in good if _interpolated(values, chosen, x) != values[x]}
            return secret.to_bytes(32, "big"), tuple(sorted(liars | bad))
    raise ProtocolError("shares_wrong", "no set of shares gives the secret that was committed to")


def _value(coefficients: Sequence[int], x: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


def _interpolated(values: Mapping[int, int], chosen: Sequence[int], at: int) -> int:
    """Return the value at `at` of the polynomial through the chosen points."""
    if at in chosen:
        return values[at]
    return (
        sum(values[x] * w for x, w in zip(chosen, _weights(tuple(chosen), at), strict=True)) % PRIME
    )


_cache: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}


def _weights(chosen: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange weights: made once per set of survivors, used for every secret."""
    if (chosen, at) not in _cache:
        if len(_cache) > 4096:
            _cache.clear()
        weights = []
        for x in chosen:
            top = bottom = 1
            for other in chosen:
                if other != x:
                    top = top * (at - other) % PRIME
                    bottom = bottom * (x - other) % PRIME
            weights.append(top * pow(bottom, -1, PRIME) % PRIME)
        _cache[chosen, at] = tuple(weights)
    return _cache[chosen, at]
