"""From a file to a table of text: every cell a stripped text or missing, nothing guessed.

Everything is read as text first, so that an id `007` stays one and a column's type is what
the codebook says and not what a library makes of the first rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd

from ..privacy.errors import DataError
from .extract import DataWarning

__all__ = ["MISSING_TEXTS", "read_table"]

# Spellings of "nothing here", compared without case after stripping.
MISSING_TEXTS = frozenset(
    [
        "",
        "na",
        "n/a",
        "#n/a",
        "<na>",
        "nan",
        "nat",
        "null",
        "none",
        ".",
        "-",
        "--",
        "?",
        "未查",
        "缺失",
    ]
)

# A hospital's reader makes no connection: nothing is fetched, not even an extension.
_DUCKDB = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


def _unreadable(path: Path, why: str, hint: str) -> DataError:
    return DataError("unreadable_table", f"{path} cannot be read: {why}", hint=hint)


def _csv_with(path: Path, encoding: str) -> pd.DataFrame:
    def read(**options: int | None) -> pd.DataFrame:
        return pd.read_csv(path, dtype="str", na_filter=False, encoding=encoding, **options)  # type: ignore[call-overload,no-any-return]

    names = [str(name).strip() for name in read(header=None, nrows=1).iloc[0]]
    header = [name or f"unnamed_{place}" for place, name in enumerate(names, start=1)]
    _check_header(path, header)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
        frame = read(index_col=False)
    frame.columns = pd.Index(header)
    return frame


def _check_header(path: Path, header: list[str]) -> None:
    numbers = sum(name.replace(".", "", 1).lstrip("+-").isdigit() for name in header)
    if numbers > len(header) / 2:  # a record: its cells must not be named in any later text
        hint = "Put the columns' names in the first row."
        raise DataError("no_header", f"the first row of {path} holds no names", hint=hint)
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise _unreadable(path, "its cells are not separated by commas", "Export it with commas.")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(
            "duplicate_column",
            f"{path} has two columns named {repeated[0]!r}",
            hint="Rename one of them.",
        )


def _read_csv(path: Path, notes: list[DataWarning]) -> pd.DataFrame:
    try:
        return _csv_with(path, "utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        frame = _csv_with(path, "gb18030")
    except UnicodeDecodeError:
        raise _unreadable(path, "neither UTF-8 nor GB18030", "Save it as UTF-8.") from None
    text = f"{path.name} is not UTF-8 and was read as GB18030; check the column names"
    notes.append(DataWarning(code="encoding_guessed", text=text))
    return frame


def _read_parquet(path: Path, notes: list[DataWarning]) -> pd.DataFrame:
    with duckdb.connect(config=dict(_DUCKDB)) as connection:
        query = "SELECT CAST(COLUMNS(*) AS VARCHAR) FROM read_parquet(?)"
        return connection.execute(query, [str(path.resolve())]).df().astype("str")


_READERS: dict[str, Callable[[Path, list[DataWarning]], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}


def read_table(path: Path) -> tuple[pd.DataFrame, tuple[DataWarning, ...]]:
    """Read a table as text.

    Args:
        path: A CSV (UTF-8, else GB18030) or Parquet file with one header.

    Returns:
        The table (columns of dtype str, stripped, NaN where missing) and what was noticed.

    Raises:
        DataError: `unsupported_table`, `unreadable_table`, `duplicate_column` or
            `empty_table`. No text of the file but its column names is repeated.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            "unsupported_table",
            f"{path} is not a .csv or .parquet file",
            hint="Export the table as CSV (UTF-8) or Parquet.",
        )
    if not path.is_file():
        raise _unreadable(path, "there is no such file", "Check the path.")
    notes: list[DataWarning] = []
    try:
        frame = read(path, notes)
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame()
    except (pd.errors.ParserError, pd.errors.ParserWarning, duckdb.Error, OSError, ValueError):
        # The library's own text may quote a record, so it is not passed on.
        hint = "Check that each row has as many cells as the header, and that the file is whole."
        raise _unreadable(path, f"not a valid {path.suffix[1:]} table", hint) from None
    if frame.empty:
        raise DataError(
            "empty_table", f"{path} has no rows", hint="It needs a header and one row a record."
        )
    return frame.apply(_clean), tuple(notes)


def _clean(column: pd.Series[str]) -> pd.Series[str]:
    stripped = column.astype("str").str.strip()
    return stripped.mask(stripped.str.lower().isin(list(MISSING_TEXTS)))
