"""Who takes part, as one document that the members themselves sign.

A roster names each member's identity key and the coordinator's, the suite, and the rules that
no plan may fall below. It is signed by all members at first, and then by two thirds of the
roster before it. Sites pin its hash; a site that was handed another roster, an older one, or one
with a member that its predecessors did not admit, refuses (rules R-1 to R-4).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import ProtocolError
from .suite import Suite, suite_of
from .wire import Reader, Writer

__all__ = ["DOMAIN", "MINIMUM_SITES", "Member", "Roster", "SignedRoster", "stands", "threshold_for"]

DOMAIN = b"fedsa/1"
MINIMUM_SITES = 3
_NAME_LIMIT = 200
_ROSTER_LIMIT = 2**20  # 1 MiB: thousands of members


def threshold_for(sites: int, colluders: int) -> int:
    """Return t = floor(2n/3) + 1, the shares that open a mask.

    With 2t > n + c two survivor sets cannot both gather t signatures, since honest sites sign
    one; three sites give t = 3, so that no drop-out is survived. With t >= c + 2 a sum holds two
    honest sites at least: colluders can take their own vectors off it.

    Raises:
        ProtocolError: `too_few_sites` (n < 3) or `too_many_colluders`.
    """
    if sites < MINIMUM_SITES:
        raise ProtocolError(
            "too_few_sites",
            f"secure aggregation needs {MINIMUM_SITES} sites, got {sites}: with two, each would "
            "learn the other's sum",
            hint="Add a hospital; two can only be summed in plain (secagg=plain).",
        )
    threshold = 2 * sites // 3 + 1
    if not stands(sites, threshold, colluders):
        most = min(2 * threshold - sites - 1, threshold - 2)
        raise ProtocolError(
            "too_many_colluders",
            f"{sites} sites with threshold {threshold} cannot stand {colluders} colluders",
            hint=f"State at most {most} colluders.",
        )
    return threshold


def stands(sites: int, threshold: int, colluders: int) -> bool:
    """Whether a threshold among so many share-holders stands c colluders: see `threshold_for`."""
    return colluders >= 0 and 2 * threshold > sites + colluders and threshold >= colluders + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site.

    Attributes:
        name: Its name in plans.
        public: Ed25519 identity key, 32 bytes.
    """

    name: str
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The members, in order; a member's position is its place, counted from 1.

    Attributes:
        federation: Name of the federation.
        version: Grows by one with every change.
        suite: Number of the crypto suite.
        members: Sites, sorted by name.
        coordinator: The coordinator's Ed25519 key.
        colluders: c, the fewest colluders that every plan must stand.
        valid_from: First valid day, ISO.
        valid_to: Last valid day, ISO.
        previous: Hash of the roster before it; 32 zero bytes at first.
    """

    federation: str
    version: int
    suite: int
    members: tuple[Member, ...]
    coordinator: bytes
    colluders: int
    valid_from: str
    valid_to: str
    previous: bytes = bytes(32)

    def __post_init__(self) -> None:
        names = [member.name for member in self.members]
        keys = [member.public for member in self.members] + [self.coordinator]
        if names != sorted(set(names)):
            raise ProtocolError("r_3_members", "members are named once each, sorted by name")
        if len(set(keys)) != len(keys):
            raise ProtocolError("r_3_keys", "two members, or one and the coordinator, share a key")
        threshold_for(len(self.members), self.colluders)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        writer = Writer().block(DOMAIN).u8(self.suite).block(self.federation.encode())
        writer.u32(self.version).u16(self.colluders).u16(len(self.members))
        for member in self.members:
            writer.block(member.name.encode()).raw(member.public, 32)
        writer.raw(self.coordinator, 32).raw(self.previous, 32)
        return writer.raw(self.valid_from.encode(), 10).raw(self.valid_to.encode(), 10).done()

    @classmethod
    def from_bytes(cls, data: bytes) -> Roster:
        """Read a roster back.

        Raises:
            ProtocolError: `message_malformed`, `suite_unknown`, or a broken rule.
        """
        reader = Reader(data, limit=_ROSTER_LIMIT)
        if reader.block(len(DOMAIN)) != DOMAIN:
            raise ProtocolError("message_malformed", "not a roster of this protocol")
        suite = reader.u8()
        suite_of(suite)
        federation = _text(reader)
        version, colluders, count = reader.u32(), reader.u16(), reader.u16()
        members = tuple(Member(name=_text(reader), public=reader.raw(32)) for _ in range(count))
        coordinator, previous = reader.raw(32), reader.raw(32)
        days = reader.raw(10), reader.raw(10)
        reader.end()
        try:
            valid_from, valid_to = (day.decode("ascii") for day in days)
        except UnicodeDecodeError as error:
            raise ProtocolError("message_malformed", "a roster's date is not ASCII") from error
        return cls(
            federation=federation,
            version=version,
            suite=suite,
            members=members,
            coordinator=coordinator,
            colluders=colluders,
            valid_from=valid_from,
            valid_to=valid_to,
            previous=previous,
        )

    @property
    def primitives(self) -> Suite:
        """The roster's suite."""
        return suite_of(self.suite)

    @property
    def sha256(self) -> bytes:
        """Hash of the canonical bytes: what sites pin."""
        return self.primitives.hash(self.to_bytes())

    def position(self, name: str) -> int:
        """Return a member's place, from 1.

        Raises:
            ProtocolError: `r_3_not_a_member`.
        """
        for place, member in enumerate(self.members, start=1):
            if member.name == name:
                return place
        raise ProtocolError("r_3_not_a_member", f"the roster does not name {name}")

    def public(self, position: int) -> bytes:
        """Return the identity key of a place.

        Raises:
            ProtocolError: `unknown_position`.
        """
        if not 1 <= position <= len(self.members):
            raise ProtocolError("unknown_position", f"the roster has no place {position}")
        return self.members[position - 1].public


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRoster:
    """A roster with its members' signatures.

    Attributes:
        roster: The roster.
        signatures: By the signing member's name, in the roster whose members had to sign.
    """

    roster: Roster
    signatures: Mapping[str, bytes]

    @classmethod
    def sign(cls, roster: Roster, identities: Mapping[str, Ed25519PrivateKey]) -> SignedRoster:
        """Return the roster signed by these members (a ceremony brings them together)."""
        message = _roster_message(roster)
        suite = roster.primitives
        return cls(
            roster=roster,
            signatures={name: suite.sign(key, message) for name, key in identities.items()},
        )

    def check(
        self, *, name: str, identity: bytes, today: dt.date, pinned: Roster | None = None
    ) -> None:
        """Check rules R-1 to R-4 as the member `name`.

        Args:
            name: The checking site.
            identity: Its own public key.
            today: For the validity dates.
            pinned: The roster this site held before; None at the first ceremony, whose
                fingerprint people compare by hand.

        Raises:
            ProtocolError: `r_1_quorum`, `r_2_version`, `r_2_chain`, `r_3_*` or `r_4_dates`.
        """
        roster = self.roster
        signers = roster.members if pinned is None else pinned.members
        needed = len(signers) if pinned is None else -(-2 * len(signers) // 3)
        message = _roster_message(roster)
        suite = roster.primitives
        valid = [
            member.name
            for member in signers
            if suite.verifies(member.public, self.signatures.get(member.name, b""), message)
        ]
        if len(valid) < needed:
            raise ProtocolError(
                "r_1_quorum", f"{len(valid)} members signed the roster, {needed} must"
            )
        if pinned is not None and roster.version <= pinned.version:
            raise ProtocolError("r_2_version", "the roster is not newer than the one held here")
        expected = bytes(32) if pinned is None else pinned.sha256
        if roster.previous != expected:
            raise ProtocolError("r_2_chain", "the roster does not follow the one held here")
        if roster.public(roster.position(name)) != identity:
            raise ProtocolError("r_3_own_key", "the roster names another key for this site")
        if not roster.valid_from <= today.isoformat() <= roster.valid_to:
            raise ProtocolError("r_4_dates", "the roster is not valid today")


def _roster_message(roster: Roster) -> bytes:
    return DOMAIN + b"/roster\x00" + roster.sha256


def _text(reader: Reader) -> str:
    try:
        return reader.block(_NAME_LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("message_malformed", "a name is not UTF-8") from error


def names_of(roster: Roster, positions: Sequence[int]) -> tuple[str, ...]:
    """Return the names at these places, for people."""
    return tuple(roster.members[position - 1].name for position in positions)
