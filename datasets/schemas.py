"""What encoded columns mean, said without a table: a codebook and the columns' parts say it all.

A study on deployed hospitals is planned by somebody who sees no record. The schema made here is
the one that every hospital's own table gives with the same codebook and the same parts, to the
last bit of its hash; otherwise each hospital would refuse the plan.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..privacy.errors import DataError
from ..study.cohort import Schema, Task
from .codebook import Codebook
from .columns import canonical
from .extract import LoadOptions
from .identifiers import named_like_identifier
from .roles import check_outcome_keys, check_told, no_features

__all__ = ["make_schema", "require_horizon", "schema_of"]


def make_schema(
    codebook: Codebook,
    columns: Iterable[str],
    options: LoadOptions,
    *,
    task: Task,
    name: str,
    public: bool = True,
    horizon_days: float | None = None,
) -> Schema:
    """Return the schema of columns that a codebook encodes.

    Args:
        codebook: The constants.
        columns: Columns of the table, in order.
        options: Which columns tell the outcome, and which value is the event.
        task: `risk` or `survival`.
        name: Name of the data set, unless the codebook has one.
        public: Whether the constants were agreed before any record was read.
        horizon_days: End of the time axis, where it is not the codebook's; survival only.
    """
    columns = tuple(columns)
    outcome = codebook.outcome or str(options.outcome or options.event)
    if options.positive is not None:
        outcome = f"{outcome} = {canonical(str(options.positive))}"
    end = codebook.horizon_days if horizon_days is None else horizon_days
    return Schema(
        name=codebook.name or name,
        task=task,
        features=codebook.feature_names(columns),
        bound=codebook.bound(columns),
        outcome=outcome,
        codebook_sha256=codebook.sha256,
        public=public,
        horizon_days=end if task == "survival" else None,
    )


def schema_of(
    codebook: Codebook, options: LoadOptions, *, outcome_columns: Iterable[str] = ()
) -> Schema:
    """Return the schema that a hospital's own table will have; no record is read for it.

    Args:
        codebook: The study's, the same in every hospital.
        options: The parts of the columns, as each hospital's mapping says them.
        outcome_columns: Further columns that tell the outcome (catalogue).

    Returns:
        The schema of `build_extract` on any table that has these columns.

    Raises:
        DataError: `codebook_unnamed`; or as `find_roles`, as far as it needs no table.
    """
    if not codebook.name:
        raise DataError(
            "codebook_unnamed",
            "the codebook states no name, so each hospital would name the data by its own file",
            hint="Add a line such as name: stroke-risk to the codebook, in every hospital.",
        )
    check_outcome_keys(options)
    task: Task = "risk" if options.outcome is not None else "survival"
    if task == "survival":
        require_horizon(codebook)
    told = {options.outcome, options.time, options.event}
    if options.features is None:
        late = {column.name for column in codebook.columns if column.after_outcome}
        left = {*told, options.patient, *options.exclude, *late}
        columns = [name for name in codebook.by_name if name not in left]
    else:
        columns = [name for name in dict.fromkeys(options.features) if name not in options.exclude]
    check_told(columns, {*told, *outcome_columns})
    if not columns:
        raise no_features()
    _check_columns(codebook, columns)
    return make_schema(codebook, columns, options, task=task, name=codebook.name)


def require_horizon(codebook: Codebook) -> None:
    """Refuse a survival outcome without a public end of the time axis.

    Raises:
        DataError: `codebook_incomplete`.
    """
    if codebook.horizon_days is None:
        raise DataError(
            "codebook_incomplete",
            "the codebook states no horizon_days, which a survival outcome needs",
            hint="Add the public end of the time axis, such as horizon_days: 1825.",
        )


def _check_columns(codebook: Codebook, columns: Iterable[str]) -> None:
    """Refuse what a hospital would refuse by a column's name alone."""
    unknown = sorted(name for name in columns if name not in codebook.by_name)
    if unknown:
        raise DataError(
            "codebook_missing_column",
            f"the codebook does not describe: {', '.join(unknown)}",
            hint="Describe them in the codebook, or leave them out of data.features.",
        )
    for name in columns:
        if named_like_identifier(name):
            raise DataError(
                "identifier_feature",
                f"{name} cannot be a feature: its name says that it identifies a person",
                hint=f"Leave it out: data.exclude=[{name}].",
            )
