"""The typed messages of `fedsa/1`, each with one canonical binary layout.

    set-up, once per epoch     Advertise -> Share -> Acknowledge
    each round                 RoundPlan -> Report -> Commit -> Unmask

Every message starts with the same header (domain, suite, phase). A signature covers
domain || phase || 0x00 || SHA-256(all bytes before the signature).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import ProtocolError
from .roster import DOMAIN
from .shamir import SHARE_BYTES
from .suite import Suite
from .wire import Reader, Writer

__all__ = [
    "MAX_ROUNDS",
    "Acknowledge",
    "Advertise",
    "Commit",
    "Envelope",
    "Message",
    "Report",
    "RoundPlan",
    "Share",
    "ShareOf",
    "Unmask",
    "decode",
]

MAX_ROUNDS = 1000  # of one epoch
_LIMIT = 64 * 2**20  # 64 MiB: the shares of 1,000 rounds for a thousand sites
_ENVELOPE_LIMIT = 2 * SHARE_BYTES * MAX_ROUNDS + 16
KEM_PUBLIC, KEM_CIPHERTEXT = 1184, 1088


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A signed message.

    Attributes:
        sender: The sender's place in the roster; 0 for the coordinator.
        signature: 64 bytes; empty before signing.
    """

    phase: ClassVar[int]
    name: ClassVar[bytes]

    sender: int
    signature: bytes = b""

    def _body(self, writer: Writer) -> None:
        raise NotImplementedError

    def unsigned(self, suite: Suite) -> bytes:
        """Return everything before the signature."""
        writer = Writer().block(DOMAIN).u8(suite.number).u8(self.phase).u16(self.sender)
        self._body(writer)
        return writer.done()

    def signed_over(self, suite: Suite) -> bytes:
        """Return what the signature covers."""
        return DOMAIN + b"/" + self.name + b"\x00" + suite.hash(self.unsigned(suite))

    def signed(self: M, suite: Suite, identity: Ed25519PrivateKey) -> M:
        """Return the message with its signature."""
        return replace(self, signature=suite.sign(identity, self.signed_over(suite)))

    def to_bytes(self, suite: Suite) -> bytes:
        """Return the canonical bytes, signature last."""
        return self.unsigned(suite) + Writer().raw(self.signature, 64).done()

    def verify(self, suite: Suite, public: bytes, code: str) -> None:
        """Raise ProtocolError `code` unless this key signed exactly this message."""
        if not suite.verifies(public, self.signature, self.signed_over(suite)):
            raise ProtocolError(code, f"the {self.name.decode()} of {self.sender} is not signed")


M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise(Message):
    """E0: keys for one epoch.

    Attributes:
        epoch: 32 bytes, chosen by the coordinator.
        roster: Hash of the roster.
        channel: X25519 key of the share channel.
        kem: ML-KEM-768 key of the share channel.
        masks: X25519 key per round.
        commitments: SHA-256("b" || b || round) per round.
    """

    phase: ClassVar[int] = 1
    name: ClassVar[bytes] = b"advertise"

    epoch: bytes
    roster: bytes
    channel: bytes
    kem: bytes
    masks: tuple[bytes, ...]
    commitments: tuple[bytes, ...]

    def _body(self, writer: Writer) -> None:
        writer.raw(self.epoch, 32).raw(self.roster, 32).raw(self.channel, 32)
        writer.raw(self.kem, KEM_PUBLIC).u16(len(self.masks))
        for mask, commitment in zip(self.masks, self.commitments, strict=True):
            writer.raw(mask, 32).raw(commitment, 32)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> Advertise:
        epoch, roster, channel = reader.raw(32), reader.raw(32), reader.raw(32)
        kem = reader.raw(KEM_PUBLIC)
        pairs = [(reader.raw(32), reader.raw(32)) for _ in range(_rounds(reader))]
        return cls(
            sender=sender,
            epoch=epoch,
            roster=roster,
            channel=channel,
            kem=kem,
            masks=tuple(mask for mask, _ in pairs),
            commitments=tuple(commitment for _, commitment in pairs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Shares for one member: KEM ciphertext and AEAD ciphertext."""

    to: int
    kem: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Message):
    """E1: one envelope for every other member.

    Attributes:
        transcript: T0, hash of all E0 messages in roster order.
        envelopes: Sorted by their addressee.
    """

    phase: ClassVar[int] = 2
    name: ClassVar[bytes] = b"share"

    transcript: bytes
    envelopes: tuple[Envelope, ...]

    def _body(self, writer: Writer) -> None:
        writer.raw(self.transcript, 32).u16(len(self.envelopes))
        for envelope in self.envelopes:
            writer.u16(envelope.to).raw(envelope.kem, KEM_CIPHERTEXT).block(envelope.sealed)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> Share:
        transcript = reader.raw(32)
        envelopes = tuple(
            Envelope(
                to=reader.u16(),
                kem=reader.raw(KEM_CIPHERTEXT),
                sealed=reader.block(_ENVELOPE_LIMIT),
            )
            for _ in range(reader.u16())
        )
        return cls(sender=sender, transcript=transcript, envelopes=envelopes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge(Message):
    """E2: whose envelopes this member could open; participants are those who say the same."""

    phase: ClassVar[int] = 3
    name: ClassVar[bytes] = b"acknowledge"

    transcript: bytes
    accepted: tuple[int, ...]

    def _body(self, writer: Writer) -> None:
        writer.raw(self.transcript, 32).positions(self.accepted)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> Acknowledge:
        return cls(sender=sender, transcript=reader.raw(32), accepted=reader.positions())


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan(Message):
    """R0: what one round binds; its hash H salts every mask.

    Attributes:
        transcript: T0 of the epoch.
        key: r, which of the epoch's keys is used, 0-based.
        training_round: 32 bytes naming the sum that is wanted, the same over its attempts.
        attempt: 0-based number of the attempt at it.
        participants: Places asked, sorted.
        threshold: t.
        min_survivors: m.
        colluders: c.
        word_bits: 32 or 64.
        size: d.
        limit: B, largest absolute encoded coordinate of a site, before noise.
        terms: SHA-256 of the round's terms: plan, state, encoding and noise.
    """

    phase: ClassVar[int] = 4
    name: ClassVar[bytes] = b"plan"

    transcript: bytes
    key: int
    training_round: bytes
    attempt: int
    participants: tuple[int, ...]
    threshold: int
    min_survivors: int
    colluders: int
    word_bits: int
    size: int
    limit: int
    terms: bytes

    def _body(self, writer: Writer) -> None:
        writer.raw(self.transcript, 32).u16(self.key).raw(self.training_round, 32)
        writer.u16(self.attempt).positions(self.participants).u16(self.threshold)
        writer.u16(self.min_survivors).u16(self.colluders).u8(self.word_bits).u32(self.size)
        writer.u64(self.limit).raw(self.terms, 32)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> RoundPlan:
        return cls(
            sender=sender,
            transcript=reader.raw(32),
            key=reader.u16(),
            training_round=reader.raw(32),
            attempt=reader.u16(),
            participants=reader.positions(),
            threshold=reader.u16(),
            min_survivors=reader.u16(),
            colluders=reader.u16(),
            word_bits=reader.u8(),
            size=reader.u32(),
            limit=reader.u64(),
            terms=reader.raw(32),
        )

    def sha256(self, suite: Suite) -> bytes:
        """H: everything but the signature."""
        return suite.hash(self.unsigned(suite))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Message):
    """R1: the digest of a masked vector; the vector travels beside it.

    Attributes:
        plan: H.
        digest: SHA-256 of the vector's little-endian bytes.
    """

    phase: ClassVar[int] = 5
    name: ClassVar[bytes] = b"report"

    plan: bytes
    digest: bytes

    def _body(self, writer: Writer) -> None:
        writer.raw(self.plan, 32).raw(self.digest, 32)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> Report:
        return cls(sender=sender, plan=reader.raw(32), digest=reader.raw(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Message):
    """R2: this member's one word on who survived.

    Attributes:
        plan: H.
        survivors: SHA-256 of the reports, in order of their senders.
    """

    phase: ClassVar[int] = 6
    name: ClassVar[bytes] = b"commit"

    plan: bytes
    survivors: bytes

    def _body(self, writer: Writer) -> None:
        writer.raw(self.plan, 32).raw(self.survivors, 32)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> Commit:
        return cls(sender=sender, plan=reader.raw(32), survivors=reader.raw(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOf:
    """A share of one member's secret: of its self mask if it survived, else of its mask key."""

    owner: int
    survived: bool
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmask(Message):
    """R3: one share per participant, never both kinds for one."""

    phase: ClassVar[int] = 7
    name: ClassVar[bytes] = b"unmask"

    plan: bytes
    shares: tuple[ShareOf, ...]

    def _body(self, writer: Writer) -> None:
        writer.raw(self.plan, 32).u16(len(self.shares))
        for share in self.shares:
            writer.u16(share.owner).u8(int(share.survived)).raw(share.value, SHARE_BYTES)

    @classmethod
    def _read(cls, sender: int, reader: Reader) -> Unmask:
        plan = reader.raw(32)
        shares = []
        for _ in range(reader.u16()):
            owner, flag = reader.u16(), reader.u8()
            if flag > 1:
                raise ProtocolError("message_malformed", "a flag is 0 or 1")
            shares.append(ShareOf(owner=owner, survived=bool(flag), value=reader.raw(SHARE_BYTES)))
        return cls(sender=sender, plan=plan, shares=tuple(shares))


def decode(kind: type[M], data: bytes, suite: Suite) -> M:
    """Read one message of a known kind.

    Raises:
        ProtocolError: `message_malformed`, `message_too_long` or `suite_mismatch`.
    """
    reader = Reader(data, limit=_LIMIT)
    if reader.block(len(DOMAIN)) != DOMAIN:
        raise ProtocolError("message_malformed", "not a message of this protocol")
    if reader.u8() != suite.number:
        raise ProtocolError("suite_mismatch", "a message is of another suite than the roster's")
    if reader.u8() != kind.phase:
        raise ProtocolError("phase_mismatch", f"this is not a {kind.name.decode()}")
    read: Callable[[int, Reader], M] = kind._read  # type: ignore[attr-defined]
    message = read(reader.u16(), reader)
    signature = reader.raw(64)
    reader.end()
    return replace(message, signature=signature)


def _rounds(reader: Reader) -> int:
    count = reader.u16()
    if not 1 <= count <= MAX_ROUNDS:
        raise ProtocolError("e1_7_rounds", f"an epoch has 1 to {MAX_ROUNDS} rounds")
    return count
