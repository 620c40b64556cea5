"""`fedcohort site` for looking: what a plan would send, and what came of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...privacy.errors import ConfigError, FedCohortError
from .options import Site, console, plain, print_json, read_file, the_site, today

if TYPE_CHECKING:
    from ...fl_client.governance.policy import Policy
    from ...fl_client.site_folder import SiteFolder

__all__ = ["add_previews"]


def add_previews(site: typer.Typer) -> None:
    """Add the commands to `fedcohort site`."""
    site.command("check")(_check)
    site.command("dry-run")(_dry_run)
    site.command("results")(_results)


def _check(folder: Site = Path()) -> None:
    """Hold the extract's records against every rule, and keep the yes for the approvers.

    A node that answers with noise says nothing of its records: what is wrong is said here.
    """
    from ...fl_client.extract_check import check_extract
    from ...fl_client.site_data import SiteData
    from ...fl_client.site_gate import in_force
    from ...privacy.errors import DataError, PolicyError
    from .extract_words import show_check, show_faults

    found = the_site(folder)
    policy = in_force(found)
    data = SiteData.read(found.root, policy.site)
    try:
        faults = data.faults(policy.allowed_columns)
    except DataError as error:
        faults = [error]
    if faults:
        show_faults(faults, console)
        print_json({"ready": False, "faults": [_fault(one) for one in faults]})
        raise typer.Exit(PolicyError.exit_code)
    done = check_extract(found, policy)
    show_check(done, console)
    told = [warning.to_json() for warning in done.warnings]
    facts = {"fingerprint": done.fingerprint, "patients": done.patients, "warnings": told}
    print_json({"ready": True, **facts})


def _fault(error: FedCohortError) -> dict[str, str]:
    return {"code": error.code, "text": str(error), "hint": error.hint}


def _dry_run(
    plan: Annotated[str, typer.Argument(help="A plan's file, or the hash of one that came in.")],
    folder: Site = Path(),
) -> None:
    """Run a plan on made-up rows shaped like the extract; show every message. Nothing is sent."""
    from ...fl_client.governance.audit_log import AuditLog
    from ...fl_client.governance.plan_check import check_plan, read_plan
    from ...fl_client.governance.policy import Policy
    from ...fl_client.site import cohort_of
    from ...fl_client.site_data import SiteData
    from ...privacy.errors import PolicyError
    from ..deployed.preview import preview
    from ..deployed.preview_table import show_preview
    from .site_decisions import full_hash

    found = the_site(folder)
    policy = Policy.read(found.policy)
    path = Path(plan)
    asked = read_plan(read_file(path)) if path.exists() else found.plan(full_hash(found, plan))
    data = SiteData.read(found.root, policy.site)
    stopped = ""
    try:
        check_plan(policy, asked, today=today(), columns=data.columns, release=False)
    except PolicyError as error:
        stopped = error.code
        console.print(plain(f"The policy would stop it: {error} ({error.code})"))
    cohort = cohort_of(policy, data, asked)
    if cohort.schema.sha256 != asked.schema_sha256:
        raise ConfigError(
            "schema_mismatch",
            "the extract's columns are not those of the plan",
            hint="Use the study's codebook, features and outcome in mapping.yaml.",
        )
    shown = preview(
        asked, cohort.schema, site=policy.site, patients=cohort.patients, rows=cohort.rows
    )
    AuditLog(found.audit).append("dry_run", policy.sha256, plan_sha256=asked.sha256)
    show_preview(shown, console)
    print_json({**shown.to_json(), "stopped_by": stopped})


def _results(
    plan: Annotated[str, typer.Argument(help="A plan's hash; all of them without it.")] = "",
    folder: Site = Path(),
) -> None:
    """Hold the federated model against one fitted here alone, on patients who trained neither.

    For the hospital's own screen: none of it leaves.
    """
    from ...fl_client.governance.policy import Policy
    from .site_decisions import full_hash

    found = the_site(folder)
    policy = Policy.read(found.policy)
    names = [path.stem for path in sorted(found.results.glob("*.json"))]
    if plan:
        names = [full_hash(found, plan)]
    if not names:
        console.print("No study has ended with a result here yet.")
    documents: list[dict[str, Any]] = []
    for name in names:
        try:
            documents.append(_judged(found, policy, name))
        except FedCohortError as error:
            if plan:
                raise
            console.print(plain(f"{name[:12]}: {error} ({error.code})"))  # and the others are shown
            documents.append({"plan_sha256": name, "code": error.code})
    print_json(documents)


def _judged(found: SiteFolder, policy: Policy, plan_sha256: str) -> dict[str, Any]:
    from ...fl_client.governance.opt_out import OptOut
    from ...fl_client.site import cohort_of
    from ...fl_client.site_data import SiteData
    from ..deployed.verdict import verdict
    from ..deployed.verdict_table import show_verdict
    from .results_of import read_result

    asked = found.plan(plan_sha256)
    arrays, ended = read_result(found, plan_sha256)
    document = {"plan_sha256": plan_sha256, "study": asked.study, "ended": ended.isoformat()}
    if asked.holdout is None:
        told = f"{asked.study}: no patients were held out, so nothing is compared."
        console.print(plain(told))
        return document
    data = SiteData.read(found.root, policy.site)
    cohort = OptOut(found.opt_out(policy)).left(cohort_of(policy, data, asked))
    made = verdict(cohort, asked, arrays, site=policy.site)
    show_verdict(made, console)
    return document | made.to_json()
