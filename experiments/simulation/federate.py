"""Run one plan over simulated hospitals: real ServerApp and ClientApp, in this process.

Every site is a node with its own cohort, its own throw-away ledger and the real door; only
the network is missing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context
from flwr.serverapp import Grid

from ...fl_client.app import client_app
from ...fl_client.door import NoDisclosureRules, SiteTerms
from ...fl_client.gate import PlanGate
from ...fl_client.node import Node
from ...fl_server.app import server_app
from ...fl_server.coordinator import Outcome, run_plan
from ...fl_server.masked import Masking
from ...fl_server.rounds import Patience
from ...privacy.budget import Budget
from ...privacy.ledger.book import MemoryLedger
from ...privacy.ledger.charges import Ledger, Opening
from ...privacy.secagg.roster import Member, Roster, SignedRoster
from ...privacy.secagg.site import SiteSession
from ...privacy.secagg.store import MemoryRoundStore
from ...privacy.secagg.suite import INTL
from ...study.cohort import Cohort
from ...study.plan import Plan
from .local_grid import FaultHook, InProcessGrid, run_in_process

__all__ = ["Ledgers", "ceremony", "federate", "simulated_node"]


Ledgers = Callable[[Opening], Ledger]


def simulated_node(
    cohort: Cohort,
    plan: Plan,
    session: SiteSession | None = None,
    ledgers: Ledgers = MemoryLedger,
    roster: str = "simulation",
) -> Node:
    """Return a node that approves exactly one plan, with a ledger whose budget is its price.

    Args:
        cohort: The site's.
        plan: The one that it approves.
        session: Its side of secure aggregation, of `ceremony`.
        ledgers: Opens its throw-away ledger.
        roster: What the node says it has pinned; a preview says the name that the plan gives.
    """
    approved = plan.sha256

    def site_terms(asked: Plan) -> SiteTerms:
        terms = asked.privacy
        opening = Opening(
            hospital=cohort.site,
            population=cohort.schema.name,
            kind="simulation",
            budget=None if terms is None else Budget(epsilon=terms.epsilon, delta=terms.delta),
            unnoised=terms is None,
        )
        return SiteTerms(
            ledger=ledgers(opening),
            disclosure=NoDisclosureRules(),
            session=session,
            roster=roster,
        )

    return Node(
        site=cohort.site,
        cohort=lambda asked: cohort,
        terms=site_terms,
        gate=PlanGate(lambda asked: asked.sha256 == approved),
    )


def federate(
    plan: Plan,
    cohorts: Sequence[Cohort],
    *,
    faults: FaultHook | None = None,
    patience: Patience | None = None,
    on_round: Callable[[int], None] | None = None,
    ledgers: Ledgers = MemoryLedger,
) -> Outcome:
    """Run a plan over cohorts, one a site, through Flower's Message API.

    Args:
        plan: Names exactly the cohorts' sites.
        cohorts: One per site.
        faults: See `InProcessGrid`.
        patience: How long the coordinator waits.
        on_round: Called with the number of rounds done.
        ledgers: Opens each site's throw-away ledger; in memory unless told otherwise.

    Raises:
        PolicyError: A site refused; nothing of it left.
        ProtocolError: Too few sites answered, or a message was not what it must be.
    """
    masking, sessions = ceremony(plan) if plan.secagg == "masked" else (None, {})
    nodes = {
        cohort.site: simulated_node(cohort, plan, sessions.get(cohort.site), ledgers)
        for cohort in cohorts
    }

    def node_of(context: Context) -> Node:
        return nodes[str(context.node_config["site"])]

    grid = InProcessGrid(client_app(node_of), sorted(nodes), faults=faults)
    outcomes: list[Outcome] = []

    def coordinate(flower: Grid, context: Context) -> None:
        outcomes.append(
            run_plan(
                plan,
                flower,
                grid.nodes,
                masking=masking,
                patience=patience,
                on_round=on_round,
            )
        )

    run_in_process(server_app(coordinate), grid, {"plan_sha256": plan.sha256})
    return outcomes[0]


def ceremony(plan: Plan) -> tuple[Masking, dict[str, SiteSession]]:
    """Make throw-away identities and a roster that every simulated site signs and checks."""
    identities = {site: Ed25519PrivateKey.generate() for site in plan.sites}
    coordinator = Ed25519PrivateKey.generate()
    today = dt.datetime.now(dt.UTC).date()
    roster = Roster(
        federation="simulation",
        version=1,
        suite=INTL.number,
        members=tuple(
            Member(name=site, public=identities[site].public_key().public_bytes_raw())
            for site in plan.sites
        ),
        coordinator=coordinator.public_key().public_bytes_raw(),
        colluders=plan.colluders,
        valid_from=today.isoformat(),
        valid_to=(today + dt.timedelta(days=1)).isoformat(),
    )
    signed = SignedRoster.sign(roster, identities)
    sessions = {}
    for site, identity in identities.items():
        public = identity.public_key().public_bytes_raw()
        signed.check(name=site, identity=public, today=today)
        sessions[site] = SiteSession(
            roster=roster, name=site, identity=identity, store=MemoryRoundStore()
        )
    return Masking(roster=roster, identity=coordinator), sessions
