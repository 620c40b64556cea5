"""Patients' ids become keyed hashes at the door of the room, and stay so.

The key is drawn afresh for each process and never written down, so the hashes say only which
rows belong to one patient, in this process, and cannot be looked up from a list of ids.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import canonical

__all__ = ["keyed_ids", "normal_id"]

_KEY = secrets.token_bytes(32)


def normal_id(text: str) -> str:
    """Return the form in which ids are compared: case and spaces do not count.

    >>> normal_id("A 1"), normal_id(" a1 "), normal_id("007"), normal_id("12.0")
    ('a1', 'a1', '007', '12')
    """
    return "".join(canonical(text).split())


def keyed_ids(ids: pd.Series[str]) -> NDArray[np.uint64]:
    """Return uint64 [rows]: the first 8 bytes, little-endian, of HMAC-SHA256 of each id."""

    def keyed(text: str) -> int:
        digest = hmac.digest(_KEY, normal_id(text).encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "little")

    known = {text: keyed(text) for text in ids.unique()}
    return np.array([known[text] for text in ids], dtype=np.uint64)
