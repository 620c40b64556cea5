"""The resident worker: takes the node's tasks, one after the other, in this one process.

Flower's own way starts a Python for every message and runs the code that the message's bundle
brings. Here the gate comes first, and what runs is the ClientApp of the installed release,
imported once. Whatever goes wrong leaves as a code of constant size.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TextIO

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ..hosting import follow_parent, read_private
from ..privacy.errors import FedCohortError, ProtocolError
from .app import Teller, client_app, refusal
from .flower_compat import NodeGoneError, NodeLink, TaskInput
from .gate import NO_POLICY
from .node import Node
from .site_folder import SiteFolder

if TYPE_CHECKING:
    from .site import Site

__all__ = ["Worker", "app", "main", "set_up_logging", "teller_of"]

_log = logging.getLogger(f"fedcohort.{Path(__file__).stem}")  # run by `-m`, it is `__main__`
_QUICK_S = 0.1  # pause between looks soon after a task
_SLOW_S = 0.5  # and later
_QUICK_FOR_S = 30.0
_HOLD_S = 1.0  # a refusal that data decided leaves on the next of these, counted from the message
_GONE_S = 2.0  # pause after the SuperNode did not answer


class Task(Protocol):
    """A task that was taken."""

    def read(self) -> TaskInput:
        """Return what is asked."""
        ...

    def answer(self, reply: Message, context: Context) -> None:
        """Send the answer and end the task."""
        ...

    def close(self) -> None:
        """Let go of the task."""
        ...


class Tasks(Protocol):
    """Where tasks come from."""

    def next_task(self) -> Task | None:
        """Take the next task, if there is one."""
        ...


class Worker:
    """See the module's docstring.

    Args:
        tasks: Where tasks come from.
        run: The ClientApp.
        admit: Refuses a task whose bundle or run this site does not allow, by raising.
        stop: Set from outside to end after the task at hand.
        policy: The hash of the policy in force, hex: a no names it too.
    """

    def __init__(
        self,
        tasks: Tasks,
        run: Callable[[Message, Context], Message],
        *,
        admit: Callable[[TaskInput], None],
        stop: threading.Event,
        policy: Callable[[], str] = lambda: NO_POLICY,
    ) -> None:
        self._tasks = tasks
        self._run = run
        self._admit = admit
        self._stop = stop
        self._policy = policy
        self._last_task = time.monotonic()

    def serve(self) -> None:
        """Take tasks until told to stop; a SuperNode that restarts is waited for."""
        while not self._stop.is_set():
            self._stop.wait(self.step())

    def step(self) -> float:
        """Look once; return how long to wait before the next look, seconds."""
        try:
            task = self._tasks.next_task()
        except NodeGoneError as gone:
            _log.info("the node does not answer: %s", gone)
            return _GONE_S
        if task is None:
            recent = time.monotonic() - self._last_task < _QUICK_FOR_S
            return _QUICK_S if recent else _SLOW_S
        try:
            asked = task.read()
            task.answer(self.answer_to(asked), asked.context)
        except NodeGoneError as gone:
            _log.warning("a task was lost with the node: %s", gone)
        finally:
            task.close()
            self._last_task = time.monotonic()
        return 0.0

    def answer_to(self, asked: TaskInput) -> Message:
        """Return the answer to a message: the gate's no, or what the ClientApp says."""
        try:
            self._admit(asked)
        except FedCohortError as refused:
            _log.warning("refused: %s (%s)", refused, refused.code)
            content = refusal(refused.code, refused.exit_code, self._policy())
            return Message(content, reply_to=asked.message)
        try:
            return self._run(asked.message, asked.context)
        except Exception as error:  # any text of a library may hold a patient's value
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a task failed at this site: %s\n%s", type(error).__name__, where)
            content = refusal("site_error", ProtocolError.exit_code, self._policy())
            return Message(content, reply_to=asked.message)


def _nobody(context: Context) -> Node:
    raise ProtocolError("site_error", "no hospital stands behind the bundle's component")


# What the bundle names. Flower's own launchers may import it; no hospital's data is behind it.
app: ClientApp = client_app(_nobody)


def set_up_logging(stream: TextIO) -> None:
    """Write our log to a stream: the supervisor keeps it as the worker's log file.

    Never below INFO: what is debugged may hold a library's text, which may quote a patient's cell.
    """
    logging.basicConfig(stream=stream, level=logging.WARNING)
    logging.getLogger("flwr").propagate = False
    logging.getLogger("fedcohort").setLevel(logging.INFO)


def teller_of(site: Site) -> Teller:
    """Return what a hospital's node says of itself: it holds what data decided by whole seconds."""
    return Teller(hello=site.hello, policy=lambda: site.gate.known, hold_s=_HOLD_S)


def main(arguments: Sequence[str]) -> int:
    """Run the worker of a site's folder.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="fedcohort.fl_client.worker")
    parser.add_argument("--site-folder", type=Path, required=True)
    parser.add_argument("--runtime-address", required=True)
    asked = parser.parse_args(arguments)
    set_up_logging(sys.stderr)
    stop = threading.Event()

    def asked_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked_to_stop)
    follow_parent()
    from .site import open_site

    folder = SiteFolder(asked.site_folder)
    try:
        site = open_site(folder)
        link = NodeLink(asked.runtime_address, read_private(folder.secret))
    except FedCohortError as error:
        _log.error("refused: %s (%s) %s", error, error.code, error.hint)
        return error.exit_code
    teller = teller_of(site)
    run = client_app(lambda context: site.node, teller)
    _log.info("the site %s is ready", site.name)
    # What prices noise takes most of a second to load: while nobody waits.
    threading.Thread(target=importlib.import_module, args=("dp_accounting",), daemon=True).start()

    def admit(task: TaskInput) -> None:
        site.admit(task.bundle, task.context.run_config)

    Worker(link, run, admit=admit, stop=stop, policy=teller.policy).serve()
    site.close()
    link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
