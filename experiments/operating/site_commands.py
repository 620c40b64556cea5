"""`fedcohort site`: the hospital's node: make it, check it, run it, look at it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ...privacy.errors import ConfigError, FedCohortError, PolicyError
from .background import background, wait_for_start
from .options import Site, console, out_file, print_json, read_file, the_site, today
from .site_decisions import add_decisions
from .site_previews import add_previews

__all__ = ["site"]

site = typer.Typer(
    help="The hospital's node: set it up, decide what may run, run it, see what left.",
    no_args_is_help=True,
)


@site.command("init")
def init_(
    folder: Site = Path(),
    name: Annotated[
        str, typer.Option("--site", help="The hospital's name in plans; default: as invited.")
    ] = "",
    owner: Annotated[
        str, typer.Option(help="NAME=FILE.pub of the data owner, see approver-key.")
    ] = "",
    officer: Annotated[
        str,
        typer.Option(help="NAME=FILE.pub of the security officer, see approver-key."),
    ] = "",
    invitation: Annotated[
        Path | None, typer.Option(help="The coordinator's invitation: join with it at once.")
    ] = None,
    request: Annotated[
        Path | None, typer.Option(help="With --invitation: where the answer to it goes.")
    ] = None,
) -> None:
    """Make the folder of a new node: keys, a policy that allows nothing yet, a mapping stub."""
    from ...fl_client.site_folder import init
    from ...study.enrolment import Invitation

    found = None if invitation is None else Invitation.from_json(read_file(invitation))
    if not name and found is None:
        raise ConfigError("site_name", "the site has no name", hint="Give --site or --invitation.")
    if found is not None and name and name != found.site:
        raise ConfigError(
            "site_name", "the invitation is for another site", hint="Leave --site out."
        )
    if (invitation is None) != (request is None):
        raise ConfigError(
            "join_answer", "--invitation and --request go together", hint="Give both or neither."
        )
    if request is not None and request.exists():
        raise ConfigError("out_exists", f"{request} exists", hint="Name another file.")
    people = None
    if owner or officer:
        people = _person("--owner", owner), _person("--officer", officer)
    made = init(folder, found.site if found else name, approvers=people, invitation=found)
    console.print(f"Made {folder}: keys, policy.yaml, mapping.yaml, opt-out.txt.", markup=False)
    if invitation is not None and request is not None:
        _join(folder, read_file(invitation), request)
    console.print(_NEXT, markup=False)
    print_json({"folder": str(folder), "identity": made.identity, "node_key": made.node_key})


_NEXT = """Next, in this order:
 1. Put the extract and the codebook into data/, and fill in mapping.yaml.
 2. Fill in policy.yaml: what may run, on what basis, until when; then mode: enforce.
 3. Open the ledger, once: fedcohort ledger create FOLDER/ledger.sqlite --hospital ... (budget)
 4. Two people sign the policy, each with one's own key: fedcohort site sign-policy
 5. fedcohort site doctor, until everything passes; then fedcohort site start"""


def _person(option: str, text: str) -> tuple[str, str]:
    name, _, key = text.partition("=")
    if name and key.endswith(".pub"):
        key = read_file(Path(key)).strip()
    if not name or not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ConfigError(
            "approver_option",
            f"{option} must be NAME=KEY, the key as FILE.pub or its 64 hex digits; both people "
            "are named",
            hint="Each person makes a key: fedcohort site approver-key FILE",
        )
    return name, key


@site.command("join")
def join_(
    invitation: Annotated[Path, typer.Argument(help="The coordinator's invitation.")],
    request: Annotated[Path, typer.Option(help="Where the answer to it goes.")],
    folder: Site = Path(),
) -> None:
    """Take over whom an invitation says to trust, and write the answer that goes back."""
    found = _join(folder, read_file(invitation), request)
    print_json(found)


def _join(folder: Path, text: str, answer: Path) -> dict[str, str]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    from ...fl_client.joining import join
    from ...fl_client.site_folder import SiteFolder
    from ...study.enrolment import Invitation

    invitation = Invitation.from_json(text)
    made = join(invitation, SiteFolder(folder), today=today())
    out_file(answer, made.to_json())
    ca = x509.load_pem_x509_certificate(bytes(invitation.ca, "utf-8"))
    facts = {
        "fingerprint": made.fingerprint,
        "coordinator": invitation.superlink,
        "ca_sha256": ca.fingerprint(hashes.SHA256()).hex(),
        "coordinator_jurisdiction": invitation.jurisdiction,
        "bundle": invitation.bundle,
    }
    console.print(
        f"The answer is in {answer}: hand it back. Compare by telephone: "
        f"request {made.fingerprint}, CA {facts['ca_sha256']}. In policy.yaml stand, or must "
        f"stand: network.coordinator.address {invitation.superlink}, ca_sha256 as above, "
        f"jurisdiction {invitation.jurisdiction}, code.allow_bundle_hashes {invitation.bundle}.",
        markup=False,
        soft_wrap=True,
    )
    return facts


@site.command("doctor")
def doctor_(
    folder: Site = Path(),
    constraints: Annotated[
        Path | None, typer.Option(help="The release's constraints.txt: hold versions against it.")
    ] = None,
) -> None:
    """Look at everything the node needs; say what fails and what to do about it."""
    import os

    from ...fl_client.doctor import doctor
    from ...hosting import service_environment

    environment = {**os.environ, **service_environment(folder / "flower")}
    checks = doctor(folder, environment=environment, constraints=constraints)
    colours = {"pass": "green", "fail": "bold red", "skip": "yellow"}
    table = Table(title=f"The node in {folder}")
    for head in ("check", "", "found", "what to do"):
        table.add_column(head, overflow="fold")
    for check in checks:
        outcome = f"[{colours[check.outcome]}]{check.outcome}[/]"
        remedy = check.remedy if check.outcome == "fail" else ""
        table.add_row(check.name, outcome, _plain(check.detail), _plain(remedy))
    console.print(table)
    print_json([{"check": c.name, "outcome": c.outcome, "detail": c.detail} for c in checks])
    if any(check.outcome == "fail" for check in checks):
        raise typer.Exit(PolicyError.exit_code)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


@site.command("start")
def start_(
    folder: Site = Path(),
    detach: Annotated[
        bool, typer.Option("--detach", help="Go on in the background; `site stop` ends it.")
    ] = False,
) -> None:
    """Run the node until Ctrl-C or SIGTERM: Flower's SuperNode, and our worker beside it."""
    from ...fl_client.governance.audit_log import AuditLog
    from ...fl_client.supervisor import check_start, start_site
    from ...hosting import running_state

    the_site(folder)
    found, _ = check_start(folder)  # a refusal is told here, not in a log
    if running_state(found.logs) is not None:
        raise PolicyError(
            "already_running",
            f"a node runs from {folder} already",
            hint="`fedcohort site status` says how it is, `site stop` ends it.",
        )
    if not detach:
        console.print(
            f"The node runs from {folder}; its logs are in logs/. Ctrl-C stops it.",
            markup=False,
            soft_wrap=True,
        )
        start_site(folder)
        return
    audit = AuditLog(found.audit)
    seen = len(audit.entries())
    process = background("fedcohort.fl_client.supervisor", found.root, found.logs)

    def ready() -> bool:
        return "node_started" in [entry.event for entry in audit.entries()[seen:]]

    wait_for_start(process, ready, "node", found.logs)
    console.print(f"The node runs in the background from {folder}.", markup=False)
    print_json({"running": True, "pid": process.pid})


@site.command("stop")
def stop_(folder: Site = Path()) -> None:
    """Stop a running node; what a study had under way is finished or lost cleanly."""
    from ...fl_client.supervisor import stop_site

    if not stop_site(the_site(folder).root):
        raise ConfigError("not_stopped", "the node did not stop in time", hint="See its logs.")
    console.print("The node is down.")


@site.command("status")
def status_(folder: Site = Path()) -> None:
    """Say whether the node runs, what holds, and what was done last. Exit 3 where it is down."""
    from ...fl_client.governance.audit_log import AuditLog
    from ...fl_client.site_gate import in_force
    from ...hosting import running_state
    from ...privacy.ledger.store import SqliteLedger

    found = the_site(folder)
    state = running_state(found.logs)
    told: dict[str, object] = {
        "running": state is not None,
        "services": (state or {}).get("services"),
    }
    try:
        policy = in_force(found)
        told |= {"site": policy.site, "policy_sha256": policy.sha256, "mode": policy.mode}
        ledger = SqliteLedger(found.ledger(policy), kind="site")
        book = ledger.book
        limit = book.limit
        left = None if not limit else book.left / limit
        told |= {"ledger_head": str(ledger.head), "budget_left": left}
        ledger.dispose()
    except FedCohortError as error:
        told["trouble"] = f"{error} ({error.code})"
    entries = AuditLog(found.audit).entries() if found.audit.exists() else ()
    table = Table(title=f"The node in {folder}: {'running' if state else 'down'}")
    for head in ("time (UTC)", "event", "plan", "round", "bytes", "code"):
        table.add_column(head)
    for entry in entries[-12:]:
        facts = entry.facts
        table.add_row(
            f"{entry.time:%Y-%m-%d %H:%M:%S}",
            entry.event,
            str(facts.get("plan_sha256", ""))[:12],
            *(str(facts.get(name, "")) for name in ("round", "bytes", "code")),
        )
    console.print(table)
    for key in ("policy_sha256", "mode", "ledger_head", "budget_left", "trouble"):
        if key in told:
            value = told[key]
            shown = f"{value:.1%}" if isinstance(value, float) else value
            console.print(f"{key.replace('_', ' ')}: {shown}", markup=False, soft_wrap=True)
    print_json({**told, "events": len(entries)})
    if state is None:
        raise typer.Exit(PolicyError.exit_code)


add_decisions(site)  # after ours: `--help` lists commands in the order of a node's life
add_previews(site)
