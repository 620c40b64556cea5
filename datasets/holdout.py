"""Who is held out: a keyed hash of the patient's token, the same in every hospital and process.

`splits.py` draws for a simulation that holds every record. Deployed, hospitals cannot draw
together and a table changes between extracts: so each patient is drawn alone, by a hash that all
of them compute alike. Shares are therefore not exact, nor balanced by outcome.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..privacy.errors import DataError
from ..study.cohort import Cohort
from .extract import ONE_ROW_EACH
from .patients import keyed_ids, normal_id

__all__ = ["held_out", "tokens_of", "with_holdout"]

_WORDS = 2.0**64


def held_out(tokens: Sequence[str], *, key: str, test_fraction: float) -> NDArray[np.bool_]:
    """Return who is held out, bool [tokens].

    Args:
        tokens: The patients' tokens as the table has them; case and spaces do not count.
        key: The plan's, 64 hex digits.
        test_fraction: The plan's.

    Returns:
        Whether the first 8 bytes, big-endian, of HMAC-SHA256 of the token fall below
        `test_fraction` of their range.

    >>> held_out(["A 1", "a1", "b2", "c3"], key="00" * 32, test_fraction=0.5)
    array([False, False, False,  True])
    """
    secret, below = bytes.fromhex(key), test_fraction * _WORDS

    def out(token: str) -> bool:
        digest = hmac.digest(secret, normal_id(token).encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "big") < below

    known = {token: out(token) for token in dict.fromkeys(tokens)}
    return np.array([known[token] for token in tokens], dtype=np.bool_)


def tokens_of(frame: pd.DataFrame, patient: str | None) -> pd.Series[str]:
    """Return each row's token of its patient.

    Args:
        frame: A hospital's table, all of it: rows without an outcome too.
        patient: Its column of patients; None or `one_row_each` where each row is a person.

    Returns:
        The column, or the rows' numbers. Those are not stable: where rows are added or
        sorted anew the next extract has other patients held out.
    """
    if patient is None or patient == ONE_ROW_EACH:
        return pd.Series([f"row {row}" for row in range(len(frame))], dtype="str")
    return frame[patient].dropna().astype("str")


def with_holdout(
    cohort: Cohort, tokens: pd.Series[str], *, key: str, test_fraction: float
) -> Cohort:
    """Return a cohort that says who is held out.

    Args:
        cohort: Built from the same table in this process.
        tokens: Of that table's rows, see `tokens_of`; rows that the cohort dropped may be there.
        key: The plan's.
        test_fraction: The plan's.

    Raises:
        DataError: `holdout_tokens`: a patient of the cohort is none of the tokens.
    """
    unique = pd.Series(tokens.unique(), dtype="str")
    ids = keyed_ids(unique)
    if not np.isin(cohort.patient, ids).all():
        raise DataError(
            "holdout_tokens",
            "some patients of the cohort are not in the table that the holdout was drawn for",
            hint="Draw the holdout from the table that the cohort was built from.",
        )
    tested = ids[held_out(list(unique), key=key, test_fraction=test_fraction)]
    return replace(cohort, held_out=np.isin(cohort.patient, tested))
