"""Runs that a coordinator's last life left open: taken up again, or ended with the reason.

What a run needs is in its folder: the plan, its attempt and the state after the last sum. Sites
answer the same terms with the same bytes, so going on costs no budget. Flower itself knows no
going on: the run gets a new number there, and keeps its folder.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ..privacy.errors import FedCohortError, PolicyError, ProtocolError
from ..privacy.secagg.identity import load_identity
from ..study.bundle import bundle_bytes, bundle_sha256
from ..study.submission import sign_submission
from .coordinator_setup import CoordinatorSetup
from .deployed import submitted_plan
from .flower_compat import LinkGoneError
from .run_folder import RunFolder

__all__ = ["Submitting", "resume_unfinished", "run_settings"]

_log = logging.getLogger(__name__)
_PENDING = "pending"


class Submitting(Protocol):
    """Of the Control API, what starting a run again takes."""

    def start(self, bundle: bytes, settings: dict[str, str]) -> int:
        """Start a run of a bundle; return its number."""
        ...

    def run_status(self, run_id: int) -> str:
        """Return a run's status."""
        ...

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        ...


def run_settings(
    setup: CoordinatorSetup, plan_sha256: str, *, resumes: int | None = None
) -> dict[str, str]:
    """Return what a run of ours is started with: its plan, signed, and the run it goes on with."""
    identity = load_identity(setup.identity)
    return {
        "plan-sha256": plan_sha256,
        "submission": sign_submission(identity, bundle_sha256(), plan_sha256),
        "resumes": "" if resumes is None else str(resumes),
    }


def resume_unfinished(
    setup: CoordinatorSetup, control: Submitting, *, today: dt.date, busy: Collection[int] = ()
) -> list[int]:
    """Start every run that has not ended again; return their numbers.

    A run that still waits to be taken is left alone.

    Args:
        setup: The coordinator.
        control: The SuperLink's Control API.
        today: A plan that has expired does not go on.
        busy: Runs that this process is at.

    Raises:
        LinkGoneError: The SuperLink does not answer; ask again later, nothing is done twice.
    """
    resumed = []
    folders = (path for path in setup.runs.iterdir() if path.name.isdigit())
    for folder in sorted(folders, key=lambda path: int(path.name)):
        run = RunFolder(folder)
        events = run.events()
        number = int(folder.name)
        if not events or number in busy or run.state().ended:
            continue
        try:
            plan_sha256 = _checked(setup, events, today)
        except FedCohortError as error:
            run.fail(error)
            continue
        if _is_pending(control, run):
            continue
        try:
            settings = run_settings(setup, plan_sha256, resumes=number)
            again = control.start(bundle_bytes(), settings)
        except LinkGoneError as error:
            if not error.refused:
                raise
            run.fail(ProtocolError("run_lost", "the SuperLink does not let the run go on"))
            continue
        run.is_now(again)
        run.tell("resumed", flower_run=again)
        resumed.append(number)
        _log.info("the run %d goes on", number)
    return resumed


def _checked(
    setup: CoordinatorSetup, events: Sequence[Mapping[str, object]], today: dt.date
) -> str:
    """Return the run's plan, if it may go on."""
    if any(event["event"] == "stopping" for event in events):
        raise ProtocolError("run_stopped", "the run was stopped before it had a result")
    hashes = [str(event["plan_sha256"]) for event in events if "plan_sha256" in event]
    plan = submitted_plan(setup, hashes[0] if hashes else "")
    if today.isoformat() > plan.expires:
        raise PolicyError(
            "plan_expired",
            f"the plan expired on {plan.expires}, before its run could go on",
            hint="Submit a new plan.",
        )
    return plan.sha256


def _is_pending(control: Submitting, run: RunFolder) -> bool:
    """Whether Flower still holds the run for a runner; else end it there."""
    try:
        status = control.run_status(run.flower_run)
    except LinkGoneError as error:
        if not error.refused:
            raise
        return False  # it answers, and knows no such run: its database is not the one it was
    if status.startswith(_PENDING):
        return True
    if not status.startswith("finished"):
        try:
            control.stop(run.flower_run)  # nobody may answer its messages any more
        except LinkGoneError as error:
            _log.info("the old run could not be stopped: %s", error)
    return False
