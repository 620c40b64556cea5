"""What is wrong with a table's records, for the person who can mend it.

A node never asks these: with noise, an answer that one patient's record decides would reveal it.
They run where people are: when a table is loaded here, and by `fedcohort site check` before a
plan is approved. What they let pass, `rows.py` reads without a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from ..privacy.errors import DataError
from .codebook import Codebook
from .columns import NumberColumn
from .extract import LoadOptions
from .identifiers import looks_like_identifier
from .outcomes import check_outcome, outcome_of
from .patients import keyed_ids
from .roles import Roles, identifier_feature
from .rows import Rows, persons_in, site_names

__all__ = ["check_classes", "faults_of"]


def faults_of(
    frame: pd.DataFrame, roles: Roles, options: LoadOptions, codebook: Codebook | None
) -> Iterator[DataError]:
    """Yield each rule that the records break, the first to be mended first.

    Args:
        frame: The table of text.
        roles: The part each column plays.
        options: What a person said about the table.
        codebook: The public constants, if there are any.
    """
    for name in roles.columns:
        described = codebook is not None and isinstance(codebook.by_name.get(name), NumberColumn)
        if looks_like_identifier(name, frame[name], described=described):
            yield identifier_feature(name)
    if frame[roles.site].isna().any():
        yield DataError(
            "missing_site",
            f"some rows have no hospital in {roles.site}",
            hint="Fill it in or drop those rows.",
        )
    try:
        check_outcome(frame, roles, options)
    except DataError as error:
        yield error
    yield from _of_patients(frame, roles, options)


def _of_patients(frame: pd.DataFrame, roles: Roles, options: LoadOptions) -> Iterator[DataError]:
    token = persons_in(frame, roles).token
    if token.isna().any():
        yield DataError(
            "missing_patient",
            f"some rows have no patient in {roles.patient}, so whom they tell of is unknown",
            hint="Fill it in or drop those rows.",
        )
    kept = ~outcome_of(frame, roles, options).missing
    if not kept.any():
        yield DataError(
            "empty_table",
            "no row has an outcome",
            hint="Check data.outcome, or data.time and event.",
        )
    if roles.task == "survival":
        known = np.flatnonzero(kept & token.notna().to_numpy())
        ids, sites = keyed_ids(token.iloc[known]), site_names(frame[roles.site].iloc[known])
        if pd.DataFrame({"patient": ids, "site": sites}).duplicated().any():
            yield DataError(
                "several_rows_per_patient",
                f"{roles.patient} repeats: a survival table has one row a patient",
                hint="Keep each patient's first record, with the time counted from it.",
            )


def check_classes(rows: Rows, external: Iterable[str], roles: Roles) -> None:
    """Refuse a table from whose hospitals nothing can be learnt.

    Args:
        rows: The usable rows.
        external: Hospitals that train nothing.
        roles: For the task and the columns' names.

    Raises:
        DataError: `one_class`.
    """
    inside = ~np.isin(rows.site.astype(np.str_), sorted(external))
    flag = rows.outcome.flag[inside] > 0
    if not flag.any() or (roles.task == "risk" and flag.all()):
        what = "no event was seen" if roles.task == "survival" else "every row has the same outcome"
        raise DataError(
            "one_class",
            f"{what} ({roles.outcome or roles.event}): there is nothing to learn",
            hint="Check the extract's selection, data.test_sites, or name another outcome.",
        )
