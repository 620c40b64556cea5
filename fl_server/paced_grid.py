"""The Grid of a deployed run: looked at no more often than makes sense, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from .grid_around import GridAround
from .run_folder import RunFolder

__all__ = ["PacedGrid"]


class PacedGrid(GridAround):
    """Flower's Grid, looked at no more often than makes sense; times each exchange.

    Args:
        grid: Flower's Grid.
        run: Where each exchange's time is told.
        poll_s: Between looks; each costs the SuperLink about 20 ms.
    """

    def __init__(self, grid: Grid, run: RunFolder, poll_s: float) -> None:
        super().__init__(grid)
        self._folder = run
        self._poll_s = poll_s
        self._started = self._looked = 0.0
        self._action = ""
        self._open: set[str] = set()
        self.quiet = False  # for questions that are asked for days

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, and start the clock."""
        sent = list(messages)
        self._started = time.monotonic()
        self._action = sent[0].metadata.message_type if sent else ""
        names = list(self._grid.push_messages(sent))
        self._open = set(names)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, after a pause."""
        time.sleep(max(0.0, self._looked + self._poll_s - time.monotonic()))
        found = list(self._grid.pull_messages(message_ids))
        self._looked = time.monotonic()
        self._open -= {reply.metadata.reply_to_message_id for reply in found}
        if found and not self._open and not self.quiet:
            seconds = round(self._looked - self._started, 3)
            self._folder.tell("phase", action=self._action, seconds=seconds)
        return found
