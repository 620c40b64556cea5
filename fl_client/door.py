"""The one door: the only function that turns a site's sum into bytes that leave.

Its order is the guarantee: payment before a noisy sum is looked at, or the site's rules where no
noise is added; integers, noise, mask, then the vector. The messages of secure aggregation that
carry no vector leave through `Node.secagg`; a site's session makes them of keys and shares, never
of a cohort. A test walks the import graph: nothing else in `fl_client` makes outgoing vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..privacy.errors import PolicyError, ProtocolError
from ..privacy.ledger.charges import Charge, Ledger
from ..privacy.mechanism import Mechanism
from ..privacy.noise import discrete_gaussian
from ..privacy.secagg.site import SiteSession
from ..study.analysis import Analysis, Contribution
from ..study.plan import Plan
from ..study.rounds import RoundTerms

__all__ = [
    "Disclosure",
    "NoDisclosureRules",
    "Paid",
    "Prepared",
    "Release",
    "SiteTerms",
    "hand_over",
    "pay",
    "prepare",
    "release",
]


class Disclosure(Protocol):
    """The site's own rules for what may leave without noise."""

    @property
    def counts_classes(self) -> bool:
        """Whether `Contribution.classes` must be counted for it."""
        ...

    def check(self, contribution: Contribution) -> None:
        """Refuse a contribution that the site's rules forbid.

        Raises:
            PolicyError: Naming the rule, never a count.
        """
        ...


class NoDisclosureRules:
    """Simulation: the researcher holds every record anyway, so no rule applies."""

    counts_classes = False

    def check(self, contribution: Contribution) -> None:
        """Allow everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTerms:
    """What the site itself brings to the door.

    Attributes:
        ledger: Who pays.
        disclosure: The site's own rules for what leaves without noise.
        session: Its side of secure aggregation; None where a plan sums in plain.
        roster: The roster it pinned, as plans name it.
    """

    ledger: Ledger
    disclosure: Disclosure
    session: SiteSession | None = None
    roster: str = "simulation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """What was paid for a round before its sum was computed.

    Attributes:
        charge: The price, by the plan.
        charge_id: The ledger's entry.
    """

    charge: Charge
    charge_id: str

    def check(self, found: Charge) -> None:
        """Refuse a contribution that costs more than was paid. Nothing in it depends on records.

        Raises:
            PolicyError: `contribution_underpaid`.
        """
        paid = self.charge
        same = (paid.plan_sha256, paid.round) == (found.plan_sha256, found.round)
        if same and found.releases <= paid.releases and _at_most(found.mechanism, paid.mechanism):
            return
        raise PolicyError(
            "contribution_underpaid",
            "the analysis made more noisy sums, added less noise to them or sampled patients more "
            "often than the plan says and the ledger paid for",
            hint="Nothing left. Ask for a plan whose parameters and privacy terms agree.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An encoded, noised and paid vector. It stays here; only `hand_over` lets it out.

    Attributes:
        vector: int64 [d].
        charge_id: The ledger's entry that paid for it.
    """

    vector: NDArray[np.int64]
    charge_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The only bytes that leave a site in a round.

    Attributes:
        vector: [d]: masked words (uint32 or uint64), or int64 where a plan sums in plain.
        charge_id: The ledger's entry that paid for it.
        report: The signed digest of the masked vector; empty in plain.
    """

    vector: NDArray[np.int64] | NDArray[np.uint32] | NDArray[np.uint64]
    charge_id: str
    report: bytes = b""


def release(contribution: Contribution, terms: RoundTerms, plan: Plan, site: SiteTerms) -> Release:
    """Turn a bounded sum into the only bytes that leave this site.

    Guarantee: the ledger is charged before any byte exists outside; a crash wastes budget and
    never hides a release.

    Raises:
        PolicyError: As `prepare`.
        ProtocolError: As `prepare` and `hand_over`.
    """
    return hand_over(prepare(contribution, terms, plan, site), plan, site)


def pay(analysis: Analysis, terms: RoundTerms, plan: Plan, site: SiteTerms) -> Paid | None:
    """Pay for a noisy round before its sum is computed; None where no noise is added.

    The price is a function of the plan and the round's number. What goes wrong afterwards has
    been paid for, so that nobody can ask again for free.

    Raises:
        PolicyError: The ledger refused. Nothing was computed.
    """
    if plan.privacy is None:
        return None
    local = plan.privacy.sharing == "local"
    charge = Charge(
        plan_sha256=plan.sha256,
        round=terms.round,
        releases=analysis.releases_in(terms.round) if local else 1,
        mechanism=plan.privacy.mechanism,
    )
    return Paid(charge=charge, charge_id=site.ledger.charge(charge))


def prepare(
    contribution: Contribution,
    terms: RoundTerms,
    plan: Plan,
    site: SiteTerms,
    *,
    paid: Paid | None = None,
) -> Prepared:
    """Check, pay, encode, add noise; nothing has left yet.

    A second attempt at the same sum hands the same prepared vector over again: fresh noise
    on the same data would be a second release.

    Args:
        contribution: The site's sum.
        terms: The round's terms.
        plan: The plan.
        site: What the site brings.
        paid: What `pay` returned where it was called before; else it is paid here.

    Raises:
        PolicyError: A rule refused: `no_sensitivity`, `no_local_noise`,
            `contribution_underpaid`, BudgetExceededError; without noise also `not_finite`,
            `out_of_range` and the site's own rules. Nothing was sent.
        ProtocolError: `vector_shape`: the contribution does not fit the round's terms.
    """
    if contribution.total.shape != (terms.size,):
        raise ProtocolError("vector_shape", f"a contribution must be [{terms.size}]")
    # 1. The price, before the sum is looked at: what cannot be priced is refused whatever it is.
    charge = _charge_for(contribution, terms, plan)
    if plan.privacy is None:
        # 2. Without noise: the site's own rules, on the patients actually used; then integers.
        site.disclosure.check(contribution)
        vector = terms.encoding.encode(contribution.total)
        return Prepared(vector=vector, charge_id=site.ledger.charge(charge))
    # 3. With noise no check may depend on data: a refusal would speak. So it is paid first, and
    #    what is out of its range is held, not refused.
    if paid is None:
        charge_id = site.ledger.charge(charge)
    else:
        paid.check(charge)  # what was computed is what was paid for
        charge_id = paid.charge_id
    vector = terms.encoding.encode_noisy(contribution.total)
    noise = plan.privacy.noise()
    if noise is not None:
        # Data-independent: the plan's clip, not what this cohort happened to need.
        sensitivity = terms.encoding.sensitivity_units(
            _sensitivity(contribution, plan), terms.size, plan.max_patients_per_site
        )
        vector = vector + discrete_gaussian(terms.size, noise.share_sigma(sensitivity))
    return Prepared(vector=vector, charge_id=charge_id)


def hand_over(prepared: Prepared, plan: Plan, site: SiteTerms) -> Release:
    """Mask a prepared vector, or hand it over as it is where the plan sums in plain.

    Raises:
        ProtocolError: `no_session`: the plan masks and this site cannot; or as
            `SiteSession.report`.
    """
    # 4. Mask: the plan decides, not whoever asks.
    if plan.secagg != "masked":
        return Release(vector=prepared.vector, charge_id=prepared.charge_id)
    if site.session is None:
        raise ProtocolError("no_session", "the plan masks sums and this site has no session")
    report, masked = site.session.report(prepared.vector)
    words = np.frombuffer(masked, dtype=f"<u{len(masked) // max(1, prepared.vector.size)}")
    return Release(vector=words, charge_id=prepared.charge_id, report=report)


def _sensitivity(contribution: Contribution, plan: Plan) -> float:
    if contribution.sensitivity is None or plan.privacy is None:
        raise PolicyError(
            "no_sensitivity",
            "nothing bounds what one patient changes in this sum, so noise cannot protect it",
            hint="Choose an analysis with a clip norm; locally trained weights have none.",
        )
    if contribution.sensitivity > plan.privacy.clip:
        raise PolicyError(
            "sensitivity_exceeds_plan",
            "the analysis bounds a patient by more than the plan's clip norm",
            hint="The plan must state the clip norm that the analysis uses.",
        )
    return plan.privacy.clip


def _at_most(found: Mechanism | None, paid: Mechanism | None) -> bool:
    """Whether a release costs no more than another, whatever the order of the Renyi DP."""
    if found is None or paid is None:
        return False
    return (
        found.noise_multiplier >= paid.noise_multiplier
        and found.sampling_probability <= paid.sampling_probability
    )


def _charge_for(contribution: Contribution, terms: RoundTerms, plan: Plan) -> Charge:
    """Price a release before it is made; refuse where the price would be a guess."""
    mechanism, releases = None, 0
    if plan.privacy is not None:
        if plan.privacy.sharing == "local":
            local = contribution.local
            if local is None:
                raise PolicyError(
                    "no_local_noise",
                    "the plan promises noise inside local steps and the analysis adds none",
                    hint="Use sharing `sum`, or an analysis that adds its own noise.",
                )
            mechanism = Mechanism(
                noise_multiplier=local.noise_multiplier,
                sampling_probability=local.sampling_probability,
            )
            releases = local.releases
        else:
            _sensitivity(contribution, plan)
            mechanism, releases = plan.privacy.mechanism, 1
    return Charge(
        plan_sha256=plan.sha256, round=terms.round, releases=releases, mechanism=mechanism
    )
