"""The rows of a table that a cohort is made of, each decided by its own patient's rows alone.

This is what the guarantee for a patient rests on: whatever stands in one patient's rows, every
other patient's rows are kept, dropped and read as before. So nothing here refuses. A row without
a usable outcome, or of nobody known, is no row; one class of outcome is as good as two; where a
patient can have one row only, it is the first. `checks.py` tells people of what is lost here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import canonical
from .extract import LoadOptions
from .outcomes import Outcome, outcome_of
from .patients import Persons, draw_of, keyed_ids, persons_of
from .roles import Roles

__all__ = ["Rows", "persons_in", "site_names", "usable_rows"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The usable rows of a table, ready to be cut by hospital.

    Attributes:
        frame: Their cells, as text.
        place: Number of each in the table, from 0, int64 [rows].
        site: Hospital of each, str [rows].
        patient: Keyed id of each one's patient, uint64 [rows].
        draw: See `Cohort.draw`, uint64 [rows].
        persons: Token and side of each.
        outcome: Of each, nothing missing.
    """

    frame: pd.DataFrame
    place: NDArray[np.int64]
    site: NDArray[np.object_]
    patient: NDArray[np.uint64]
    draw: NDArray[np.uint64]
    persons: Persons
    outcome: Outcome


def usable_rows(frame: pd.DataFrame, roles: Roles, options: LoadOptions) -> Rows:
    """Return the rows that have a hospital, a patient and an outcome, in the table's order.

    Args:
        frame: A table of text.
        roles: The part each column plays.
        options: Which value of the outcome is the event.
    """
    outcome = outcome_of(frame, roles, options)
    persons = persons_in(frame, roles)
    known = ~outcome.missing & persons.token.notna().to_numpy()
    known &= frame[roles.site].notna().to_numpy()
    site = site_names(frame[roles.site])
    kept = np.flatnonzero(known)
    ids = keyed_ids(persons.token.iloc[kept])
    if roles.task == "survival":
        pairs = pd.DataFrame({"patient": ids, "site": site[kept]})
        first = ~pairs.duplicated().to_numpy()
        kept, ids = kept[first], ids[first]
    token = persons.token.iloc[kept].reset_index(drop=True)
    return Rows(
        frame=frame.iloc[kept].reset_index(drop=True),
        place=kept.astype(np.int64),
        site=site[kept],
        patient=ids,
        draw=draw_of(token),
        persons=Persons(token=token, side=persons.side.iloc[kept].reset_index(drop=True)),
        outcome=Outcome(
            flag=outcome.flag[kept], time=None if outcome.time is None else outcome.time[kept]
        ),
    )


def persons_in(frame: pd.DataFrame, roles: Roles) -> Persons:
    """Return who each row of a table is of, by the columns that a cohort is made of."""
    told = [name for name in (roles.outcome, roles.time, roles.event) if name is not None]
    return persons_of(frame, roles.patient, [*roles.columns, *told])


def site_names(text: pd.Series[str]) -> NDArray[np.object_]:
    """Return each row's hospital: spaces tidied, and one spelling where only case differs."""
    tidy = {value: " ".join(value.split()) for value in text.dropna().unique()}
    first: dict[str, str] = {}
    for value in sorted(tidy.values()):
        first.setdefault(canonical(value), value)
    names = {value: first[canonical(short)] for value, short in tidy.items()}
    return np.array([names.get(value, "") for value in text], dtype=np.object_)
