"""What a plan costs, computed again at the site: an approval of epsilon 1 must not buy 50."""

from __future__ import annotations

from ..privacy.accounting import BOUND, epsilon_of_event
from ..privacy.errors import PolicyError
from ..privacy.secagg.encoding import float_slack
from ..study.plan import Plan, analysis_of

__all__ = ["check_price"]


def check_price(plan: Plan) -> None:
    """Refuse a plan that costs more than it says, or whose noise protects nothing.

    Raises:
        PolicyError: `no_sensitivity`, `plan_underpriced` or `too_many_patients`.
    """
    terms = plan.privacy
    analysis = analysis_of(plan)
    if terms is None:
        return
    # The noise of local steps is sized by the analysis' own number of patients.
    most = getattr(analysis, "max_patients", None) or plan.max_patients_per_site
    float_slack(max(most, plan.max_patients_per_site))
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
    fewer = most < plan.max_patients_per_site
    other = quieter < terms.noise_multiplier or wider > terms.clip or oftener or fewer
    bounds = (BOUND, "pld") if terms.sharing == "local" else (BOUND,)
    if more or other or spent > terms.epsilon * (1 + 1e-9) or terms.bound not in bounds:
        raise PolicyError(
            "plan_underpriced",
            "the plan's noise and rounds cost more than the epsilon it states, or its analysis "
            "makes more releases than it says",
            hint="Ask for a plan whose epsilon is recomputed; `dry_run=true` prints the price.",
        )
