"""What a table holds of the patients of a sum, in the form in which two sums are compared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...datasets.columns import canonical_series, to_numbers
from ...datasets.rows import Rows

__all__ = ["Records", "records_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Whom a sum is over, and what the table holds of them.

    Attributes:
        tokens: One text a patient.
        cells: By column, one text a patient: what stands there, in all of the patient's rows.
        encodings: By column, how its cells become numbers: any text that says so.
        table: Where each row is a person, and the token is the row's number: the hash of the
            table that the numbers are of; empty where a column names the patients.
    """

    tokens: Sequence[str]
    cells: Mapping[str, Sequence[str]]
    encodings: Mapping[str, str] = field(default_factory=dict)
    table: str = ""


def records_of(
    rows: Rows,
    patients: NDArray[np.uint64],
    *,
    columns: Sequence[str],
    table: str,
    encodings: Mapping[str, str] | None = None,
) -> Records:
    """Return the records of some of a table's patients.

    Args:
        rows: What the table's cohort is made of.
        patients: Whose, as keyed in this process, uint64.
        columns: The columns that sums are made of.
        table: Hash of the table where each row is a person, else empty; see `Records.table`.
        encodings: See `Records.encodings`.
    """
    of = np.flatnonzero(np.isin(rows.patient, patients))
    order = of[np.argsort(rows.patient[of], kind="stable")]
    starts = np.flatnonzero(np.diff(rows.patient[order], prepend=~rows.patient[order[:1]]))
    if table:
        tokens = [f"row {place}" for place in rows.place[order[starts]].tolist()]
    else:
        tokens = rows.persons.token.iloc[order[starts]].tolist()

    values = {name: _values(rows.frame[name].iloc[order]) for name in columns}
    spans = list(itertools.pairwise([*starts.tolist(), len(order)]))
    # The order of a patient's rows enters no sum, and must make nobody another.
    whole = list(zip(*values.values(), strict=True)) if columns else [()] * len(order)
    sorted_ = [sorted(range(start, end), key=whole.__getitem__) for start, end in spans]
    return Records(
        tokens=tokens,
        cells={
            name: [json.dumps([texts[row] for row in of_one]) for of_one in sorted_]
            for name, texts in values.items()
        },
        encodings=dict(encodings or {}),
        table=table,
    )


def _values(text: pd.Series[str]) -> list[str]:
    """Return each cell as it is compared: a number as a number, nothing as nothing."""
    seen, numbers = canonical_series(text), to_numbers(text)
    texts = seen.astype("object").where(seen.notna(), "").tolist()
    return [
        str(word) if np.isnan(number) else repr(number + 0.0)  # -0.0 is 0.0
        for word, number in zip(texts, numbers.tolist(), strict=True)
    ]
