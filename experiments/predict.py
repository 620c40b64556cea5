"""`fedcohort predict`: a risk per patient, at the hospital, with a saved model. Nothing leaves."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Codebook, encode_table
from ..privacy.errors import ConfigError, DataError
from ..study.analysis import Vector
from ..study.cohort import Cohort, Schema
from ..study.model import Prediction
from ..study.plan import model_of
from .reporting.folder import write_atomic
from .reporting.models import SavedModel, load_model

__all__ = ["predict"]

_FORMULA = ("=", "+", "-", "@")

_NEEDED = {"codebook", "model", "outcome", "schema_document", "task"}  # beside every card's fields
_FETCH_AGAIN = "Fetch the model and its card again from whoever made the run."


def predict(
    model: Path,
    table: Path,
    *,
    patient: str | None = None,
    encoding: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Write `patient,risk` (of the event; for survival models by the horizon, and by year).

    Args:
        model: A `.safetensors` file beside its card.
        table: A CSV or Parquet file with the model's columns.
        patient: Column of the ids to write; rows are numbered otherwise.
        encoding: Of the table; None: UTF-8, else GB18030.
        out: The CSV to write; `TABLE.predictions.csv` otherwise.

    Returns:
        What was written, for stdout.

    Raises:
        DataError: The card and the tensors do not belong together, the codebook is not the
            one the model was trained with, or the table lacks a column.
        ConfigError: `out_exists`.
    """
    try:
        saved = load_model(model)
    except DataError as error:
        error.hint = error.hint or _FETCH_AGAIN
        raise
    card = saved.card
    absent = sorted(_NEEDED - set(card))
    if absent:
        raise _unfit(f"the card lacks {', '.join(absent)}")
    codebook = Codebook.from_document(card["codebook"])
    if codebook.sha256 != card["codebook_sha256"]:
        raise DataError(
            "schema_mismatch",
            "the card's codebook is not the one its hash names",
            hint=_FETCH_AGAIN,
        )
    matrix, ids = encode_table(
        table, codebook, card["features"], patient=patient, encoding=encoding
    )
    schema = _schema(card)
    cohort = _unlabelled(schema, matrix)
    prediction = _predicted(saved, cohort)
    target = out or table.with_name(f"{table.name}.predictions.csv")
    if target.exists():
        raise ConfigError("out_exists", f"{target} exists", hint="Name another file with out=.")
    columns: dict[str, np.ndarray] = {"risk": prediction.risk}
    if prediction.survival is not None and prediction.grid_days is not None:
        columns |= _by_year(prediction.survival, prediction.grid_days)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["patient", *columns])
    for number, name in enumerate(ids):
        safe = f"'{name}" if str(name)[:1] in _FORMULA else name  # a spreadsheet would run it
        writer.writerow([safe, *(f"{values[number]:.6g}" for values in columns.values())])
    write_atomic(target, text.getvalue().encode("utf-8"))
    return {"out": str(target), "rows": len(ids), "schema_sha256": schema.sha256}


def _by_year(survival: Vector, days: Vector) -> dict[str, np.ndarray]:
    """Return the risk by the horizon and the chance of no event by each year's end."""
    from .scores.evaluate import resampled  # with Flower behind it, which a risk model can spare

    years = range(1, int(days[-1] // 365) + 1)
    by_year = resampled(survival, days, np.array([365.0 * year for year in years]))
    columns = {f"survival_{year}y": by_year[:, place] for place, year in enumerate(years)}
    # Not the model's own score, which orders patients and is no probability.
    return {"risk": 1.0 - survival[:, -1], **columns}


def _predicted(saved: SavedModel, cohort: Cohort) -> Prediction:
    """Apply a model as read: its card may have been written by anybody."""
    try:
        with np.errstate(all="ignore"):
            found = model_of(saved.card["model"]).predict(saved.arrays["theta"], cohort)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise _unfit("the card's model and the tensors do not fit each other") from error
    if found.risk.shape != (cohort.rows,) or not np.isfinite(found.risk).all():
        raise _unfit("the model gives no finite risk for each row")
    return found


def _unfit(text: str) -> DataError:
    return DataError("model_card_invalid", text, hint=_FETCH_AGAIN)


def _schema(card: Any) -> Schema:
    """Return the card's schema, refused unless it has the hash that the model was trained under."""
    try:
        schema = Schema(
            **card["schema_document"],
            task=card["task"],
            features=tuple(card["features"]),
            outcome=card["outcome"],
            codebook_sha256=card["codebook_sha256"],
        )
    except TypeError as error:
        raise _unfit("the card's schema cannot be read") from error
    if schema.sha256 != card["schema_sha256"]:
        raise DataError(
            "schema_mismatch",
            "the card's features, codebook and bounds do not have the hash it states",
            hint=_FETCH_AGAIN,
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
