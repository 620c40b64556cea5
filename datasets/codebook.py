"""The codebook: public knowledge of each column, agreed before any record is read.

Scaling by a mean, imputing by a median or one-hot coding by the values present would each
tell something of the patients. A codebook states instead what anyone in the field knows
(an age lies between 0 and 110 years), so encoding is free of privacy cost and the same in
every hospital. It is YAML:

    name: stroke-risk                # optional, as are outcome, horizon_days and source
    columns:
      age: {type: number, range: [0, 110], unit: years, centre: 60, scale: 12}
      crp: {type: number, range: [0, 500], transform: log1p, missing: [-9]}
      sex: {type: category, values: [female, male], other: false, centre: male}
      smoker: {type: boolean, true: ["Yes", "1"], false: ["No", "0"]}

The reading is strict: an unknown or repeated key, an alias, or a placeholder left by
`fedcohort data codebook` is refused. Every value is read as text and typed by the key it
stands under, so YAML's own guesses (`no` is false, `010` is eight) cannot change a code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from ..privacy.errors import DataError
from ._codebook_parts import column_document, column_from, mapping_of, number_of, text_of
from .columns import Column, Encoded

__all__ = ["Codebook", "encode", "encode_columns", "parse_codebook", "read_codebook"]

_MAX_BYTES = 2**20  # 1 MiB: a codebook is written by a person
_KEYS = ("columns", "name", "outcome", "horizon_days", "source")


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """Public constants for each column.

    Attributes:
        columns: How each column is encoded, in the file's order.
        name: Name of the data set.
        outcome: Name of the outcome, for people.
        horizon_days: Public end of the time axis, days.
        source: Where the ranges come from.
    """

    columns: tuple[Column, ...]
    name: str = ""
    outcome: str = ""
    horizon_days: float | None = None
    source: str = ""

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The columns by name."""
        return {column.name: column for column in self.columns}

    @property
    def document(self) -> dict[str, Any]:
        """The codebook as JSON; `Codebook.from_document` reads it back."""
        document: dict[str, Any] = {
            "columns": {column.name: column_document(column) for column in self.columns}
        }
        for key in ("name", "outcome", "horizon_days", "source"):
            if getattr(self, key):
                document[key] = getattr(self, key)
        return document

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON of `document`."""
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def from_document(document: object) -> Codebook:
        """Check a parsed codebook, all of it.

        Raises:
            DataError: `codebook_type`, `codebook_unknown_key`, `codebook_value`,
                `codebook_range`, `codebook_incomplete` or `codebook_empty`.
        """
        parts = mapping_of(document, "the codebook", _KEYS)
        columns = mapping_of(parts.get("columns", {}), "columns", None)
        if not columns:
            raise DataError(
                "codebook_empty",
                "the codebook describes no column",
                hint="Draft one with `fedcohort data codebook TABLE`.",
            )
        horizon = (
            number_of(parts["horizon_days"], "horizon_days") if "horizon_days" in parts else None
        )
        if horizon is not None and horizon <= 0:
            raise DataError("codebook_range", "horizon_days must be > 0", hint="State it in days.")
        return Codebook(
            columns=tuple(column_from(name, part) for name, part in columns.items()),
            name=text_of(parts.get("name", ""), "name"),
            outcome=text_of(parts.get("outcome", ""), "outcome"),
            horizon_days=horizon,
            source=text_of(parts.get("source", ""), "source"),
        )

    def bound(self, columns: Iterable[str]) -> float:
        """Return the largest absolute float32 an encoding of these columns can take."""
        return max(float(np.float32(self.by_name[name].bound)) for name in columns)

    def feature_names(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the encoded columns, in order."""
        return tuple(name for column in columns for name in self.by_name[column].features)

    def columns_of(self, features: Iterable[str]) -> tuple[str, ...]:
        """Return the columns behind features, which may be columns or encoded names.

        Raises:
            DataError: `codebook_missing_column`: the codebook knows no such feature.
        """
        owner = {name: column.name for column in self.columns for name in column.features}
        owner |= {column.name: column.name for column in self.columns}
        wanted = list(features)
        unknown = sorted(set(wanted) - set(owner))
        if unknown:
            raise DataError(
                "codebook_missing_column",
                f"the codebook does not describe: {', '.join(unknown)}",
                hint="Describe them in the codebook, or leave them out with data.exclude=[...].",
            )
        return tuple(dict.fromkeys(owner[name] for name in wanted))


def encode_columns(
    frame: pd.DataFrame, codebook: Codebook, columns: Iterable[str]
) -> dict[str, Encoded]:
    """Encode each column of a table of text on its own."""
    return {name: codebook.by_name[name].encode(frame[name]) for name in columns}


def encode(
    frame: pd.DataFrame, codebook: Codebook, features: Iterable[str]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Turn a table of text into numbers, by the codebook alone.

    Args:
        frame: Columns of text, as `read_table` makes them.
        codebook: The public constants.
        features: Columns, or encoded names as a model's schema lists them.

    Returns:
        float32 [rows, d], finite, at most `codebook.bound(...)` in absolute value; and the
        names of its d columns.

    Raises:
        DataError: `codebook_missing_column` or `missing_column`.
    """
    columns = codebook.columns_of(features)
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise DataError(
            "missing_column",
            f"the table has no column {', '.join(absent)}; it has {', '.join(frame.columns)}",
            hint="Rename the table's columns as the codebook names them.",
        )
    blocks = [part.values for part in encode_columns(frame, codebook, columns).values()]
    matrix = np.column_stack(blocks) if blocks else np.empty((len(frame), 0))
    return matrix.astype(np.float32), codebook.feature_names(columns)


class _StrictLoader(yaml.BaseLoader):
    """A safe loader (text, lists and mappings only) that refuses aliases and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise DataError("codebook_yaml", "the codebook uses a YAML alias", hint="Write it out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise DataError(
                "codebook_duplicate_key",
                f"the codebook repeats the key {repeated[0]} (line {node.start_mark.line + 1})",
                hint="Keep one of them.",
            )
        return super().construct_mapping(node, deep=deep)


def parse_codebook(text: str) -> Codebook:
    """Read a codebook from YAML text.

    Raises:
        DataError: `codebook_yaml`, `codebook_duplicate_key`, or as `Codebook.from_document`.
    """
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a BaseLoader: text only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise DataError(
            "codebook_yaml",
            f"the codebook is not valid YAML{where}",
            hint="Quote texts that hold : # ? or brackets.",
        ) from None
    return Codebook.from_document(document)


def read_codebook(path: Path) -> Codebook:
    """Read a codebook file.

    Raises:
        DataError: `codebook_unreadable`, or as `parse_codebook`.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError("codebook_unreadable", f"{path} is larger than {_MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise DataError(
            "codebook_unreadable",
            f"the codebook {path} cannot be read as UTF-8 text",
            hint="Check data.codebook=PATH.",
        ) from None
    return parse_codebook(text)
