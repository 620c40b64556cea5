"""A hospital's node: what is checked before any work, and what answers a round.

Order, stopping at the first no: the gate lets the plan run here, the cohort fits it, the terms
are exactly those the plan implies, the state is the one the terms bind; then the analysis runs
and the door decides. The gate is asked again at every message. Coming back with the same terms
gets the same bytes: a message that is delivered twice, a coordinator that asks again, or one that
asks after this node was killed, buys nothing and costs nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..privacy.accounting import BOUND, epsilon_of_event
from ..privacy.errors import DisclosureError, FedCohortError, PolicyError, ProtocolError
from ..privacy.ledger.charges import Ledger
from ..study.analysis import Analysis, Contribution, State, Vector
from ..study.cohort import Cohort
from ..study.evaluated import parts
from ..study.plan import Plan, analysis_of, reservation_of
from ..study.rounds import RoundTerms, expected_round, terms_for
from .door import Prepared, Release, SiteTerms, hand_over, pay, prepare
from .gate import Gate
from .governance.site_rules import classes_of
from .round_memory import NoRoundMemory, Remembered, RoundMemory

__all__ = ["Node", "SecAggRequest"]


class Node:
    """One site.

    Args:
        site: The hospital's name in plans.
        cohort: Builds the site's cohort for a plan; called once per plan.
        terms: Builds what the site brings to the door for a plan; called once per plan.
        gate: Decides about plans and rounds.
        memory: Keeps what a plan's rounds must not forget over a restart.
        today: The date that a plan's expiry is held against.
    """

    def __init__(
        self,
        *,
        site: str,
        cohort: Callable[[Plan], Cohort],
        terms: Callable[[Plan], SiteTerms],
        gate: Gate,
        memory: Callable[[Plan], RoundMemory] = lambda plan: NoRoundMemory(),
        today: Callable[[], dt.date] = dt.date.today,
    ) -> None:
        self.site = site
        self._cohort_for = cohort
        self._terms_for = terms
        self._gate = gate
        self._memory_for = memory
        self._today = today
        self._studies: dict[str, _Study] = {}
        self._ledgers: dict[str, Ledger] = {}  # of every plan that set its price aside here

    def propose(self, plan_json: str, jurisdiction: str = "") -> str:
        """Accept a plan that this site approved, and make ready for its rounds.

        Args:
            plan_json: The plan.
            jurisdiction: The country that the coordinator declares.

        Returns:
            The plan's hash.

        Raises:
            PolicyError: `plan_not_for_us`, whatever the gate refuses, `plan_expired`,
                `no_sensitivity`, `plan_underpriced`, `roster_mismatch`, whatever the ledger
                refuses, `schema_mismatch` or `codebook_required`.
        """
        with self._told("") as about:
            plan = self._gate.proposed(plan_json, jurisdiction)
            about.append(plan.sha256)
            self._check_date(plan)
            if plan.sha256 not in self._studies:
                self._studies[plan.sha256] = self._study(plan)
            return plan.sha256

    def _study(self, plan: Plan) -> _Study:
        if self.site not in plan.sites:
            raise PolicyError("plan_not_for_us", f"the plan does not name the site {self.site}")
        _check_price(plan)
        terms = self._terms_for(plan)
        if plan.secagg == "masked" and plan.roster != terms.roster:
            raise PolicyError(
                "roster_mismatch",
                "the plan masks under another roster than the one this site pinned",
                hint="Ask for a plan under the roster that your members signed.",
            )
        # The whole price is set aside before a record is looked at.
        self._ledgers[plan.sha256] = terms.ledger  # noted first: whatever happens, it can be closed
        terms.ledger.reserve(reservation_of(plan))
        cohort = self._cohort_for(plan)
        _check_cohort(plan, cohort)
        return _Study(plan, cohort, terms, self._gate, self._memory_for(plan))

    def close(self, plan_sha256: str, result: Mapping[str, Vector] | None = None) -> None:
        """End a plan: its ledger gets back what was set aside for rounds that never came.

        Args:
            plan_sha256: The plan's hash.
            result: What came of it, for the hospital; None where it failed.
        """
        with self._told(plan_sha256):
            study = self._studies.pop(plan_sha256, None)
            if study is not None:
                study.memory.clear()
            ledger = self._ledgers.get(plan_sha256)
            if ledger is not None:  # also where the cohort was refused after its price was reserved
                ledger.close(plan_sha256)  # a disk that fails is asked again by the next close
                del self._ledgers[plan_sha256]
                self._gate.closed(plan_sha256, result or {})

    def secagg(self, request: SecAggRequest) -> bytes:
        """Answer a phase of secure aggregation that carries no vector.

        Raises:
            ProtocolError: `plan_unknown`, `no_session`, `phase_unknown` or a rule of the
                protocol, by its code.
            PolicyError: The gate refused.
        """
        with self._told(request.plan_sha256):
            study = self._studies.get(request.plan_sha256)
            if study is None:
                raise ProtocolError("plan_unknown", "the phase belongs to no plan proposed here")
            self._gate.asked(study.plan, None)
            self._check_date(study.plan)
            return study.secagg(request)

    def report(
        self, terms_json: str, arrays: Mapping[str, Vector], round_plan: bytes = b""
    ) -> Release:
        """Answer one round.

        Args:
            terms_json: Canonical JSON of the round's terms.
            arrays: The state's arrays.
            round_plan: The coordinator's signed round plan, where sums are masked.

        Raises:
            ProtocolError: `plan_unknown`, `terms_mismatch` or `round_replayed`.
            PolicyError: The gate or the door refused.
        """
        with self._told("") as about:
            terms = RoundTerms.from_json(terms_json)
            study = self._studies.get(terms.plan_sha256)
            if study is None:
                raise ProtocolError("plan_unknown", "the round belongs to no plan proposed here")
            about.append(terms.plan_sha256)
            self._gate.asked(study.plan, terms.round)
            self._check_date(study.plan)
            answer = study.report(terms, State(round=terms.round, arrays=arrays), round_plan)
            self._gate.released(study.plan, terms.round, answer.vector.nbytes)
            return answer

    def _check_date(self, plan: Plan) -> None:
        if self._today().isoformat() > plan.expires:
            raise PolicyError(
                "plan_expired",
                f"the plan expired on {plan.expires}",
                hint="Ask the coordinator for a new plan, and approve its new hash.",
            )

    @contextmanager
    def _told(self, plan_sha256: str) -> Iterator[list[str]]:
        """Tell the gate of whatever is refused within; the block may add the plan's hash."""
        about = [plan_sha256]
        try:
            yield about
        except FedCohortError as error:
            self._gate.refused(about[-1], error.code)
            raise
        except Exception:  # the text may hold a patient's value; the code does not
            self._gate.refused(about[-1], "site_error")
            raise


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


class _Study:
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
        self._attempt = None if known is None else known.attempt
        self._next_round = 0 if known is None else known.next_round
        self._patients = 0 if known is None else known.patients
        if known is not None and known.vector is not None:
            before = Prepared(vector=known.vector, charge_id=known.charge_id)
            self._prepared = known.terms_sha256, before

    def secagg(self, request: SecAggRequest) -> bytes:
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
            answer = session.unmask(request.data)
            self.memory.spend()
        else:
            raise ProtocolError("phase_unknown", "there is no such phase")
        self._said[request.phase] = request, answer
        return answer

    def report(self, terms: RoundTerms, state: State, round_plan: bytes) -> Release:
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
        if self._prepared is None or not again:
            cohort = self._present()
            # Asked once, whatever comes of it: a failure is paid for, and never free to repeat.
            if self.plan.privacy is not None:
                self._next_round = terms.round + 1
            prepared = self._prepare(terms, state, cohort)
            self._prepared = terms.sha256, prepared
            self._next_round = terms.round + 1
            self._keep(terms, prepared)
        answer = hand_over(self._prepared[1], self.plan, self._site)
        self._answered = asked, answer
        return answer

    def _present(self) -> Cohort:
        """Return the cohort without those who said no since.

        Raises:
            DisclosureError: `cohort_changed`: exact sums with and without somebody, near one
                state, tell of that one.
        """
        cohort = self._gate.present(self.plan, self._cohort)
        if self.plan.privacy is None and self._patients not in (0, cohort.patients):
            raise DisclosureError(
                "cohort_changed",
                "somebody withdrew in the middle of a plan without noise",
                hint="The withdrawal holds; the plan ends here. Ask for a new one.",
            )
        self._patients = cohort.patients
        return cohort

    def _prepare(self, terms: RoundTerms, state: State, cohort: Cohort) -> Prepared:
        paid = pay(self._analysis, terms, self.plan, self._site)
        if self.plan.privacy is not None:
            contribution = self._analysis.contribution(cohort, state)
        else:
            cohort = cohort.at_most(self.plan.max_patients_per_site)
            contribution = self._analysis.contribution(cohort, state)
            if self._site.disclosure.counts_classes:
                contribution = self._counted(contribution, cohort, terms.round)
        return prepare(contribution, terms, self.plan, self._site, paid=paid)

    def _counted(self, contribution: Contribution, cohort: Cohort, number: int) -> Contribution:
        """Add what the site's own disclosure rules judge a sum without noise by."""
        if self._analysis.is_table(number):
            return replace(contribution, is_table=True)
        training = cohort if self.plan.holdout is None else parts(cohort)[0]
        return replace(contribution, classes=classes_of(training))

    def _keep(self, terms: RoundTerms, prepared: Prepared) -> None:
        self.memory.keep(
            Remembered(
                attempt=terms.attempt,
                next_round=self._next_round,
                terms_sha256=terms.sha256,
                vector=prepared.vector,
                charge_id=prepared.charge_id,
                patients=self._patients,
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


def _check_price(plan: Plan) -> None:
    """Recompute what the plan costs: an approval of epsilon 1 must not buy epsilon 50."""
    terms = plan.privacy
    if terms is None:
        return
    analysis = analysis_of(plan)
    releases = analysis.releases
    spent = epsilon_of_event(terms.mechanism.event(terms.releases), terms.delta)
    local = getattr(analysis, "noise_multiplier", None) is not None
    if releases is None or local != (terms.sharing == "local"):
        raise PolicyError(
            "no_sensitivity",
            "nothing bounds what one patient changes in this plan's sums as its noise is placed",
            hint="Ask for an analysis with a clip norm, and for the sharing that it is made for.",
        )
    more = releases > terms.releases
    # What runs is the analysis' own noise and clip, where it has them.
    quieter = getattr(analysis, "noise_multiplier", None) or terms.noise_multiplier
    wider = getattr(analysis, "clip", None) or terms.clip
    oftener = getattr(analysis, "sampling_probability", 1.0) > terms.sampling_probability
    other = quieter < terms.noise_multiplier or wider > terms.clip or oftener
    bounds = (BOUND, "pld") if terms.sharing == "local" else (BOUND,)
    if more or other or spent > terms.epsilon * (1 + 1e-9) or terms.bound not in bounds:
        raise PolicyError(
            "plan_underpriced",
            "the plan's noise and rounds cost more than the epsilon it states, or its analysis "
            "makes more releases than it says",
            hint="Ask for a plan whose epsilon is recomputed; `dry_run=true` prints the price.",
        )


def _check_cohort(plan: Plan, cohort: Cohort) -> None:
    if cohort.schema.sha256 != plan.schema_sha256:
        raise PolicyError(
            "schema_mismatch",
            "the cohort's schema is not the plan's",
            hint="Use the plan's codebook, features and outcome.",
        )
    if plan.privacy is not None and not cohort.schema.public:
        raise PolicyError(
            "codebook_required",
            "without a codebook, scaling looked at the data: no epsilon would be true",
            hint="Give data.codebook=FILE; draft one with `fedcohort data codebook TABLE`.",
        )
    if plan.holdout is not None:
        parts(cohort)  # it refuses a cohort that does not say who is held out
