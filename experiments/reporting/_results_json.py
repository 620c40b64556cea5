"""The JSON of `fedcohort.results/1`: plain values, canonical text, and the published schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ...privacy.errors import DataError

__all__ = ["dumps", "json_schema", "plain", "validate"]


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and numpy scalars into what JSON knows; NaN and inf into None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "__dataclass_fields__"):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def dumps(document: Mapping[str, Any]) -> str:
    """Write a document with one line for each field, and one for each entry of a list."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def block(value: Any) -> str:
        if not isinstance(value, list) or not value:
            return line(value)
        return "[\n  " + ",\n  ".join(line(entry) for entry in value) + "\n ]"

    body = ",\n ".join(f"{line(key)}: {block(value)}" for key, value in document.items())
    return "{\n " + body + "\n}\n"


@cache
def json_schema() -> Any:
    """Return the published JSON Schema of `results.json`."""
    path = resources.files(__package__) / "templates" / "results.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def validate(document: Mapping[str, Any]) -> None:
    """Refuse a document that breaks the published schema.

    Raises:
        DataError: `results_invalid`, with the first field that is wrong.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(json_schema())
    for error in validator.iter_errors(document):
        raise DataError(
            "results_invalid",
            f"results.json, field {error.json_path}: {error.message[:200]}",
            hint="Write it with the fedcohort that reads it; see its `schema`.",
        )
