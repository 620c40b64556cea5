"""`fedcohort run runtime=deployed`: plan, submit, wait, gather.

All plans are submitted at once, so that hospitals approve them in one sitting, and waited for in
order. Whatever ends the waiting, the runs go on at the coordinator and the folder says which they
are: the same command with the same `out` takes them up again.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from ...fl_server import submitting
from ...fl_server.run_folder import RunState, result_of
from ...privacy.errors import ProtocolError
from ..cards import LIMITS
from ..pricing import price
from ..reporting.deployed_plots import DrawnArm, deployed_svg
from ..reporting.folder import default_folder
from ..settings import Settings
from .arm_run import ArmRun
from .federation import federation_of
from .folder import DEPLOYED, DEPLOYED_FORMAT, DeployedFolder
from .gathering import gather, show_arms
from .plans import Planned, plan_study, show_plans
from .waiting import WaitProgress

__all__ = ["run_deployed"]

_PICTURE = "deployed.svg"
_SOFTWARE = ("fedcohort", "flwr", "numpy", "opendp", "dp-accounting")


def run_deployed(
    settings: Settings, *, command: str, console: Console, now: dt.datetime
) -> dict[str, Any]:
    """Run a study on deployed hospitals, or show its plans.

    Args:
        settings: What was asked for.
        command: The command line, for the results.
        console: Where people read.
        now: For the plans' expiry and the folder's name.

    Returns:
        What scripts read on stdout: the files made, or the plans of a dry run.

    Raises:
        FedCohortError: A refusal, or the first failed run's own; arms that ended well are kept.
        ProtocolError: `wait_over`.
    """
    if settings.deployed is None:
        raise ValueError("these settings are for one process")
    planned = plan_study(federation_of(settings, settings.deployed), now.date())
    show_plans(planned, console)
    if settings.dry_run:
        console.print("Nothing was submitted.")
        return {"dry_run": True, "plans": price({arm.name: arm.plan for arm in planned.arms})}
    out = settings.out or default_folder(settings.study, now)
    folder = DeployedFolder(out, _facts(planned, command, now))
    study = _Study(planned, folder, console)
    study.open(overwrite=settings.overwrite)
    try:
        study.submit()
        study.wait(settings.deployed.wait_s)
    except KeyboardInterrupt:
        console.print(
            "stopped waiting: the runs go on at the coordinator. `fedcohort coordinator status` "
            f"says where they are; the same command with out={out} waits for them again.",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(130)  # what shells expect after Ctrl-C
    return study.finish()


def _facts(planned: Planned, command: str, now: dt.datetime) -> dict[str, Any]:
    """Return what `deployed.json` says of the whole run."""
    settings, federation = planned.federation.settings, planned.federation
    schema = planned.planner.schema
    return {
        "format": DEPLOYED_FORMAT,
        "study": settings.study,
        "purpose": settings.purpose,
        "created": now.isoformat(timespec="seconds"),
        "command": command,
        "software": {name: metadata.version(name) for name in _SOFTWARE},
        "federation": federation.setup.federation,
        "coordinator": str(federation.setup.folder),
        "roster": federation.roster_sha256,
        "sites": list(federation.sites),
        "data": schema.name,
        "outcome": schema.outcome,
        "task": schema.task,
        "features": list(schema.features),
        "schema_sha256": schema.sha256,
        "codebook_sha256": schema.codebook_sha256,
        "model": planned.planner.model_parameters(),
        "limits": LIMITS,
    }


class _Study:
    """The arms of one study, each from its plan to its result."""

    def __init__(self, planned: Planned, folder: DeployedFolder, console: Console) -> None:
        self._planned = planned
        self._folder = folder
        self._console = console
        self._setup = planned.federation.setup
        self._arms = {arm.name: arm for arm in planned.arms}

    def open(self, *, overwrite: bool) -> None:
        """Write the plans, or take up the runs that the folder knows."""
        arms = self._folder.open(list(self._arms.values()), overwrite=overwrite)
        self._arms = {arm.name: arm for arm in arms}
        where = self._folder.path
        told = f"The plans are in {where}/plan-*.json: two people approve them at each hospital."
        if any(arm.run is not None for arm in arms):
            told = f"{where} knows these runs: waiting for them again."
        self._console.print(told, markup=False, soft_wrap=True)

    def submit(self) -> None:
        """Submit every plan that has no run yet; the folder knows each at once."""
        for name, arm in self._arms.items():
            if arm.run is None:
                run = submitting.submit(self._setup, arm.plan)
                self._keep(replace(arm, run=run, state=RunState(phase="submitted")))
                self._console.print(f"{name}: run {run}", markup=False)

    def wait(self, seconds: float) -> None:
        """Wait for the runs in order; what ends well is saved as it ends.

        Raises:
            ProtocolError: `wait_over`.
        """
        deadline = time.monotonic() + seconds
        with WaitProgress(list(self._arms), self._console) as progress:
            for name in self._arms:
                self._wait_for(name, progress, deadline)
        late = [arm.name for arm in self._arms.values() if not arm.state.ended]
        if late:
            raise ProtocolError(
                "wait_over",
                f"not ended within runtime.wait_s={seconds:g}: {', '.join(late)}; they go on at "
                "the coordinator",
                hint=f"The same command with out={self._folder.path} waits for them again; "
                "`fedcohort coordinator status` says where they are.",
            )

    def _wait_for(self, name: str, progress: WaitProgress, deadline: float) -> None:
        arm = self._arms[name]
        if arm.run is None:
            raise ValueError(f"{name} was never submitted")
        state = submitting.wait(
            self._setup,
            arm.run,
            on_change=partial(self._changed, name, progress),
            timeout_s=max(0.0, deadline - time.monotonic()),
        )
        arm = replace(self._arms[name], state=state)
        if state.phase == "done":
            outcome = result_of(self._setup.runs / str(arm.run))
            arm = gather(self._planned, arm, outcome, self._folder.path)
        self._keep(arm)
        progress(name, state)

    def _changed(self, name: str, progress: WaitProgress, state: RunState) -> None:
        before = self._arms[name].state
        progress(name, state)
        if (before.phase, before.waiting_for) != (state.phase, state.waiting_for):
            self._keep(replace(self._arms[name], state=state))

    def _keep(self, arm: ArmRun) -> None:
        self._arms[arm.name] = arm
        self._folder.tell(self._arms.values())

    def finish(self) -> dict[str, Any]:
        """Draw and print what there is; return the files made.

        Raises:
            FedCohortError: The first failed run's.
        """
        arms = list(self._arms.values())
        made: dict[str, Path] = {"deployed": self._folder.path / DEPLOYED}
        svg = deployed_svg([_drawn(arm) for arm in arms if arm.outcome is not None])
        if svg is not None:
            made["picture"] = self._folder.write(_PICTURE, svg)
        show_arms(arms, self._console)
        for path in made.values():
            self._console.print(str(path), markup=False, soft_wrap=True)
        failed = [refusal for refusal in (arm.refusal for arm in arms) if refusal is not None]
        if failed:
            raise failed[0]
        return {
            "out": str(self._folder.path),
            **{key: str(path) for key, path in made.items()},
            "models": {arm.name: str(self._folder.path / str(arm.model)) for arm in arms},
        }


def _drawn(arm: ArmRun) -> DrawnArm:
    return DrawnArm(
        arm=arm.arm,
        epsilon=arm.epsilon,
        coefficients=arm.coefficients,
        histogram=None if arm.figures is None else arm.figures["table"],
    )
