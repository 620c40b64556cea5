"""Who is held out: a keyed hash of the patient's token, the same in every hospital and process.

`splits.py` draws for a simulation that holds every record. Deployed, hospitals cannot draw
together and a table changes between extracts: so each patient is drawn alone, by a hash that all
of them compute alike. Nobody's side depends on who else is there, on which the sensitivity of
every training sum rests. Shares are therefore not exact, nor balanced by outcome.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .patients import normal_id

__all__ = ["held_out"]

_WORDS = 2.0**64


def held_out(sides: Iterable[str], *, key: str, test_fraction: float) -> NDArray[np.bool_]:
    """Return who is held out, bool [rows].

    Args:
        sides: What a split hashes of each row's patient, see `Persons`; case and spaces do not
            count.
        key: The plan's, 64 hex digits.
        test_fraction: The plan's.

    Returns:
        Whether the first 8 bytes, big-endian, of HMAC-SHA256 of the text fall below
        `test_fraction` of their range.

    >>> held_out(["A 1", "a1", "b2", "c3"], key="00" * 32, test_fraction=0.5)
    array([False, False, False,  True])
    """
    secret, below = bytes.fromhex(key), test_fraction * _WORDS

    def out(side: str) -> bool:
        digest = hmac.digest(secret, normal_id(side).encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "big") < below

    found = list(sides)
    known = {side: out(side) for side in dict.fromkeys(found)}
    return np.array([known[side] for side in found], dtype=np.bool_)
