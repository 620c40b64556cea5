"""`fedcohort coordinator`: the federation's meeting point: make it, run it, let hospitals in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ...privacy.errors import ConfigError, PolicyError
from .background import background, wait_for_start
from .coordinator_runs import add_runs
from .options import Coordinator, console, out_file, plain, print_json, read_file, today

__all__ = ["coordinator"]

coordinator = typer.Typer(
    help="The coordinator: certificates, invitations, the roster, and runs of approved plans.",
    no_args_is_help=True,
)


@coordinator.command("init")
def init_(
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    name: Annotated[
        list[str],
        typer.Option(help="Host name or address that hospitals reach it by; may be repeated."),
    ],
    jurisdiction: Annotated[
        str, typer.Option(help="Country it stands in, as CN, DE or US-CA: policies name it.")
    ],
    folder: Coordinator = Path(),
    public_host: Annotated[str, typer.Option(help="Address that the public port binds to.")] = (
        "0.0.0.0"  # noqa: S104  # it is meant to be reached
    ),
    public_port: Annotated[int, typer.Option(help="The only port open to the outside.")] = 9092,
    loopback_port: Annotated[int, typer.Option(help="The operator's port, loopback.")] = 9093,
) -> None:
    """Make the folder: CA, server certificate, secrets, the coordinator's key in the roster."""
    from ...fl_server.coordinator_folder import init_coordinator
    from ...fl_server.coordinator_setup import CoordinatorSetup

    setup = CoordinatorSetup(
        folder=folder.resolve(),
        federation=federation,
        names=tuple(name),
        jurisdiction=jurisdiction,
        public_host=public_host,
        public_port=public_port,
        loopback_port=loopback_port,
    )
    init_coordinator(setup)
    console.print(
        f"Made {folder}. Next: `coordinator start`, then `coordinator invite SITE` for each "
        "hospital.",
        markup=False,
    )
    print_json({"folder": str(setup.folder), "public": f"{name[0]}:{public_port}"})


@coordinator.command("start")
def start_(
    folder: Coordinator = Path(),
    detach: Annotated[
        bool, typer.Option("--detach", help="Go on in the background; `coordinator stop` ends it.")
    ] = False,
) -> None:
    """Run the coordinator until Ctrl-C or SIGTERM: Flower's SuperLink, and our runner beside it."""
    from ...fl_server.coordinator_folder import check_start, is_healthy, start_coordinator

    setup = check_start(folder)  # a refusal is told here, not in a log
    if not detach:
        console.print(
            f"The coordinator runs from {folder}; its logs are in logs/. Ctrl-C stops it.",
            markup=False,
            soft_wrap=True,
        )
        start_coordinator(folder)
        return
    process = background("fedcohort.fl_server.coordinator_folder", setup.folder, setup.logs)
    wait_for_start(process, lambda: is_healthy(setup), "coordinator", setup.logs)
    console.print(f"The coordinator runs in the background from {folder}.", markup=False)
    print_json({"running": True, "pid": process.pid})


@coordinator.command("invite")
def invite_(
    site: Annotated[str, typer.Argument(help="The name the hospital will have in plans.")],
    out: Annotated[Path, typer.Option(help="Where the invitation goes; it works once.")],
    folder: Coordinator = Path(),
    address: Annotated[
        str, typer.Option(help="HOST:PORT that this hospital reaches it by, if another.")
    ] = "",
) -> None:
    """Invite a hospital: a file with a token that works once, for two weeks."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.enrolment import invite

    if out.exists():
        raise ConfigError("out_exists", f"{out} exists", hint="Name another file.")
    if address and not re.fullmatch(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", address):
        raise ConfigError(
            "address_invalid", "--address is HOST:PORT", hint="As in coord.example:443."
        )
    setup = read_coordinator(folder)
    made = invite(setup, site, superlink=address or None, today=today())
    out_file(out, made.to_json())
    console.print(
        f"The invitation of {site} is in {out}, until {made.expires}. Whoever holds it may join "
        "in this name: hand it over by a way you trust.",
        markup=False,
        soft_wrap=True,
    )
    print_json({"site": site, "expires": made.expires})


@coordinator.command("enrol")
def enrol_(
    request: Annotated[Path, typer.Argument(help="What the hospital handed back.")],
    folder: Coordinator = Path(),
) -> None:
    """Let an invited hospital's node connect; the coordinator must be running."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.enrolment import enrol
    from ...study.enrolment import JoinRequest

    asked = JoinRequest.from_json(read_file(request))
    node = enrol(read_coordinator(folder), asked, today=today())
    console.print(plain(f"{asked.site} is enrolled. Compare by telephone: {asked.fingerprint}"))
    print_json({"site": asked.site, "node": node, "fingerprint": asked.fingerprint})


@coordinator.command("revoke")
def revoke_(
    site: Annotated[str, typer.Argument(help="An enrolled hospital.")],
    folder: Coordinator = Path(),
) -> None:
    """Shut a hospital's node out at once; draft a new roster without it afterwards."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.enrolment import revoke

    revoke(read_coordinator(folder), site)
    console.print(f"{site} is shut out. `draft-roster` makes the next roster.", markup=False)
    print_json({"site": site, "enrolled": False})


@coordinator.command("draft-roster")
def draft_(
    out: Annotated[Path, typer.Option(help="Where the draft goes, for the members to sign.")],
    folder: Coordinator = Path(),
    colluders: Annotated[
        int, typer.Option(help="How many members may pool what they see with the coordinator.")
    ] = 1,
    days: Annotated[int, typer.Option(min=1, max=3660, help="How long it holds.")] = 365,
) -> None:
    """Draft the next roster from the enrolled hospitals; only its members can put it in force."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.enrolment import draft_roster
    from ...privacy.secagg.roster_file import signed_roster_to_json

    if out.exists():
        raise ConfigError("out_exists", f"{out} exists", hint="Name another file.")
    draft = draft_roster(read_coordinator(folder), colluders=colluders, days=days, today=today())
    out_file(out, signed_roster_to_json(draft))
    roster = draft.roster
    console.print(
        f"Roster {roster.version} of {', '.join(m.name for m in roster.members)} is in {out}. The "
        f"members compare its fingerprint and sign: {roster.sha256.hex()}",
        markup=False,
        soft_wrap=True,
    )
    print_json({"roster_sha256": roster.sha256.hex(), "version": roster.version})


@coordinator.command("add-roster")
def add_(
    signed: Annotated[list[Path], typer.Argument(help="What members signed.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the roster in force goes, for every member to pin.")
    ] = None,
    folder: Coordinator = Path(),
) -> None:
    """Add members' signatures to the draft; with enough of them the roster is in force."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.enrolment import add_signature
    from ...hosting import read_private

    setup = read_coordinator(folder)
    in_force = False
    for path in signed:
        in_force = add_signature(setup, read_file(path), today=today())
    if in_force and out is not None:
        out_file(out, read_private(setup.roster).decode())
    console.print(
        "The roster is in force: every member pins it." if in_force else "More have to sign."
    )
    print_json({"in_force": in_force})


@coordinator.command("status")
def status_(folder: Coordinator = Path()) -> None:
    """Say where coordinator, hospitals' nodes and runs stand. Exit 3 where it is down."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.submitting import status

    found = status(read_coordinator(folder))
    state = "running" if found.running else "down"
    table = Table(title=plain(f"The coordinator in {folder}: {state}"))
    table.add_column("hospital")
    table.add_column("its node")
    for site, connection in sorted(found.sites.items()):
        table.add_row(plain(site), plain(connection))
    console.print(table)
    runs = Table(title="Runs")
    for head in ("run", "state", "sums", "waits for", "why it failed"):
        runs.add_column(head, overflow="fold")
    for run, state_ in sorted(found.runs.items()):
        waits = ", ".join(state_.waiting_for)
        row = (run, state_.phase, state_.rounds, waits, state_.code)
        runs.add_row(*(plain(cell) for cell in row))
    console.print(runs)
    print_json(
        {
            "running": found.running,
            "healthy": found.healthy,
            "sites": found.sites,
            "runs": {
                str(run): {"state": s.phase, "sums": s.rounds, "code": s.code}
                for run, s in found.runs.items()
            },
        }
    )
    if not found.running:
        raise typer.Exit(PolicyError.exit_code)


add_runs(coordinator)  # after ours: `--help` lists commands in the order of a coordinator's life
