"""One column of a codebook: how its text becomes bounded numbers, by public constants only.

Nothing here looks at other rows: a value's encoding depends on that value and the codebook,
so scaling, imputing and encoding cost no privacy and every hospital computes the same thing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = [
    "BooleanColumn",
    "CategoryColumn",
    "Column",
    "Encoded",
    "NumberColumn",
    "canonical",
    "canonical_series",
    "coded",
    "to_numbers",
]

Mask: TypeAlias = NDArray[np.bool_]

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def canonical(text: str) -> str:
    """Return the form in which texts are compared: '1.0' and '1', 'Yes ' and 'yes' agree.

    >>> canonical(" Male "), canonical("1.0"), canonical("007")
    ('male', '1', '007')
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).split()).casefold()
    whole = _WHOLE.fullmatch(folded)
    return whole.group(1) if whole else folded


def canonical_series(text: pd.Series[str]) -> pd.Series[str]:
    """Return `canonical` of each text; a missing one stays missing."""
    known = text.dropna().unique()
    return text.map({value: canonical(value) for value in known}).astype("str")


def coded(seen: pd.Series[str], codes: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the code of each text; NaN for one that has none."""
    codes_of = seen.map(dict(codes))
    return np.asarray(codes_of.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)


def _number(text: str) -> float:
    plain = _NUMBER.fullmatch(text.strip())
    value = float(plain.group()) if plain else math.nan
    return value if math.isfinite(value) else math.nan


def to_numbers(text: pd.Series[str]) -> NDArray[np.float64]:
    """Return float64 [rows]; NaN where there is no finite plain decimal number."""
    return coded(text, {value: _number(value) for value in text.dropna().unique()})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """One column after encoding.

    Attributes:
        values: float64 [rows, k], finite, within the column's bound.
        level: float64 [rows], the value as one number (categories: their position), NaN if
            missing; for checks at the site, never for a model.
        unknown: bool [rows], True where a value was there that the codebook does not know.
        outside: bool [rows], True where a number lay outside the range and was clipped.
    """

    values: NDArray[np.float64]
    level: NDArray[np.float64]
    unknown: Mask
    outside: Mask

    @property
    def missing(self) -> Mask:
        """True [rows] where nothing usable was there, so the public stand-in was used."""
        return np.isnan(self.level)


def _is_one_of(seen: pd.Series[str], codes: tuple[str, ...]) -> pd.Series[bool]:
    return seen.isin([canonical(code) for code in codes])


def _with_indicator(
    values: NDArray[np.float64], missing: Mask, wanted: bool
) -> NDArray[np.float64]:
    return np.column_stack([values, missing.astype(np.float64)]) if wanted else values


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumn:
    """A number with a public range; encoded as (transform(clip(x)) - centre) / scale.

    Attributes:
        name: The column.
        low: Lower end of the public range, in the column's own unit.
        high: Upper end of the public range.
        transform: `log1p`, or None for the number as it is.
        centre: Stand-in for a missing value and zero of the encoding, in the column's own
            unit; None: the middle of the transformed range.
        scale: Width of one encoded unit, measured after `transform`; None: a quarter of the
            transformed range.
        unit: For people.
        missing: Numbers or texts that mean "not known".
        indicator: Also make a column `<name>_missing`.
        after_outcome: The value is known only after the outcome.
    """

    name: str
    low: float
    high: float
    transform: Literal["log1p"] | None = None
    centre: float | None = None
    scale: float | None = None
    unit: str = ""
    missing: tuple[str, ...] = ()
    indicator: bool = False
    after_outcome: bool = False

    def _transformed(self, value: float) -> float:
        return float(np.log1p(value)) if self.transform == "log1p" else value

    @property
    def zero(self) -> float:
        """What encodes to 0, after `transform`."""
        if self.centre is not None:
            return self._transformed(self.centre)
        return (self._transformed(self.low) + self._transformed(self.high)) / 2

    @property
    def step(self) -> float:
        """What encodes to a difference of 1, after `transform`."""
        if self.scale is not None:
            return self.scale
        return (self._transformed(self.high) - self._transformed(self.low)) / 4

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return (self.name, f"{self.name}_missing") if self.indicator else (self.name,)

    @property
    def bound(self) -> float:
        """Largest absolute encoded value, by the range alone."""
        edges = [self._transformed(self.low), self._transformed(self.high)]
        largest = max(abs(edge - self.zero) / self.step for edge in edges)
        return max(largest, 1.0) if self.indicator else largest

    def encode(self, text: pd.Series[str]) -> Encoded:
        """Encode a column of text; what is not a number is missing."""
        seen = text.mask(_is_one_of(canonical_series(text), self.missing))
        numbers = to_numbers(seen)
        unknown = seen.notna().to_numpy(dtype=np.bool_) & np.isnan(numbers)
        codes = to_numbers(pd.Series(self.missing, dtype="str"))
        level = np.where(np.isin(numbers, codes), np.nan, numbers)
        outside = (level < self.low) | (level > self.high)
        clipped = np.clip(level, self.low, self.high)
        moved = np.log1p(clipped) if self.transform == "log1p" else clipped
        scaled = np.clip((moved - self.zero) / self.step, -self.bound, self.bound)  # rounding
        values = np.where(np.isnan(level), 0.0, scaled)
        return Encoded(
            values=_with_indicator(values[:, None], np.isnan(level), self.indicator),
            level=level,
            unknown=unknown,
            outside=outside,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryColumn:
    """One of a public list of values; one 0/1 column for each but the first, the reference.

    Attributes:
        name: The column.
        values: The public list; texts are compared in `canonical` form.
        centre: The value that stands in for a missing one; None: the reference.
        other: Values outside the list get a column `<name>=other`; False says the list is
            exhaustive, and what is outside it is missing.
        missing: Texts that mean "not known".
        indicator: Also make a column `<name>_missing`.
        after_outcome: The value is known only after the outcome.
    """

    name: str
    values: tuple[str, ...]
    centre: str | None = None
    other: bool = True
    missing: tuple[str, ...] = ()
    indicator: bool = False
    after_outcome: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        names = [f"{self.name}={value}" for value in self.values[1:]]
        names += [f"{self.name}=other"] if self.other else []
        names += [f"{self.name}_missing"] if self.indicator else []
        return tuple(names)

    @property
    def bound(self) -> float:
        """Largest absolute encoded value."""
        return 1.0

    def encode(self, text: pd.Series[str]) -> Encoded:
        """Encode a column of text."""
        seen = canonical_series(text)
        seen = seen.mask(_is_one_of(seen, self.missing))
        codes = {canonical(value): float(code) for code, value in enumerate(self.values)}
        level = coded(seen, codes)
        unknown = seen.notna().to_numpy(dtype=np.bool_) & np.isnan(level)
        if self.other:
            level = np.where(unknown, float(len(self.values)), level)
        stand_in = 0.0 if self.centre is None else codes[canonical(self.centre)]
        filled = np.where(np.isnan(level), stand_in, level)
        width = len(self.values) + (1 if self.other else 0)
        values = (filled[:, None] == np.arange(1, width)).astype(np.float64)
        return Encoded(
            values=_with_indicator(values, np.isnan(level), self.indicator),
            level=level,
            unknown=unknown,
            outside=np.zeros(len(level), dtype=np.bool_),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BooleanColumn:
    """Yes or no, by two public lists of texts; encoded as one 0/1 column.

    Attributes:
        name: The column.
        true: Texts that mean yes.
        false: Texts that mean no.
        centre: What stands in for a missing value.
        missing: Texts that mean "not known".
        indicator: Also make a column `<name>_missing`.
        after_outcome: The value is known only after the outcome.
    """

    name: str
    true: tuple[str, ...]
    false: tuple[str, ...]
    centre: bool = False
    missing: tuple[str, ...] = ()
    indicator: bool = False
    after_outcome: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return (self.name, f"{self.name}_missing") if self.indicator else (self.name,)

    @property
    def bound(self) -> float:
        """Largest absolute encoded value."""
        return 1.0

    def encode(self, text: pd.Series[str]) -> Encoded:
        """Encode a column of text; a text in neither list is missing."""
        seen = canonical_series(text)
        seen = seen.mask(_is_one_of(seen, self.missing))
        codes = {canonical(value): 1.0 for value in self.true}
        codes |= {canonical(value): 0.0 for value in self.false}
        level = coded(seen, codes)
        values = np.where(np.isnan(level), float(self.centre), level)
        return Encoded(
            values=_with_indicator(values[:, None], np.isnan(level), self.indicator),
            level=level,
            unknown=seen.notna().to_numpy(dtype=np.bool_) & np.isnan(level),
            outside=np.zeros(len(level), dtype=np.bool_),
        )


Column: TypeAlias = NumberColumn | CategoryColumn | BooleanColumn
