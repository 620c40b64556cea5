"""Which column plays which part: the hospital, the patient, the outcome, the features.

A column plays one part. What names the hospital or the patient is no feature, nor is the
outcome; the person is told which key to change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..privacy.errors import DataError
from ..study.cohort import Task
from .codebook import Codebook
from .extract import ONE_ROW_EACH, DataWarning, LoadOptions
from .identifiers import named_like_identifier

__all__ = [
    "Roles",
    "check_outcome_keys",
    "check_told",
    "find_roles",
    "identifier_feature",
    "no_features",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The part each column plays; `outcome` for risk, `time` and `event` for survival."""

    site: str
    patient: str | None
    outcome: str | None
    time: str | None
    event: str | None
    columns: tuple[str, ...]

    @property
    def task(self) -> Task:
        """`risk` or `survival`."""
        return "risk" if self.outcome is not None else "survival"


def _require(frame: pd.DataFrame, names: Iterable[str], key: str) -> None:
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise DataError(
            "missing_column",
            f"{key}: the table has no column {', '.join(absent)}; "
            f"it has {', '.join(map(str, frame.columns))}",
            hint=f"Name columns of the table in {key}; upper and lower case count.",
        )


def check_outcome_keys(options: LoadOptions) -> None:
    """Refuse options that name no outcome, or two.

    Raises:
        DataError: `two_outcomes` or `no_outcome`.
    """
    survival = options.time is not None or options.event is not None
    if options.outcome is not None and survival:
        raise DataError(
            "two_outcomes",
            "both data.outcome and data.time or data.event are given",
            hint="Give data.outcome for a risk, or data.time and data.event for survival.",
        )
    if options.outcome is None and not survival:
        raise DataError(
            "no_outcome",
            "no outcome is given",
            hint="Give data.outcome=COLUMN for a risk, or data.time=COLUMN data.event=COLUMN.",
        )
    for key, value in (("time", options.time), ("event", options.event)):
        if survival and value is None:
            raise DataError(
                "no_outcome",
                f"a survival outcome needs data.{key}",
                hint=f"Give data.{key}=COLUMN.",
            )


def _default_columns(
    frame: pd.DataFrame, options: LoadOptions, codebook: Codebook | None, taken: set[str]
) -> tuple[list[str], list[DataWarning]]:
    """Return the columns to use when none are named: the codebook's, else all."""
    left = set(taken) | set(options.exclude)
    if codebook is None:
        return [name for name in frame.columns if name not in left], []
    late = [column.name for column in codebook.columns if column.after_outcome]
    warnings = [
        DataWarning(
            code="after_outcome",
            column=name,
            text=f"{name} is left out: the codebook says it is known only after the outcome",
        )
        for name in late
        if name not in left and name in frame.columns
    ]
    warnings += [
        DataWarning(
            code="not_in_codebook",
            column=name,
            text=f"{name} is left out: the codebook does not describe it",
        )
        for name in frame.columns
        if name not in left and name not in codebook.by_name
    ]
    names = [name for name in codebook.by_name if name not in left and name not in late]
    return names, warnings


def _check_features(columns: list[str], roles: Roles) -> None:
    """Refuse features that identify by their name; `checks.py` looks at their content."""
    for name in columns:
        if name in (roles.site, roles.patient) or named_like_identifier(name):
            raise identifier_feature(name)


def identifier_feature(name: str) -> DataError:
    """Return the refusal of a column that names persons."""
    return DataError(
        "identifier_feature",
        f"{name} cannot be a feature: it identifies a person or a hospital, by its name or "
        "by a text of its own in almost every row (a number takes a decimal point)",
        hint=f"Leave it out: data.exclude=[{name}]; or is it data.patient or data.site?",
    )


def _given(frame: pd.DataFrame, options: LoadOptions) -> dict[str, Any]:
    """Return the columns named for a part, each in the table and named once."""
    parts = ("site", "patient", "outcome", "time", "event")
    given = {part: getattr(options, part) for part in parts}
    if given["patient"] == ONE_ROW_EACH and ONE_ROW_EACH not in frame.columns:
        given["patient"] = None  # said, not unknown: `table` warns only of what is unknown
    for part, name in given.items():
        _require(frame, [name] if name is not None else [], f"data.{part}")
    named = [name for name in given.values() if name is not None]
    repeated = sorted({name for name in named if named.count(name) > 1})
    if repeated:
        raise DataError(
            "one_column_two_parts",
            f"{repeated[0]} is named for two of {', '.join('data.' + part for part in parts)}",
            hint="Name a column of its own for each.",
        )
    return given


def check_told(columns: list[str], told: set[str | None]) -> None:
    """Refuse features that tell the outcome.

    Raises:
        DataError: `outcome_feature`.
    """
    if told & set(columns):
        name = sorted(told & set(columns), key=str)[0]
        raise DataError(
            "outcome_feature",
            f"{name} tells the outcome and cannot be a feature",
            hint=f"Leave it out: data.exclude=[{name}].",
        )


def no_features() -> DataError:
    """Return the refusal of a study without a feature."""
    return DataError(
        "no_features",
        "no column is left as a feature",
        hint="Name some in data.features=[...].",
    )


def find_roles(
    frame: pd.DataFrame,
    options: LoadOptions,
    codebook: Codebook | None,
    *,
    outcome_columns: Iterable[str] = (),
) -> tuple[Roles, tuple[DataWarning, ...]]:
    """Give each column its part, by its name alone.

    Args:
        frame: The table of text; no cell of it is looked at.
        options: What the person said.
        codebook: The public constants, if there are any.
        outcome_columns: Further columns that tell the outcome (catalogue).

    Raises:
        DataError: `no_site`, `no_outcome`, `two_outcomes`, `missing_column`,
            `outcome_feature`, `identifier_feature`, `codebook_missing_column`, `no_features`.
    """
    check_outcome_keys(options)
    if options.site is None:
        raise DataError(
            "no_site",
            "no column is named that tells the hospital",
            hint=f"Give data.site=COLUMN; the table has {', '.join(map(str, frame.columns))}.",
        )
    given = _given(frame, options)
    named = [name for name in given.values() if name is not None]
    _require(frame, options.exclude, "data.exclude")
    warnings: list[DataWarning] = []
    if options.features is None:
        columns, warnings = _default_columns(frame, options, codebook, set(named))
    else:
        columns = [name for name in dict.fromkeys(options.features) if name not in options.exclude]
    check_told(columns, {options.outcome, options.time, options.event, *outcome_columns})
    if not columns:
        raise no_features()
    _require(frame, columns, "data.features (or the codebook)")
    roles = Roles(**given, columns=tuple(columns))
    _check_features(columns, roles)
    if codebook is not None:
        codebook.columns_of(columns)
    return roles, tuple(warnings)
