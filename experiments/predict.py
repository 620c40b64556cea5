"""`fedcohort predict`: a risk per patient, at the hospital, with a saved model. Nothing leaves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Codebook, encode_table
from ..privacy.errors import ConfigError, DataError
from ..study.cohort import Cohort, Schema
from ..study.plan import model_of
from .models import load_model

__all__ = ["predict"]


def predict(
    model: Path, table: Path, *, patient: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Write `patient,risk` (for survival models also the chance of no event by year).

    Args:
        model: A `.safetensors` file beside its card.
        table: A CSV or Parquet file with the model's columns.
        patient: Column of the ids to write; rows are numbered otherwise.
        out: The CSV to write; `TABLE.predictions.csv` otherwise.

    Returns:
        What was written, for stdout.

    Raises:
        DataError: The card and the tensors do not belong together, the codebook is not the
            one the model was trained with, or the table lacks a column.
        ConfigError: `out_exists`.
    """
    saved = load_model(model)
    card = saved.card
    codebook = Codebook.from_document(card["codebook"])
    if codebook.sha256 != card["codebook_sha256"]:
        raise DataError(
            "schema_mismatch",
            "the card's codebook is not the one its hash names",
            hint="Fetch the model again from whoever made the run.",
        )
    matrix, ids = encode_table(table, codebook, card["features"], patient=patient)
    schema = _schema(card)
    cohort = _unlabelled(schema, matrix)
    prediction = model_of(card["model"]).predict(saved.arrays["theta"], cohort)
    target = out or table.with_name(f"{table.name}.predictions.csv")
    if target.exists():
        raise ConfigError("out_exists", f"{target} exists", hint="Name another file with out=.")
    columns: dict[str, np.ndarray] = {"risk": prediction.risk}
    if prediction.survival is not None and prediction.grid_days is not None:
        for year in range(1, int(prediction.grid_days[-1] // 365) + 1):
            at = int(np.searchsorted(prediction.grid_days, 365 * year, side="right")) - 1
            columns[f"survival_{year}y"] = prediction.survival[:, at]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", *columns])
        for number, name in enumerate(ids):
            writer.writerow([name, *(f"{values[number]:.6g}" for values in columns.values())])
    return {"out": str(target), "rows": len(ids), "schema_sha256": schema.sha256}


def _schema(card: Any) -> Schema:
    """Return the card's schema, refused unless it has the hash that the model was trained under."""
    schema = Schema(
        name=card["schema_document"]["name"],
        task=card["task"],
        features=tuple(card["features"]),
        bound=card["schema_document"]["bound"],
        outcome=card["outcome"],
        codebook_sha256=card["codebook_sha256"],
        public=card["schema_document"]["public"],
        horizon_days=card["schema_document"]["horizon_days"],
    )
    if schema.sha256 != card["schema_sha256"]:
        raise DataError(
            "schema_mismatch",
            "the card's features, codebook and bounds do not have the hash it states",
            hint="Fetch the model again from whoever made the run.",
        )
    return schema


def _unlabelled(schema: Schema, matrix: np.ndarray) -> Cohort:
    rows = matrix.shape[0]
    risk = schema.task == "risk"
    return Cohort(
        site="here",
        schema=schema,
        features=matrix,
        patient=np.arange(rows, dtype=np.uint64),
        label=np.zeros(rows) if risk else None,
        time=None if risk else np.zeros(rows),
        event=None if risk else np.zeros(rows, dtype=np.bool_),
    )
