"""New patients for a model that is already trained: encoded as its codebook says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..privacy.errors import DataError
from .codebook import Codebook, encode
from .readers import read_table

__all__ = ["encode_table"]


def encode_table(
    path: Path,
    codebook: Codebook,
    features: Iterable[str],
    *,
    patient: str | None = None,
    encoding: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Encode a table for prediction; it needs no outcome and no hospital.

    Args:
        path: A CSV or Parquet file.
        codebook: The model's codebook.
        features: The model's features: columns, or the encoded names of its schema.
        patient: Column of the ids to hand back; None: rows are numbered from 1.
        encoding: As in `read_table`.

    Returns:
        float32 [rows, d], finite and bounded; and str [rows], the ids as they are written.

    Raises:
        DataError: As `read_table` and `encode`; `missing_patient`; `schema_mismatch` when
            encoded names are given that the codebook would not make in that order.
    """
    frame, _ = read_table(path, encoding)
    wanted = tuple(features)
    matrix, names = encode(frame, codebook, wanted)
    if wanted not in (names, codebook.columns_of(wanted)):
        raise DataError(
            "schema_mismatch",
            "the model's features are not those that the codebook encodes",
            hint="Use the codebook the model was trained with.",
        )
    if patient is None:
        return matrix, np.arange(1, len(frame) + 1).astype(np.str_)
    if patient not in frame.columns:
        raise DataError(
            "missing_column",
            f"the table has no column {patient}; it has {', '.join(map(str, frame.columns))}",
            hint="Name the column of the patients' ids.",
        )
    ids: pd.Series[str] = frame[patient]
    if ids.isna().any():
        raise DataError(
            "missing_patient", f"some rows have no patient in {patient}", hint="Fill it in."
        )
    return matrix, np.array(ids.tolist(), dtype=np.str_)
