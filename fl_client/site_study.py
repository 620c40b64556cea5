"""One approved plan at one site: its rounds in order, each sum made once, each answer kept.

Coming back with the same terms gets the same bytes: a message that is delivered twice, a
coordinator that asks again, or one that asks after this node was killed, buys nothing and costs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..privacy.errors import ProtocolError
from ..privacy.ledger.charges import Unmasking
from ..privacy.secagg.site import SiteSession
from ..study.analysis import Analysis, Contribution, State
from ..study.cohort import Cohort
from ..study.plan import Plan, analysis_of
from ..study.rounds import RoundTerms, expected_round, terms_for
from .door import Prepared, Release, SiteTerms, hand_over, pay, prepare
from .gate import Gate
from .governance.site_rules import classes_of
from .round_memory import Remembered, RoundMemory

__all__ = ["PHASES", "SecAggRequest", "SiteStudy"]

PHASES = ("advertise", "share", "acknowledge", "commit", "unmask")  # without a vector, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAggRequest:
    """A phase of secure aggregation, as it comes in.

    Attributes:
        phase: `advertise`, `share`, `acknowledge`, `commit` or `unmask`.
        plan_sha256: The plan it serves.
        epoch: 32 bytes; `advertise` only.
        rounds: Keys wanted; `advertise` only.
        data: The other members' messages, relayed.
    """

    phase: str
    plan_sha256: str
    epoch: bytes = b""
    rounds: int = 0
    data: tuple[bytes, ...] = ()


class SiteStudy:
    """One approved plan at one site, with the answers it has given."""

    def __init__(
        self, plan: Plan, cohort: Cohort, site: SiteTerms, gate: Gate, memory: RoundMemory
    ) -> None:
        self.plan = plan
        self.memory = memory
        self._cohort = cohort
        self._site = site
        self._gate = gate
        self._analysis: Analysis = analysis_of(plan)
        self._prepared: tuple[str, Prepared] | None = None
        self._answered: tuple[tuple[str, bytes], Release] | None = None
        self._said: dict[str, tuple[SecAggRequest, bytes]] = {}
        known = memory.recall()  # of a life before this one
        self._opened: Unmasking | None = None  # the round that the session opened last
        self._attempt = None if known is None else known.attempt
        self._next_round = 0 if known is None else known.next_round
        if known is not None and known.vector is not None:
            before = Prepared(vector=known.vector, charge_id=known.charge_id)
            self._prepared = known.terms_sha256, before

    def secagg(self, request: SecAggRequest) -> bytes:
        """Answer a phase without a vector; see `Node.secagg`."""
        said = self._said.get(request.phase)
        if said is not None and said[0] == request:
            return said[1]  # delivered twice: the same words
        session = self._site.session
        if self.plan.secagg != "masked" or session is None:
            raise ProtocolError("no_session", "this plan sums without masks")
        if request.phase == "advertise":
            answer = session.advertise(request.epoch, request.rounds)
        elif request.phase == "share":
            answer = session.share(request.data)
        elif request.phase == "acknowledge":
            answer = session.acknowledge(b"".join(request.data))
        elif request.phase == "commit":
            answer = session.commit(request.data)
        elif request.phase == "unmask":
            answer = self._unmask(session, request.data)
        else:
            raise ProtocolError("phase_unknown", "there is no such phase")
        self._said[request.phase] = request, answer
        return answer

    def _unmask(self, session: SiteSession, commits: tuple[bytes, ...]) -> bytes:
        """Hand shares over, having written down that this sum's vector is spent.

        Whatever fails here, no share leaves: a crash wastes a sum, and never opens a second one.
        The session forbids a second opening too, and its store a second use of a key. Both are
        about one epoch: a site that restarts makes fresh keys, and its store knows keys, not
        sums. Nor is it enough that the vector goes from the round's file: a backup brings that
        file back, and nothing would tell. A ledger that was put back is found.
        """
        if self._opened is None:
            raise ProtocolError("phase_order", "there is no open round")
        answer = session.unmask(commits)
        self._site.ledger.unmask(self._opened)
        self.memory.spend()
        return answer

    def report(self, terms: RoundTerms, state: State, round_plan: bytes) -> Release:
        """Answer a round; see `Node.report`."""
        asked = terms.sha256, round_plan
        if self._answered is not None and self._answered[0] == asked:
            return self._answered[1]
        if terms != terms_for(self.plan, self._analysis, state, terms.attempt):
            raise ProtocolError(
                "terms_mismatch",
                "the round's terms are not those that the approved plan implies",
                hint="Coordinator and site must run the same release on the same plan.",
            )
        again = self._prepared is not None and self._prepared[0] == terms.sha256
        if not again:
            self._check_order(terms)
        if self.plan.secagg == "masked":
            if self._site.session is None:
                raise ProtocolError("no_session", "the plan masks sums and this site cannot")
            self._site.session.open_round(round_plan, expected_round(self.plan, terms))
        self._opened = Unmasking(plan_sha256=self.plan.sha256, round=terms.round)
        if again:  # the vector may come from a file that was put back: the ledger knows better
            self._site.ledger.check_unspent(self._opened)
        if self._prepared is None or not again:
            cohort = self._gate.present(self.plan, self._cohort)
            # Asked once, whatever comes of it: a failure says something, and is never repeated.
            self._next_round = terms.round + 1
            prepared = self._prepare(terms, state, cohort)
            self._prepared = terms.sha256, prepared
            self._keep(terms, prepared)
        answer = hand_over(self._prepared[1], self.plan, self._site)
        self._answered = asked, answer
        return answer

    def _prepare(self, terms: RoundTerms, state: State, cohort: Cohort) -> Prepared:
        paid = pay(self._analysis, terms, self.plan, self._site)
        if self.plan.privacy is not None:
            contribution = self._analysis.contribution(cohort, state)
        else:
            cohort = cohort.at_most(self.plan.max_patients_per_site)
            used = self._analysis.used(cohort, terms.round)
            self._gate.exact(self.plan, used)
            contribution = self._analysis.contribution(cohort, state)
            if self._site.disclosure.counts_classes:
                contribution = self._counted(contribution, used, terms.round)
        return prepare(contribution, terms, self.plan, self._site, paid=paid)

    def _counted(self, contribution: Contribution, used: Cohort, number: int) -> Contribution:
        """Add what the site's own disclosure rules judge a sum without noise by."""
        if self._analysis.is_table(number):
            return replace(contribution, is_table=True)
        return replace(contribution, classes=classes_of(used))

    def _keep(self, terms: RoundTerms, prepared: Prepared) -> None:
        self.memory.keep(
            Remembered(
                attempt=terms.attempt,
                next_round=self._next_round,
                terms_sha256=terms.sha256,
                vector=prepared.vector,
                charge_id=prepared.charge_id,
            )
        )

    def _check_order(self, terms: RoundTerms) -> None:
        # Forward only, each round once; a site that was away joins the round that is due.
        if self._attempt is None:
            self._attempt = terms.attempt
        if terms.attempt != self._attempt or terms.round < self._next_round:
            raise ProtocolError(
                "round_replayed",
                f"round {terms.round} was asked where round {self._next_round} is due",
                hint="A plan runs once, its rounds in order.",
            )
        if terms.round >= min(self.plan.max_rounds, self._analysis.most_rounds):
            raise ProtocolError("rounds_exhausted", "the plan allows no further round")
