"""The coordinator's side of `fedsa/1`: it relays, adds, and opens exactly one sum a round.

It never holds a secret of a site but those that t members hand over for one survivor set:
self masks of the survivors and mask keys of the lost, never both of one site. Wrong shares are
found by the commitments, their sender is named, and the sum still comes out while t are right.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import ProtocolError
from .masking import (
    Signed,
    Words,
    commitment,
    pair_seeds,
    self_seed,
    unmask,
    words_of_nothing,
)
from .messages import (
    Acknowledge,
    Advertise,
    Commit,
    M,
    Report,
    RoundPlan,
    Share,
    Unmask,
    decode,
)
from .roster import MINIMUM_SITES, Roster, names_of, threshold_for
from .shamir import recover
from .site import ExpectedRound, survivors_digest
from .wire import Writer

__all__ = ["CoordinatorSession", "OpenedSum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSum:
    """One opened sum.

    Attributes:
        total: int32 or int64 [d], as the plan's words: the exact sum of the survivors' encoded
            vectors.
        survivors: Their names.
        dropped: Participants whose vector is not in it.
        liars: Members that handed over wrong shares.
    """

    total: Signed
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    liars: tuple[str, ...]


class CoordinatorSession:
    """One epoch and its rounds.

    Args:
        roster: The roster of the federation.
        identity: The coordinator's Ed25519 key, for round plans.
        rounds: R, keys that every site makes for this epoch.
        entropy: Random bytes; replaced by tests of frozen vectors only.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        identity: Ed25519PrivateKey,
        rounds: int,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._roster = roster
        self._suite = roster.primitives
        self._identity = identity
        self.rounds = rounds
        self.epoch = entropy(32)
        self._advertised: dict[int, Advertise] = {}
        self._transcript = b""
        self.threshold = 0
        self.participants: tuple[int, ...] = ()
        self._next_key = 0
        self._plan: RoundPlan | None = None
        self._digest = b""
        self._reports: dict[int, bytes] = {}
        self._sum: Words | None = None
        self._closed = False
        self.malformed: dict[int, str] = {}  # by place: why a member's message was refused
        self._commits: dict[int, bytes] = {}

    # ---- set-up ------------------------------------------------------------------------

    def advertises(self, received: Mapping[int, bytes]) -> list[bytes]:
        """E0 done: check the keys that came and return them all, in roster order."""
        for sender, data in sorted(received.items()):
            message = self._from(Advertise, sender, data)
            if message.epoch != self.epoch or message.roster != self._roster.sha256:
                raise ProtocolError("e1_1_epoch", f"keys of {sender} are of another epoch")
            self._suite.check_keys([message.channel, *message.masks], message.kem)
            self._advertised[sender] = message
        self.threshold = threshold_for(len(self._roster.members), self._roster.colluders)
        if len(self._advertised) < self.threshold:
            raise ProtocolError("e1_6_too_few", "too few members are in this epoch")
        ordered = [received[sender] for sender in sorted(received)]
        self._transcript = self._suite.hash(*ordered)
        return ordered

    def deliveries(self, received: Mapping[int, bytes]) -> dict[int, bytes]:
        """E1 done: return to each member the envelopes addressed to it."""
        boxes: dict[int, list[tuple[int, bytes, bytes]]] = {to: [] for to in self._advertised}
        for sender, data in sorted(received.items()):
            message = self._from(Share, sender, data)
            others = [place for place in sorted(self._advertised) if place != sender]
            if message.transcript != self._transcript:
                raise ProtocolError("e2_transcript", f"shares of {sender} are of another epoch")
            if [envelope.to for envelope in message.envelopes] != others:
                raise ProtocolError("e2_11_senders", f"{sender} left somebody without a share")
            for envelope in message.envelopes:
                boxes[envelope.to].append((sender, envelope.kem, envelope.sealed))
        deliveries = {}
        for to, entries in boxes.items():
            writer = Writer().u16(len(entries))
            for sender, kem, sealed in entries:
                writer.u16(sender).raw(kem, 1088).block(sealed)
            deliveries[to] = writer.done()
        return deliveries

    def acknowledged(self, received: Mapping[int, bytes]) -> tuple[int, ...]:
        """E2 done: the members that agree on who is in; nobody else takes part.

        Raises:
            ProtocolError: `e2_disagreement`: no t of them agree.
        """
        said = {}
        for sender, message in self._readable(Acknowledge, received):
            if message.transcript == self._transcript:
                said[sender] = message.accepted
        if not said:
            raise ProtocolError("e2_disagreement", "nobody acknowledged the epoch")
        accepted, _ = max(Counter(said.values()).items(), key=lambda item: (item[1], item[0]))
        agreed = tuple(sorted(s for s, who in said.items() if who == accepted and s in accepted))
        if len(agreed) < max(self.threshold, MINIMUM_SITES):
            raise ProtocolError("e2_disagreement", "too few members agree on who takes part")
        self.participants = agreed
        return agreed

    @property
    def keys_left(self) -> int:
        """Rounds (and attempts) that this epoch still has keys for."""
        return self.rounds - self._next_key

    # ---- rounds ------------------------------------------------------------------------

    def plan_round(
        self,
        expected: ExpectedRound,
        *,
        training_round: bytes,
        attempt: int,
        participants: tuple[int, ...] | None = None,
    ) -> bytes:
        """R0: bind one sum.

        Raises:
            ProtocolError: `epoch_exhausted` or `too_few_sites`.
        """
        if self.keys_left < 1:
            raise ProtocolError("epoch_exhausted", "the epoch has no keys left; start another")
        people = self.participants if participants is None else participants
        if len(people) < max(self.threshold, expected.min_survivors, MINIMUM_SITES):
            raise ProtocolError("too_few_sites", "too few sites are left for this sum")
        plan = RoundPlan(
            sender=0,
            transcript=self._transcript,
            key=self._next_key,
            training_round=training_round,
            attempt=attempt,
            participants=people,
            threshold=self.threshold,
            min_survivors=expected.min_survivors,
            colluders=expected.colluders,
            word_bits=expected.word_bits,
            size=expected.size,
            limit=expected.limit,
            terms=expected.terms,
        ).signed(self._suite, self._identity)
        self._next_key += 1
        self._plan, self._digest = plan, plan.sha256(self._suite)
        self._reports, self._commits, self._closed = {}, {}, False
        self._sum = words_of_nothing(plan.size, plan.word_bits)
        return plan.to_bytes(self._suite)

    def add_report(self, sender: int, report: bytes, vector: bytes) -> None:
        """R1: check one report and add its vector; a late or second one is refused."""
        plan, total = self._open()
        if self._closed:
            raise ProtocolError("r1_late", f"the report of {sender} came too late")
        if sender not in plan.participants or sender in self._reports:
            raise ProtocolError("r1_unexpected", f"an unexpected report of {sender}")
        message = self._from(Report, sender, report)
        if message.plan != self._digest:
            raise ProtocolError("r1_other_plan", f"the report of {sender} is for another plan")
        if len(vector) != plan.size * plan.word_bits // 8:
            raise ProtocolError("r1_length", f"the vector of {sender} has another length")
        if self._suite.hash(vector) != message.digest:
            raise ProtocolError("r1_digest", f"the vector of {sender} is not the one it signed")
        np.add(total, np.frombuffer(vector, dtype=total.dtype.newbyteorder("<")), out=total)
        self._reports[sender] = report

    @property
    def reporting(self) -> tuple[int, ...]:
        """Places of the members whose vectors are in the sum, sorted."""
        return tuple(sorted(self._reports))

    def survivors(self) -> list[bytes]:
        """R1 done: close the round to late reports and return the survivors' reports.

        Raises:
            ProtocolError: `too_few_survivors`: nothing was opened; try again with the rest.
        """
        plan, _ = self._open()
        self._closed = True
        fewest = max(plan.threshold, plan.min_survivors, MINIMUM_SITES)
        if len(self._reports) < fewest:
            lost = names_of(self._roster, sorted(set(plan.participants) - set(self._reports)))
            raise ProtocolError(
                "too_few_survivors",
                f"{len(self._reports)} sites reported, {fewest} must; lost: {', '.join(lost)}",
                hint="Nothing was opened. Wait for the lost sites, or plan with fewer.",
            )
        return [self._reports[sender] for sender in sorted(self._reports)]

    def commits(self, received: Mapping[int, bytes]) -> list[bytes]:
        """R2 done: return the signatures on the one survivor set.

        Raises:
            ProtocolError: `too_few_commits`.
        """
        plan, _ = self._open()
        digest = survivors_digest(self._suite.hash, self.survivors())
        for sender, message in self._readable(Commit, received):
            if message.plan == self._digest and message.survivors == digest:
                self._commits[sender] = received[sender]
        if len(self._commits) < plan.threshold:
            raise ProtocolError("too_few_commits", "too few members signed the survivor set")
        return [self._commits[sender] for sender in sorted(self._commits)]

    def open_sum(self, received: Mapping[int, bytes]) -> OpenedSum:
        """R3 done: recover one secret per participant, take the masks off, return the sum.

        The commitments prove every secret that is recovered. Who sent a share matters once one
        is wrong: only then the signatures are looked at, and whoever is named has signed.

        Raises:
            ProtocolError: `too_few_unmasks`, or `shares_wrong`: too many members lied.
        """
        plan, _ = self._open()
        try:
            secrets, liars = self._secrets(plan, self._answers(plan, received, signed=False))
            right = not liars
        except ProtocolError:
            right = False
        if not right:
            secrets, liars = self._secrets(plan, self._answers(plan, received, signed=True))
        return self._unmasked(plan, secrets, liars)

    def _answers(
        self, plan: RoundPlan, received: Mapping[int, bytes], *, signed: bool
    ) -> dict[int, list[bytes]]:
        """Return what each member handed over: a share per participant, in their order."""
        answers = {}
        for sender, message in self._readable(Unmask, received, signed=signed):
            if message.plan == self._digest and self._is_complete(plan, message):
                answers[sender] = [entry.value for entry in message.shares]
        if len(answers) < plan.threshold:
            raise ProtocolError("too_few_unmasks", "too few members handed over their shares")
        return answers

    def _secrets(
        self, plan: RoundPlan, answers: Mapping[int, Sequence[bytes]]
    ) -> tuple[list[bytes], set[int]]:
        """Return every participant's secret, in their order, and who sent wrong shares."""
        secrets, liars = [], set[int]()
        for place, owner in enumerate(plan.participants):
            values = {sender: answer[place] for sender, answer in answers.items()}
            secret, wrong = self._recovered(owner, plan, values)
            secrets.append(secret)
            liars |= set(wrong)
        return secrets, liars

    def _unmasked(self, plan: RoundPlan, secrets: Sequence[bytes], liars: set[int]) -> OpenedSum:
        _, total = self._open()
        streams = [
            stream
            for owner, secret in zip(plan.participants, secrets, strict=True)
            for stream in self._streams(owner, secret, plan)
        ]
        # All were recovered before a mask is taken off: a failure leaves the round as it was.
        self._plan = self._sum = None
        opened = unmask(self._suite, total, streams)
        _check_range(plan, opened)
        lost = sorted(set(plan.participants) - set(self._reports))
        return OpenedSum(
            total=opened,
            survivors=names_of(self._roster, sorted(self._reports)),
            dropped=names_of(self._roster, lost),
            liars=names_of(self._roster, sorted(liars)),
        )

    def _recovered(
        self, owner: int, plan: RoundPlan, shares: Mapping[int, bytes]
    ) -> tuple[bytes, tuple[int, ...]]:
        """Return a survivor's self mask, or a lost site's mask key, and who sent wrong shares."""
        suite, keys = self._suite, self._advertised[owner]
        committed, public = keys.commitments[plan.key], keys.masks[plan.key]

        def fits(found: bytes) -> bool:
            if owner in self._reports:
                return suite.same(commitment(suite, found, plan.key), committed)
            return suite.same(suite.agreement_public(found), public)

        try:
            return recover(shares, plan.threshold, fits)
        except ProtocolError as error:
            (name,) = names_of(self._roster, [owner])
            raise ProtocolError(
                error.code,
                f"the secret of {name} cannot be recovered: {error}",
                hint=f"Nothing was opened. {name} dealt wrong shares, or too many members lied; "
                f"start the study again without {name}.",
            ) from error

    def _streams(self, owner: int, secret: bytes, plan: RoundPlan) -> list[tuple[bytes, int]]:
        """Return what takes a survivor's own mask, or a lost site's pairwise ones, off the sum."""
        if owner in self._reports:
            return [(self_seed(self._suite, secret, self._digest), -1)]
        publics = {other: self._advertised[other].masks[plan.key] for other in self._reports}
        seeds = pair_seeds(self._suite, secret, publics, mine=owner, plan=self._digest)
        # The survivor added the stream if it stands before the lost site, else took it off.
        return [(seed, -1 if other < owner else 1) for other, seed in seeds.items()]

    def _is_complete(self, plan: RoundPlan, message: Unmask) -> bool:
        owners = tuple(entry.owner for entry in message.shares)
        kinds = all(entry.survived == (entry.owner in self._reports) for entry in message.shares)
        return owners == plan.participants and kinds and message.sender in self._reports

    def _open(self) -> tuple[RoundPlan, Words]:
        if self._plan is None or self._sum is None:
            raise ProtocolError("phase_order", "there is no open round")
        return self._plan, self._sum

    def _readable(
        self, kind: type[M], received: Mapping[int, bytes], *, signed: bool = True
    ) -> Iterator[tuple[int, M]]:
        """Yield what can be read; who sent the rest stands in `malformed` and counts as silent."""
        for sender, data in sorted(received.items()):
            try:
                yield sender, self._from(kind, sender, data, signed=signed)
            except ProtocolError as error:
                self.malformed[sender] = error.code

    def _from(self, kind: type[M], sender: int, data: bytes, *, signed: bool = True) -> M:
        try:
            message = decode(kind, data, self._suite)
        except ProtocolError as error:
            what = f"the {kind.name.decode()} of {sender} cannot be read: {error}"
            raise ProtocolError(error.code, what, hint=error.hint) from error
        if message.sender != sender:
            raise ProtocolError("sender_mismatch", f"a message of {sender} names another sender")
        if signed:
            message.verify(self._suite, self._roster.public(sender), "signature_wrong")
        return message


def _check_range(plan: RoundPlan, total: Signed) -> None:
    # Noise has no bound, but 2^62 of head-room; a sum beyond it means a broken member.
    if plan.word_bits == 32 or not total.size:
        return
    if int(total.max()) > 2**62 or int(total.min()) < -(2**62):
        raise ProtocolError("sum_out_of_range", "the opened sum exceeds its proved bound")
