"""Who a row is of: a token of the patient, and the keyed hash that stands for it in a cohort.

The key of the hashes is drawn afresh for each process and never written down, so they say only
which rows belong to one patient, in this process, and cannot be looked up from a list of ids.
What must be the same in every process and after every extract, which side of a split a patient
is on and who is left out of a sum that is too large, comes from the token instead.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import canonical, canonical_series

__all__ = ["Persons", "draw_of", "keyed_ids", "normal_id", "persons_of"]

_KEY = secrets.token_bytes(32)
_ROW = b"fedcohort row/1\x00"
_DRAW = b"fedcohort draw/1\x00"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Persons:
    """Who each row of a table is of; both are missing where nobody knows.

    Attributes:
        token: One text a patient.
        side: What a split hashes: the token, but one text for rows that are equal throughout
            where each row is a person.
    """

    token: pd.Series[str]
    side: pd.Series[str]


def persons_of(frame: pd.DataFrame, patient: str | None, columns: Sequence[str]) -> Persons:
    """Return who each row is of.

    Args:
        frame: A table of text; rows without an outcome may be in it.
        patient: Its column of patients; None where each row is a person.
        columns: The columns that a cohort is made of. Where each row is a person they are all
            that is known of one: never the row's number, which depends on the rows before it.

    Returns:
        Tokens and sides. Where each row is a person, the k-th of equal rows has the token of
        the first and its own k, so that it is a person too.
    """
    if patient is not None:
        return Persons(token=frame[patient], side=frame[patient])
    seen_as = [canonical_series(frame[name]) for name in columns]
    cells = [text.astype("object").where(text.notna(), None).tolist() for text in seen_as]
    rows = zip(*cells, strict=True)
    sides = [hashlib.sha256(_ROW + json.dumps(row).encode()).hexdigest() for row in rows]
    seen: Counter[str] = Counter()
    tokens = []
    for side in sides:
        seen[side] += 1
        tokens.append(f"{side} {seen[side]}")
    return Persons(
        token=pd.Series(tokens, index=frame.index, dtype="str"),
        side=pd.Series(sides, index=frame.index, dtype="str"),
    )


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


def draw_of(ids: pd.Series[str]) -> NDArray[np.uint64]:
    """Return uint64 [rows], the same in every process: whose turn it is where not all have a place.

    It is the first 8 bytes, little-endian, of SHA-256 of each id; see `Cohort.at_most`. It can be
    looked up from a list of ids, and stays in the process as the ids do.
    """

    def drawn(text: str) -> int:
        digest = hashlib.sha256(_DRAW + normal_id(text).encode()).digest()
        return int.from_bytes(digest[:8], "little")

    known = {text: drawn(text) for text in ids.unique()}
    return np.array([known[text] for text in ids], dtype=np.uint64)
