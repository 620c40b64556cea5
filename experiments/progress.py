"""Progress of long work on stderr; quiet when piped.

One bar for repeats, one for the fit on all patients, and one line for rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["RunProgress"]


class RunProgress:
    """A context that `compare` and `fit_all_patients` report to.

    Args:
        repeats: How many there are.
        console: Where to; nothing is drawn unless it is a terminal.
    """

    def __init__(self, repeats: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._repeats = self._progress.add_task("repeats", total=repeats)
        self._full_fit = self._progress.add_task("models, on all patients", total=1)
        self._rounds = self._progress.add_task("rounds", total=None)

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, repeat: int, arm: str, done: int) -> None:
        """Show that an arm has done so many rounds; `done` below 0 ends the repeat."""
        if done < 0:
            self._progress.advance(self._repeats)
        else:
            self._progress.update(self._rounds, description=f"{arm}: rounds", completed=done)

    @contextmanager
    def full_fit(self) -> Iterator[Callable[[str, int], None]]:
        """Hand out what shows the rounds of the fit on all patients; its bar is full at the end."""

        def show(arm: str, done: int) -> None:
            text = f"all patients, {arm}: rounds"
            self._progress.update(self._rounds, description=text, completed=done)

        yield show
        self._progress.advance(self._full_fit)
