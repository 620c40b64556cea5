"""`python -m fedcohort.fl_server.runner FOLDER`: the resident runner of the coordinator.

It takes runs from the SuperLink, one after the other, in this one process: no Python starts for a
run, no bundle is unpacked, and a run whose bundle is not this release's fails at once.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from ..hosting import follow_parent, read_private
from ..privacy.errors import PolicyError, ProtocolError
from ..study.bundle import bundle_sha256
from .coordinator_setup import CoordinatorSetup, read_coordinator
from .deployed import coordinate, give_up_unfinished
from .flower_compat import LinkGoneError, OpenRun, RunInput, RunNotRunningException, RunQueue
from .run_folder import RunFolder

__all__ = ["Runner", "main"]

_log = logging.getLogger(__name__)
_LOOK_S = 0.2
_GONE_S = 2.0


class Runs(Protocol):
    """Where runs come from."""

    def next_run(self) -> OpenRun | None:
        """Take the next run, if there is one."""
        ...


class Runner:
    """See the module's docstring.

    Args:
        setup: The coordinator.
        runs: Where runs come from.
        stop: Set from outside to end after the run at hand.
        run: Runs a plan; returns "" or a code.
    """

    def __init__(
        self,
        setup: CoordinatorSetup,
        runs: Runs,
        *,
        stop: threading.Event,
        run: Callable[..., str] = coordinate,
    ) -> None:
        self._setup = setup
        self._runs = runs
        self._stop = stop
        self._run = run

    def serve(self) -> None:
        """Take runs until told to stop; a SuperLink that restarts is waited for."""
        while not self._stop.is_set():
            self._stop.wait(self.step())

    def step(self) -> float:
        """Look once; return how long to wait before the next look, seconds."""
        try:
            taken = self._runs.next_run()
        except LinkGoneError as gone:
            _log.info("the SuperLink does not answer: %s", gone)
            return _GONE_S
        if taken is None:
            return _LOOK_S
        try:
            taken.end(self._code_of(taken.read()))
        except LinkGoneError as gone:
            _log.warning("a run was lost with the SuperLink: %s", gone)
        finally:
            taken.close()
        return 0.0

    def _code_of(self, asked: RunInput) -> str:
        folder = RunFolder(self._setup.runs / str(asked.run_id))
        if hashlib.sha256(asked.bundle).hexdigest() != bundle_sha256():
            error = PolicyError(
                "bundle_not_allowed",
                "the run's bundle is not that of this release",
                hint="Submit by `fedcohort coordinator submit`.",
            )
            folder.fail(error)
            return error.code
        try:
            plan_sha256 = str(asked.settings.get("plan-sha256", ""))
            return self._run(self._setup, asked.grid, run_id=asked.run_id, plan_sha256=plan_sha256)
        except RunNotRunningException:
            stopped = ProtocolError("run_stopped", "the run was stopped before it had a result")
            folder.fail(stopped)
            return stopped.code
        except Exception as error:  # one run's failure must not end the runner for the others
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a run failed: %s\n%s", type(error).__name__, where)
            return "coordinator_error"


def main(arguments: Sequence[str]) -> None:
    """Run the runner of a coordinator's folder."""
    setup = read_coordinator(Path(arguments[0]))
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("flwr").propagate = False
    logging.getLogger("fedcohort").setLevel(logging.INFO)
    stop = threading.Event()

    def asked_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked_to_stop)
    follow_parent()
    give_up_unfinished(setup)
    queue = RunQueue(setup.loopback, read_private(setup.ca), read_private(setup.secret))
    Runner(setup, queue, stop=stop).serve()
    queue.close()


if __name__ == "__main__":
    main(sys.argv[1:])
