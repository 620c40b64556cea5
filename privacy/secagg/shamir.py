"""Shamir's secret sharing of 32-byte secrets, in Python integers over a 257-bit prime field.

2^256 + 297 is the smallest prime above 2^256: every 32-byte secret is an element, and a share is
33 bytes. A polynomial of degree t - 1 with uniform coefficients says nothing about its value
at 0 to whoever holds fewer than t other values. Wrong shares are errors of a Reed-Solomon code:
of k shares, (k - t) / 2 wrong ones are found at once, and more of them by trying subsets.

Source: Shamir 1979; Gao 2003 (decoding).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice, zip_longest
from operator import mul

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
    for chosen in _candidates(values, good, threshold):
        secret = _interpolated(values, chosen, 0)
        if secret < 2**256 and fits(secret.to_bytes(32, "big")):
            liars = set[int]()
            if not _on_one_polynomial(values, good, threshold):
                liars = {x for x in good if _interpolated(values, chosen, x) != values[x]}
            return secret.to_bytes(32, "big"), tuple(sorted(liars | bad))
    raise ProtocolError("shares_wrong", "no set of shares gives the secret that was committed to")


def _candidates(
    values: Mapping[int, int], good: Sequence[int], threshold: int
) -> Iterator[tuple[int, ...]]:
    """Yield sets of t holders, the likeliest first: none lies, few lie, any may."""
    yield tuple(good[:threshold])
    polynomial = _decoded(values, good, threshold)
    if polynomial is not None:
        yield tuple([x for x in good if _value(polynomial, x) == values[x]][:threshold])
    yield from islice(combinations(good, threshold), _MOST_SUBSETS)


def _decoded(values: Mapping[int, int], good: Sequence[int], threshold: int) -> list[int] | None:
    """Return the polynomial of degree < t that all but (k - t) / 2 of the k points lie on."""
    whole, through = [1], list[int]()  # product of (X - x), and the interpolation so far
    for x in good:
        gap = (values[x] - _value(through, x)) * pow(_value(whole, x), -1, PRIME)
        through = _plus(through, _times([gap % PRIME], whole))
        whole = _times([-x % PRIME, 1], whole)
    before, after = whole, through
    factor_before, factor = list[int](), [1]
    while 2 * (len(after) - 1) >= len(good) + threshold:
        quotient, rest = _divided(before, after)
        before, after = after, rest
        less = _times([PRIME - 1], _times(quotient, factor))
        factor_before, factor = factor, _plus(factor_before, less)
    found, rest = _divided(after, factor)
    return None if rest or len(found) > threshold else found


def _plus(left: Sequence[int], right: Sequence[int]) -> list[int]:
    total = [(a + b) % PRIME for a, b in zip_longest(left, right, fillvalue=0)]
    while total and not total[-1]:
        total.pop()
    return total


def _times(left: Sequence[int], right: Sequence[int]) -> list[int]:
    total = [0] * (len(left) + len(right) - 1) if left and right else []
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            total[i + j] = (total[i + j] + a * b) % PRIME
    return total


def _divided(top: Sequence[int], bottom: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return quotient and remainder; coefficients are lowest first, the last one not zero."""
    rest, inverse = list(top), pow(bottom[-1], -1, PRIME)
    quotient = [0] * max(len(top) - len(bottom) + 1, 0)
    for shift in reversed(range(len(quotient))):
        quotient[shift] = rest[shift + len(bottom) - 1] * inverse % PRIME
        for at, b in enumerate(bottom):
            rest[shift + at] = (rest[shift + at] - quotient[shift] * b) % PRIME
    return quotient, _plus(rest, [])


def _value(coefficients: Sequence[int], x: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


def _interpolated(values: Mapping[int, int], chosen: Sequence[int], at: int) -> int:
    """Return the value at `at` of the polynomial through the chosen points."""
    if at in chosen:
        return values[at]
    return _dot([values[x] for x in chosen], _weights(tuple(chosen), at))


@lru_cache(maxsize=4096)
def _weights(chosen: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange weights: made once per set of survivors, used for every secret."""
    top = math.prod(at - x for x in chosen) % PRIME
    bottoms = [
        math.prod(x - other for other in chosen if other != x) * (at - x) % PRIME for x in chosen
    ]
    return tuple(top * inverse % PRIME for inverse in _inverses(bottoms))


def _dot(left: Sequence[int], right: Sequence[int]) -> int:
    total: int = sum(map(mul, left, right))
    return total % PRIME


def _on_one_polynomial(values: Mapping[int, int], points: Sequence[int], threshold: int) -> bool:
    """Whether all these points lie on one polynomial of degree < t; wrong with chance 1/p."""
    weights = _random_check(tuple(points), threshold)
    return _dot([values[x] for x in points], weights) == 0


@lru_cache(maxsize=64)
def _random_check(points: tuple[int, ...], threshold: int) -> tuple[int, ...]:
    """A uniform word of the dual code, kept from the senders: orthogonal to all honest shares."""
    surplus = [secrets.randbelow(PRIME) for _ in range(len(points) - threshold)]
    bottoms = [math.prod(x - other for other in points if other != x) % PRIME for x in points]
    return tuple(
        _value(surplus, x) * inverse % PRIME
        for x, inverse in zip(points, _inverses(bottoms), strict=True)
    )


def _inverses(numbers: Sequence[int]) -> list[int]:
    """Return the inverse of each, none being zero, for the price of one inversion."""
    before = [1]
    for number in numbers:
        before.append(before[-1] * number % PRIME)
    inverse, found = pow(before[-1], -1, PRIME), list[int]()
    for number, product in zip(reversed(numbers), reversed(before[:-1]), strict=True):
        found.append(inverse * product % PRIME)
        inverse = inverse * number % PRIME
    return found[::-1]
