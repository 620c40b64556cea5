"""A site's side of `fedsa/1`: a state machine that consumes and produces bytes.

    advertise -> share -> acknowledge                      once per epoch
    open_round -> report -> commit -> unmask               once per round (and attempt)

Every check of the protocol stands where it applies, named by its rule. What a site has said
cannot be unsaid: one survivor set per attempt, one unmasking per training round, one use per key.

Rules that do not apply here: 8 (the graph is complete, there is none to recompute); 19 and 20
(model, code and budget) are the caller's, who compares the round's terms with the plan it
approved and charges its ledger before `report`; 21 (the same query with another cohort) is the
ledger's, since every opened sum is charged; 22 (deadline) changes no guarantee: a late report is
just not counted; 24 to 28 (finite, bounded, weight, noise, no clear metrics) are the door's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from ..errors import ProtocolError
from .masking import commitment, masked, pair_seeds, self_seed
from .messages import (
    MAX_ROUNDS,
    Acknowledge,
    Advertise,
    Commit,
    Envelope,
    Report,
    RoundPlan,
    Share,
    ShareOf,
    Unmask,
    decode,
)
from .roster import MINIMUM_SITES, Roster, stands, threshold_for
from .shamir import PRIME, SHARE_BYTES, share
from .store import RoundStore
from .wire import Reader, Writer

__all__ = ["ExpectedRound", "SiteSession", "survivors_digest"]

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRound:
    """What the approved plan implies for a round; a round plan that differs is refused.

    Attributes:
        min_survivors: m.
        colluders: c.
        word_bits: 32 or 64.
        size: d.
        limit: B.
        terms: SHA-256 of the round's terms.
        training_round: The one name under which these terms may be summed; empty: any. Under
            a second name the same vector could be summed over other sites, and subtracted.
    """

    min_survivors: int
    colluders: int
    word_bits: int
    size: int
    limit: int
    terms: bytes
    training_round: bytes


@dataclass(slots=True)
class _Epoch:
    """One epoch's secrets. Held in memory only, and emptied as they are used."""

    number: bytes
    channel: bytearray
    kem: bytearray
    masks: list[bytearray | None]
    selves: list[bytearray | None]
    own: bytes = b""
    advertised: dict[int, Advertise] = field(default_factory=dict)
    transcript: bytes = b""
    threshold: int = 0
    accepted: tuple[int, ...] = ()
    # shares[key][owner] = (share of its mask key, share of its self mask)
    shares: list[dict[int, tuple[bytes, bytes]]] = field(default_factory=list)

    def forget(self, key: int) -> None:
        """Wipe this key and all before it, and the shares of those: none can be used again."""
        for secrets in (self.masks, self.selves):
            for number, secret in enumerate(secrets[: key + 1]):
                if secret is not None:
                    _wipe(secret)
                secrets[number] = None
        for held in self.shares[:key]:
            held.clear()


@dataclass(slots=True)
class _Round:
    """One attempt at a sum."""

    plan: RoundPlan
    digest: bytes
    reported: bytes = b""
    survivors: tuple[int, ...] = ()
    committed: bytes = b""


class SiteSession:
    """One member of a roster.

    Args:
        roster: The roster this site pinned.
        name: Its name in the roster.
        identity: Its Ed25519 key.
        store: Its round counter.
        entropy: Random bytes; the operating system's but in tests of frozen vectors.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        name: str,
        identity: Ed25519PrivateKey,
        store: RoundStore,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._roster = roster
        self._suite = roster.primitives
        self.position = roster.position(name)
        self._identity = identity
        self._store = store
        self._entropy = entropy
        self._epoch: _Epoch | None = None
        self._round: _Round | None = None
        self._attempts: dict[bytes, int] = {}
        self._finished: set[bytes] = set()

    # ---- set-up ------------------------------------------------------------------------

    def advertise(self, epoch: bytes, rounds: int) -> bytes:
        """E0: make fresh keys for so many rounds; an epoch still open is erased."""
        suite = self._suite
        if len(epoch) != 32 or not 1 <= rounds <= MAX_ROUNDS:
            raise ProtocolError(
                "e1_7_rounds", f"an epoch has 32 bytes and 1 to {MAX_ROUNDS} rounds"
            )
        self._erase_epoch()
        secrets = _Epoch(
            number=epoch,
            channel=bytearray(self._entropy(32)),
            kem=bytearray(self._entropy(64)),
            masks=[bytearray(self._entropy(32)) for _ in range(rounds)],
            selves=[bytearray(self._entropy(32)) for _ in range(rounds)],
        )
        message = Advertise(
            sender=self.position,
            epoch=epoch,
            roster=self._roster.sha256,
            channel=suite.agreement_public(bytes(secrets.channel)),
            kem=suite.kem_public(bytes(secrets.kem)),
            masks=tuple(suite.agreement_public(bytes(_held(mask))) for mask in secrets.masks),
            commitments=tuple(
                commitment(suite, bytes(_held(own)), key) for key, own in enumerate(secrets.selves)
            ),
        )
        secrets.own = message.signed(suite, self._identity).to_bytes(suite)
        self._epoch = secrets
        return secrets.own

    def share(self, advertises: Sequence[bytes]) -> bytes:
        """E1: check everybody's keys and seal a share of every secret for every other member."""
        epoch = self._open_epoch()
        if epoch.advertised:
            raise ProtocolError("phase_order", "shares were made in this epoch already")
        advertised = self._checked_advertises(epoch, advertises)
        # t counts the roster, not who happens to be in this epoch: else a coordinator opens one
        # vector in two small epochs, each with a threshold of its own.
        epoch.threshold = threshold_for(len(self._roster.members), self._roster.colluders)
        if len(advertised) < epoch.threshold:  # rule 6
            raise ProtocolError("e1_6_too_few", "too few members are in this epoch")
        epoch.advertised = advertised
        epoch.transcript = self._suite.hash(*advertises)
        epoch.shares = [{} for _ in epoch.masks]
        plain = self._shares_of_all_keys(epoch)
        envelopes = []
        for other in sorted(set(advertised) - {self.position}):
            secret, ciphertext = self._suite.encapsulate(advertised[other].kem)
            key = self._box_key(epoch, other, secret, outgoing=True)
            data = _address(epoch.transcript, self.position, other)
            sealed = self._suite.seal(key, plain[other], data=data)
            envelopes.append(Envelope(to=other, kem=ciphertext, sealed=sealed))
        message = Share(
            sender=self.position, transcript=epoch.transcript, envelopes=tuple(envelopes)
        )
        return message.signed(self._suite, self._identity).to_bytes(self._suite)

    def acknowledge(self, delivery: bytes) -> bytes:
        """E2: open what was sealed for this site; whose envelope fails is left out, by name."""
        epoch = self._open_epoch()
        if not epoch.advertised or epoch.accepted:
            raise ProtocolError("phase_order", "envelopes come once, after the shares")
        opened = []
        for sender, kem, sealed in self._delivered(delivery):
            try:
                self._open_envelope(epoch, sender, kem, sealed)
            except ProtocolError:
                continue  # excluded: the acknowledgement says so, before any data exist
            opened.append(sender)
        accepted = tuple(sorted([*opened, self.position]))
        if len(accepted) < epoch.threshold:  # rule 12
            raise ProtocolError("e2_12_too_few", "too few envelopes opened for this epoch")
        epoch.accepted = accepted
        _wipe(epoch.channel)
        _wipe(epoch.kem)
        message = Acknowledge(sender=self.position, transcript=epoch.transcript, accepted=accepted)
        return message.signed(self._suite, self._identity).to_bytes(self._suite)

    # ---- rounds ------------------------------------------------------------------------

    def open_round(self, plan: bytes, expected: ExpectedRound) -> None:
        """R0: check a round plan against the epoch and the approved plan, before any work."""
        epoch = self._open_epoch()
        asked = decode(RoundPlan, plan, self._suite)
        if asked.sender != 0:
            raise ProtocolError("r0_13_coordinator", "a round plan is the coordinator's")
        asked.verify(self._suite, self._roster.coordinator, "r0_13_coordinator")  # 13
        if asked.transcript != epoch.transcript or not epoch.accepted:  # 14
            raise ProtocolError("r0_14_epoch", "the round belongs to another epoch")
        if asked.key >= len(epoch.masks) or epoch.masks[asked.key] is None:
            raise ProtocolError("r0_14_key", f"key {asked.key} was used or was never made")
        if asked.training_round in self._finished:  # 15
            raise ProtocolError("r0_15_finished", "this sum was opened already")
        # A site that an attempt never reached joins the next one: later is enough.
        if asked.attempt <= self._attempts.get(asked.training_round, -1):
            raise ProtocolError("r0_15_attempt", "this attempt, or a later one, was answered")
        self._check_cohort(epoch, asked)  # 16, 17
        _check_expected(asked, expected)  # 17, 18, 23
        self._round = _Round(plan=asked, digest=asked.sha256(self._suite))

    def report(self, vector: NDArray[np.int64]) -> tuple[bytes, bytes]:
        """R1: mask an encoded, noised vector. The key is used up before a byte exists.

        Returns:
            (report, the masked vector's little-endian words).
        """
        epoch, current = self._open_epoch(), self._open_sum()
        plan = current.plan
        if current.reported:
            raise ProtocolError("phase_order", "this round was reported already")
        if vector.dtype != np.int64 or vector.shape != (plan.size,):
            raise ProtocolError("r0_23_size", f"the vector must be int64 [{plan.size}]")
        self._store.use(epoch.number, plan.key)  # 29
        self._attempts[plan.training_round] = plan.attempt
        private, own = _held(epoch.masks[plan.key]), _held(epoch.selves[plan.key])
        publics = {
            other: epoch.advertised[other].masks[plan.key]
            for other in plan.participants
            if other != self.position
        }
        seeds = pair_seeds(
            self._suite, bytes(private), publics, mine=self.position, plan=current.digest
        )
        streams = [(self_seed(self._suite, bytes(own), current.digest), 1)]
        streams += [(seed, 1 if self.position < other else -1) for other, seed in seeds.items()]
        words = masked(self._suite, vector, plan.word_bits, streams)
        # Its owner needs neither any more: what is left of them are the others' shares.
        epoch.forget(plan.key)
        current.reported = self._suite.hash(words)
        message = Report(sender=self.position, plan=current.digest, digest=current.reported)
        return message.signed(self._suite, self._identity).to_bytes(self._suite), words

    def commit(self, reports: Sequence[bytes]) -> bytes:
        """R2: say once who survived, having checked that everybody is who and where they say."""
        current = self._open_sum()
        if not current.reported:
            raise ProtocolError("phase_order", "a survivor set comes after the report")
        survivors = self._checked_survivors(current, reports)
        digest = survivors_digest(self._suite.hash, reports)
        if current.committed and current.committed != digest:  # 34
            raise ProtocolError("r2_34_second_set", "another survivor set was signed already")
        current.committed, current.survivors = digest, survivors
        message = Commit(sender=self.position, plan=current.digest, survivors=digest)
        return message.signed(self._suite, self._identity).to_bytes(self._suite)

    def unmask(self, commits: Sequence[bytes]) -> bytes:
        """R3: hand over one share per participant, once t members signed the same survivors."""
        epoch, current = self._open_epoch(), self._open_sum()
        if not current.committed:
            raise ProtocolError("phase_order", "unmasking comes after the commitment")
        if current.plan.training_round in self._finished:  # 37
            raise ProtocolError("r3_37_answered", "this sum was unmasked already")
        self._check_commits(current, commits)  # 36
        held = epoch.shares[current.plan.key]
        shares = []
        for owner in current.plan.participants:  # 38: derived here, one kind per owner
            if owner not in held:
                raise ProtocolError("r3_38_no_share", f"no share of {owner} is held here")
            survived = owner in current.survivors
            shares.append(
                ShareOf(owner=owner, survived=survived, value=held[owner][1 if survived else 0])
            )
        self._finished.add(current.plan.training_round)
        held.clear()  # 39
        message = Unmask(sender=self.position, plan=current.digest, shares=tuple(shares))
        self._round = None
        return message.signed(self._suite, self._identity).to_bytes(self._suite)

    # ---- checks ------------------------------------------------------------------------

    def _checked_advertises(
        self, epoch: _Epoch, advertises: Sequence[bytes]
    ) -> dict[int, Advertise]:
        found: dict[int, Advertise] = {}
        _check_count(advertises, self._roster.members)
        for data in advertises:
            message = decode(Advertise, data, self._suite)
            if message.epoch != epoch.number:  # 1
                raise ProtocolError("e1_1_epoch", "keys of another epoch")
            if message.roster != self._roster.sha256:
                raise ProtocolError("e1_1_roster", "keys under another roster")
            public = self._roster.public(message.sender)  # 2
            if message.sender in found:
                raise ProtocolError("e1_2_twice", f"two sets of keys from {message.sender}")
            message.verify(self._suite, public, "e1_3_signature")  # 3
            if len(message.masks) != len(epoch.masks):  # 7
                raise ProtocolError("e1_7_rounds", "keys for another number of rounds")
            self._suite.check_keys([message.channel, *message.masks], message.kem)  # 5
            found[message.sender] = message
        if list(found) != sorted(found):
            raise ProtocolError("e1_2_order", "keys are not in roster order")
        if epoch.own not in advertises:  # 4
            raise ProtocolError("e1_4_own", "this site's own keys were changed or left out")
        keys = [m.channel for m in found.values()] + [k for m in found.values() for k in m.masks]
        if len(set(keys)) != len(keys):  # 5
            raise ProtocolError("e1_5_echo", "a key was used twice or echoed")
        return found

    def _check_cohort(self, epoch: _Epoch, asked: RoundPlan) -> None:
        people = asked.participants
        if list(people) != sorted(set(people)) or not set(people) <= set(epoch.accepted):  # 16
            raise ProtocolError("r0_16_cohort", "the cohort is not among the epoch's members")
        if self.position not in people or len(people) < max(MINIMUM_SITES, epoch.threshold):
            raise ProtocolError("r0_16_cohort", "the cohort is too small, or without this site")
        if asked.threshold != epoch.threshold:  # 17
            raise ProtocolError("r0_17_threshold", "the threshold is not the epoch's")
        if asked.colluders < self._roster.colluders:
            raise ProtocolError("r0_17_colluders", "the roster asks to stand more colluders")
        # Any member may hold shares, in this epoch or another: n counts the roster.
        if not stands(len(self._roster.members), asked.threshold, asked.colluders):
            raise ProtocolError("r0_17_colluders", "the threshold cannot stand so many colluders")

    def _checked_survivors(self, current: _Round, reports: Sequence[bytes]) -> tuple[int, ...]:
        plan = current.plan
        senders: list[int] = []
        _check_count(reports, plan.participants)
        for data in reports:
            message = decode(Report, data, self._suite)
            public = self._roster.public(message.sender)
            if message.sender not in plan.participants:  # 31
                raise ProtocolError("r2_31_outsider", "a survivor is not in the cohort")
            if message.plan != current.digest:  # 33
                raise ProtocolError("r2_33_plan", "a report is for another plan")
            message.verify(self._suite, public, "r2_33_signature")
            if message.sender == self.position and message.digest != current.reported:  # 30
                raise ProtocolError("r2_30_own", "this site's own report was changed")
            senders.append(message.sender)
        if senders != sorted(set(senders)):  # 31
            raise ProtocolError("r2_31_order", "survivors are not sorted, or named twice")
        if self.position not in senders:  # 30
            raise ProtocolError("r2_30_own", "this site's own report was left out")
        lost = len(plan.participants) - len(senders)
        if lost > len(plan.participants) - plan.threshold:  # 35
            raise ProtocolError("r2_35_dropouts", "more sites dropped out than may")
        fewest = max(plan.min_survivors, plan.threshold, MINIMUM_SITES)
        if len(senders) < fewest:  # 32
            raise ProtocolError("r2_32_too_few", f"{len(senders)} survivors, {fewest} needed")
        if plan.training_round in self._finished:  # 34
            raise ProtocolError("r2_34_answered", "this sum was unmasked already")
        return tuple(senders)

    def _check_commits(self, current: _Round, commits: Sequence[bytes]) -> None:
        signers = set()
        _check_count(commits, current.survivors)
        for data in commits:
            message = decode(Commit, data, self._suite)
            public = self._roster.public(message.sender)
            if message.sender not in current.survivors:
                raise ProtocolError("r3_36_outsider", "a commitment is not by a survivor")
            if message.plan != current.digest or message.survivors != current.committed:
                raise ProtocolError("r3_36_other_set", "members signed different survivor sets")
            message.verify(self._suite, public, "r3_36_signature")
            signers.add(message.sender)
        if len(signers) < current.plan.threshold:  # 36
            raise ProtocolError(
                "r3_36_too_few", f"{len(signers)} signatures, {current.plan.threshold} needed"
            )

    # ---- shares ------------------------------------------------------------------------

    def _shares_of_all_keys(self, epoch: _Epoch) -> dict[int, bytes]:
        """Split every secret of this site; keep its own share, return the others' plaintexts."""
        holders = sorted(epoch.advertised)
        plain: dict[int, list[bytes]] = {holder: [] for holder in holders}
        for key, (mask, own) in enumerate(zip(epoch.masks, epoch.selves, strict=True)):
            of_mask = share(bytes(_held(mask)), holders, epoch.threshold, self._below)
            of_self = share(bytes(_held(own)), holders, epoch.threshold, self._below)
            for holder in holders:
                plain[holder] += [of_mask[holder], of_self[holder]]
            epoch.shares[key][self.position] = of_mask[self.position], of_self[self.position]
        return {holder: b"".join(parts) for holder, parts in plain.items()}

    def _below(self, bound: int) -> int:
        """Uniform below the field's prime: 64 surplus bits leave a bias below 2^-64."""
        size = (bound.bit_length() + 7) // 8 + 8
        return int.from_bytes(self._entropy(size), "big") % bound

    def _open_envelope(self, epoch: _Epoch, sender: int, kem: bytes, sealed: bytes) -> None:
        secret = self._suite.decapsulate(bytes(epoch.kem), kem)
        key = self._box_key(epoch, sender, secret, outgoing=False)
        data = _address(epoch.transcript, sender, self.position)
        plain = self._suite.open(key, sealed, data=data)  # 9
        if len(plain) != 2 * SHARE_BYTES * len(epoch.masks):  # 10
            raise ProtocolError("e2_10_length", "an envelope holds another number of shares")
        values = [plain[at : at + SHARE_BYTES] for at in range(0, len(plain), SHARE_BYTES)]
        if any(int.from_bytes(value, "big") >= PRIME for value in values):
            raise ProtocolError("e2_10_range", "a share is not in the field")
        for number in range(len(epoch.masks)):
            epoch.shares[number][sender] = values[2 * number], values[2 * number + 1]

    def _delivered(self, delivery: bytes) -> list[tuple[int, bytes, bytes]]:
        reader = Reader(delivery, limit=256 * 2**20)
        found = []
        for _ in range(reader.u16()):
            found.append((reader.u16(), reader.raw(1088), reader.block(2**20)))
        reader.end()
        senders = [sender for sender, _, _ in found]
        if senders != sorted(set(senders)) or self.position in senders:  # 11
            raise ProtocolError("e2_11_senders", "envelopes come once per sender, in order")
        if not set(senders) <= set(self._open_epoch().advertised):
            raise ProtocolError("e2_11_senders", "an envelope is from nobody of this epoch")
        return found

    def _box_key(self, epoch: _Epoch, other: int, kem: bytes, *, outgoing: bool) -> bytes:
        agreed = self._suite.agree(bytes(epoch.channel), epoch.advertised[other].channel)
        source, target = (self.position, other) if outgoing else (other, self.position)
        info = Writer().raw(b"box", 3).u16(source).u16(target).done()
        return self._suite.derive(agreed + kem, salt=epoch.transcript, info=info)

    # ---- state -------------------------------------------------------------------------

    def _open_epoch(self) -> _Epoch:
        if self._epoch is None:
            raise ProtocolError("phase_order", "there is no epoch: it starts with fresh keys")
        return self._epoch

    def _open_sum(self) -> _Round:
        if self._round is None:
            raise ProtocolError("phase_order", "there is no open round")
        return self._round

    def _erase_epoch(self) -> None:
        if self._epoch is not None:
            secrets = [self._epoch.channel, self._epoch.kem]
            for secret in [*secrets, *self._epoch.masks, *self._epoch.selves]:
                if secret is not None:
                    _wipe(secret)
        self._epoch = self._round = None


def survivors_digest(digest: Callable[..., bytes], reports: Sequence[bytes]) -> bytes:
    """Return the hash that a survivor set is signed by: every report, in order."""
    return digest(*(digest(report) for report in reports))


def _check_expected(asked: RoundPlan, expected: ExpectedRound) -> None:
    same = {
        "r0_17_survivors": asked.min_survivors == expected.min_survivors,
        "r0_17_colluders": asked.colluders == expected.colluders,
        "r0_18_word": asked.word_bits == expected.word_bits and asked.word_bits in (32, 64),
        "r0_18_limit": asked.limit == expected.limit,
        "r0_23_size": asked.size == expected.size,
        "r0_19_terms": asked.terms == expected.terms,
        "r0_15_round": expected.training_round in (b"", asked.training_round),
    }
    for code, holds in same.items():
        if not holds:
            raise ProtocolError(code, "the round plan is not what the approved plan implies")
    if len(asked.participants) * asked.limit > 2 ** (asked.word_bits - 1) - 1:  # 18
        raise ProtocolError("r0_18_overflow", "so many sites' bounds do not fit the word")


def _check_count(messages: Sequence[bytes], people: Sequence[object]) -> None:
    if len(messages) > len(people):
        raise ProtocolError("message_too_long", "more messages than there are members to send them")


def _address(transcript: bytes, source: int, target: int) -> bytes:
    return Writer().raw(transcript, 32).u16(source).u16(target).done()


def _held(secret: bytearray | None) -> bytearray:
    if secret is None:
        raise ProtocolError("r0_14_key", "this key was used and erased")
    return secret


def _wipe(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))
