"""One run on a real federation: wait for the plan's sites, run the plan, keep what came of it.

The bundle names `app`; the resident runner calls `coordinate` without starting a Python first. A
run says only which plan; the plan itself, the roster and the key are in the coordinator's folder.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid

from ..hosting import read_private, replace_file
from ..privacy.errors import ConfigError, FedCohortError, PolicyError, ProtocolError
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.roster import Roster
from ..privacy.secagg.roster_file import signed_roster_from_json
from ..study.plan import Plan
from .app import server_app
from .checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .coordinator import Journal, Outcome, outcome_of, run_sites
from .coordinator_setup import CoordinatorSetup, read_coordinator
from .flower_compat import LINK_PATIENCE_S, LinkGoneError, RunNotRunningException
from .gathering import Pause, Waiting, gather_approvals, greet, wait_until_online
from .masked import MAX_LIVES, Masking
from .paced_grid import PacedGrid
from .run_folder import RunFolder
from .sites import InterruptedRunError, Sites

__all__ = [
    "FOLDER_VARIABLE",
    "Waiting",
    "app",
    "check_roster",
    "coordinate",
    "enrolled",
    "submitted_plan",
]

FOLDER_VARIABLE = "FEDCOHORT_COORDINATOR"
_OPENING = "opening.json"


def coordinate(
    setup: CoordinatorSetup,
    grid: Grid,
    *,
    run_id: int,
    plan_sha256: str,
    waiting: Waiting | None = None,
    pause: Pause = time.sleep,
) -> str:
    """Run a submitted plan, or go on with it; return "" or the code of why it failed.

    Args:
        setup: The coordinator.
        grid: Flower's Grid of the run at hand.
        run_id: Names the run's folder, which holds the result or the reason, and how far it came.
        plan_sha256: The plan.
        waiting: How long to wait for whom.
        pause: Sleeps, also for no time at all wherever the run may be left and taken up again.

    Raises:
        InterruptedRunError: `pause` said to leave; the run has not ended.
    """
    run = RunFolder(setup.runs / str(run_id))
    try:
        plan = submitted_plan(setup, plan_sha256)
        start = _taken_up(run, plan)
        run.tell("started", plan_sha256=plan.sha256, sites=list(plan.sites))
        outcome = _run(setup, plan, grid, run, start, waiting or Waiting(), pause)
    except FedCohortError as error:
        run.fail(error)
        return error.code
    except LinkGoneError as link:
        if run.stopping:  # Flower says no more than that this run may ask nothing
            stopped = ProtocolError("run_stopped", "the run was stopped before it had a result")
            run.fail(stopped)
            return stopped.code
        gone = ProtocolError(
            "superlink_gone",
            "the SuperLink answered the run with a refusal or an error of its own"
            if str(link).startswith("HTTP")  # it has a status
            else f"the SuperLink did not answer for {LINK_PATIENCE_S:.0f} s",
            hint="Its log is logs/superlink.log.",
        )
        run.fail(gone)
        return gone.code
    except InterruptedRunError:
        raise
    except Exception as error:  # whoever waits for the run must learn that it has ended
        failed = ProtocolError(
            "coordinator_error",
            f"the coordinator failed: {type(error).__name__}",
            hint="Its log has the place; nothing of the round was opened.",
        )
        if not isinstance(error, RunNotRunningException):  # stopped; or taken up again
            run.fail(failed)
        raise
    run.finish(plan.sha256, outcome)
    return ""


def _run(
    setup: CoordinatorSetup,
    plan: Plan,
    grid: Grid,
    run: RunFolder,
    start: Checkpoint,
    waiting: Waiting,
    pause: Pause,
) -> Outcome:
    known = enrolled(setup)
    paced = PacedGrid(grid, run, waiting.poll_s)
    if start.result is not None:  # all that is left is to tell
        told = {site: known[site] for site in plan.sites if site in known}
        Sites(grid=paced, nodes=told, plan=plan, patience=waiting.patience).end(told, start.result)
        return outcome_of(start)

    def stay(seconds: float) -> None:
        pause(0.0)
        time.sleep(seconds)

    def online(patience_s: float, doing: Pause = pause) -> dict[str, int]:
        return wait_until_online(plan, known, paced, run, patience_s=patience_s, pause=doing)

    def back() -> None:
        try:  # another run would make the sites forget the keys of this one
            online(waiting.back_s, stay)
        except ProtocolError as error:
            if error.code != "sites_offline":  # the round will tell whether enough are there
                raise
        run.tell("online")

    def on_round(done: int) -> None:
        run.tell("round", round=done)
        pause(0.0)

    nodes = online(waiting.sites_s)
    masking = _masking(setup, plan)
    sites = Sites(
        grid=paced,
        nodes=nodes,
        plan=plan,
        patience=waiting.patience,
        jurisdiction=setup.jurisdiction,
        back=back,
    )
    greet(sites)
    paced.quiet = True
    if gather_approvals(sites, run, patience_s=waiting.approval_s, pause=pause):
        online(waiting.sites_s)
    paced.quiet = False
    run.tell("online")
    return run_sites(
        sites,
        masking=masking,
        on_round=on_round,
        proposed=True,
        start=start,
        journal=_RunJournal(run.folder, pause),
    )


class _RunJournal(Journal):
    """Keeps in the run's folder how far it came.

    Args:
        folder: The run's.
        pause: Asked before a sum is opened: the last place where a run may be left without loss.
    """

    def __init__(self, folder: Path, pause: Pause) -> None:
        self._folder = folder
        self._pause = pause

    def opening(self, rounds: int) -> None:
        self._pause(0.0)
        replace_file(self._folder / _OPENING, json.dumps({"rounds": rounds}).encode())

    def opened(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self._folder, checkpoint)


def _taken_up(run: RunFolder, plan: Plan) -> Checkpoint:
    """Return where a run stands, having written down that it is taken up.

    Raises:
        ProtocolError: `checkpoint_unreadable`, or `sum_lost` or `run_lost`: it cannot go on.
    """
    found = read_checkpoint(run.folder)
    if found is None:
        start = Checkpoint(plan_sha256=plan.sha256, attempt=secrets.token_hex(16))
    else:
        start = replace(found, life=found.life + 1)
        if start.plan_sha256 != plan.sha256 or start.life >= MAX_LIVES:
            raise ProtocolError(
                "run_lost",
                "the run stopped too often, or is another plan's",
                hint="Submit the plan again under a new name.",
            )
        _check_no_sum_is_lost(run.folder, start)
    write_checkpoint(run.folder, start)
    return start


def _check_no_sum_is_lost(folder: Path, start: Checkpoint) -> None:
    path = folder / _OPENING
    opening = json.loads(read_private(path))["rounds"] if path.exists() else -1
    if start.result is None and opening == start.rounds:
        raise ProtocolError(
            "sum_lost",
            f"the coordinator stopped while sum {opening + 1} was being opened: sites hand their "
            "shares over once",
            hint="Submit the plan again under a new name.",
        )


def submitted_plan(setup: CoordinatorSetup, plan_sha256: str) -> Plan:
    """Return a plan that was submitted here.

    Raises:
        ConfigError: `plan_not_submitted`.
        PolicyError: `plan_unreadable`, or a file's mode.
    """
    name = plan_sha256 if plan_sha256.isalnum() and len(plan_sha256) == 64 else "none"
    path = setup.plans / f"{name}.json"
    if not path.exists():
        raise ConfigError(
            "plan_not_submitted",
            "no plan of that hash was submitted here",
            hint="fedcohort coordinator submit PLAN",
        )
    plan = Plan.from_json(read_private(path).decode("utf-8", "replace"))
    if plan.sha256 != plan_sha256:
        raise PolicyError("plan_unreadable", "the plan's file is not what its name says")
    return plan


def enrolled(setup: CoordinatorSetup) -> dict[str, int]:
    """Return Flower's node number of each enrolled site."""
    if not setup.sites.exists():
        return {}
    found: Mapping[str, Mapping[str, int]] = json.loads(read_private(setup.sites))
    return {site: int(facts["node_id"]) for site, facts in found.items()}


def check_roster(setup: CoordinatorSetup, plan: Plan) -> Roster | None:
    """Return the roster in force, which must be the plan's; None where neither has one.

    Raises:
        ConfigError: `no_roster`: the plan masks sums, and none is in force.
        PolicyError: `roster_mismatch`.
    """
    if not setup.roster.exists():
        if plan.secagg != "masked":
            return None
        raise ConfigError("no_roster", "no roster is in force here", hint="Sites sign one first.")
    roster = signed_roster_from_json(read_private(setup.roster).decode()).roster
    if roster.sha256.hex() != plan.roster:
        raise PolicyError(
            "roster_mismatch",
            "the plan is made under another roster than the one in force",
            hint="Make the plan anew, with the hash of the roster in force.",
        )
    return roster


def _masking(setup: CoordinatorSetup, plan: Plan) -> Masking | None:
    roster = check_roster(setup, plan)
    if roster is None or plan.secagg != "masked":
        return None
    return Masking(roster=roster, identity=load_identity(setup.identity))


def _run_here(grid: Grid, context: Context) -> None:
    """Under Flower's own launcher: the folder is the operator's to say, never the run's."""
    setup = read_coordinator(Path(os.environ[FOLDER_VARIABLE]))
    code = coordinate(
        setup,
        grid,
        run_id=context.run_id,
        plan_sha256=str(context.run_config.get("plan-sha256", "")),
    )
    if code:
        raise ProtocolError(code, "the run failed; its folder has the reason")


app = server_app(_run_here)
