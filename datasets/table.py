"""From a table to validated cohorts: the one path that every extract takes.

The order is: name the columns' parts, refuse what cannot be right, read the outcome and drop
rows without one, encode by public constants, warn about what a person should see, cut into
one cohort a hospital. The catalogue's tables go the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..privacy.errors import DataError
from ..study.cohort import Cohort, Schema
from .codebook import Codebook, encode_columns, read_codebook
from .columns import canonical
from .extract import ONE_ROW_EACH, DataWarning, Extract, LoadOptions, Source
from .groups import find_groups
from .inference import infer_codebook
from .leakage import Checked, find_leaks, find_thin_sites
from .outcomes import Outcome, read_outcome
from .patients import keyed_ids
from .readers import read_table
from .roles import Roles, find_roles
from .schemas import make_schema, require_horizon

__all__ = ["build_extract", "load_table"]


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
    frame, notes = read_table(path)
    codebook = read_codebook(options.codebook) if options.codebook is not None else None
    return build_extract(
        frame, options, codebook, name=path.stem, source=Source(title=path.name), notes=notes
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """The rows that have an outcome, ready to be cut by hospital."""

    frame: pd.DataFrame
    site: NDArray[np.object_]
    patient: NDArray[np.uint64]
    outcome: Outcome


def build_extract(
    frame: pd.DataFrame,
    options: LoadOptions,
    codebook: Codebook | None,
    *,
    name: str,
    source: Source,
    notes: Iterable[DataWarning] = (),
    outcome_columns: Iterable[str] = (),
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
    """
    roles, warnings = find_roles(frame, options, codebook, outcome_columns=outcome_columns)
    found = [*notes, *warnings, *_codebook_notes(codebook, roles)]
    rows = _read_rows(frame, roles, options, found)
    external = _test_sites(rows.site, options.test_sites)
    _check_classes(rows, external, roles)
    used = codebook if codebook is not None else infer_codebook(rows.frame, roles.columns)
    schema = _schema(rows, roles, options, used, name=name, public=codebook is not None)
    checked = _checked(rows, roles, used)
    found += find_thin_sites(checked, survival=roles.task == "survival")
    found += find_leaks(checked)
    cohorts = _cohorts(rows, schema, checked, find_groups(rows.frame, codebook))
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


def _checked(rows: _Rows, roles: Roles, codebook: Codebook) -> Checked:
    return Checked(
        here={site: rows.site == site for site in sorted(set(rows.site))},
        patient=rows.patient,
        outcome=rows.outcome,
        columns=[codebook.by_name[column] for column in roles.columns],
        encoded=encode_columns(rows.frame, codebook, roles.columns),
    )


def _read_rows(
    frame: pd.DataFrame, roles: Roles, options: LoadOptions, found: list[DataWarning]
) -> _Rows:
    """Return the rows that have an outcome; add what was noticed to `found`."""
    if frame[roles.site].isna().any():
        raise DataError(
            "missing_site",
            f"some rows have no hospital in {roles.site}",
            hint="Fill it in or drop those rows.",
        )
    outcome = read_outcome(frame, roles, options)
    site = _site_names(frame[roles.site])
    stated = options.patient == ONE_ROW_EACH
    patient = _patients(frame, roles, found, stated=stated)
    kept = ~outcome.missing
    for name in sorted(set(site[~kept])):
        text = f"rows of {name} without an outcome were dropped; check why it is missing"
        found.append(DataWarning(code="missing_outcome", site=name, text=text))
    if not kept.any():
        raise DataError(
            "empty_table",
            "no row has an outcome",
            hint="Check data.outcome, or data.time and event.",
        )
    rows = _Rows(
        frame=frame[kept].reset_index(drop=True),
        site=site[kept],
        patient=patient[kept],
        outcome=Outcome(
            flag=outcome.flag[kept], time=None if outcome.time is None else outcome.time[kept]
        ),
    )
    _check_patients(rows, roles, found)
    return rows


def _site_names(text: pd.Series[str]) -> NDArray[np.object_]:
    """Return each row's hospital: spaces tidied, and one spelling where only case differs."""
    tidy = {value: " ".join(value.split()) for value in text.unique()}
    first: dict[str, str] = {}
    for value in sorted(tidy.values()):
        first.setdefault(canonical(value), value)
    return np.array([first[canonical(tidy[value])] for value in text], dtype=np.object_)


def _patients(
    frame: pd.DataFrame, roles: Roles, found: list[DataWarning], *, stated: bool
) -> NDArray[np.uint64]:
    if roles.patient is None:
        if not stated:
            text = "no column names the patient: each row is taken as one; give data.patient=COLUMN"
            found.append(DataWarning(code="rows_as_patients", text=text))
        return keyed_ids(pd.Series([f"row {row}" for row in range(len(frame))], dtype="str"))
    if frame[roles.patient].isna().any():
        raise DataError(
            "missing_patient",
            f"some rows have no patient in {roles.patient}, so whom they tell of is unknown",
            hint="Fill it in or drop those rows.",
        )
    return keyed_ids(frame[roles.patient])


def _check_patients(rows: _Rows, roles: Roles, found: list[DataWarning]) -> None:
    pairs = pd.DataFrame({"patient": rows.patient, "site": rows.site})
    if roles.task == "survival" and pairs.duplicated().any():
        raise DataError(
            "several_rows_per_patient",
            f"{roles.patient} repeats: a survival table has one row a patient",
            hint="Keep each patient's first record, with the time counted from it.",
        )
    several = pairs.drop_duplicates()
    if several["patient"].duplicated().any():
        text = (
            "some patients are in several hospitals; they are kept on one side of every split, "
            "but each hospital spends its own privacy budget on them"
        )
        found.append(DataWarning(code="patient_in_several_sites", column=roles.patient, text=text))


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


def _check_classes(rows: _Rows, external: frozenset[str], roles: Roles) -> None:
    inside = ~np.isin(rows.site.astype(np.str_), sorted(external))
    flag = rows.outcome.flag[inside] > 0
    if not flag.any() or (roles.task == "risk" and flag.all()):
        what = "no event was seen" if roles.task == "survival" else "every row has the same outcome"
        raise DataError(
            "one_class",
            f"{what} ({roles.outcome or roles.event}): there is nothing to learn",
            hint="Check the extract's selection, data.test_sites, or name another outcome.",
        )


def _schema(
    rows: _Rows, roles: Roles, options: LoadOptions, codebook: Codebook, *, name: str, public: bool
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
    rows: _Rows,
    schema: Schema,
    checked: Checked,
    groups: dict[str, NDArray[np.str_]],
) -> list[Cohort]:
    features = np.column_stack([part.values for part in checked.encoded.values()]).astype(
        np.float32
    )
    cohorts = []
    for site, here in checked.here.items():
        time = rows.outcome.time
        flag = rows.outcome.flag[here]
        cohorts.append(
            Cohort(
                site=site,
                schema=schema,
                features=features[here],
                patient=rows.patient[here],
                label=flag if schema.task == "risk" else None,
                time=time[here] if time is not None else None,
                event=flag > 0 if schema.task == "survival" else None,
                groups={name: labels[here] for name, labels in groups.items()},
            )
        )
    return cohorts
