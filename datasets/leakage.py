"""Warnings: what a person should look at before trusting a model made from the table.

A warning stops nothing. It names a column and a hospital and never a patient's value, and it
is for whoever holds the table: it is computed from records and must not leave the hospital.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .columns import Column, Encoded
from .extract import DataWarning
from .outcomes import Outcome

__all__ = ["AFTER_OUTCOME_NAMES", "Checked", "find_leaks", "find_thin_sites", "known_after_outcome"]

# Names of things known only when the stay or the follow-up is over; matched at the start of
# any word of the column's name, in lower case (Chinese: anywhere). A short list on purpose: the
# codebook's `after_outcome: true` is the way to say more.
AFTER_OUTCOME_NAMES = (
    "length_of_stay",
    "los",
    "icu_los",
    "hospital_days",
    "discharge",
    "death",
    "died",
    "dead",
    "deceased",
    "mortality",
    "survival",
    "ventilat",
    "outcome",
    "autopsy",
    "出院",
    "死亡",
    "住院天数",
    "预后",
    "转归",
)
_WHOLE_WORDS = frozenset(["los", "dead", "died"])  # too short to match as a beginning

NEARLY_SITE = 0.95  # AUROC from which a column tells one hospital from the others
NEARLY_OUTCOME = 0.98  # AUROC from which a column tells the outcome
FEW_EVENTS = 5  # patients of a class
FEW_PATIENTS = 10
_FEW_LEVELS = 20  # columns of no more levels, of five rows or more each, are also judged by level


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """The rows as the checks see them.

    Attributes:
        here: For each hospital, sorted by name, bool [rows]: the row is its own.
        patient: uint64 [rows].
        outcome: Flag and time, without missing ones.
        columns: The codebook's columns.
        encoded: The same columns, encoded.
    """

    here: Mapping[str, NDArray[np.bool_]]
    patient: NDArray[np.uint64]
    outcome: Outcome
    columns: Sequence[Column]
    encoded: Mapping[str, Encoded]


def known_after_outcome(name: str) -> bool:
    """Return whether a column's name is one of `AFTER_OUTCOME_NAMES`.

    >>> known_after_outcome("ICU_LOS"), known_after_outcome("colostomy")
    (True, False)
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = "_" + re.sub(r"[\W_]+", "_", spaced).strip("_").lower() + "_"
    return any(
        known in words
        if not known.isascii()
        else f"_{known}{'_' * (known in _WHOLE_WORDS)}" in words
        for known in AFTER_OUTCOME_NAMES
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Levels:
    """A column's known values as positions among its distinct ones, sorted once."""

    known: NDArray[np.bool_]
    place: NDArray[np.int64]
    counts: NDArray[np.float64]

    @staticmethod
    def of(level: NDArray[np.float64]) -> _Levels:
        known = ~np.isnan(level)
        _, place, counts = np.unique(level[known], return_inverse=True, return_counts=True)
        return _Levels(known=known, place=place.astype(np.int64), counts=counts.astype(np.float64))

    def tell(self, target: NDArray[np.bool_], *, few: int) -> float:
        """Return how well they tell the target: AUROC, in either direction or by level."""
        wanted = target[self.known].astype(np.float64)
        if wanted.sum() < few or (1 - wanted).sum() < few:
            return 0.5
        sums = np.bincount(self.place, weights=wanted, minlength=len(self.counts))
        inside = sums.astype(np.float64)
        one_way = _auroc(inside, self.counts - inside)
        best = max(one_way, 1 - one_way)
        if len(self.counts) <= min(_FEW_LEVELS, len(self.place) // 5):
            order = np.argsort(inside / self.counts, kind="stable")
            best = max(best, _auroc(inside[order], (self.counts - inside)[order]))
        return best


def _auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve from counts by rising level, ties counted half."""
    below = np.cumsum(outside) - outside
    return float(inside @ (below + outside / 2) / (inside.sum() * outside.sum()))


def find_leaks(rows: Checked) -> Iterator[DataWarning]:
    """Yield what a column tells that it should not, column by column."""
    for column in rows.columns:
        encoded = rows.encoded[column.name]
        if column.after_outcome or known_after_outcome(column.name):
            text = f"{column.name} may be known only after the outcome; leave it out if so"
            yield DataWarning(code="after_outcome", column=column.name, text=text)
        yield from _outcome_told(column.name, encoded, rows)
        if len(rows.here) > 1:
            yield from _site_told(column.name, encoded, rows)
        yield from _constant(column.name, encoded, rows)
        yield from _off_codebook(column.name, encoded, rows)


def _outcome_told(name: str, encoded: Encoded, rows: Checked) -> Iterator[DataWarning]:
    flag = rows.outcome.flag > 0
    tells = _Levels.of(encoded.level).tell(flag, few=FEW_EVENTS)
    if rows.outcome.time is not None:
        tells = max(tells, _rank_correlation(encoded.level, rows.outcome.time))
    absence = _Levels.of(encoded.missing.astype(np.float64)).tell(flag, few=FEW_EVENTS)
    if max(tells, absence) >= NEARLY_OUTCOME:
        what = name if tells >= NEARLY_OUTCOME else f"whether {name} is missing"
        text = f"{what} nearly determines the outcome; it may be recorded because of it"
        yield DataWarning(code="predicts_outcome", column=name, text=text)


def _rank_correlation(level: NDArray[np.float64], time: NDArray[np.float64]) -> float:
    known = ~np.isnan(level)
    if known.sum() < FEW_PATIENTS:
        return 0.0
    ranks = [np.unique(values[known], return_inverse=True)[1] for values in (level, time)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return abs(float(np.corrcoef(ranks[0], ranks[1])[0, 1]))


def _site_told(name: str, encoded: Encoded, rows: Checked) -> Iterator[DataWarning]:
    levels = _Levels.of(encoded.level)
    missing = _Levels.of(encoded.missing.astype(np.float64))
    for site, here in rows.here.items():
        tells = levels.tell(here, few=FEW_PATIENTS)
        if max(tells, missing.tell(here, few=FEW_PATIENTS)) >= NEARLY_SITE:
            what = name if tells >= NEARLY_SITE else f"whether {name} is missing"
            text = f"{what} nearly tells rows of {site} from others; a model may learn the hospital"
            yield DataWarning(code="predicts_site", column=name, site=site, text=text)


def _is_constant(level: NDArray[np.float64]) -> bool:
    known = level[~np.isnan(level)]
    return known.size == 0 or bool(known.min() == known.max())


def _constant(name: str, encoded: Encoded, rows: Checked) -> Iterator[DataWarning]:
    if _is_constant(encoded.level):
        text = f"{name} has one value, or none, in every row: it can teach nothing"
        yield DataWarning(code="constant_column", column=name, text=text)
        return
    for site, here in rows.here.items():
        level = encoded.level[here]
        if len(level) > 1 and _is_constant(level):
            text = f"{name} has one value, or none, in every row of {site}"
            yield DataWarning(code="constant_column", column=name, site=site, text=text)


def _off_codebook(name: str, encoded: Encoded, rows: Checked) -> Iterator[DataWarning]:
    for site, here in rows.here.items():
        if encoded.unknown[here].any():
            text = (
                f"{name} holds values at {site} that the codebook does not know; check their coding"
            )
            yield DataWarning(code="unknown_values", column=name, site=site, text=text)
        if encoded.outside[here].any():
            text = (
                f"{name} holds numbers at {site} outside the range, clipped to it; check the unit"
            )
            yield DataWarning(code="out_of_range", column=name, site=site, text=text)


def find_thin_sites(rows: Checked, *, survival: bool) -> Iterator[DataWarning]:
    """Yield hospitals too small, or with too few events, to learn or to judge from."""
    for site, here in rows.here.items():
        flag = rows.outcome.flag[here] > 0
        if len(np.unique(rows.patient[here])) < FEW_PATIENTS:
            text = f"{site} has fewer than {FEW_PATIENTS} patients; its own figures say little"
            yield DataWarning(code="few_patients", site=site, text=text)
        classes = [flag] if survival else [flag, ~flag]
        sizes = [len(np.unique(rows.patient[here][rows_of])) for rows_of in classes]
        if min(sizes) == 0:
            text = f"{site} has no event" if survival else f"{site} has one class of outcome only"
            yield DataWarning(
                code="one_class_site", site=site, text=f"{text}: it cannot be judged alone"
            )
        elif min(sizes) < FEW_EVENTS:
            what = "events" if survival else "patients of one class"
            text = f"{site} has fewer than {FEW_EVENTS} {what}; its own figures say little"
            yield DataWarning(code="few_events", site=site, text=text)
