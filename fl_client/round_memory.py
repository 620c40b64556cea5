"""What a node must still know after a crash: which round is due, and the vector it prepared.

A noisy sum is made once. A node that is killed after it was paid for hands the same integers
over when it is back, and never adds fresh noise to the same records. Once the site has helped
to open a sum, the vector is gone from here before that help leaves: a restart is no way to have
one vector in two sums.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..hosting import read_private, remove_file, replace_file
from ..privacy.errors import FedCohortError

__all__ = ["FileRoundMemory", "NoRoundMemory", "Remembered", "RoundMemory"]

_FORMAT = "fedcohort.round/2"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Remembered:
    """Where a plan stands at a site.

    Attributes:
        attempt: The run that asked, hex.
        next_round: The first round that was not asked yet.
        terms_sha256: Of the round that the vector belongs to; empty without one.
        vector: int64 [d], prepared and not yet in an opened sum; None without one.
        charge_id: The ledger's entry that paid for it.
    """

    attempt: str
    next_round: int
    terms_sha256: str = ""
    vector: NDArray[np.int64] | None = None
    charge_id: str = ""


class RoundMemory(Protocol):
    """Of one plan at one site."""

    def recall(self) -> Remembered | None:
        """Return what was kept, None where nothing was or it cannot be read."""
        ...

    def keep(self, known: Remembered) -> None:
        """Keep it, durably, in the place of what was kept before."""
        ...

    def spend(self) -> None:
        """Let the vector go, durably: the site is about to help open its sum."""
        ...

    def clear(self) -> None:
        """The plan has ended."""
        ...


class NoRoundMemory:
    """For simulation: a simulated node that dies does not come back."""

    def recall(self) -> Remembered | None:
        """See `RoundMemory.recall`."""
        return None

    def keep(self, known: Remembered) -> None:
        """See `RoundMemory.keep`."""

    def spend(self) -> None:
        """See `RoundMemory.spend`."""

    def clear(self) -> None:
        """See `RoundMemory.clear`."""


class FileRoundMemory:
    """One file of mode 0600: a hash of the rest, a line of JSON, then the vector's bytes.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self) -> Remembered | None:
        """See `RoundMemory.recall`. What cannot be read is as good as lost, and is not guessed."""
        try:
            sha256, _, rest = read_private(self._path).partition(b"\n")
            if sha256.decode("ascii") != hashlib.sha256(rest).hexdigest():
                return None
            head, _, raw = rest.partition(b"\n")
            found = json.loads(head)
            if found["format"] != _FORMAT:
                return None
            return Remembered(
                attempt=str(found["attempt"]),
                next_round=int(found["next_round"]),
                terms_sha256=str(found["terms_sha256"]),
                vector=np.frombuffer(raw, dtype="<i8").astype(np.int64) if raw else None,
                charge_id=str(found["charge_id"]),
            )
        except (FedCohortError, KeyError, OSError, TypeError, ValueError):
            return None

    def keep(self, known: Remembered) -> None:
        """See `RoundMemory.keep`."""
        raw = b"" if known.vector is None else known.vector.astype("<i8").tobytes()
        head = {
            "format": _FORMAT,
            "attempt": known.attempt,
            "next_round": known.next_round,
            "terms_sha256": known.terms_sha256,
            "charge_id": known.charge_id,
        }
        rest = json.dumps(head).encode() + b"\n" + raw
        # Over all of it: a flipped bit in a round's number is no more believed than half a vector.
        sha256 = hashlib.sha256(rest).hexdigest()
        replace_file(self._path, sha256.encode() + b"\n" + rest)

    def spend(self) -> None:
        """See `RoundMemory.spend`."""
        known = self.recall()
        if known is None:
            self.clear()  # what cannot be read now must not be readable later
        elif known.vector is not None:
            self.keep(replace(known, terms_sha256="", vector=None, charge_id=""))

    def clear(self) -> None:
        """See `RoundMemory.clear`."""
        remove_file(self._path)
