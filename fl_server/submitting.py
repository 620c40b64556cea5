"""The operator's verbs on runs: submit a plan, see where it stands, read its log, stop it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hosting import read_private, replace_file, running_state
from ..privacy.errors import ConfigError, ProtocolError
from ..study.bundle import bundle_bytes
from ..study.plan import Plan
from .coordinator_folder import is_healthy
from .coordinator_setup import CoordinatorSetup
from .deployed import check_roster, enrolled
from .flower_compat import LinkGoneError
from .flower_control import Control
from .resuming import run_settings
from .run_folder import RunFolder, RunState

__all__ = ["CoordinatorStatus", "logs", "run_state", "status", "stop_run", "submit", "wait"]

_LOOK_S = 0.3
_TAIL_BYTES = 4 * 2**10  # of each log


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStatus:
    """Where a coordinator stands.

    Attributes:
        running: Whether its supervisor runs.
        healthy: Whether the SuperLink answers.
        sites: Each enrolled site's connection: `online`, `offline`, `registered`, `unknown`.
        runs: Each run's state, by its number.
    """

    running: bool
    healthy: bool
    sites: dict[str, str]
    runs: dict[int, RunState]


def submit(setup: CoordinatorSetup, plan: Plan) -> int:
    """Start a run of a plan; return its number.

    Raises:
        ConfigError: `site_not_enrolled`, `no_roster`, or `run_open`: a run of this plan has not
            ended; where one run of a plan ends, hospitals close the plan.
        PolicyError: `roster_mismatch`: it is made under another roster than the one in force.
        ProtocolError: `superlink_gone`.
    """
    check_roster(setup, plan)
    strangers = sorted(set(plan.sites) - set(enrolled(setup)))
    if strangers:
        raise ConfigError(
            "site_not_enrolled",
            f"the plan names sites that were never enrolled here: {', '.join(strangers)}",
            hint="fedcohort coordinator enrol REQUEST",
        )
    _check_no_run_is_open(setup, plan.sha256)
    replace_file(setup.plans / f"{plan.sha256}.json", plan.to_json().encode())
    with _Operator(setup) as control:
        run_id = control.start(bundle_bytes(), run_settings(setup, plan.sha256))
    # The runner may have taken it already; its own events are in the same file.
    RunFolder(setup.runs / str(run_id)).tell("submitted", plan_sha256=plan.sha256)
    return run_id


def _check_no_run_is_open(setup: CoordinatorSetup, plan_sha256: str) -> None:
    for folder in sorted(setup.runs.iterdir()):
        run = RunFolder(folder)
        if not folder.name.isdigit() or run.state().ended:
            continue
        if any(event.get("plan_sha256") == plan_sha256 for event in run.events()):
            raise ConfigError(
                "run_open",
                f"run {folder.name} of this plan has not ended, and the end of another would "
                "close the plan at the hospitals",
                hint=f"Wait for it, or `fedcohort coordinator stop {folder.name}` first.",
            )


def run_state(setup: CoordinatorSetup, run_id: int) -> RunState:
    """Return where a run stands.

    Raises:
        ConfigError: `run_unknown`.
    """
    folder = setup.runs / str(run_id)
    if not folder.exists():
        raise ConfigError(
            "run_unknown", f"there is no run {run_id} here", hint="See `coordinator status`."
        )
    return RunFolder(folder).state()


def wait(
    setup: CoordinatorSetup,
    run_id: int,
    *,
    on_change: Callable[[RunState], None] | None = None,
    timeout_s: float | None = None,
) -> RunState:
    """Wait until a run has ended, or the time is over; return where it stands."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    told: RunState | None = None
    while True:
        state = run_state(setup, run_id)
        if state != told and on_change is not None:
            on_change(state)
        told = state
        if state.ended or (deadline is not None and time.monotonic() > deadline):
            return state
        time.sleep(_LOOK_S)


def stop_run(setup: CoordinatorSetup, run_id: int) -> None:
    """Stop a run; a sum that was opened stays opened.

    Raises:
        ConfigError: `run_unknown`.
        ProtocolError: `superlink_gone`.
    """
    if run_state(setup, run_id).ended:
        return
    run = RunFolder(setup.runs / str(run_id))
    with _Operator(setup) as control:
        run.tell("stopping")  # before it is: a run that Flower gave up by itself is taken up again
        try:
            control.stop(run.flower_run)
        except LinkGoneError as gone:
            if not gone.refused:  # Flower had given it up already
                raise
    run.fail(ProtocolError("run_stopped", "the run was stopped before it had a result"))


def logs(setup: CoordinatorSetup, run_id: int | None = None) -> str:
    """Return what happened in a run, a line an event; or the ends of the processes' logs.

    Raises:
        ConfigError: `run_unknown`.
    """
    if run_id is None:
        found = sorted(setup.logs.glob("*.log")) if setup.logs.exists() else []
        return "\n".join(f"== {path.name}\n{_tail(path)}" for path in found)
    run_state(setup, run_id)  # it is one of ours
    return "\n".join(_line(event) for event in RunFolder(setup.runs / str(run_id)).events())


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[1:] if start else lines)  # the first may be half a line


def _line(event: dict[str, Any]) -> str:
    facts = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in event.items()
        if name not in ("at", "event")
    ]
    return " ".join([str(event["at"]), str(event["event"]), *facts])


def status(setup: CoordinatorSetup) -> CoordinatorStatus:
    """Return where the coordinator, its sites and its runs stand."""
    healthy = is_healthy(setup)
    nodes: dict[int, str] = {}
    if healthy:
        with _Operator(setup) as control:
            nodes = control.nodes()
    runs = {
        int(folder.name): RunFolder(folder).state()
        for folder in setup.runs.iterdir()
        if folder.name.isdigit()
    }
    return CoordinatorStatus(
        running=running_state(setup.logs) is not None,
        healthy=healthy,
        sites={site: nodes.get(node, "unknown") for site, node in enrolled(setup).items()},
        runs=runs,
    )


class _Operator:
    """The Control API, for the length of a call; its trouble is told in our words."""

    def __init__(self, setup: CoordinatorSetup) -> None:
        self._control = Control(setup.loopback, read_private(setup.ca), setup.password)

    def __enter__(self) -> Control:
        return self._control

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._control.close()
        if isinstance(error, LinkGoneError):
            raise ProtocolError(
                "superlink_gone",
                f"the SuperLink does not answer, or refused: {error}",
                hint="Is `fedcohort coordinator start` running? Its log is logs/superlink.log.",
            ) from error
