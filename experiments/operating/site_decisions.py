"""`fedcohort site` for the two people who decide: keys, signatures, and a word about each plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ...privacy.errors import ConfigError, PolicyError
from .options import Site, console, out_file, plain, print_json, read_file, the_site, today

if TYPE_CHECKING:
    from ...fl_client.governance.approvals import Approvals
    from ...fl_client.governance.policy import Policy
    from ...fl_client.site_folder import SiteFolder

__all__ = ["add_decisions", "full_hash"]

_As = Annotated[str, typer.Option("--as", help="Your name, as the policy has it.")]
_Key = Annotated[Path, typer.Option("--key", help="Your private key's file.")]
_Hash = Annotated[str, typer.Argument(metavar="PLAN-HASH", help="As `site studies` prints it.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask again.")]


def add_decisions(site: typer.Typer) -> None:
    """Add the commands to `fedcohort site`."""
    site.command("approver-key")(_approver_key)
    site.command("sign-policy")(_sign_policy)
    site.command("sign-roster")(_sign_roster)
    site.command("pin-roster")(_pin_roster)
    site.command("studies")(_studies)
    site.command("approve")(_approve)
    site.command("refuse")(_refuse)
    site.command("revoke")(_revoke)


def _approver_key(
    path: Annotated[Path, typer.Argument(help="The new file; it stays with you alone.")],
) -> None:
    """Make a person's key, and FILE.pub with its public half, for `site init` or the policy."""
    from ...fl_client.site_folder import create_approver_key

    half = path.with_name(f"{path.name}.pub")
    if half.exists():
        raise ConfigError("out_exists", f"{half} exists", hint="Name another file.")
    public = create_approver_key(path)
    out_file(half, f"{public}\n")
    console.print(
        f"The private key is in {path}, for you alone; its public half in {half}.",
        markup=False,
        soft_wrap=True,
    )
    print_json({"public_key": public, "file": str(half)})


def _sign_policy(name: _As, key: _Key, folder: Site = Path(), yes: _Yes = False) -> None:
    """Sign policy.yaml as it stands; the second signature puts it in force."""
    from ...fl_client.governance.policy import Policy
    from ...fl_client.governance.signatures import pin, sign_policy
    from ...fl_client.site_folder import SiteFolder
    from ...privacy.secagg.identity import load_identity

    found = SiteFolder(folder)
    policy = Policy.read(found.policy)
    _show_policy(policy)
    _sure(yes, f"Sign this policy as {name}?")
    people = sign_policy(policy, name, load_identity(key), found.signatures)
    try:
        pin(policy, found.signatures, found.approvers)
        in_force = True
    except PolicyError as error:
        if error.code != "policy_unsigned":
            raise
        in_force = False
    console.print("The policy is in force." if in_force else "One more person has to sign it.")
    print_json({"policy_sha256": policy.sha256, "signatures": people, "in_force": in_force})


def _show_policy(policy: Policy) -> None:
    import json

    table = Table(title="What is signed", show_header=False)
    table.add_column("key")
    table.add_column("value", overflow="fold")
    document = json.loads(policy.to_json())
    for key, value in sorted(document.items()):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(key, plain(text))
    console.print(table)


def _sign_roster(
    draft: Annotated[Path, typer.Argument(help="The roster that the coordinator drafted.")],
    out: Annotated[Path, typer.Option(help="Where the signed one goes, to be handed back.")],
    folder: Site = Path(),
    yes: _Yes = False,
) -> None:
    """Sign a drafted roster with the node's key, once its members compared its fingerprint."""
    from ...fl_client.governance.policy import Policy
    from ...fl_client.joining import sign_roster
    from ...fl_client.site_folder import SiteFolder

    found = SiteFolder(folder)
    text = read_file(draft)
    sha256 = _show_roster(text)
    _sure(yes, "Have the members compared this fingerprint, and is it the same?")
    out_file(out, sign_roster(found, Policy.read(found.policy).site, text))
    console.print(f"Signed: hand {out} back.", markup=False)
    print_json({"roster_sha256": sha256})


def _show_roster(text: str) -> str:
    from ...privacy.secagg.roster_file import signed_roster_from_json

    roster = signed_roster_from_json(text).roster
    table = Table(title=plain(f"Roster {roster.version} of {roster.federation}"))
    table.add_column("member")
    table.add_column("key", overflow="fold")
    for member in roster.members:
        table.add_row(plain(member.name), member.public.hex())
    console.print(table)
    told = (
        f"valid {roster.valid_from} to {roster.valid_to}, stands {roster.colluders} colluding "
        f"members; fingerprint {roster.sha256.hex()}"
    )
    console.print(plain(told), soft_wrap=True)
    return roster.sha256.hex()


def _pin_roster(
    roster: Annotated[Path, typer.Argument(help="The roster that its members signed.")],
    folder: Site = Path(),
) -> None:
    """Check a signed roster and take it over: sums are masked among its members."""
    from ...fl_client.governance.policy import Policy
    from ...fl_client.site import pin_roster
    from ...fl_client.site_folder import SiteFolder

    found = SiteFolder(folder)
    pinned = pin_roster(found, Policy.read(found.policy).site, read_file(roster), today=today())
    console.print(f"Roster {pinned.version} is pinned: {pinned.sha256.hex()}", soft_wrap=True)
    print_json({"roster_sha256": pinned.sha256.hex(), "version": pinned.version})


def _studies(
    folder: Site = Path(),
    plan: Annotated[str, typer.Option(help="One plan in full, by its hash.")] = "",
) -> None:
    """List the plans that came in: what each would send, what it costs, where it stands."""
    from .plan_words import plan_row, show_plan, show_studies

    found = the_site(folder)
    if plan:
        asked = found.plan(full_hash(found, plan))
        show_plan(asked, console)
        print_json(plan_row(found, asked.sha256))
        return
    rows = [plan_row(found, path.stem) for path in sorted(found.plans.glob("*.json"))]
    show_studies(rows, console)
    print_json(rows)


def _approve(
    plan: _Hash,
    name: _As,
    key: _Key,
    folder: Site = Path(),
    requested_by: Annotated[
        str, typer.Option(help="Who asked for the study, where you know: may not approve it.")
    ] = "",
    yes: _Yes = False,
) -> None:
    """Approve a plan, for the policy and the extract as they stand; two people must.

    An extract that `site check` has not looked at is looked at first.
    """
    from ...fl_client.extract_check import check_extract, extract_check
    from ...fl_client.governance.plan_check import check_plan
    from ...fl_client.site_data import SiteData
    from ...privacy.secagg.identity import load_identity
    from .extract_words import show_check
    from .plan_words import accounts_of, plan_facts, show_plan

    found, policy, approvals = _desk(folder)
    asked = found.plan(full_hash(found, plan))
    data = SiteData.read(found.root, policy.site)
    check_plan(
        policy,
        asked,
        today=today(),
        columns=data.columns,
        accounts=accounts_of(found, policy),
        release=False,
    )
    data.check_holdout(asked)
    plan_facts(asked)  # what cannot be told is not approved
    known = extract_check(found, policy, data.fingerprint) or check_extract(found, policy)
    if known.schema_sha256 != asked.schema_sha256:
        raise PolicyError(
            "schema_mismatch",
            "the extract's columns are not those of the plan",
            hint="Use the study's codebook, features and outcome in mapping.yaml.",
        )
    show_plan(asked, console)
    show_check(known, console, most=asked.max_patients_per_site)
    _sure(yes, f"Approve plan {asked.sha256} as {name}?")
    until = approvals.approve(
        asked, data.fingerprint, name, load_identity(key), today=today(), requester=requested_by
    )
    state = approvals.state(asked, data.fingerprint, today())
    console.print(f"Noted until {until}; the plan is now: {state}", markup=False)
    print_json({"plan_sha256": asked.sha256, "until": until.isoformat(), "state": state})


def _refuse(plan: _Hash, name: _As, key: _Key, folder: Site = Path(), yes: _Yes = False) -> None:
    """Refuse a plan; one person is enough, and it is final."""
    _say("refuse", plan, name, key, folder, yes=yes)


def _revoke(plan: _Hash, name: _As, key: _Key, folder: Site = Path(), yes: _Yes = False) -> None:
    """Take an approval back, also in the middle of a run; one person is enough, it is final."""
    _say("revoke", plan, name, key, folder, yes=yes)


def _say(word: str, plan: str, name: str, key: Path, folder: Path, *, yes: bool) -> None:
    from ...privacy.secagg.identity import load_identity

    found, _, approvals = _desk(folder)
    sha256 = full_hash(found, plan)
    _sure(yes, f"{word.capitalize()} plan {sha256} as {name}? This is final.")
    speak = approvals.refuse if word == "refuse" else approvals.revoke
    speak(sha256, name, load_identity(key))
    console.print(f"Noted: {word}.", markup=False)
    print_json({"plan_sha256": sha256, "said": word})


def _desk(folder: Path) -> tuple[SiteFolder, Policy, Approvals]:
    from ...fl_client.governance.approvals import Approvals
    from ...fl_client.governance.audit_log import AuditLog
    from ...fl_client.site_folder import SiteFolder
    from ...fl_client.site_gate import in_force

    found = SiteFolder(folder)
    policy = in_force(found)
    return found, policy, Approvals(found.approvals, policy, audit=AuditLog(found.audit))


def full_hash(folder: SiteFolder, plan: str) -> str:
    """Return the hash of the one plan that begins so; eight digits or more."""
    named = [path.stem for path in folder.plans.glob("*.json") if path.stem.startswith(plan)]
    if len(named) != 1 or len(plan) < 8:
        raise ConfigError(
            "plan_unknown_here",
            "no plan of this hash came in here, or several begin with it",
            hint="Copy the hash from `fedcohort site studies`, eight digits or more.",
        )
    return named[0]


def _sure(yes: bool, question: str) -> None:
    try:
        said = yes or typer.confirm(question, err=True)
    except typer.Abort:  # there is nobody to ask
        said = False
    if not said:
        raise ConfigError("not_confirmed", "nothing was signed", hint="Say y, or give --yes.")
