"""One masked sum over Flower: relay the messages of secure aggregation, open the sum.

The coordinator's session decides; this file carries bytes. An epoch's set-up serves many rounds.
A round that too few sites reported is tried again with everybody, the next key and the same
prepared vectors, never with less noise; once a site has unmasked, the sum is opened or lost,
and is not asked for twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from ..privacy.errors import ProtocolError
from ..privacy.secagg.coordinator import CoordinatorSession, OpenedSum
from ..privacy.secagg.roster import Roster
from ..study.analysis import State, Total
from ..study.plan import Plan
from ..study.rounds import RoundTerms, expected_round
from .exchange import exchange
from .rounds import Patience, SummedRound, raise_refusal, round_content

__all__ = ["MaskedSums", "Masking"]

_KEYS_PER_EPOCH = 32


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
        grid: Flower's Grid.
        nodes: Flower node id by site.
        plan: The approved plan.
        masking: The coordinator's side.
        patience: How long to wait, how often to ask.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        plan: Plan,
        masking: Masking,
        patience: Patience,
    ) -> None:
        self._grid = grid
        self._nodes = nodes
        self._plan = plan
        self._masking = masking
        self._patience = patience
        self._places = {masking.roster.position(site): site for site in nodes}
        self._session: CoordinatorSession | None = None
        self._bytes_up = 0

    def collect(self, terms: RoundTerms, state: State) -> SummedRound:
        """Run one round.

        Raises:
            PolicyError: A site refused.
            ProtocolError: A rule of the protocol, or `too_few_survivors` after every attempt;
                nothing was opened.
        """
        self._bytes_up = 0
        people: tuple[int, ...] | None = None
        tries = self._patience.attempts
        session = self._ready()
        for attempt in range(tries):
            people = session.participants if people is None else people
            try:
                reported = self._report(session, terms, state, attempt, people)
            except _TooFewError as few:
                if attempt + 1 == tries:
                    raise few.error from few
                # Nobody has signed a survivor set: ask everybody again, with the next key.
                people = None
                continue
            opened = self._open(session, reported)
            return SummedRound(
                total=Total(vector=terms.encoding.decode(opened.total), sites=opened.survivors),
                bytes_up=self._bytes_up,
                dropped=tuple(sorted(set(self._nodes) - set(opened.survivors))),
                liars=opened.liars,
            )
        raise ProtocolError("too_few_survivors", "no attempt was allowed")

    def _ready(self) -> CoordinatorSession:
        """Return a session with keys for every attempt at a sum, and with every site if it can.

        A site that missed the set-up is in no sum of that epoch: the next sum starts another.
        """
        session = self._session
        whole = session is not None and len(session.participants) == len(self._places)
        if session is None or not whole or session.keys_left < self._patience.attempts:
            keys = max(_KEYS_PER_EPOCH, self._patience.attempts)
            session = CoordinatorSession(
                roster=self._masking.roster, identity=self._masking.identity, rounds=keys
            )
            start = RecordDict({"secagg": self._request(epoch=session.epoch, rounds=keys)})
            advertised = self._ask("advertise", start, self._places)
            everyone = session.advertises(advertised)
            shared = self._ask("share", self._content(everyone), advertised)
            boxes = session.deliveries(shared)
            deliveries = {place: self._content([boxes[place]]) for place in shared}
            session.acknowledged(self._ask("acknowledge", deliveries, shared))
            self._session = session
        return session

    def _report(
        self,
        session: CoordinatorSession,
        terms: RoundTerms,
        state: State,
        attempt: int,
        people: tuple[int, ...],
    ) -> list[bytes]:
        """R0 and R1: hand the round plan out, fold what comes back; return the survivors."""
        round_plan = session.plan_round(
            expected_round(self._plan, terms),
            training_round=bytes.fromhex(terms.sha256),
            attempt=attempt,
            participants=people,
        )
        answers = exchange(
            self._grid,
            {self._places[place]: self._nodes[self._places[place]] for place in people},
            "train.report",
            round_content(terms, state, round_plan),
            group=str(terms.round),
            timeout_s=self._patience.timeout_s,
        )
        raise_refusal(answers.refused)
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
        """R2 and R3: one survivor set, signed; then the shares, and the sum."""
        survivors = dict.fromkeys(session.reporting, b"")
        commits = self._ask("commit", self._content(reported), survivors)
        signed = session.commits(commits)
        return session.open_sum(self._ask("unmask", self._content(signed), commits))

    def _ask(
        self,
        phase: str,
        content: RecordDict | Mapping[int, RecordDict],
        places: Mapping[int, object],
    ) -> dict[int, bytes]:
        """Ask these members, the silent ones again; a repeated question gets the same words."""
        found: dict[int, bytes] = {}
        waiting = {self._places[place]: place for place in places}
        for _ in range(self._patience.attempts):
            to_each: RecordDict | dict[str, RecordDict]
            if isinstance(content, RecordDict):
                to_each = content
            else:
                to_each = {site: content[place] for site, place in waiting.items()}
            answers = exchange(
                self._grid,
                {site: self._nodes[site] for site in waiting},
                f"query.{phase}",
                to_each,
                group=phase,
                timeout_s=self._patience.timeout_s,
            )
            raise_refusal(answers.refused)
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
                "plan_sha256": self._plan.sha256,
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
