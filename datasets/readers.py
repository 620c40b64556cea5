"""From a file to a table of text: every cell a stripped text or missing, nothing guessed.

Everything is read as text first, so that an id `007` stays one and a column's type is what
the codebook says and not what a library makes of the first rows.

`read_rows` depends on one row at a time: what stands in one line of a CSV changes how no other
line is read. An unclosed quote ends with its line, and a byte that the encoding does not know
makes one cell missing. The guarantee for a patient starts here. `read_table` is for people: it
reads the same table, and refuses it where `read_rows` would leave rows out.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pandas as pd

from ..privacy.errors import DataError
from .extract import DataWarning

__all__ = ["ENCODINGS", "MISSING_TEXTS", "RawTable", "read_rows", "read_table"]

# No byte of a longer character is a comma, a quote or a line's end in any of these, and none has
# a state that outlives a line.
ENCODINGS = ("utf-8", "gb18030", "big5", "cp1252", "iso-8859-1")

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

# A note of 200,000 characters is a cell like any other; Python's own limit is for all of a process.
csv.field_size_limit(2**31 - 1)

# A hospital's reader makes no connection: nothing is fetched, not even an extension.
_DUCKDB = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
_SURROGATES = ("\ud800", "\udfff")  # what stands for a byte that could not be decoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawTable:
    """A table of text, and what of the file is not in it.

    Attributes:
        frame: Columns of dtype str, stripped, NaN where missing; one row a record.
        unparsed: Records left out: quotes that do not close, or a carriage return in a cell.
        ragged: Records left out: more or fewer cells than the header.
        undecodable: By column, cells that are missing since their bytes are no text of the
            encoding.
    """

    frame: pd.DataFrame
    unparsed: int = 0
    ragged: int = 0
    undecodable: Mapping[str, int] = field(default_factory=dict)


def read_rows(
    path: Path, encoding: str = "utf-8", *, columns: Collection[str] | None = None
) -> RawTable:
    """Read a table, leaving out what is no record; each line is read on its own.

    Args:
        path: A CSV file with one header line, cells separated by commas; or a Parquet file.
        encoding: Of a CSV, one of `ENCODINGS`; of no effect on Parquet.
        columns: Those to read, where the table has them; None: all. A Parquet file is not looked
            at beyond them: a cell of theirs that is no text makes it unreadable as a whole.

    Returns:
        The table; it may have no rows.

    Raises:
        DataError: `unsupported_table`, `unknown_encoding`; of the header or the whole file,
            `unreadable_table`, `no_header` or `duplicate_column`; `empty_table` for a file
            without a header.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            "unsupported_table",
            f"{path} is not a .csv or .parquet file",
            hint="Export the table as CSV (UTF-8) or Parquet.",
        )
    if encoding not in ENCODINGS:
        raise DataError(
            "unknown_encoding",
            f"there is no encoding {encoding!r} for tables",
            hint=f"Choose one of: {', '.join(ENCODINGS)}.",
        )
    if not path.is_file():
        raise _unreadable(path, "there is no such file", "Check the path.")
    return read(path, encoding, columns)


def read_table(
    path: Path, encoding: str | None = None, *, columns: Collection[str] | None = None
) -> tuple[pd.DataFrame, tuple[DataWarning, ...]]:
    """Read a table for somebody who can mend it.

    Args:
        path: As `read_rows`.
        encoding: Of a CSV; None: UTF-8, else GB18030, with a warning. No epsilon is stated for
            a table whose encoding was guessed: one byte would decide how all rows are read.
        columns: As `read_rows`.

    Returns:
        The table (columns of dtype str, stripped, NaN where missing) and what was noticed.

    Raises:
        DataError: As `read_rows`; `unreadable_table` too where a record would be left out,
            `empty_table` where there is no row. No text of the file but its column names is
            repeated.
    """
    notes: list[DataWarning] = []
    if encoding is None:
        encoding = "utf-8"
        if path.suffix.lower() == ".csv" and path.is_file() and not _decodes(path, "utf-8"):
            if not _decodes(path, "gb18030"):
                hint = "Save it as UTF-8, or state its encoding (data.encoding)."
                raise _unreadable(path, "neither UTF-8 nor GB18030", hint)
            encoding = "gb18030"
            text = (
                f"{path.name} is not UTF-8 and was read as GB18030; check the column names, and "
                "state the encoding (data.encoding)"
            )
            notes.append(DataWarning(code="encoding_guessed", text=text))
    raw = read_rows(path, encoding, columns=columns)
    _refuse_left_out(path, raw)
    for column, cells in raw.undecodable.items():
        text = f"{cells} cells of {column} are not {encoding} text and count as missing"
        notes.append(DataWarning(code="undecodable_cells", column=column, text=text))
    if raw.frame.empty:
        raise DataError(
            "empty_table", f"{path} has no rows", hint="It needs a header and one row a record."
        )
    return raw.frame, tuple(notes)


def _decodes(path: Path, encoding: str) -> bool:
    try:
        path.read_bytes().decode(encoding)
    except UnicodeDecodeError:
        return False
    except OSError as error:
        raise _unreadable(path, "it cannot be opened", "Check the path and its mode.") from error
    return True


def _refuse_left_out(path: Path, raw: RawTable) -> None:
    if raw.unparsed:
        why = f"in {raw.unparsed} lines a quote does not close, or a cell holds a line break"
        hint = "Export one record a line, without line breaks in cells, or export Parquet."
        raise _unreadable(path, why, hint)
    if raw.ragged:
        why = f"{raw.ragged} rows have more or fewer cells than the header"
        hint = "Check that each row has as many cells as the header, and that the file is whole."
        raise _unreadable(path, why, hint)


def _unreadable(path: Path, why: str, hint: str) -> DataError:
    return DataError("unreadable_table", f"{path} cannot be read: {why}", hint=hint)


def _read_csv(path: Path, encoding: str, columns: Collection[str] | None) -> RawTable:
    try:
        first, *lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise _unreadable(path, "it cannot be opened", "Check the path and its mode.") from error
    header = _header(path, first, encoding)
    rows: list[list[str | None]] = []
    unparsed = ragged = 0
    undecodable: Counter[str] = Counter()
    for line in lines:
        if not line.strip():
            continue
        cells, damaged = _cells(line, encoding)
        if cells is None:
            unparsed += 1
        elif len(cells) != len(header):
            ragged += 1
        else:
            rows.append(_decoded(cells, header, undecodable) if damaged else [*cells])
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype="str")
    if columns is not None:
        frame = frame[[name for name in header if name in columns]]
        undecodable = Counter({name: undecodable[name] for name in undecodable if name in columns})
    return RawTable(
        frame=frame.apply(_clean), unparsed=unparsed, ragged=ragged, undecodable=dict(undecodable)
    )


def _cells(line: bytes, encoding: str) -> tuple[list[str] | None, bool]:
    """Return the cells of one line, None where it is no record; and whether bytes were damaged."""
    damaged = False
    line = line.removesuffix(b"\r")
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError:
        text, damaged = line.decode(encoding, "surrogateescape"), True
    try:
        return next(csv.reader([text], strict=True)), damaged
    except csv.Error:
        return None, damaged


def _decoded(cells: list[str], header: list[str], damaged: Counter[str]) -> list[str | None]:
    """Return the cells, those without a text missing; count them by column."""
    low, high = _SURROGATES
    found: list[str | None] = []
    for name, cell in zip(header, cells, strict=True):
        lost = any(low <= character <= high for character in cell)
        if lost:
            damaged[name] += 1
        found.append(None if lost else cell)
    return found


def _header(path: Path, line: bytes, encoding: str) -> list[str]:
    if not line.strip():
        raise DataError(
            "empty_table", f"{path} has no header", hint="It needs a header and one row a record."
        )
    names, damaged = _cells(line, encoding)
    if names is None or damaged:
        hint = "State its encoding (data.encoding; in mapping.yaml: encoding)."
        raise _unreadable(path, f"its first line is no list of names in {encoding}", hint)
    stripped = [name.strip() for name in names]
    header = [name or f"unnamed_{place}" for place, name in enumerate(stripped, start=1)]
    _check_header(path, header)
    return header


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


def _read_parquet(path: Path, encoding: str, columns: Collection[str] | None) -> RawTable:
    try:
        with duckdb.connect(config=dict(_DUCKDB)) as connection:
            table = connection.read_parquet(str(path.resolve()))
            chosen = [name for name in table.columns if columns is None or name in columns]
            cells = [duckdb.ColumnExpression(name).cast("VARCHAR").alias(name) for name in chosen]
            frame = table.select(*cells).df().astype("str") if cells else pd.DataFrame()
    except (duckdb.Error, OSError, ValueError):
        # The library's own text may quote a record, so it is not passed on.
        hint = "Check that the file is whole."
        raise _unreadable(path, "not a valid parquet table", hint) from None
    return RawTable(frame=frame.apply(_clean))


_READERS: dict[str, Callable[[Path, str, Collection[str] | None], RawTable]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}


def _clean(column: pd.Series[str]) -> pd.Series[str]:
    stripped = column.astype("str").str.strip()
    return stripped.mask(stripped.str.lower().isin(list(MISSING_TEXTS)))
