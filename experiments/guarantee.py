"""What a plan's noise gives a patient, in every number that a reader may ask for.

Each epsilon says which bound it is: `rdp` for integer noise in a sum, `pld` for the baseline
with local noise on Poisson samples, what its integer noise costs added. Beside it stands the
epsilon of continuous noise of the same variance, which is smaller and not what a ledger counts
(`is_gaussian_proved` says of which releases it is true), and what a patient of two or three of the
hospitals gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..privacy.accounting import BOUND, epsilon_of_event, for_sites
from ..privacy.budget import Budget
from ..privacy.discreteness import epsilon_with_slack
from ..privacy.pld import price
from ..study.plan import PrivacyTerms

__all__ = ["Guarantee", "guarantee_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What a plan costs a patient when all of it is executed.

    Attributes:
        epsilon: At the plan's delta, by `bound`.
        bound: `rdp` or `pld`.
        same_variance_epsilon: By privacy loss distribution, for continuous noise of the same
            variance.
        sites_per_person: Epsilon for a patient of 1, 2 and 3 of the hospitals.
        order: Of the Renyi DP in which a ledger of the plan's epsilon and delta adds up.
        cost: In that ledger.
        limit: Of that ledger.
    """

    epsilon: float
    bound: str
    same_variance_epsilon: float
    sites_per_person: tuple[float, float, float]
    order: int
    cost: float
    limit: float


@lru_cache(maxsize=256)
def guarantee_of(terms: PrivacyTerms) -> Guarantee:
    """Return the numbers of a plan's privacy terms."""
    mechanism, releases = terms.mechanism, terms.releases
    budget = Budget(epsilon=terms.epsilon, delta=terms.delta)
    continuous = price(mechanism.same_variance(releases), terms.delta).epsilon

    def epsilon(sites: int) -> float:
        if terms.sharing == "sum":
            seen, times = for_sites(mechanism, sites, "sum"), releases
        else:  # each hospital's own noise, and its own sample: so many more of the same releases
            seen, times = mechanism, sites * releases
        if terms.bound == BOUND:
            return epsilon_of_event(seen.event(times), terms.delta)
        return epsilon_with_slack(seen, times, terms.delta)

    one, two, three = (epsilon(sites) for sites in (1, 2, 3))
    return Guarantee(
        epsilon=one,
        bound=terms.bound,
        same_variance_epsilon=continuous,
        sites_per_person=(one, two, three),
        order=budget.order,
        cost=releases * mechanism.rdp(budget.order),
        limit=budget.limit,
    )
