"""A site follows a roster only where the members before it led (rules R-1 to R-4)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.secagg.roster import (
    Member,
    Roster,
    SignedRoster,
    names_of,
    stands,
    threshold_for,
)

if TYPE_CHECKING:
    from tests.unit.privacy.secagg import driver as driver_module

TODAY = dt.date(2026, 6, 1)


@pytest.fixture
def keys(driver: Any) -> dict[str, Ed25519PrivateKey]:
    return {f"site-{n:02d}": driver.identity(f"site-{n:02d}") for n in range(1, 13)}


@pytest.fixture
def first(driver: Any) -> Roster:
    roster: Roster = driver.a_roster(6)
    return roster


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def after(old: Roster, **changes: Any) -> Roster:
    return replace(old, version=old.version + 1, previous=old.sha256, **changes)


def check(
    roster: Roster,
    signers: Sequence[str],
    keys: dict[str, Ed25519PrivateKey],
    *,
    pinned: Roster | None = None,
    name: str = "site-01",
    today: dt.date = TODAY,
    identity: bytes | None = None,
) -> str:
    """The code of the refusal, or an empty text."""
    signed = SignedRoster.sign(roster, {signer: keys[signer] for signer in signers})
    mine = public(keys[name]) if identity is None else identity
    try:
        signed.check(name=name, identity=mine, today=today, pinned=pinned)
    except ProtocolError as refused:
        return refused.code
    return ""


def names(count: int) -> list[str]:
    return [f"site-{n:02d}" for n in range(1, count + 1)]


def test_the_first_roster_needs_every_member(
    first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    assert check(first, names(6), keys) == ""
    assert check(first, names(5), keys) == "r_1_quorum"
    assert check(replace(first, previous=b"\x01" * 32), names(6), keys) == "r_2_chain"


def test_the_next_needs_two_thirds_of_the_members_before_it(
    first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    second = after(first, valid_to="2028-01-01")
    assert check(second, names(4), keys, pinned=first) == ""
    assert check(second, names(3), keys, pinned=first) == "r_1_quorum"


def test_newcomers_cannot_vote_themselves_in(
    driver: Any, first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    """A2, Sybil: the six new members' signatures count for nothing."""
    larger = after(first, members=driver.a_roster(12).members)
    assert check(larger, [*names(3), *names(12)[6:]], keys, pinned=first) == "r_1_quorum"
    assert check(larger, names(4), keys, pinned=first) == ""


def test_a_signature_by_another_key_or_over_another_roster_does_not_count(
    first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    second = after(first)
    forged = dict(keys) | {"site-04": Ed25519PrivateKey.generate()}
    assert check(second, names(4), forged, pinned=first) == "r_1_quorum"
    other = SignedRoster.sign(after(first, federation="other"), {n: keys[n] for n in names(6)})
    mixed = SignedRoster(roster=second, signatures=other.signatures)
    with pytest.raises(ProtocolError) as refused:
        mixed.check(name="site-01", identity=public(keys["site-01"]), today=TODAY, pinned=first)
    assert refused.value.code == "r_1_quorum"


def test_one_member_cannot_sign_for_two(first: Roster, keys: dict[str, Ed25519PrivateKey]) -> None:
    second = after(first)
    signed = SignedRoster.sign(second, {name: keys[name] for name in names(3)})
    copied = dict(signed.signatures) | {"site-04": signed.signatures["site-01"]}
    with pytest.raises(ProtocolError) as refused:
        SignedRoster(roster=second, signatures=copied).check(
            name="site-01", identity=public(keys["site-01"]), today=TODAY, pinned=first
        )
    assert refused.value.code == "r_1_quorum"


def test_an_older_or_equal_version_is_a_rollback(
    first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    second = after(first)
    third = after(second)
    assert check(first, names(6), keys, pinned=first) == "r_2_version"
    assert check(first, names(6), keys, pinned=third) == "r_2_version"
    assert check(second, names(6), keys, pinned=third) == "r_2_version"
    assert check(third, names(6), keys, pinned=second) == ""


def test_a_roster_must_follow_the_one_held_here(
    first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    fork = after(first, valid_to="2030-01-01")
    skipped = after(after(first))
    assert check(after(fork), names(6), keys, pinned=after(first)) == "r_2_chain"
    assert check(skipped, names(6), keys, pinned=first) == "r_2_chain"
    assert check(replace(first, version=9), names(6), keys, pinned=first) == "r_2_chain"


def test_a_site_must_find_itself_with_its_own_key(
    driver: Any, first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    assert check(first, names(6), keys, identity=public(keys["site-02"])) == "r_3_own_key"
    without = after(first, members=first.members[1:])
    assert check(without, names(6), keys, pinned=first) == "r_3_not_a_member"
    assert check(without, names(6), keys, pinned=first, name="site-02") == ""


def test_a_roster_is_valid_on_its_days_only(
    first: Roster, keys: dict[str, Ed25519PrivateKey]
) -> None:
    for day, code in (
        (dt.date(2025, 12, 31), "r_4_dates"),
        (dt.date(2026, 1, 1), ""),
        (dt.date(2027, 1, 1), ""),
        (dt.date(2027, 1, 2), "r_4_dates"),
    ):
        assert check(first, names(6), keys, today=day) == code


def test_no_name_or_key_stands_twice(first: Roster) -> None:
    one, two, *rest = first.members
    for members, code in (
        ((one, one, *rest), "r_3_members"),
        ((two, one, *rest), "r_3_members"),
        ((one, replace(two, public=one.public), *rest), "r_3_keys"),
        ((one, replace(two, public=first.coordinator), *rest), "r_3_keys"),
    ):
        with pytest.raises(ProtocolError) as refused:
            replace(first, members=members)
        assert refused.value.code == code


def test_a_roster_reads_back_and_any_change_changes_its_hash(first: Roster) -> None:
    assert Roster.from_bytes(first.to_bytes()) == first
    data = first.to_bytes()
    for changed in (
        replace(first, federation="tesu"),
        replace(first, version=2),
        replace(first, colluders=2),
        replace(first, coordinator=bytes(32)),
        replace(first, valid_from="2026-01-02"),
        replace(first, valid_to="2027-01-02"),
        replace(first, previous=b"\x01" * 32),
        replace(first, members=first.members[1:]),
        replace(first, members=(*first.members, Member(name="zz", public=b"\x05" * 32))),
    ):
        assert changed.sha256 != first.sha256
    for size in range(len(data)):
        with pytest.raises(ProtocolError):
            Roster.from_bytes(data[:size])
    with pytest.raises(ProtocolError):
        Roster.from_bytes(data + b"\x00")


def test_an_unknown_suite_or_a_name_that_is_no_text_is_refused(first: Roster) -> None:
    data = bytearray(first.to_bytes())
    data[11] = 2
    with pytest.raises(ProtocolError) as refused:
        Roster.from_bytes(bytes(data))
    assert refused.value.code == "suite_unknown"
    for old, new in ((b"test", b"\xff\xff\xff\xff"), (b"2026-01-01", b"2026-01-\xff1")):
        with pytest.raises(ProtocolError) as refused:
            Roster.from_bytes(first.to_bytes().replace(old, new))
        assert refused.value.code == "message_malformed"


def test_places_outside_the_roster_are_nobody(first: Roster) -> None:
    for place in (0, -1, 7, 65535):
        with pytest.raises(ProtocolError) as refused:
            first.public(place)
        assert refused.value.code == "unknown_position"
    assert names_of(first, [1, 6]) == ("site-01", "site-06")


@pytest.mark.parametrize("sites", range(3, 60))
def test_no_two_survivor_sets_can_both_be_opened(sites: int) -> None:
    """2t > n + c, and two honest sites at least in every sum; c is as large as that allows."""
    threshold = threshold_for(sites, 0)
    assert threshold == 2 * sites // 3 + 1
    most = max(c for c in range(sites) if _accepts(sites, c))
    assert most == min(2 * threshold - sites - 1, threshold - 2)
    assert not any(_accepts(sites, c) for c in (-1, *range(most + 1, sites + 2)))


def _accepts(sites: int, colluders: int) -> bool:
    if stands(sites, threshold_for(sites, 0), colluders):
        assert threshold_for(sites, colluders) == threshold_for(sites, 0)
        return True
    with pytest.raises(ProtocolError) as refused:
        threshold_for(sites, colluders)
    return refused.value.code != "too_many_colluders"


@pytest.mark.parametrize("sites", [-1, 0, 1, 2])
def test_fewer_than_three_sites_cannot_hide_in_a_sum(sites: int) -> None:
    with pytest.raises(ProtocolError) as refused:
        threshold_for(sites, 0)
    assert refused.value.code == "too_few_sites"


def test_two_colluders_of_three_would_open_the_third(
    federation: type[driver_module.Federation], driver: Any
) -> None:
    """2t > n + c alone admits them; the sum less their vectors is the third's."""
    with pytest.raises(ProtocolError) as refused:
        driver.a_roster(3, colluders=2)
    assert refused.value.code == "too_many_colluders"
    threshold, sites, colluders = 3, 3, 2
    assert 2 * threshold > sites + colluders
