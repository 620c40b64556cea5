"""A hospital's node: what is checked before any work, and what answers a round.

Order, stopping at the first no: the gate lets the plan run here, its price is what it says, the
ledger sets that aside, the cohort fits the plan; then, each round, the gate again, the terms that
the plan implies, the analysis and the door (`site_study.py`). Whatever is refused, the gate hears.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ..privacy.errors import FedCohortError, PolicyError, ProtocolError
from ..privacy.ledger.charges import Ledger
from ..study.analysis import State, Vector
from ..study.cohort import Cohort
from ..study.evaluated import parts
from ..study.plan import Plan, reservation_of
from ..study.rounds import RoundTerms
from .door import Release, SiteTerms
from .gate import Gate
from .governance.plan_check import read_plan
from .price_check import check_price
from .round_memory import NoRoundMemory, RoundMemory
from .site_study import PHASES, SecAggRequest, SiteStudy

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
        self._studies: dict[str, SiteStudy] = {}
        self._only: str | None = None
        self._ledgers: dict[str, Ledger] = {}  # of every plan that set its price aside here

    def serve_only(self, plan_sha256: str) -> None:
        """Answer messages of this plan alone from now on: the one that a run was signed for."""
        self._only = plan_sha256

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
            if self._only is not None:  # first: another run's plan costs this one no request
                with suppress(PolicyError):  # what cannot be read the gate counts and refuses
                    about.append(read_plan(plan_json).sha256)
                self._check_run(about[-1] or self._only)
            plan = self._gate.proposed(plan_json, jurisdiction)
            about.append(plan.sha256)
            self._check_date(plan)
            if plan.sha256 not in self._studies:
                self._studies[plan.sha256] = self._study(plan)
            return plan.sha256

    def _study(self, plan: Plan) -> SiteStudy:
        if self.site not in plan.sites:
            raise PolicyError("plan_not_for_us", f"the plan does not name the site {self.site}")
        check_price(plan)
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
        return SiteStudy(plan, cohort, terms, self._gate, self._memory_for(plan))

    def close(self, plan_sha256: str, result: Mapping[str, Vector] | None = None) -> None:
        """End a plan: its ledger gets back what was set aside for rounds that never came.

        Args:
            plan_sha256: The plan's hash.
            result: What came of it, for the hospital; None where it failed.
        """
        with self._told(plan_sha256):
            self._check_run(plan_sha256)
            study = self._studies.pop(plan_sha256, None)
            if study is not None:
                study.memory.clear()
            ledger = self._ledgers.get(plan_sha256)
            if ledger is not None:  # also where the cohort was refused after its price was reserved
                ledger.close(plan_sha256)  # a disk that fails is asked again by the next close
                del self._ledgers[plan_sha256]
            self._gate.closed(plan_sha256, result or {})  # also of a plan of an earlier life

    def secagg(self, request: SecAggRequest) -> bytes:
        """Answer a phase of secure aggregation that carries no vector.

        Raises:
            ProtocolError: `plan_unknown`, `no_session`, `phase_unknown` or a rule of the
                protocol, by its code.
            PolicyError: The gate refused.
        """
        with self._told(request.plan_sha256):
            self._check_run(request.plan_sha256)
            study = self._studies.get(request.plan_sha256)
            if study is None:
                raise ProtocolError("plan_unknown", "the phase belongs to no plan proposed here")
            if request.phase not in PHASES:
                raise ProtocolError("phase_unknown", "there is no such phase")
            self._gate.asked(study.plan, None, request.phase)
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
            self._check_run(terms.plan_sha256)
            study = self._studies.get(terms.plan_sha256)
            if study is None:
                raise ProtocolError("plan_unknown", "the round belongs to no plan proposed here")
            about.append(terms.plan_sha256)
            self._gate.asked(study.plan, terms.round)
            self._check_date(study.plan)
            answer = study.report(terms, State(round=terms.round, arrays=arrays), round_plan)
            self._gate.released(study.plan, terms.round, answer.vector.nbytes)
            return answer

    def _check_run(self, plan_sha256: str) -> None:
        if self._only is not None and plan_sha256 != self._only:
            raise ProtocolError(
                "run_other_plan", "the message is of another plan than its run was signed for"
            )

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
