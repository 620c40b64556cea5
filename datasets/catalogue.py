"""The catalogue: two real multi-hospital tables that ship with the package.

Both are small, openly licensed and old (the heart table of the 1980s, the breast cohorts of
1978 to 1993): they show what a method does, not what a clinic should do today.

Known defects, kept as published: in the heart table a cholesterol or blood pressure of 0
means it was not measured (the codebook says so), and two records repeat. In Rotterdam, 43
women died without a recorded relapse after follow-up for relapse had ended (recur 0, death 1,
recur_days < death_days); as R's documentation asks, they are censored at recur_days, and for
all others the event is the first of relapse and death. The columns rfs_days and rfs_event hold
the result; a test recomputes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources

from ..privacy.errors import DataError
from ..study.cohort import Schema
from .codebook import Codebook, parse_codebook, read_codebook
from .extract import Extract, LoadOptions, Source
from .readers import read_table
from .schemas import schema_of
from .table import build_extract

__all__ = [
    "CatalogueEntry",
    "catalogue_codebook",
    "catalogue_entry",
    "catalogue_schema",
    "filled_in",
    "list_catalogue",
    "load_catalogue",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One table of the catalogue and what it is used for by default.

    Attributes:
        name: What `load_catalogue` takes.
        table: File under `tables/`.
        source: How to cite it.
        defaults: What holds unless the person says otherwise.
        feature_sets: Columns by the name of the set; `core` is the default.
        outcome_columns: Columns that tell the outcome, refused as features.
        sites: Columns that can serve as the hospital.
    """

    name: str
    table: str
    source: Source
    defaults: LoadOptions
    feature_sets: dict[str, tuple[str, ...]]
    outcome_columns: tuple[str, ...]
    sites: tuple[str, ...]


_HEART_CORE = (
    "age",
    "sex",
    "trestbps",
    "chol",
    "thalach",
    "oldpeak",
    "fbs",
    "exang",
    "cp",
    "restecg",
)
_BREAST_CORE = ("age", "meno", "size_class", "grade", "nodes", "pgr", "er", "hormon")

_ENTRIES = (
    CatalogueEntry(
        name="heart-disease",
        table="heart_disease_4h.csv",
        source=Source(
            title="Heart disease: Cleveland, Hungary, Switzerland and VA Long Beach (920 patients)",
            licence="CC BY 4.0",
            doi="10.24432/C52P4X",
            citation=(
                "Janosi A, Steinbrunn W, Pfisterer M, Detrano R. "
                "Heart Disease. UCI Machine Learning Repository."
            ),
            note="Collected in the 1980s. Four real hospitals of widely different prevalence.",
        ),
        defaults=LoadOptions(site="hospital", patient="patient_id", outcome="disease"),
        feature_sets={"core": _HEART_CORE, "full": (*_HEART_CORE, "slope", "ca", "thal")},
        outcome_columns=("disease", "num"),
        sites=("hospital",),
    ),
    CatalogueEntry(
        name="breast-recurrence",
        table="breast_recurrence_rot_gbsg.csv",
        source=Source(
            title="Breast cancer: the Rotterdam (2982) and GBSG (686) cohorts",
            licence="LGPL-2.0-or-later (R package survival)",
            doi="10.1186/1471-2288-13-33",
            citation=(
                "Royston P, Altman DG. External validation of a Cox prognostic model: principles "
                "and methods. BMC Medical Research Methodology 2013; 13: 33. "
                "Data: Therneau T, R package survival (rotterdam, gbsg)."
            ),
            note=(
                "Patients of 1978 to 1993. Two real cohorts; in sim_hospital_6 Rotterdam is cut "
                "into five simulated hospitals, H1 to H5, by a documented seeded split."
            ),
        ),
        defaults=LoadOptions(
            site="sim_hospital_6", patient="patient_id", time="rfs_days", event="rfs_event"
        ),
        feature_sets={"core": _BREAST_CORE},
        outcome_columns=(
            *("rfs_days", "rfs_event", "recur_days", "recur"),
            *("death_days", "death"),
        ),
        sites=("sim_hospital_6", "centre"),
    ),
)


def list_catalogue() -> tuple[CatalogueEntry, ...]:
    """Return the catalogue's entries."""
    return _ENTRIES


def catalogue_entry(name: str) -> CatalogueEntry:
    """Return one entry.

    Raises:
        DataError: `unknown_data`.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    raise DataError(
        "unknown_data",
        f"the catalogue has no {name}",
        hint=f"Choose {' or '.join(entry.name for entry in _ENTRIES)}, or give a table.",
    )


def catalogue_codebook(name: str) -> Codebook:
    """Return the codebook that ships with a catalogue table.

    Raises:
        DataError: `unknown_data`.
    """
    file = (
        resources.files(__package__ or __name__)
        / "codebooks"
        / f"{catalogue_entry(name).name}.yaml"
    )
    return parse_codebook(file.read_text(encoding="utf-8"))


def filled_in(entry: CatalogueEntry, options: LoadOptions) -> LoadOptions:
    """Return the options with the catalogue's choices where the person made none."""
    known = entry.defaults
    if options.outcome is not None:  # another outcome replaces the default one, of either kind
        outcome, time, event = options.outcome, options.time, options.event
    elif options.time is not None or options.event is not None:
        outcome, time, event = None, options.time or known.time, options.event or known.event
    else:
        outcome, time, event = known.outcome, known.time, known.event
    wanted = options.feature_set or "core"
    if wanted not in entry.feature_sets:
        raise DataError(
            "unknown_feature_set",
            f"{entry.name} has no feature set {wanted}",
            hint=f"Choose {' or '.join(entry.feature_sets)}.",
        )
    features = options.features if options.features is not None else entry.feature_sets[wanted]
    return replace(
        options,
        site=options.site or known.site,
        patient=options.patient or known.patient,
        features=features,
        outcome=outcome,
        time=time,
        event=event,
    )


def _chosen(name: str, options: LoadOptions) -> tuple[CatalogueEntry, LoadOptions, Codebook]:
    """Return an entry, the options with its choices filled in, and the codebook that holds."""
    entry = catalogue_entry(name)
    chosen = filled_in(entry, options)
    codebook = (
        read_codebook(options.codebook)
        if options.codebook is not None
        else catalogue_codebook(name)
    )
    if (options.outcome, options.time, options.event) != (None, None, None):
        codebook = replace(codebook, outcome="")  # its words are of the default outcome
    return entry, chosen, codebook


def catalogue_schema(name: str, options: LoadOptions) -> tuple[Schema, Codebook]:
    """Return the schema of a catalogue table and the codebook behind it; the table is not read.

    Raises:
        DataError: `unknown_data`, `unknown_feature_set`, or as `schema_of`.
    """
    entry, chosen, codebook = _chosen(name, options)
    return schema_of(codebook, chosen, outcome_columns=entry.outcome_columns), codebook


def load_catalogue(name: str, options: LoadOptions) -> Extract:
    """Read a table of the catalogue into validated cohorts.

    Args:
        name: `heart-disease` or `breast-recurrence`.
        options: What differs from the catalogue's choices; `LoadOptions()` for none.

    Raises:
        DataError: `unknown_data`, `unknown_feature_set`, or as `load_table`.
    """
    entry, chosen, codebook = _chosen(name, options)
    with resources.as_file(
        resources.files(__package__ or __name__) / "tables" / entry.table
    ) as path:
        frame, notes = read_table(path)
    return build_extract(
        frame,
        chosen,
        codebook,
        name=entry.name,
        source=entry.source,
        notes=notes,
        outcome_columns=entry.outcome_columns,
    )
