"""From a raw extract to validated cohorts: readers, codebooks, checks, splits, catalogue.

At the hospital only; the coordinator has no code path to this room. A table goes in as a file
and comes out as one `Cohort` a hospital, encoded by the public constants of a codebook, or is
refused with the rule and the remedy. What looks wrong but may be right is a `DataWarning`.
"""

if __name__ == "datasets":
    raise ImportError(
        "the repository root is on sys.path, so its datasets/ hides Hugging Face's `datasets`: "
        "run things as `python -m fedcohort...` and take the root off the path"
    )

from .catalogue import (
    CatalogueEntry,
    catalogue_codebook,
    catalogue_schema,
    list_catalogue,
    load_catalogue,
)
from .codebook import Codebook, encode, parse_codebook, read_codebook
from .description import Description, SiteSummary, describe
from .extract import DataWarning, Extract, LoadOptions, Source
from .groups import GROUP_DOMAINS
from .inference import draft_codebook
from .one_hospital import SiteExtract, hospitals_of, write_extract
from .prediction import encode_table
from .readers import read_table
from .schemas import schema_of
from .splits import split
from .table import load_table

__all__ = [
    "GROUP_DOMAINS",
    "CatalogueEntry",
    "Codebook",
    "DataWarning",
    "Description",
    "Extract",
    "LoadOptions",
    "SiteExtract",
    "SiteSummary",
    "Source",
    "catalogue_codebook",
    "catalogue_schema",
    "describe",
    "draft_codebook",
    "encode",
    "encode_table",
    "hospitals_of",
    "list_catalogue",
    "load_catalogue",
    "load_table",
    "parse_codebook",
    "read_codebook",
    "read_table",
    "schema_of",
    "split",
    "write_extract",
]
