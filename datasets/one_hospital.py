"""One hospital's rows of a table, as a file of its own: what its node would start from.

For tutorials and tests. The hospital's column is dropped, for a node knows whose rows it holds;
the patients' column stays. Cells are the texts of the table, stripped, empty where missing, so
that the file gives the very cohort that the whole table gives for this hospital.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import pandas as pd

from ..hosting import private_folder, write_new
from ..privacy.errors import ConfigError, DataError
from .catalogue import catalogue_entry, filled_in, list_catalogue
from .columns import canonical
from .extract import LoadOptions
from .readers import read_table

__all__ = ["CODEBOOK_FILE", "EXTRACT_FILE", "SiteExtract", "hospitals_of", "write_extract"]

EXTRACT_FILE = "extract.csv"
CODEBOOK_FILE = "codebook.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteExtract:
    """What was written for one hospital.

    Attributes:
        site: The hospital, as the table spells it.
        rows: Rows written.
        table: The CSV.
        codebook: Beside it; None where a table came without one.
        options: The columns' parts, the catalogue's choices filled in; no hospital among them.
    """

    site: str
    rows: int
    table: Path
    codebook: Path | None
    options: LoadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A table of many hospitals, as text."""

    frame: pd.DataFrame
    options: LoadOptions
    site: str
    tells: tuple[str, ...]  # every column that tells the hospital
    codebook: bytes | None


def hospitals_of(name: str, options: LoadOptions | None = None) -> dict[str, int]:
    """Return the rows of each hospital of a table, by its name.

    Raises:
        DataError: As `write_extract`.
    """
    source = _source(name, options or LoadOptions())
    counted = _names(source).value_counts()
    return {site: int(counted[site]) for site in sorted(counted.index)}


def write_extract(
    name: str, site: str, folder: Path, options: LoadOptions | None = None
) -> SiteExtract:
    """Write one hospital's rows to `FOLDER/extract.csv`, and the codebook beside them.

    Args:
        name: A catalogue name, or the path of a table.
        site: The hospital, whatever its case.
        folder: Made with mode 0700 where there is none.
        options: What was said about the table; for one of one's own, `site` at least.

    Raises:
        ConfigError: `out_exists`: nothing is overwritten.
        PolicyError: `folder_mode`: the folder is open to others.
        DataError: `unknown_data`, `no_site`, `missing_column`, `missing_site`, `unknown_site`,
            or as `read_table`.
    """
    source = _source(name, options or LoadOptions())
    names = _names(source)
    same = [known for known in names.unique() if canonical(known) == canonical(site)]
    if not same:
        raise DataError(
            "unknown_site",
            f"there is no hospital {site}; there are {', '.join(sorted(names.unique()))}",
            hint="Name a hospital of the table.",
        )
    table, codebook = folder / EXTRACT_FILE, folder / CODEBOOK_FILE
    for path in (table, codebook):
        if path.exists() or path.is_symlink():
            raise ConfigError("out_exists", f"{path} exists", hint="Name another folder.")
    rows = source.frame[names.isin(same)].drop(columns=[*source.tells])
    private_folder(folder)
    write_new(table, rows.to_csv(index=False, lineterminator="\n").encode())
    if source.codebook is not None:
        write_new(codebook, source.codebook)
    return SiteExtract(
        site=sorted(same)[0],
        rows=len(rows),
        table=table,
        codebook=None if source.codebook is None else codebook,
        options=replace(source.options, site=None, codebook=None, encoding=None),
    )


def _source(name: str, options: LoadOptions) -> _Source:
    own = options.codebook.read_bytes() if options.codebook is not None else None
    if name in [entry.name for entry in list_catalogue()] or not Path(name).suffix:
        entry, files = catalogue_entry(name), resources.files(__package__ or __name__)
        with resources.as_file(files / "tables" / entry.table) as path:
            frame, _ = read_table(path)
        options, tells = filled_in(entry, options), entry.sites
        shipped = (files / "codebooks" / f"{entry.name}.yaml").read_bytes()
    else:
        frame, _ = read_table(Path(name), options.encoding)
        tells, shipped = (), None
    site = options.site
    if site is None:
        raise DataError("no_site", "no column names the hospital", hint="Give data.site=COLUMN.")
    if site not in frame.columns:
        raise DataError(
            "missing_column",
            f"data.site: the table has no column {site}",
            hint="Name a column of the table; upper and lower case count.",
        )
    return _Source(
        frame=frame,
        options=options,
        site=site,
        tells=tuple(dict.fromkeys((site, *tells))),
        codebook=own if own is not None else shipped,
    )


def _names(source: _Source) -> pd.Series[str]:
    """Return each row's hospital, spaces tidied."""
    names = source.frame[source.site]
    if names.isna().any():
        raise DataError(
            "missing_site",
            f"some rows have no hospital in {source.site}",
            hint="Fill it in or drop those rows.",
        )
    return names.map({text: " ".join(text.split()) for text in names.unique()})
