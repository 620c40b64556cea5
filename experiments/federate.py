"""Run one plan over simulated hospitals: real ServerApp and ClientApp, in this process.

Every site is a node with its own cohort, its own throw-away ledger and the real door; only
the network is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import Context
from flwr.serverapp import Grid

from ..fl_client.app import client_app
from ..fl_client.door import NoDisclosureRules, SiteTerms
from ..fl_client.node import Node
from ..fl_server.app import server_app
from ..fl_server.coordinator import Outcome, run_plan
from ..fl_server.rounds import Patience
from ..privacy.ledger import SimulationLedger
from ..study.cohort import Cohort
from ..study.plan import Plan
from .local_grid import FaultHook, InProcessGrid, run_in_process

__all__ = ["federate", "simulated_node"]


def simulated_node(cohort: Cohort, plan: Plan) -> Node:
    """Return a node that approves exactly one plan, with a ledger that holds its price."""
    approved = plan.sha256

    def site_terms(asked: Plan) -> SiteTerms:
        budget = 0.0 if asked.privacy is None else asked.privacy.rho
        return SiteTerms(ledger=SimulationLedger(budget), disclosure=NoDisclosureRules())

    return Node(
        site=cohort.site,
        cohort=lambda asked: cohort,
        terms=site_terms,
        approves=lambda asked: asked.sha256 == approved,
    )


def federate(
    plan: Plan,
    cohorts: Sequence[Cohort],
    *,
    faults: FaultHook | None = None,
    patience: Patience | None = None,
    on_round: Callable[[int], None] | None = None,
) -> Outcome:
    """Run a plan over cohorts, one a site, through Flower's Message API.

    Args:
        plan: Names exactly the cohorts' sites.
        cohorts: One per site.
        faults: See `InProcessGrid`.
        patience: How long the coordinator waits.
        on_round: Called with the number of rounds done.

    Raises:
        PolicyError: A site refused; nothing of it left.
        ProtocolError: Too few sites answered, or a message was not what it must be.
    """
    nodes = {cohort.site: simulated_node(cohort, plan) for cohort in cohorts}

    def node_of(context: Context) -> Node:
        return nodes[str(context.node_config["site"])]

    grid = InProcessGrid(client_app(node_of), sorted(nodes), faults=faults)
    outcomes: list[Outcome] = []

    def coordinate(flower: Grid, context: Context) -> None:
        outcomes.append(run_plan(plan, flower, grid.nodes, patience=patience, on_round=on_round))

    run_in_process(server_app(coordinate), grid, {"plan_sha256": plan.sha256})
    return outcomes[0]
