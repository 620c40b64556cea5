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
from ..study.cohort import Schema
from .settings import Settings

__all__ = ["load", "public_schema"]


def load(settings: Settings) -> Extract:
    """Read, check and encode the study's data.

    Raises:
        DataError: The table breaks a rule.
    """
    if settings.path is not None:
        return load_table(settings.path, settings.options)
    return load_catalogue(settings.data, settings.options)


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
