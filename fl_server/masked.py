"""One masked sum over Flower: relay the messages of secure aggregation, open the sum.

The coordinator's session decides; this file carries bytes. An epoch's set-up serves many rounds.
A round that too few sites reported is tried again with everybody, the next key and the same
prepared vectors, never with less noise. So is one in which a node had restarted: it is handed the
plan again, and everybody makes new keys. Once a site has unmasked, the sum is opened or lost, and
is not asked for twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from ..privacy.errors import ProtocolError
from ..privacy.secagg.coordinator import CoordinatorSession, OpenedSum
from ..privacy.secagg.roster import Roster
from ..study.analysis import State, Total
from ..study.rounds import RoundTerms, expected_round
from .rounds import SummedRound, round_content
from .sites import Sites

__all__ = ["MAX_LIVES", "MaskedSums", "Masking"]

_KEYS_PER_EPOCH = 32
_TRIES_PER_LIFE = 256  # numbers of attempts at a sum that one life of a coordinator may use up
MAX_LIVES = 2**16 // _TRIES_PER_LIFE  # the wire gives an attempt two bytes
# Of the set-up, where too many were away; no vector has been asked for yet.
_TOO_FEW = frozenset({"e1_6_too_few", "e2_disagreement", "too_few_sites"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """What the coordinator needs to run masked sums.

    Attributes:
        roster: The federation's roster.
        identity: The coordinator's key in it.
    """

    roster: Roster
    identity: Ed25519PrivateKey


class MaskedSums:
    """Masked sums of one plan.

    Args:
        sites: The plan's sites and how to ask them.
        masking: The coordinator's side.
        life: How often this run was taken up again by a coordinator that had stopped: a site
            answers a sum's attempts in ascending order only, and remembers those before.
        opening: Called before the first site is asked to unmask: from there on the sum is opened
            or lost.
    """

    def __init__(
        self,
        sites: Sites,
        masking: Masking,
        *,
        life: int = 0,
        opening: Callable[[], None] = lambda: None,
    ) -> None:
        self._sites = sites
        self._masking = masking
        self._first_try = life * _TRIES_PER_LIFE
        self._opening = opening
        self._places = {masking.roster.position(site): site for site in sites.nodes}
        self._session: CoordinatorSession | None = None
        self._bytes_up = self._next_try = 0

    def collect(self, terms: RoundTerms, state: State) -> SummedRound:
        """Run one round.

        Raises:
            PolicyError: A site refused.
            ProtocolError: A rule of the protocol, or `too_few_survivors` after every attempt;
                nothing was opened.
        """
        self._bytes_up = 0
        self._next_try = self._first_try
        tries = self._sites.patience.attempts
        if not self._is_good_for(tries):
            self._session = None
        for attempt in range(tries):
            if attempt:
                self._sites.back()
            try:
                session, reported = self._reported(terms, state)
            except _TooFewError as few:
                if attempt + 1 == tries:
                    raise few.error from few
                # Nobody has signed a survivor set: ask everybody again, with the next key.
                continue
            opened = self._open(session, reported)
            return SummedRound(
                total=Total(vector=terms.encoding.decode(opened.total), sites=opened.survivors),
                bytes_up=self._bytes_up,
                dropped=tuple(sorted(set(self._sites.nodes) - set(opened.survivors))),
                liars=opened.liars,
            )
        raise ProtocolError("too_few_survivors", "no attempt was allowed")

    def _is_good_for(self, tries: int) -> bool:
        """Whether the epoch has keys for every attempt at a sum, and holds every site.

        A site that missed the set-up is in no sum of that epoch: the next sum starts another.
        """
        session = self._session
        if session is None:
            return False
        return len(session.participants) == len(self._places) and session.keys_left >= tries

    def _reported(self, terms: RoundTerms, state: State) -> tuple[CoordinatorSession, list[bytes]]:
        """Set up, if there is no epoch, and collect reports; once more where a node restarted."""
        lost: tuple[str, ...] = ()
        for _ in range(2):
            try:
                session = self._session or self._set_up()
                return session, self._report(session, terms, state)
            except _ForgotError as forgot:
                # Its keys went with it, and so did its part of everybody's: all make new ones.
                self._session = None
                lost = forgot.sites
                self._sites.propose_again(lost)
        raise _TooFewError(
            ProtocolError(
                "plan_unknown",
                f"restarted again and again: {', '.join(lost)}",
                hint="Ask their data teams what `fedcohort site status` says.",
            )
        )

    def _set_up(self) -> CoordinatorSession:
        """Start an epoch with every site that answers."""
        keys = max(_KEYS_PER_EPOCH, self._sites.patience.attempts)
        session = CoordinatorSession(
            roster=self._masking.roster, identity=self._masking.identity, rounds=keys
        )
        start = RecordDict({"secagg": self._request(epoch=session.epoch, rounds=keys)})
        try:
            advertised = self._ask("advertise", start, self._places)
            everyone = session.advertises(advertised)
            shared = self._ask("share", self._content(everyone), advertised)
            boxes = session.deliveries(shared)
            deliveries = {place: self._content([boxes[place]]) for place in shared}
            session.acknowledged(self._ask("acknowledge", deliveries, shared))
        except ProtocolError as error:
            raise (_TooFewError(error) if error.code in _TOO_FEW else error) from error
        self._session = session
        return session

    def _report(self, session: CoordinatorSession, terms: RoundTerms, state: State) -> list[bytes]:
        """R0 and R1: hand the round plan out, fold what comes back; return the survivors."""
        people = session.participants
        try:
            round_plan = session.plan_round(
                expected_round(self._sites.plan, terms),
                training_round=bytes.fromhex(terms.sha256),
                attempt=self._next_try,
                participants=people,
            )
        except ProtocolError as error:
            if error.code not in _TOO_FEW:
                raise
            self._session = None  # whoever is back takes part in the next epoch
            raise _TooFewError(error) from error
        self._next_try += 1
        answers = self._sites.ask(
            [self._places[place] for place in people],
            "train.report",
            round_content(terms, state, round_plan),
            group=str(terms.round),
        )
        if answers.refused:
            raise _ForgotError(answers.refused)
        by_site = {site: place for place, site in self._places.items()}
        for site, reply in answers.replies.items():
            try:
                report = bytes(reply.config_records["answer"]["report"])  # type: ignore[arg-type]
                vector = reply.array_records["vector"]["sum"].numpy().tobytes()
            except (KeyError, TypeError) as error:
                raise ProtocolError(
                    "reply_unreadable", f"the reply of {site} is no report"
                ) from error
            session.add_report(by_site[site], report, vector)
            self._bytes_up += len(report) + len(vector)
        try:
            return session.survivors()
        except ProtocolError as error:
            raise _TooFewError(error) from error

    def _open(self, session: CoordinatorSession, reported: Sequence[bytes]) -> OpenedSum:
        """R2 and R3: one survivor set, signed; then the shares, and the sum.

        A node that restarts here has lost its shares: it is silent, and the threshold decides.
        """
        survivors = dict.fromkeys(session.reporting, b"")
        commits = self._ask("commit", self._content(reported), survivors, forgot="silent")
        signed = session.commits(commits)
        self._opening()
        shares = self._ask("unmask", self._content(signed), commits, forgot="silent")
        return session.open_sum(shares)

    def _ask(
        self,
        phase: str,
        content: RecordDict | Mapping[int, RecordDict],
        places: Mapping[int, object],
        *,
        forgot: Literal["again", "silent"] = "again",
    ) -> dict[int, bytes]:
        """Ask these members, the silent ones again; a repeated question gets the same words."""
        found: dict[int, bytes] = {}
        waiting = {self._places[place]: place for place in places}
        for _ in range(self._sites.patience.attempts):
            to_each: RecordDict | dict[str, RecordDict]
            if isinstance(content, RecordDict):
                to_each = content
            else:
                to_each = {site: content[place] for site, place in waiting.items()}
            answers = self._sites.ask(waiting, f"query.{phase}", to_each, group=phase)
            if answers.refused and forgot == "again":
                raise _ForgotError(answers.refused)
            for site, reply in answers.replies.items():
                try:
                    data = bytes(reply.config_records["answer"]["data"])  # type: ignore[arg-type]
                except (KeyError, TypeError) as error:
                    raise ProtocolError(
                        "reply_unreadable", f"the reply of {site} is no {phase}"
                    ) from error
                found[waiting[site]] = data
                self._bytes_up += len(data)
            waiting = {site: waiting[site] for site in answers.silent}
            if not waiting:
                break
        return found

    def _content(self, data: Sequence[bytes]) -> RecordDict:
        return RecordDict({"secagg": self._request(data=data)})

    def _request(
        self, *, epoch: bytes = b"", rounds: int = 0, data: Sequence[bytes] = ()
    ) -> ConfigRecord:
        return ConfigRecord(
            {
                "plan_sha256": self._sites.plan.sha256,
                "epoch": epoch,
                "rounds": rounds,
                "data": list(data),
            }
        )


class _TooFewError(Exception):
    """Too few sites reported; the round may be tried again."""

    def __init__(self, error: ProtocolError) -> None:
        super().__init__(str(error))
        self.error = error


class _ForgotError(Exception):
    """Sites have restarted; the plan is handed to them again, and everybody makes new keys."""

    def __init__(self, sites: Iterable[str]) -> None:
        super().__init__()
        self.sites = tuple(sorted(sites))
