"""Progress of deployed runs on stderr: one line for each plan, and whom it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from ...fl_server.run_folder import RunState
from ..reporting._view import printable

__all__ = ["WaitProgress", "describe"]

_WAITS = {
    "waiting": "waiting for {sites} to be online",
    "approval": "waiting for two people's approval at {sites}",
}


def describe(state: RunState) -> str:
    """Return where a run stands, for people.

    >>> describe(RunState(phase="approval", waiting_for=("north", "south")))
    "waiting for two people's approval at north, south"
    >>> describe(RunState(phase="running", rounds=2))
    'running, 2 sums opened'
    """
    sites = printable(", ".join(state.waiting_for))
    if state.phase in _WAITS and sites:
        return _WAITS[state.phase].format(sites=sites)
    if state.phase == "running":
        return f"running, {state.rounds} sum{'' if state.rounds == 1 else 's'} opened"
    if state.phase == "submitted":
        return "submitted, not begun"
    if state.phase == "failed":
        return f"failed ({state.code})"
    words = state.phase.replace("_", " ")  # a phase that a later release has
    return f"{words}: {sites}" if sites else words


class WaitProgress:
    """A context in which runs are waited for.

    On a terminal each plan has a line that moves; elsewhere a line is printed whenever a plan's
    phase, or whom it waits for, changes: a log of days stays short.

    Args:
        names: Of the plans, in order.
        console: Where to.
    """

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks = {name: self._progress.add_task("planned", name=name) for name in names}
        self._told: dict[str, tuple[str, tuple[str, ...]]] = {}

    def __enter__(self) -> WaitProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, name: str, state: RunState) -> None:
        """Show where a plan's run stands."""
        said = describe(state)
        self._progress.update(self._tasks[name], description=said)
        if state.ended:
            self._progress.stop_task(self._tasks[name])
        now = (state.phase, state.waiting_for)
        if not self._console.is_terminal and self._told.get(name) != now:
            self._console.print(Text(f"{name}: {said}"), soft_wrap=True)
        self._told[name] = now
