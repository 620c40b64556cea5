"""Throw-away ledgers of a run: one a site, arm, epsilon and training, in the run's own folder.

They are real ledger files, so that what a reviewer reads of a simulation is what a hospital's
ledger would say; they are marked `simulation`, and no site takes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...privacy.ledger.book import MemoryLedger
from ...privacy.ledger.charges import Ledger, Opening
from ...privacy.ledger.store import SqliteLedger
from ..reporting.folder import file_slug
from .federate import Ledgers

__all__ = ["ALL_PATIENTS", "LEDGERS_FOLDER", "RunLedgers"]

LEDGERS_FOLDER = "ledgers"
ALL_PATIENTS = "all-patients"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLedgers:
    """The ledgers of one repeat, or of the fit on all patients.

    Args:
        folder: The run's folder; None keeps them in memory.
        repeat: Number of the repeat, 0-based; None for the fit on all patients.
    """

    folder: Path | None
    repeat: int | None

    @contextmanager
    def of(self, arm: str, epsilon: float | None) -> Iterator[Ledgers]:
        """Hand out what opens the ledgers of one arm; their files are let go at the end."""
        if self.folder is None or epsilon is None:
            yield MemoryLedger
            return
        part = ALL_PATIENTS if self.repeat is None else f"repeat{self.repeat}"
        name = f"{arm}-eps{_short(epsilon)}-{part}"
        folder = self.folder / LEDGERS_FOLDER / name
        folder.mkdir(parents=True)
        opened: list[SqliteLedger] = []

        def open_one(opening: Opening) -> Ledger:
            path = folder / f"{file_slug(opening.hospital)}.ledger"
            opened.append(SqliteLedger.create(path, opening))
            return opened[-1]

        try:
            yield open_one
        finally:
            for ledger in opened:
                ledger.dispose()


def _short(epsilon: float) -> str:
    """Return an epsilon without losing a digit: two of a sweep never share a folder."""
    short = f"{epsilon:g}"
    return short if float(short) == epsilon else repr(epsilon)
