"""Shares: any t give the secret back, fewer say nothing, a liar is named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.secagg import shamir
from fedcohort.privacy.secagg.roster import threshold_for
from fedcohort.privacy.secagg.shamir import PRIME, SHARE_BYTES, recover, share

SECRETS = st.binary(min_size=32, max_size=32)


def is_the(secret: bytes) -> Callable[[bytes], bool]:
    return lambda found: found == secret


@given(SECRETS, st.integers(1, 9), st.data())
def test_any_t_shares_give_the_secret_back(
    secret: bytes, threshold: int, data: st.DataObject
) -> None:
    holders = data.draw(
        st.lists(st.integers(1, 3000), min_size=threshold, max_size=12, unique=True)
    )
    shares = share(secret, holders, threshold)
    assert {len(value) for value in shares.values()} == {SHARE_BYTES}
    chosen = data.draw(st.permutations(holders))[:threshold]
    got, liars = recover({x: shares[x] for x in chosen}, threshold, is_the(secret))
    assert (got, liars) == (secret, ())


def test_shares_of_fixed_coefficients_are_frozen() -> None:
    """2 + 3 x + 5 x^2, and the largest secret, whose shares need the 257th bit."""
    coefficients = iter([3, 5])
    shares = share((2).to_bytes(32, "big"), [1, 2, 7], 3, lambda _: next(coefficients))
    assert [int.from_bytes(shares[x], "big") for x in (1, 2, 7)] == [10, 28, 268]
    top = share(b"\xff" * 32, [1, 3], 2, lambda bound: 7)
    assert [int.from_bytes(value, "big") for value in top.values()] == [2**256 + 6, 2**256 + 20]


def is_prime(number: int) -> bool:
    """Miller-Rabin with the first twelve primes."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        value = pow(base, odd, number)
        if value not in (1, number - 1) and not any(
            pow(value, 2**step, number) == number - 1 for step in range(1, twos)
        ):
            return False
    return True


def test_the_field_is_the_smallest_that_holds_every_secret() -> None:
    assert is_prime(PRIME)
    assert not any(is_prime(number) for number in range(2**256 + 1, PRIME, 2))


@pytest.mark.parametrize("threshold", [2, 3])
def test_fewer_than_t_shares_are_distributed_alike_for_every_secret(
    threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exhaustive in GF(11): every secret, all coefficients, every set of t - 1 holders."""
    monkeypatch.setattr(shamir, "PRIME", 11)
    holders = [1, 2, 3, 4]
    seen: dict[tuple[int, ...], dict[int, Counter[tuple[bytes, ...]]]] = {}
    for secret in range(11):
        for coefficients in product(range(11), repeat=threshold - 1):
            drawn = iter(coefficients)
            shares = share(secret.to_bytes(32, "big"), holders, threshold, lambda _: next(drawn))  # noqa: B023
            for few in combinations(holders, threshold - 1):
                counts = seen.setdefault(few, {}).setdefault(secret, Counter())
                counts[tuple(shares[x] for x in few)] += 1
    for by_secret in seen.values():
        assert len(by_secret) == 11
        for counts in by_secret.values():
            assert counts == by_secret[0]
            assert len(counts) == 11 ** (threshold - 1)
            assert set(counts.values()) == {1}


def test_t_shares_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: the same count over t holders tells every secret apart."""
    monkeypatch.setattr(shamir, "PRIME", 11)
    seen = []
    for secret in range(11):
        pairs = set()
        for slope in range(11):
            shares = share(secret.to_bytes(32, "big"), [1, 2], 2, lambda _: slope)  # noqa: B023
            pairs.add((shares[1], shares[2]))
        seen.append(pairs)
    assert all(not one & other for one, other in combinations(seen, 2))


def test_a_biased_coefficient_is_told_apart_by_the_same_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The positive control: a slope that is never zero leaves one secret out of every share."""
    monkeypatch.setattr(shamir, "PRIME", 11)
    by_secret = []
    for secret in range(11):
        values = Counter(
            share(secret.to_bytes(32, "big"), [1, 2], 2, lambda _: slope)[1]  # noqa: B023
            for slope in range(1, 11)
        )
        by_secret.append(values)
    assert by_secret[0] != by_secret[1]


@given(SECRETS, st.sampled_from([3, 4, 7, 12, 16, 20, 30, 50]), st.data())
def test_liars_are_named_and_the_secret_still_comes_out(
    secret: bytes, sites: int, data: st.DataObject
) -> None:
    """Up to half of what surplus shares there are, wherever the liars stand."""
    threshold = threshold_for(sites, 1)
    most = (sites - threshold) // 2
    lying = data.draw(st.sets(st.integers(1, sites), max_size=most))
    shares = share(secret, range(1, sites + 1), threshold)
    for liar in lying:
        wrong = data.draw(st.binary(min_size=SHARE_BYTES, max_size=SHARE_BYTES))
        if wrong != shares[liar]:
            shares[liar] = wrong
        else:
            lying = lying - {liar}
    got, named = recover(shares, threshold, is_the(secret))
    assert (got, set(named)) == (secret, lying)


def test_a_liar_in_the_first_place_of_fifty_is_named_too() -> None:
    """What trying subsets in order alone cannot do: the first 2,000 all hold place 1."""
    secret = hashlib.sha256(b"secret").digest()
    for liars in ((1,), (1, 2, 3), tuple(range(1, 9)), tuple(range(1, 16, 2))):
        shares = share(secret, range(1, 51), 34)
        for liar in liars:
            shares[liar] = bytes(SHARE_BYTES - 1) + bytes([liar])
        assert recover(shares, 34, is_the(secret)) == (secret, liars)


def test_in_a_small_federation_every_surplus_share_may_lie() -> None:
    secret = hashlib.sha256(b"secret").digest()
    for liars in combinations(range(1, 8), 2):
        shares = share(secret, range(1, 8), 5)
        for liar in liars:
            shares[liar] = bytes(SHARE_BYTES)
        assert recover(shares, 5, is_the(secret)) == (secret, liars)


@pytest.mark.parametrize("sites", [3, 4, 7, 10, 50])
def test_one_honest_share_too_few_opens_nothing(sites: int) -> None:
    threshold = threshold_for(sites, 1)
    secret = hashlib.sha256(b"secret").digest()
    shares = share(secret, range(1, sites + 1), threshold)
    for liar in range(threshold, sites + 1):
        shares[liar] = b"\x00" + hashlib.sha256(bytes([liar])).digest()
    with pytest.raises(ProtocolError) as refused:
        recover(shares, threshold, is_the(secret))
    assert refused.value.code == "shares_wrong"
    few = {x: shares[x] for x in range(1, threshold)}
    with pytest.raises(ProtocolError) as refused:
        recover(few, threshold, is_the(secret))
    assert refused.value.code == "too_few_shares"


@pytest.mark.parametrize(
    "wrong",
    [
        PRIME.to_bytes(33, "big"),
        (2**264 - 1).to_bytes(33, "big"),
        b"",
        bytes(32),
        bytes(34),
    ],
)
def test_a_share_outside_the_field_or_of_another_length_is_a_lie(wrong: bytes) -> None:
    secret = hashlib.sha256(b"secret").digest()
    shares = share(secret, range(1, 6), 4)
    shares[2] = wrong
    assert recover(shares, 4, is_the(secret)) == (secret, (2,))


def test_shares_of_two_rounds_do_not_mix() -> None:
    one, other = bytes(range(32)), bytes(range(32, 64))
    first, second = share(one, range(1, 6), 4), share(other, range(1, 6), 4)
    mixed = {x: (first if x < 4 else second)[x] for x in range(1, 6)}
    for secret in (one, other):
        with pytest.raises(ProtocolError) as refused:
            recover(mixed, 4, is_the(secret))
        assert refused.value.code == "shares_wrong"
    assert recover({**first, 5: second[5]}, 4, is_the(one)) == (one, (5,))


@pytest.mark.parametrize(
    ("secret", "holders", "threshold"),
    [
        (bytes(32), [0, 1, 2], 2),  # x = 0 would hand out the secret itself
        (bytes(32), [1, 1, 2], 2),
        (bytes(32), [-1, 1, 2], 2),
        (bytes(32), [1, 2, 3], 0),
        (bytes(32), [1, 2, 3], 4),
        (bytes(31), [1, 2, 3], 2),
        (bytes(33), [1, 2, 3], 2),
    ],
)
def test_sharing_refuses_what_would_leak_or_could_not_open(
    secret: bytes, holders: list[int], threshold: int
) -> None:
    with pytest.raises(ValueError):
        share(secret, holders, threshold)


def test_the_secret_is_the_share_at_zero() -> None:
    """The positive control for `holders from 1`."""
    assert shamir._value([42, 7, 9], 0) == 42
