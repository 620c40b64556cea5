"""From a table to cohorts: for people, who are told what is wrong; for a node, which says nothing.

The order is: name the columns' parts, keep the rows that are usable, encode by public constants,
cut into one cohort a hospital. `build_extract` refuses what cannot be right before it, and warns
about what a person should see; the catalogue's tables go this way. `build_cohort` is what a node
makes of its hospital's table: the same cohort from the same rows, without a word about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..privacy.errors import DataError
from ..study.cohort import Cohort, Schema
from ..study.holdout import Holdout
from .checks import check_classes, faults_of
from .codebook import Codebook, encode_columns, read_codebook
from .columns import Encoded, canonical
from .extract import ONE_ROW_EACH, DataWarning, Extract, LoadOptions, Source
from .groups import find_groups
from .holdout import held_out
from .inference import infer_codebook
from .leakage import Checked, find_leaks, find_thin_sites
from .outcomes import outcome_of
from .readers import read_table
from .roles import Roles, find_roles
from .rows import Rows, site_names, usable_rows
from .schemas import make_schema, require_horizon

__all__ = ["SiteCohort", "build_cohort", "build_extract", "load_table", "table_faults"]


def load_table(path: Path, options: LoadOptions) -> Extract:
    """Read a table of one's own into validated cohorts.

    Args:
        path: A CSV or Parquet file, one row a record.
        options: What the person said about it.

    Returns:
        One cohort a hospital, with what was noticed on the way.

    Raises:
        DataError: The table breaks a rule; the text names the rule and the column, the hint
            the remedy, and neither a patient's value.
    """
    if options.feature_set is not None:
        raise DataError(
            "unknown_feature_set",
            "data.feature_set is for the catalogue's tables",
            hint="Name the columns in data.features=[...].",
        )
    frame, notes = read_table(path, options.encoding)
    codebook = read_codebook(options.codebook) if options.codebook is not None else None
    return build_extract(
        frame, options, codebook, name=path.stem, source=Source(title=path.name), notes=notes
    )


def table_faults(
    frame: pd.DataFrame, options: LoadOptions, codebook: Codebook | None
) -> list[DataError]:
    """Return every rule that a table's records break, the first to be mended first.

    Raises:
        DataError: As `find_roles`: the columns' names do not fit.
    """
    roles, _ = find_roles(frame, options, codebook)
    found = list(faults_of(frame, roles, options, codebook))
    if not found:
        try:
            check_classes(usable_rows(frame, roles, options), (), roles)
        except DataError as error:
            found.append(error)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteCohort:
    """One hospital's cohort, and the rows of its table that it is made of, in the same order."""

    cohort: Cohort
    rows: Rows


def build_extract(
    frame: pd.DataFrame,
    options: LoadOptions,
    codebook: Codebook | None,
    *,
    name: str,
    source: Source,
    notes: Iterable[DataWarning] = (),
    outcome_columns: Iterable[str] = (),
    holdout: Holdout | None = None,
) -> Extract:
    """Turn a table of text into validated cohorts; see `load_table`.

    Args:
        frame: As `read_table` makes it.
        options: What the person said, the catalogue's choices filled in.
        codebook: The public constants, or None to take constants from the table.
        name: Name of the data set, unless the codebook has one.
        source: Where the table comes from.
        notes: Warnings of the reader, kept.
        outcome_columns: Further columns that tell the outcome.
        holdout: How a plan splits patients, where it does.
    """
    roles, warnings = find_roles(frame, options, codebook, outcome_columns=outcome_columns)
    found = [*notes, *warnings, *_codebook_notes(codebook, roles)]
    for fault in faults_of(frame, roles, options, codebook):
        raise fault
    rows = usable_rows(frame, roles, options)
    found += _row_notes(frame, rows, roles, options)
    external = _test_sites(rows.site, options.test_sites)
    check_classes(rows, external, roles)
    used = codebook if codebook is not None else infer_codebook(rows.frame, roles.columns)
    schema = _schema(rows, roles, options, used, name=name, public=codebook is not None)
    checked = _checked(rows, roles, used)
    found += find_thin_sites(checked, survival=roles.task == "survival")
    found += find_leaks(checked)
    cohorts = _cohorts(rows, schema, checked, find_groups(rows.frame, codebook), holdout)
    return Extract(
        cohorts=tuple(cohort for cohort in cohorts if cohort.site not in external),
        external=tuple(cohort for cohort in cohorts if cohort.site in external),
        schema=schema,
        columns=roles.columns,
        warnings=tuple(found),
        codebook=used,
        source=source,
        missing={
            site: {name: int(part.missing[here].sum()) for name, part in checked.encoded.items()}
            for site, here in checked.here.items()
        },
    )


def build_cohort(
    frame: pd.DataFrame,
    options: LoadOptions,
    codebook: Codebook,
    *,
    name: str,
    site: str,
    holdout: Holdout | None = None,
) -> SiteCohort:
    """Turn one hospital's table of text into its cohort, whatever stands in the rows.

    Args:
        frame: As `read_rows` makes it, with the hospital's column.
        options: What the hospital's mapping says of the columns.
        codebook: The study's public constants.
        name: Name of the data set, unless the codebook has one.
        site: The hospital's name in plans.
        holdout: How a plan splits patients, where it does.

    Guarantee: one patient's rows of the table, removed, added or changed, change that patient's
    rows of the cohort and no other's; and whether anything is raised depends on the columns'
    names alone.

    Raises:
        DataError: As `find_roles`; `codebook_incomplete`.
    """
    roles, _ = find_roles(frame, options, codebook)
    _codebook_notes(codebook, roles)
    rows = usable_rows(frame, roles, options)
    schema = _schema(rows, roles, options, codebook, name=name, public=True)
    features = _matrix(encode_columns(rows.frame, codebook, roles.columns))
    everybody = np.ones(len(rows.frame), dtype=np.bool_)
    groups = find_groups(rows.frame, codebook)
    cohort = _cohort(site, everybody, rows, schema, features, groups, holdout)
    return SiteCohort(cohort=cohort, rows=rows)


def _codebook_notes(codebook: Codebook | None, roles: Roles) -> list[DataWarning]:
    if codebook is None:
        text = (
            "no codebook: ranges were taken from the records, so arms with differential "
            "privacy are refused; give data.codebook=FILE (see `fedcohort data codebook`)"
        )
        return [DataWarning(code="no_codebook", text=text)]
    if roles.task == "survival":
        require_horizon(codebook)
    return []


def _checked(rows: Rows, roles: Roles, codebook: Codebook) -> Checked:
    return Checked(
        here={site: rows.site == site for site in sorted(set(rows.site))},
        patient=rows.patient,
        outcome=rows.outcome,
        columns=[codebook.by_name[column] for column in roles.columns],
        encoded=encode_columns(rows.frame, codebook, roles.columns),
    )


def _row_notes(
    frame: pd.DataFrame, rows: Rows, roles: Roles, options: LoadOptions
) -> list[DataWarning]:
    """Return what somebody should know of the rows that are used, and of those that are not."""
    found: list[DataWarning] = []
    if roles.patient is None and options.patient != ONE_ROW_EACH:
        text = "no column names the patient: each row is taken as one; give data.patient=COLUMN"
        found.append(DataWarning(code="rows_as_patients", text=text))
    without = outcome_of(frame, roles, options).missing
    for name in sorted(set(site_names(frame[roles.site])[without])):
        text = f"rows of {name} without an outcome were dropped; check why it is missing"
        found.append(DataWarning(code="missing_outcome", site=name, text=text))
    pairs = pd.DataFrame({"patient": rows.patient, "site": rows.site}).drop_duplicates()
    if pairs["patient"].duplicated().any():
        text = (
            "some patients are in several hospitals; they are kept on one side of every split, "
            "but each hospital spends its own privacy budget on them"
        )
        found.append(DataWarning(code="patient_in_several_sites", column=roles.patient, text=text))
    return found


def _test_sites(site: NDArray[np.object_], wanted: Iterable[str]) -> frozenset[str]:
    """Return the hospitals set aside, matched without case."""
    by_name = {canonical(name): name for name in sorted(set(site))}
    unknown = [name for name in wanted if canonical(name) not in by_name]
    if unknown:
        raise DataError(
            "unknown_site",
            f"data.test_sites: there is no hospital {', '.join(unknown)}; "
            f"there are {', '.join(by_name.values())}",
            hint="Name hospitals of the table.",
        )
    chosen = frozenset(by_name[canonical(name)] for name in wanted)
    if len(chosen) == len(by_name):
        raise DataError(
            "no_sites", "every hospital is a test site", hint="Leave one out of data.test_sites."
        )
    return chosen


def _schema(
    rows: Rows, roles: Roles, options: LoadOptions, codebook: Codebook, *, name: str, public: bool
) -> Schema:
    time = rows.outcome.time
    return make_schema(
        codebook,
        roles.columns,
        options,
        task=roles.task,
        name=name,
        public=public,
        horizon_days=None if public or time is None else float(max(time.max(), 1.0)),
    )


def _cohorts(
    rows: Rows,
    schema: Schema,
    checked: Checked,
    groups: dict[str, NDArray[np.str_]],
    holdout: Holdout | None,
) -> list[Cohort]:
    features = _matrix(checked.encoded)
    return [
        _cohort(site, here, rows, schema, features, groups, holdout)
        for site, here in checked.here.items()
    ]


def _matrix(encoded: Mapping[str, Encoded]) -> NDArray[np.float32]:
    return np.column_stack([part.values for part in encoded.values()]).astype(np.float32)


def _cohort(
    site: str,
    here: NDArray[np.bool_],
    rows: Rows,
    schema: Schema,
    features: NDArray[np.float32],
    groups: Mapping[str, NDArray[np.str_]],
    holdout: Holdout | None,
) -> Cohort:
    time, flag = rows.outcome.time, rows.outcome.flag[here]
    out = None
    if holdout is not None:
        sides = rows.persons.side[here]
        out = held_out(sides, key=holdout.key, test_fraction=holdout.test_fraction)
    return Cohort(
        site=site,
        schema=schema,
        features=features[here],
        patient=rows.patient[here],
        draw=rows.draw[here],
        label=flag if schema.task == "risk" else None,
        time=time[here] if time is not None else None,
        event=flag > 0 if schema.task == "survival" else None,
        groups={name: labels[here] for name, labels in groups.items()},
        held_out=out,
    )
