"""Progress of long work on stderr: one bar for repeats, one line for rounds; quiet when piped."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["RunProgress"]


class RunProgress:
    """A context that `compare` reports to.

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
