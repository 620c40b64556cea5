"""Public subgroups for tables of results: sex and age band, where the table has them.

The labels come from short public lists, so that a subgroup's name never tells anything.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .codebook import Codebook
from .columns import CategoryColumn, Column, canonical_series, to_numbers

__all__ = ["AGE_BANDS", "GROUP_DOMAINS", "find_groups"]

AGE_BANDS = ("<50", "50-59", "60-69", "70+")  # years
# Public values of each group, for tables: what is not listed counts as `other`.
GROUP_DOMAINS = {"sex": ("female", "male"), "age_band": AGE_BANDS}
UNKNOWN = "unknown"

_AGE_NAMES = ("age", "年龄")
_SEX_NAMES = ("sex", "gender", "性别")
_SEXES = {
    "female": "female",
    "f": "female",
    "女": "female",
    "male": "male",
    "m": "male",
    "男": "male",
}


def find_groups(frame: pd.DataFrame, codebook: Codebook | None) -> dict[str, NDArray[np.str_]]:
    """Return the subgroup label of each row: `sex` and `age_band`, if the table tells them.

    Args:
        frame: The table of text.
        codebook: The public codebook, whose words for sex are used; None: common words only.
    """
    by_name = {str(name).strip().lower(): str(name) for name in frame.columns}
    groups: dict[str, NDArray[np.str_]] = {}
    sex = next((by_name[name] for name in _SEX_NAMES if name in by_name), None)
    if sex is not None:
        column = codebook.by_name.get(sex) if codebook is not None else None
        groups["sex"] = _sexes(frame[sex], column)
    age = next((by_name[name] for name in _AGE_NAMES if name in by_name), None)
    if age is not None:
        groups["age_band"] = _bands(to_numbers(frame[age]))
    return groups  # kept where nobody has a label: a missing group would tell that


def _sexes(text: pd.Series[str], column: Column | None) -> NDArray[np.str_]:
    known = dict(_SEXES)
    if isinstance(column, CategoryColumn):  # the codebook's own public words
        known |= {
            value.casefold(): value for value in column.values if value.casefold() not in known
        }
    return np.array(canonical_series(text).map(known).fillna(UNKNOWN).tolist(), dtype=np.str_)


def _bands(age: NDArray[np.float64]) -> NDArray[np.str_]:
    edges = np.array([50.0, 60.0, 70.0])
    bands = np.array(AGE_BANDS)[np.searchsorted(edges, np.nan_to_num(age), side="right")]
    return np.where(np.isnan(age) | (age < 0), UNKNOWN, bands).astype(np.str_)
