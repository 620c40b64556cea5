"""What a study stands on: a table's cohorts, or, deployed, what is public of tables elsewhere."""

from __future__ import annotations

from ..datasets import (
    Codebook,
    Extract,
    catalogue_schema,
    load_catalogue,
    load_table,
    read_codebook,
    schema_of,
)
from ..privacy.errors import PolicyError
from ..study.cohort import Schema
from .settings import Settings

__all__ = ["check_epsilon", "load", "public_schema"]


def load(settings: Settings) -> Extract:
    """Read, check and encode the study's data.

    Raises:
        DataError: The table breaks a rule.
    """
    if settings.path is not None:
        return load_table(settings.path, settings.options)
    return load_catalogue(settings.data, settings.options)


def check_epsilon(extract: Extract) -> None:
    """Refuse an epsilon that would not be true of a table as it was read.

    Raises:
        PolicyError: `encoding_required` or `patient_required`.
    """
    noticed = {warning.code for warning in extract.warnings}
    if "encoding_guessed" in noticed:
        raise PolicyError(
            "encoding_required",
            "the table's encoding was guessed, so that one byte decides how all rows are read: no "
            "epsilon would be true",
            hint="State it: data.encoding=gb18030, or another; or save the table as UTF-8.",
        )
    if "rows_as_patients" in noticed:
        raise PolicyError(
            "patient_required",
            "no column names the patient, so no epsilon would be true for one with several rows",
            hint="Give data.patient=COLUMN; or data.patient=one_row_each, where every row is one "
            "person.",
        )


def public_schema(settings: Settings) -> tuple[Schema, Codebook]:
    """Return what hospitals' tables will be encoded as, and by what; no table is read.

    Raises:
        DataError: `codebook_unnamed`, or the codebook and the named columns do not fit.
    """
    options = settings.options
    if settings.data != "table":
        return catalogue_schema(settings.data, options)
    if options.codebook is None:
        raise ValueError("a deployed study of one's own has a codebook")
    codebook = read_codebook(options.codebook)
    return schema_of(codebook, options), codebook
