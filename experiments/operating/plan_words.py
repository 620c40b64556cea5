"""A plan in words and numbers: what would leave, what it costs, where it stands at a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ...fl_client.governance.approvals import Approvals
from ...fl_client.governance.audit_log import AuditLog
from ...fl_client.governance.plan_check import check_plan
from ...fl_client.governance.policy import Policy
from ...fl_client.site_data import SiteData
from ...fl_client.site_folder import SiteFolder
from ...fl_client.site_gate import in_force
from ...privacy.errors import FedCohortError
from ...privacy.ledger.book import Account
from ...privacy.ledger.store import SqliteLedger
from ...study.plan import Plan, analysis_of, reservation_of
from ...study.rounds import terms_for
from .options import today

__all__ = ["accounts_of", "plan_facts", "show_plan", "show_studies", "standing"]


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return what a plan asks for, as plain values."""
    analysis = analysis_of(plan)
    terms = terms_for(plan, analysis, analysis.initial(), "00" * 16)
    noise = plan.privacy
    return {
        "plan_sha256": plan.sha256,
        "study": plan.study,
        "purpose": plan.purpose,
        "analysis": plan.analysis,
        "model": plan.parameters.get("model", {}).get("name"),
        "sites": list(plan.sites),
        "sums": min(plan.max_rounds, analysis.most_rounds),
        "numbers": terms.size,
        "bytes": terms.size * terms.word_bits // 8,
        "masked": plan.secagg == "masked",
        "least_sites": plan.fewest_sites,
        "colluders": plan.colluders,
        "epsilon": None if noise is None else noise.epsilon,
        "delta": None if noise is None else noise.delta,
        "noise_multiplier": None if noise is None else noise.noise_multiplier,
        "noisy_sums": 0 if noise is None else noise.releases,
        "expires": plan.expires,
        "parameters": dict(plan.parameters),
    }


def show_plan(plan: Plan, console: Console) -> None:
    """Print a plan as a person reads it before a decision."""
    facts = plan_facts(plan)
    table = Table(title=f"Plan {plan.sha256}", show_header=False)
    table.add_column("what")
    table.add_column("is", overflow="fold")
    noisy = facts["epsilon"] is not None
    mixed = "masked: the coordinator learns the total" if facts["masked"] else "IN PLAIN"
    rows = {
        "study": facts["study"],
        "purpose": facts["purpose"],
        "hospitals": ", ".join(plan.sites),
        "analysis": f"{facts['analysis']} {facts['model'] or ''}",
        "leaves this hospital": f"up to {facts['sums']} vectors; the first has {facts['numbers']} "
        f"numbers ({facts['bytes']:,} bytes); {mixed} of {facts['least_sites']} sites or more",
        "noise": f"epsilon {facts['epsilon']:g} at delta {facts['delta']:g} per patient, "
        f"{facts['noisy_sums']} noisy sums, noise multiplier {facts['noise_multiplier']:.3f}"
        if noisy
        else "NONE: exact sums, under this site's disclosure rules",
        "stands colluding sites": str(facts["colluders"]),
        "until": plan.expires,
        "parameters": str(facts["parameters"]),
    }
    for name, text in rows.items():
        table.add_row(name, text.replace("[", "\\["))
    console.print(table)


def standing(folder: SiteFolder, plan: Plan) -> dict[str, Any]:
    """Return where a plan stands here: state, the rule that stops it, its share of the budget."""
    found: dict[str, Any] = {"state": "unknown", "stopped_by": "", "cost_share": None}
    try:
        policy = in_force(folder)
        data = SiteData.read(folder.root, policy.site)
        approvals = Approvals(folder.approvals, policy, audit=AuditLog(folder.audit))
        found["state"] = approvals.state(plan, data.fingerprint, today())
        ledger = SqliteLedger(folder.ledger(policy), kind="site")
        book = ledger.book
        ledger.dispose()
        wanted = reservation_of(plan)
        if book.limit and wanted.mechanism is not None:
            found["cost_share"] = book.cost(wanted.mechanism, wanted.releases) / book.limit
        check_plan(
            policy, plan, today=today(), columns=data.columns, accounts=book.accounts, release=False
        )
    except FedCohortError as error:
        found["stopped_by"] = error.code
    return found


def accounts_of(folder: SiteFolder, policy: Policy) -> Mapping[str, Account]:
    """Return the plans that a site's ledger holds."""
    ledger = SqliteLedger(folder.ledger(policy), kind="site")
    try:
        return ledger.book.accounts
    finally:
        ledger.dispose()


def show_studies(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the plans of a site, one a line."""
    came = f"{len(rows)} plan{'' if len(rows) == 1 else 's'} came in"
    table = Table(title=came, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    heads = ("plan", "study", "analysis", "sums", "bytes each", "epsilon", "of budget", "state")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head in ("plan", "analysis", "state"))
    for row in rows:
        epsilon, share = row["epsilon"], row["cost_share"]
        state = row["state"] + (f" ({row['stopped_by']})" if row["stopped_by"] else "")
        table.add_row(
            row["plan_sha256"][:12],
            row["study"].replace("[", "\\["),
            row["analysis"],
            str(row["sums"]),
            f"{row['bytes']:,}",
            "no noise" if epsilon is None else f"{epsilon:g}",
            "-" if share is None else f"{share:.1%}",
            state,
        )
    console.print(table)
    console.print("`fedcohort site studies --plan HASH` shows one in full.", style="dim")
