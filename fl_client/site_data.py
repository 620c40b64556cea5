"""The site's extract: where it lies, which columns play which part, and the cohort it gives.

`mapping.yaml` says it, in strict YAML. Columns that neither the mapping nor the policy names are
dropped before anything looks at them. The fingerprint binds approvals to this extract: the
table's bytes, the codebook and the mapping; opt-outs change it not, or a withdrawal would need
two people.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pandas as pd

from ..datasets.codebook import Codebook, read_codebook
from ..datasets.extract import ONE_ROW_EACH, DataWarning, LoadOptions, Source
from ..datasets.readers import ENCODINGS, read_rows, read_table
from ..datasets.rows import Rows
from ..datasets.table import build_cohort, build_extract, table_faults
from ..privacy.errors import DataError, PolicyError
from ..study.cohort import Cohort
from ..study.holdout import Holdout
from ..study.plan import Plan
from .governance._fields import Fields
from .governance.plain_text import check_text, inside
from .governance.strict_yaml import read_yaml

__all__ = ["MAPPING_FORMAT", "SiteData", "mapping_template"]

_Read = TypeVar("_Read")

MAPPING_FORMAT = "fedcohort.mapping/1"
_SITE = "fedcohort site"  # the column that every extract gets: one hospital, this one
_TEMPLATE = """\
# Where this hospital's extract lies and what its columns are. Paths are below this folder.
schema: fedcohort.mapping/1
table: data/extract.csv          # CSV or Parquet, one row a record
codebook: data/codebook.yaml     # the study's, the same in every hospital
patient: patient_id              # column of the patient's token; or one_row_each
outcome: outcome                 # a yes/no column; for survival: time and event instead
# positive: "1"                  # the outcome's value that counts as an event
# time: days                     # days until the event or the end of follow-up
# event: died                    # 1 where the event was seen
# features: [age, sex]           # default: every column of the codebook
# exclude: []
# encoding: utf-8                # of a CSV; also gb18030, big5, cp1252, iso-8859-1
"""


@dataclass(frozen=True, kw_only=True)  # no slots: what was read is kept
class SiteData:
    """One site's extract, as its mapping describes it.

    Attributes:
        site: The hospital's name in plans.
        table: The file.
        codebook: Read from its file.
        options: What the mapping says of the columns.
    """

    site: str
    table: Path
    codebook: Codebook
    options: LoadOptions

    @classmethod
    def read(cls, folder: Path, site: str) -> SiteData:
        """Read `mapping.yaml` and the codebook it names, of a site's folder.

        Raises:
            PolicyError: `yaml_...`, `text_not_plain` or `path_outside`.
            DataError: The codebook breaks a rule.
        """
        fields = Fields(read_yaml(folder / "mapping.yaml"), "mapping.yaml")
        fields.choice("schema", (MAPPING_FORMAT,))

        def column(key: str) -> str | None:
            return fields.text(key, most=100) if fields.has(key) else None

        def columns(key: str) -> tuple[str, ...] | None:
            return fields.texts(key, check_text) if fields.has(key) else None

        options = LoadOptions(
            site=_SITE,
            patient=fields.text("patient", most=100),
            outcome=column("outcome"),
            positive=column("positive"),
            time=column("time"),
            event=column("event"),
            features=columns("features"),
            exclude=columns("exclude") or (),
            encoding=fields.choice("encoding", ENCODINGS) if fields.has("encoding") else "utf-8",
        )
        table = inside(folder, fields.path("table"), "mapping.yaml, table")
        codebook = inside(folder, fields.path("codebook"), "mapping.yaml, codebook")
        fields.done()
        return cls(site=site, table=table, codebook=read_codebook(codebook), options=options)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a cohort is made of, for `check_plan`; no record is read for it."""
        parts = (self.options.outcome, self.options.time, self.options.event)
        late = {column.name for column in self.codebook.columns if column.after_outcome}
        used = self.options.features
        if used is None:
            used = tuple(name for name in self.codebook.by_name if name not in late)
        named = [*used, *(part for part in parts if part is not None)]
        return tuple(name for name in dict.fromkeys(named) if name not in self.options.exclude)

    @property
    def encodings(self) -> dict[str, str]:
        """How cells become numbers, by column: the codebook's words, and the outcome's event."""
        columns = self.codebook.document["columns"]
        found = {name: json.dumps(columns[name], sort_keys=True) for name in columns}
        if self.options.outcome is not None:
            found[self.options.outcome] = f"event: {self.options.positive}"
        return found

    @property
    def stamp(self) -> tuple[object, ...]:
        """What tells, without reading the table, that something of the extract was changed.

        Raises:
            DataError: `unreadable_table`.
        """
        try:
            found = self.table.stat()
        except OSError as error:
            raise _unreadable(self.table) from error
        file = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        return self.site, self.table, file, self.codebook.sha256, self.options

    def check_opt_out(self, named: str) -> None:
        """Refuse an opt-out list that could not be applied, for want of a patient column.

        Args:
            named: `dataset.opt_out_file` of the policy; empty where it names none.

        Raises:
            PolicyError: `opt_out_no_patient`.
        """
        if named and self.options.patient == ONE_ROW_EACH:
            raise PolicyError(
                "opt_out_no_patient",
                "the policy names an opt-out list and mapping.yaml no column of patients",
                hint="Name the column in mapping.yaml; or leave dataset.opt_out_file out.",
            )

    def check_holdout(self, plan: Plan) -> None:
        """Refuse a plan that holds patients out of a table of which nobody said who is one.

        Raises:
            PolicyError: `holdout_no_patient`.
        """
        if plan.holdout is not None and self.options.patient is None:
            raise PolicyError(
                "holdout_no_patient",
                "the plan holds patients out and nothing says which rows are of one patient",
                hint="Name the column of patients in mapping.yaml; or say one_row_each.",
            )

    @cached_property
    def table_sha256(self) -> str:
        """Hash of the table's bytes, at first sight."""
        return _sha256(self.table)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the table's bytes, the codebook and the mapping, as they were at first sight.

        Raises:
            DataError: `unreadable_table`.
        """
        options = dataclasses.asdict(self.options)
        document = {
            "codebook": self.codebook.sha256,
            "options": {key: value for key, value in options.items() if key != "codebook"},
            "table": self.table_sha256,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(bytes(text, "utf-8")).hexdigest()

    def cohort(
        self, allowed: Collection[str] = (), *, holdout: Holdout | None = None
    ) -> tuple[Cohort, Rows]:
        """Read the extract as a node does: whatever its rows hold, they raise nothing.

        Args:
            allowed: Further columns that the policy allows: subgroups are made of them.
            holdout: How the plan splits patients, where it does.

        Returns:
            The cohort, opt-outs still in it (see `OptOut.left`), and the rows it is made of.

        Guarantee: see `build_cohort`.

        Raises:
            PolicyError: `data_changed`: the table is not the one of the fingerprint.
            DataError: Of the file as a whole or its columns' names.
        """
        encoding, named = self.options.encoding or "utf-8", self._named(allowed)
        raw = self._whole(lambda: read_rows(self.table, encoding, columns=named))
        frame, options = self._columns_of(raw.frame, allowed)
        made = build_cohort(
            frame, options, self.codebook, name=self.table.stem, site=self.site, holdout=holdout
        )
        return made.cohort, made.rows

    def check(
        self, allowed: Collection[str] = (), *, holdout: Holdout | None = None
    ) -> tuple[Cohort, tuple[DataWarning, ...]]:
        """Read the extract for people, and for plans without noise: what is wrong is refused.

        Args:
            allowed: As in `cohort`.
            holdout: As in `cohort`.

        Returns:
            The same cohort, and what was noticed.

        Raises:
            PolicyError: `data_changed`.
            DataError: The table breaks a rule.
        """
        encoding, named = self.options.encoding or "utf-8", self._named(allowed)
        read = self._whole(lambda: read_table(self.table, encoding, columns=named))
        frame, options = self._columns_of(read[0], allowed)
        extract = build_extract(
            frame,
            options,
            self.codebook,
            name=self.table.stem,
            source=Source(title=self.table.name),
            notes=read[1],
            holdout=holdout,
        )
        (cohort,) = extract.cohorts
        return dataclasses.replace(cohort, site=self.site), extract.warnings

    def faults(self, allowed: Collection[str] = ()) -> list[DataError]:
        """Return every rule that the extract's records break, for people.

        Raises:
            PolicyError: As `check`.
            DataError: Of the file as a whole or its columns' names.
        """
        encoding, named = self.options.encoding or "utf-8", self._named(allowed)
        read = self._whole(lambda: read_table(self.table, encoding, columns=named))
        frame, options = self._columns_of(read[0], allowed)
        return table_faults(frame, options, self.codebook)

    def _whole(self, read: Callable[[], _Read]) -> _Read:
        """Read the table, and refuse it if it is no longer the one of the fingerprint."""
        expected = self.table_sha256
        found = read()
        if _sha256(self.table) != expected:
            raise PolicyError(
                "data_changed",
                "the extract changed while the node was running",
                hint="Restart the node; plans approved for the other extract are approved anew.",
            )
        return found

    def _named(self, allowed: Collection[str]) -> frozenset[str]:
        """Return the columns that anything may look at."""
        return frozenset({*self.columns, *allowed, str(self.options.patient)})

    def _columns_of(
        self, frame: pd.DataFrame, allowed: Collection[str]
    ) -> tuple[pd.DataFrame, LoadOptions]:
        """Drop the columns that nobody named, and add the hospital's."""
        options = self.options
        if options.patient == ONE_ROW_EACH and ONE_ROW_EACH in frame.columns:
            raise DataError("one_column_two_parts", "a column is named one_row_each")
        kept = self._named(allowed)
        frame = frame[[name for name in frame.columns if name in kept]]
        frame = frame.assign(**{_SITE: pd.Series([self.site] * len(frame), dtype="str")})
        if options.exclude:
            # Excluded columns are gone from the table, so they must not be looked for in it.
            told = (options.patient, options.outcome, options.time, options.event)
            used = options.features or [name for name in self.columns if name not in told]
            features = tuple(name for name in used if name not in options.exclude)
            options = dataclasses.replace(options, features=features, exclude=())
        return frame, options


def mapping_template() -> str:
    """Return the commented mapping that `fedcohort site init` writes."""
    return _TEMPLATE


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> DataError:
    return DataError(
        "unreadable_table",
        f"{path} cannot be read",
        hint="Put the extract where mapping.yaml says, readable for the node.",
    )
