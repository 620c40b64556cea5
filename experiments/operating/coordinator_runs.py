"""`fedcohort coordinator` for runs: submit a plan, wait for it, stop it, read its log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...privacy.errors import ConfigError
from .options import Coordinator, console, plain, print_json, read_file

if TYPE_CHECKING:
    from ...fl_server.run_folder import RunState

__all__ = ["add_runs"]

_Run = Annotated[int | None, typer.Argument(help="The run's number, as `submit` printed it.")]


def add_runs(coordinator: typer.Typer) -> None:
    """Add the commands to `fedcohort coordinator`."""
    coordinator.command("submit")(_submit)
    coordinator.command("stop")(_stop)
    coordinator.command("logs")(_logs)


def _submit(
    plan: Annotated[Path, typer.Argument(help="A plan's JSON.")],
    folder: Coordinator = Path(),
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
) -> None:
    """Run a plan: hospitals are asked for approval first, then for their sums.

    With --wait the exit code is not 0 where the run failed, and the reason is told.
    """
    from ...fl_server import submitting
    from ...fl_server.coordinator_setup import read_coordinator
    from ...study.plan import Plan

    setup = read_coordinator(folder)
    asked = Plan.from_json(read_file(plan))
    run = submitting.submit(setup, asked)
    console.print(f"Run {run} of plan {asked.sha256} is submitted.", markup=False, soft_wrap=True)
    if not wait:
        print_json({"run": run, "plan_sha256": asked.sha256})
        return
    state = submitting.wait(setup, run, on_change=_tell)
    print_json(
        {
            "run": run,
            "plan_sha256": asked.sha256,
            "state": state.phase,
            "code": state.code,
            "folder": str(setup.runs / str(run)),
        }
    )
    if state.phase != "done":
        console.print("[bold red]failed[/]", plain(f"({state.code}):"), end=" ")
        console.print(plain(f"{state.text} {state.hint}"), soft_wrap=True)
        raise typer.Exit(state.exit_code or 1)


def _tell(state: RunState) -> None:
    waits = f" for {', '.join(state.waiting_for)}" if state.waiting_for else ""
    console.print(plain(f"{state.phase}{waits}, {state.rounds} sums"))


def _stop(run: _Run = None, folder: Coordinator = Path()) -> None:
    """Stop a run; without a number, the coordinator itself: its runs go on when it is back."""
    from ...fl_server.coordinator_folder import stop_coordinator
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.submitting import stop_run

    if run is not None:
        stop_run(read_coordinator(folder), run)
        console.print(f"Run {run} is stopped.")
        return
    if not stop_coordinator(read_coordinator(folder).folder):
        raise ConfigError("not_stopped", "the coordinator did not stop", hint="See its logs.")
    console.print("The coordinator is down.")


def _logs(run: _Run = None, folder: Coordinator = Path()) -> None:
    """Print what happened in a run; without a number, the end of the processes' own logs."""
    from ...fl_server.coordinator_setup import read_coordinator
    from ...fl_server.submitting import logs

    for line in logs(read_coordinator(folder), run).splitlines():
        sys.stdout.write(f"{plain(line)}\n")
