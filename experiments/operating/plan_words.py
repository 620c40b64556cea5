"""A plan in words and numbers: what would leave, what it costs, where it stands at a site."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ...fl_client.governance.approvals import Approvals
from ...fl_client.governance.audit_log import AuditLog
from ...fl_client.governance.plan_check import check_plan, check_texts
from ...fl_client.governance.policy import Policy
from ...fl_client.site_data import SiteData
from ...fl_client.site_folder import SiteFolder
from ...fl_client.site_gate import in_force
from ...privacy.errors import FedCohortError, PolicyError
from ...privacy.ledger.book import Account
from ...privacy.ledger.store import SqliteLedger
from ...study.plan import Plan, analysis_of, reservation_of
from ...study.rounds import terms_for
from .options import plain, today

__all__ = ["accounts_of", "plan_facts", "plan_row", "show_plan", "show_studies", "standing"]


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return what a plan asks for, as plain values.

    Raises:
        FedCohortError: It asks for what this release does not know, or could not compute.
    """
    return {**_written(plan), **_derived(plan)}


def plan_row(folder: SiteFolder, plan_sha256: str) -> dict[str, Any]:
    """Return a plan's line of `site studies`: what can be read of it, and where it stands.

    A plan is kept as it came in, whatever it says: none may hide the others.
    """
    row: dict[str, Any] = dict.fromkeys(_FACTS)
    row |= {"plan_sha256": plan_sha256, "state": "unknown", "stopped_by": "", "cost_share": None}
    try:
        plan = folder.plan(plan_sha256)
        row |= _written(plan)
        row |= standing(folder, plan)
        row |= _derived(plan)
    except FedCohortError as error:
        row["stopped_by"] = row["stopped_by"] or error.code
    return row


def _written(plan: Plan) -> dict[str, Any]:
    """What stands in the plan itself."""
    noise, held_out = plan.privacy, plan.holdout
    model = plan.parameters.get("model")
    facts = {
        "plan_sha256": plan.sha256,
        "study": plan.study,
        "purpose": plan.purpose,
        "analysis": plan.analysis,
        "model": model.get("name") if isinstance(model, Mapping) else None,
        "sites": list(plan.sites),
        "masked": plan.secagg == "masked",
        "least_sites": plan.fewest_sites,
        "colluders": plan.colluders,
        "expires": plan.expires,
        "max_rounds": plan.max_rounds,
        "max_patients_per_site": plan.max_patients_per_site,
        "roster": plan.roster,
        "schema_sha256": plan.schema_sha256,
        "parameters": dict(plan.parameters),
        "noisy_sums": 0 if noise is None else noise.releases,
        "holdout": None if held_out is None else dataclasses.asdict(held_out),
    }
    for name in _NOISE:
        facts[name] = None if noise is None else getattr(noise, name)
    facts["noise_colluders"] = None if noise is None else noise.colluders
    return facts


def _derived(plan: Plan) -> dict[str, Any]:
    """What follows from it, for this release."""
    try:
        check_texts(plan)  # before anything is made as large as it says
        analysis = analysis_of(plan)
        terms = terms_for(plan, analysis, analysis.initial(), "00" * 16)
        return {
            "sums": min(plan.max_rounds, analysis.most_rounds),
            "numbers": terms.size,
            "bytes": terms.size * terms.word_bits // 8,
        }
    except FedCohortError:
        raise
    except Exception as error:  # a stranger's numbers and shapes: whatever goes wrong with them
        raise PolicyError(
            "plan_unreadable",
            f"what the plan would send cannot be computed: {type(error).__name__}",
            hint="Ask the coordinator for a plan made by this release.",
        ) from error


_NOISE = (
    "epsilon",
    "delta",
    "noise_multiplier",
    "clip",
    "sharing",
    "sampling_probability",
    "min_survivors",
    "bound",
)
_FACTS = (
    *("study", "purpose", "analysis", "model", "sites", "masked", "least_sites", "colluders"),
    *("expires", "max_rounds", "max_patients_per_site", "roster", "schema_sha256", "parameters"),
    *("noisy_sums", "holdout", "sums", "numbers", "bytes", "noise_colluders", *_NOISE),
)
_SHARING = {
    "sum": "each hospital adds its part of it",
    "each": "each hospital adds all of it",
    "local": "inside each hospital's local steps",
}


def show_plan(plan: Plan, console: Console) -> None:
    """Print a plan as a person reads it before a decision: every value that is signed."""
    table = Table(title=f"Plan {plan.sha256}", show_header=False)
    table.add_column("what")
    table.add_column("is", overflow="fold")
    for name, text in _in_words(plan).items():
        table.add_row(name, plain(text))
    console.print(table)


def _in_words(plan: Plan) -> dict[str, str]:
    model = _written(plan)["model"]
    return {
        "study": plan.study,
        "purpose": plan.purpose,
        "hospitals": ", ".join(plan.sites),
        "analysis": f"{plan.analysis} {model or ''}",
        "leaves this hospital": _leaves(plan),
        "patients": f"at most {plan.max_patients_per_site} of a hospital; {_held_out(plan)}",
        "noise": _noise(plan),
        "stands colluding sites": f"{plan.colluders} in the masks",
        "until": f"{plan.expires}, {plan.max_rounds} rounds at most",
        "parameters": json.dumps(plan.parameters, ensure_ascii=False, sort_keys=True),
        "roster": plan.roster,
        "columns and codebook": f"schema {plan.schema_sha256}",
    }


def _leaves(plan: Plan) -> str:
    mixed = "IN PLAIN"
    if plan.secagg == "masked":
        mixed = "masked: the coordinator learns the total"
    whose = f"{mixed} of {plan.fewest_sites} sites or more"
    if plan.privacy is not None and plan.privacy.min_survivors != plan.min_sites:
        whose += f" (without noise: {plan.min_sites})"
    try:
        facts = _derived(plan)
    except FedCohortError as error:
        return f"CANNOT BE TOLD ({error.code}); {whose}"
    return (
        f"up to {facts['sums']} vectors; the first has {facts['numbers']} numbers "
        f"({facts['bytes']:,} bytes); {whose}"
    )


def _held_out(plan: Plan) -> str:
    split = plan.holdout
    if split is None:
        return "nobody is held out"
    scores = "no histogram of their scores"
    if split.histogram:
        scores = "one more sum, the histogram of their scores"
    return (
        f"{split.test_fraction!r} of them are held out of training by the key {split.key[:12]}…; "
        f"{scores} ({split.bins} bins)"
    )


def _noise(plan: Plan) -> str:
    noise = plan.privacy
    if noise is None:
        return "NONE: exact sums, under this site's disclosure rules"
    sampled = ""
    if noise.sampling_probability < 1:
        sampled = f", each over a share of {noise.sampling_probability!r} of the patients"
    return (
        f"epsilon {noise.epsilon:.6g} at delta {noise.delta:.6g} per patient by {noise.bound}; "
        f"{noise.releases} noisy sums{sampled}, noise multiplier {noise.noise_multiplier:.6g}, "
        f"clip {noise.clip:.6g}; {_SHARING[noise.sharing]}; it holds for {noise.min_survivors} "
        f"sites or more, {noise.colluders} of them colluding"
    )


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
    except (ArithmeticError, LookupError, TypeError, ValueError):  # of a stranger's numbers
        found["stopped_by"] = "plan_unreadable"
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
        epsilon, share, size = row["epsilon"], row["cost_share"], row["bytes"]
        state = row["state"] + (f" ({row['stopped_by']})" if row["stopped_by"] else "")
        cells = (
            row["plan_sha256"][:12],
            "?" if row["study"] is None else row["study"],
            "?" if row["analysis"] is None else row["analysis"],
            "?" if row["sums"] is None else row["sums"],
            "?" if size is None else f"{size:,}",
            "?" if row["study"] is None else "no noise" if epsilon is None else f"{epsilon:g}",
            "-" if share is None else f"{share:.1%}",
            state,
        )
        table.add_row(*(plain(cell) for cell in cells))
    console.print(table)
    console.print("`fedcohort site studies --plan HASH` shows one in full.", style="dim")
