"""`python -m fedcohort.fl_server.runner FOLDER`: the resident runner of the coordinator.

It takes runs from the SuperLink, one after the other, in this one process: no Python starts for a
run, no bundle is unpacked, and a run whose bundle is not this release's fails at once. A run that
waits for people or for sites lets others go first. Runs that an earlier life left open go on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from ..hosting import follow_parent, read_private
from ..privacy.errors import FedCohortError, PolicyError, ProtocolError
from ..study.bundle import bundle_sha256
from .coordinator_setup import CoordinatorSetup, read_coordinator
from .deployed import coordinate
from .flower_compat import LinkGoneError, OpenRun, RunInput, RunNotRunningException, RunQueue
from .flower_control import Control
from .resuming import resume_unfinished
from .run_folder import RunFolder
from .sites import InterruptedRunError

__all__ = ["Runner", "main"]

_log = logging.getLogger(f"fedcohort.{Path(__file__).stem}")  # run by `-m`, it is `__main__`
_LOOK_S = 0.2
_GONE_S = 2.0
_LEFT_S = 6.0  # for a run to come to a place where it may be left; the supervisor gives 8


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
        stop: Set from outside: the run at hand is left where it may be taken up again.
        run: Runs a plan; returns "" or a code.
        resume: Starts the runs again that an earlier life left open, but not those of this one
            that it is given; asked until it succeeds.
    """

    def __init__(
        self,
        setup: CoordinatorSetup,
        runs: Runs,
        *,
        stop: threading.Event,
        run: Callable[..., str] = coordinate,
        resume: Callable[[Collection[int]], object] = lambda busy: None,
    ) -> None:
        self._setup = setup
        self._runs = runs
        self._stop = stop
        self._run = run
        self._resume = resume
        self._to_resume = True
        self._busy: set[int] = set()
        self._turn = threading.Lock()  # whoever holds it speaks: one run, or the look for the next

    def serve(self) -> None:
        """Take runs until told to stop; a SuperLink that restarts is waited for."""
        while not self._stop.is_set():
            self._stop.wait(self.step())
        self._turn.acquire(timeout=_LEFT_S)

    def step(self) -> float:
        """Look once; return how long to wait before the next look, seconds.

        Comes back when the run that was taken has ended, or waits for somebody.
        """
        if not self._turn.acquire(timeout=_LOOK_S):
            return 0.0  # a run that had waited is at work
        try:
            if self._to_resume:
                self._resume(frozenset(self._busy))
                self._to_resume = False
            taken = self._runs.next_run()
        except LinkGoneError as gone:
            _log.info("the SuperLink does not answer: %s", gone)
            self._turn.release()
            return _GONE_S
        if taken is None:
            self._turn.release()
            return _LOOK_S
        # The turn goes to the run.
        threading.Thread(target=self._work, args=(taken,), name="run", daemon=True).start()
        while not self._turn.acquire(timeout=_LOOK_S):
            if self._stop.is_set():
                return 0.0
        self._turn.release()
        return 0.0

    def _work(self, taken: OpenRun) -> None:
        try:
            taken.end(self._code_of(taken, taken.read()))
        except LinkGoneError as gone:
            _log.warning("a run was lost with the SuperLink: %s", gone)
        except InterruptedRunError:
            _log.info("a run is left, to be taken up again")
        finally:
            taken.close()
            self._turn.release()

    def _pause(self, taken: OpenRun, seconds: float) -> None:
        """Sleep for a run, and let others go first."""
        if self._stop.is_set():
            raise InterruptedRunError
        if seconds <= 0:
            return
        self._turn.release()
        stopping = self._stop.wait(seconds)
        self._turn.acquire()
        if stopping:
            raise InterruptedRunError
        taken.here()

    def _code_of(self, taken: OpenRun, asked: RunInput) -> str:
        number = str(asked.settings.get("resumes", "") or asked.run_id)
        if hashlib.sha256(asked.bundle).hexdigest() != bundle_sha256():
            error = PolicyError(
                "bundle_not_allowed",
                "the run's bundle is not that of this release",
                hint="Submit by `fedcohort coordinator submit`.",
            )
            RunFolder(self._setup.runs / str(asked.run_id)).fail(error)
            return error.code
        folder = RunFolder(self._setup.runs / number)
        if number != str(asked.run_id) and not self._is_ours(number, asked.run_id):
            _log.warning("a run would go on with one that is not its own")
            return "run_unknown"
        self._busy.add(int(number))
        try:
            return self._run(
                self._setup,
                asked.grid,
                run_id=int(number),
                plan_sha256=str(asked.settings.get("plan-sha256", "")),
                pause=lambda seconds: self._pause(taken, seconds),
            )
        except RunNotRunningException:
            if not folder.stopping:
                self._to_resume = True  # nobody stopped it: Flower missed this process for a while
                raise InterruptedRunError from None
            stopped = ProtocolError("run_stopped", "the run was stopped before it had a result")
            folder.fail(stopped)
            return stopped.code
        except InterruptedRunError:
            raise
        except Exception as error:  # one run's failure must not end the runner for the others
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a run failed: %s\n%s", type(error).__name__, where)
            return "coordinator_error"
        finally:
            self._busy.discard(int(number))

    def _is_ours(self, number: str, flower_run: int) -> bool:
        """Whether a run may go on in another one's folder: it was started for that, and is open."""
        if not (number.isascii() and number.isdigit()):
            return False
        folder = RunFolder(self._setup.runs / number)
        known = folder.folder.is_dir() and folder.flower_run == flower_run
        return known and not folder.state().ended


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
    queue = RunQueue(setup.loopback, read_private(setup.ca), read_private(setup.secret))
    Runner(setup, queue, stop=stop, resume=lambda busy: _resume(setup, busy)).serve()
    queue.close()


def _resume(setup: CoordinatorSetup, busy: Collection[int]) -> None:
    control = Control(setup.loopback, read_private(setup.ca), setup.password)
    try:
        resume_unfinished(setup, control, today=dt.datetime.now(dt.UTC).date(), busy=busy)
    except FedCohortError as error:
        _log.error("no run can go on: %s (%s)", error, error.code)
    finally:
        control.close()


if __name__ == "__main__":
    main(sys.argv[1:])
