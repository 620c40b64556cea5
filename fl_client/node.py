"""A hospital's node: what is checked before any work, and what answers a round.

Order, stopping at the first no: the plan is approved here, the cohort fits it, the terms are
exactly those the plan implies, the state is the one the terms bind; then the analysis runs
and the door decides. Coming back with the same terms gets the same bytes: a message that is
delivered twice, or a coordinator that asks again, buys nothing and costs nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from ..privacy.errors import PolicyError, ProtocolError
from ..study.analysis import Analysis, State, Vector
from ..study.cohort import Cohort
from ..study.plan import Plan, analysis_of
from ..study.rounds import RoundTerms, terms_for
from .door import Release, SiteTerms, release

__all__ = ["Node"]


class Node:
    """One site.

    Args:
        site: The hospital's name in plans.
        cohort: Builds the site's cohort for a plan; called once per plan.
        terms: Builds what the site brings to the door for a plan; called once per plan.
        approves: Whether this site approved a plan.
        today: The date that a plan's expiry is held against.
    """

    def __init__(
        self,
        *,
        site: str,
        cohort: Callable[[Plan], Cohort],
        terms: Callable[[Plan], SiteTerms],
        approves: Callable[[Plan], bool],
        today: Callable[[], dt.date] = dt.date.today,
    ) -> None:
        self.site = site
        self._cohort_for = cohort
        self._terms_for = terms
        self._approves = approves
        self._today = today
        self._studies: dict[str, _Study] = {}

    def propose(self, plan_json: str) -> str:
        """Accept a plan that this site approved, and make ready for its rounds.

        Returns:
            The plan's hash.

        Raises:
            PolicyError: `plan_not_for_us`, `plan_not_approved`, `plan_expired`, `schema_mismatch`
                or `codebook_required`.
        """
        plan = Plan.from_json(plan_json)
        if plan.sha256 in self._studies:
            return plan.sha256
        if self.site not in plan.sites:
            raise PolicyError("plan_not_for_us", f"the plan does not name the site {self.site}")
        if not self._approves(plan):
            raise PolicyError(
                "plan_not_approved",
                "the plan's hash is not among those this site approved",
                hint="Ask the site's data team to look at the plan and approve its hash.",
            )
        if self._today().isoformat() > plan.expires:
            raise PolicyError(
                "plan_expired",
                f"the plan expired on {plan.expires}",
                hint="Ask the coordinator for a new plan, and approve its new hash.",
            )
        cohort = self._cohort_for(plan)
        _check_cohort(plan, cohort)
        cohort = cohort.at_most(plan.max_patients_per_site)
        self._studies[plan.sha256] = _Study(plan, cohort, self._terms_for(plan))
        return plan.sha256

    def report(self, terms_json: str, arrays: Mapping[str, Vector]) -> Release:
        """Answer one round.

        Args:
            terms_json: Canonical JSON of the round's terms.
            arrays: The state's arrays.

        Raises:
            ProtocolError: `plan_unknown`, `terms_mismatch` or `round_replayed`.
            PolicyError: The door refused.
        """
        terms = RoundTerms.from_json(terms_json)
        study = self._studies.get(terms.plan_sha256)
        if study is None:
            raise ProtocolError("plan_unknown", "the round belongs to no plan proposed here")
        return study.report(terms, State(round=terms.round, arrays=arrays))


class _Study:
    """One approved plan at one site, with the answers it has given."""

    def __init__(self, plan: Plan, cohort: Cohort, site: SiteTerms) -> None:
        self._plan = plan
        self._cohort = cohort
        self._site = site
        self._analysis: Analysis = analysis_of(plan)
        self._attempt: str | None = None
        self._answered: tuple[str, Release] | None = None
        self._next_round = 0

    def report(self, terms: RoundTerms, state: State) -> Release:
        if self._answered is not None and self._answered[0] == terms.sha256:
            return self._answered[1]
        if terms != terms_for(self._plan, self._analysis, state, terms.attempt):
            raise ProtocolError(
                "terms_mismatch",
                "the round's terms are not those that the approved plan implies",
                hint="Coordinator and site must run the same release on the same plan.",
            )
        if self._attempt is None and terms.round == 0:
            self._attempt = terms.attempt
        if terms.attempt != self._attempt or terms.round != self._next_round:
            raise ProtocolError(
                "round_replayed",
                f"round {terms.round} was asked where round {self._next_round} is due",
                hint="A plan runs once, its rounds in order.",
            )
        if terms.round >= self._plan.max_rounds:
            raise ProtocolError("rounds_exhausted", "the plan allows no further round")
        contribution = self._analysis.contribution(self._cohort, state)
        answer = release(contribution, terms, self._plan, self._site)
        self._answered = terms.sha256, answer
        self._next_round = terms.round + 1
        return answer


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
