"""Stand-ins for a codebook: constants taken from the table, and a draft for a person.

`infer_codebook` looks at the records, so what it makes is private and its schema says
`public=False`: analyses with differential privacy refuse it. `draft_codebook` writes a form
to fill in: it proposes types and lists common values, but leaves every range open, because a
range copied from the records would carry two patients' values into a public file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..privacy.errors import DataError
from ._codebook_parts import PLACEHOLDER
from .codebook import Codebook
from .columns import (
    BooleanColumn,
    CategoryColumn,
    Column,
    NumberColumn,
    canonical_series,
    to_numbers,
)
from .identifiers import looks_like_identifier
from .leakage import known_after_outcome
from .outcomes import FALSE_TEXTS, TRUE_TEXTS
from .readers import read_table

__all__ = ["draft_codebook", "infer_codebook"]

_MAX_VALUES = 50  # beyond this a column of text is no category
_MAX_DRAFTED = 20  # values a draft lists
_COMMON_ROWS = 5  # a value of fewer rows is not written into a draft


def infer_codebook(frame: pd.DataFrame, columns: Iterable[str]) -> Codebook:
    """Take each column's constants from the table itself: not public, see the module.

    Raises:
        DataError: `too_many_values`: a text column is no category.
    """
    return Codebook(columns=tuple(_infer(name, frame[name]) for name in columns))


def _is_boolean(seen: pd.Series[str]) -> bool:
    values = set(seen.unique())
    return 0 < len(values) <= 2 and values <= {*TRUE_TEXTS, *FALSE_TEXTS}


def _is_number(known: pd.Series[str]) -> bool:
    return len(known) == 0 or bool(np.isnan(to_numbers(known)).mean() < 0.1)


def _infer(name: str, text: pd.Series[str]) -> Column:
    seen = canonical_series(text).dropna()
    if _is_boolean(seen):
        return BooleanColumn(name=name, true=TRUE_TEXTS, false=FALSE_TEXTS)
    if _is_number(seen):
        numbers = to_numbers(seen)
        numbers = numbers[np.isfinite(numbers)]
        low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
        # A constant column gets a width, so that it encodes to 0 and not to 0 / 0.
        return NumberColumn(
            name=name,
            low=low,
            high=high if high > low else low + 1.0,
            centre=low if high == low else None,
        )
    values = tuple(sorted(seen.unique()))
    if len(values) > _MAX_VALUES:
        raise DataError(
            "too_many_values",
            f"{name} holds text with more than {_MAX_VALUES} different values",
            hint=f"Leave it out: data.exclude=[{name}]; or describe it in a codebook.",
        )
    return CategoryColumn(name=name, values=values)


_HEAD = f"""\
# A draft: a person who knows the field has to complete it before it can be used.
#
# * Ranges are PLACEHOLDERS ("{PLACEHOLDER}"). Put PUBLIC knowledge there (a textbook, a
#   device's manual), not the smallest and largest figure of this table: those are two
#   patients' values.
# * Values of categories were read off the table. CHECK that each is public and complete; rare
#   values were left out. The first is the reference.
# * Remove the columns that name the hospital, the patient or the outcome, and those not wanted.
# * Optional for numbers: centre and scale (public), transform: log1p, missing: [-9].
# * All hospitals of a study must use the same file.
source: "{PLACEHOLDER}"  # where the ranges come from
# horizon_days: 1825  # survival only: the public end of the time axis
columns:
"""


def draft_codebook(path: Path) -> str:
    """Return a codebook for a table, as YAML for a person to complete.

    Args:
        path: The table.

    Returns:
        YAML text that `parse_codebook` refuses as `codebook_incomplete` until it is completed.

    Guarantee: no number of the table is in it, no value of an identifier-like column, and no
    text that fewer than five rows share. It is not differentially private.

    Raises:
        DataError: As `read_table`.
    """
    frame, _ = read_table(path)
    return _HEAD + "\n".join(_draft_line(name, frame[name]) for name in frame.columns) + "\n"


def _draft_line(name: str, text: pd.Series[str]) -> str:
    key = json.dumps(name, ensure_ascii=False)
    if looks_like_identifier(name, text, described=False):
        return f"  # {key}: names a person, it seems: not drafted"
    seen = canonical_series(text).dropna()
    if _is_boolean(seen):
        pairs = zip(TRUE_TEXTS, FALSE_TEXTS, strict=True)
        true, false = zip(*(pair for pair in pairs if set(pair) & set(seen)), strict=True)
        part = f"{{type: boolean, true: {_listed(true)}, false: {_listed(false)}}}"
    elif _is_number(seen):
        ends = _listed([PLACEHOLDER, PLACEHOLDER])
        part = f'{{type: number, range: {ends}, unit: "{PLACEHOLDER}"}}  # PLACEHOLDER'
    else:
        counts = seen.value_counts()
        common = sorted(str(value) for value, rows in counts.items() if rows >= _COMMON_ROWS)
        if not 1 <= len(common) <= _MAX_DRAFTED:
            return f"  # {key}: text without a short list of common values: not drafted"
        part = f"{{type: category, values: {_listed(common)}}}  # CHECK the values"
    late = "  # known only after the outcome?" if known_after_outcome(name) else ""
    return f"  {key}: {part}{late}"


def _listed(values: Iterable[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)
