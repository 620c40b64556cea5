"""What the room is asked for and what it hands back, as plain frozen values.

Nothing here reads a file or looks at a record: these are the words that the command line,
the configuration and the hospitals' node share with the code that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..study.cohort import Cohort, Schema
from .codebook import Codebook

__all__ = ["ONE_ROW_EACH", "DataWarning", "Extract", "LoadOptions", "Source"]

ONE_ROW_EACH = "one_row_each"  # said of `patient`: every row is a person


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a person may say about a table; one field for each `data.*` key.

    None means "the catalogue's own choice"; for a table of one's own, `site` and an outcome
    (`outcome`, or `time` and `event`) have to be said.

    Attributes:
        site: Column that names the hospital.
        patient: Column that identifies the patient; `one_row_each` states that every row is
            a person. Without it every row is taken as one, which no epsilon is stated for.
        outcome: Column of the yes/no outcome.
        positive: The value of `outcome` that counts as an event.
        time: Column of days until the event or the end of follow-up.
        event: Column of 0/1, 1 where the event was seen.
        features: Columns the model may use, in order.
        exclude: Columns the model may not use.
        codebook: YAML file of public ranges and values; see `codebook.py`.
        test_sites: Hospitals set aside, whole, for external validation.
        feature_set: Catalogue only: `core` or, for heart-disease, `full`.
        encoding: Of a CSV, see `readers.ENCODINGS`; None: UTF-8, else GB18030, for which no
            epsilon is stated.
    """

    site: str | None = None
    patient: str | None = None
    outcome: str | None = None
    positive: str | None = None
    time: str | None = None
    event: str | None = None
    features: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    codebook: Path | None = None
    test_sites: tuple[str, ...] = ()
    feature_set: str | None = None
    encoding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataWarning:
    """Something a person should look at before trusting a result; never a patient's value.

    Attributes:
        code: Stable snake_case name of the rule.
        column: The column concerned, where there is one.
        site: The hospital concerned, where there is one.
        text: The finding and what to do about it.
    """

    code: str
    column: str | None = None
    site: str | None = None
    text: str

    def to_json(self) -> dict[str, str | None]:
        """Return the warning as JSON: `code`, `column`, `site`, `text`."""
        return {"code": self.code, "column": self.column, "site": self.site, "text": self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a table comes from, so that a report can cite it."""

    title: str
    licence: str = ""
    doi: str = ""
    citation: str = ""
    note: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the five texts as JSON."""
        return {
            "title": self.title,
            "licence": self.licence,
            "doi": self.doi,
            "citation": self.citation,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extract:
    """A table turned into validated cohorts, and what was noticed on the way.

    Attributes:
        cohorts: One cohort a hospital, sorted by name, the test sites left out.
        external: The cohorts of `test_sites`, for external validation.
        schema: What the encoded columns mean; the same for every cohort.
        columns: The columns of the table behind `schema.features`, in order.
        warnings: What a person should look at.
        codebook: The constants that encoded the table.
        source: Where the table comes from.
        missing: For each hospital, rows without a usable value in each of `columns`. Of use
            to whoever holds the table (`fedcohort data describe`); not for sending.
    """

    cohorts: tuple[Cohort, ...]
    external: tuple[Cohort, ...]
    schema: Schema
    columns: tuple[str, ...]
    warnings: tuple[DataWarning, ...]
    codebook: Codebook
    source: Source
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
