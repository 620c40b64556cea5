"""Trained models on disk: tensors in safetensors (no pickle, no code), facts in a card.

`models/NAME.safetensors` and `models/NAME.json`. The card carries the hash of the tensor
file, so a damaged or exchanged file is noticed before a byte of it is parsed. A card is not
signed: whoever can write both files can write a matching pair.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...privacy.errors import DataError
from ._results_json import plain
from .folder import write_atomic

__all__ = ["CARD_FIELDS", "SavedModel", "load_model", "save_model"]

SCHEMA = "fedcohort.model/1"
CARD_FIELDS = (
    "arm",
    "algorithm",
    "epsilon",  # requested; None where no noise was added
    "epsilon_scope",  # where it holds from: `from_the_extract_on`; None where no noise was added
    "epsilon_covers",  # the same in words
    "features",  # names of the encoded columns, in order
    "schema_sha256",
    "codebook_sha256",
    "plan_sha256",
    "trained_on",  # which hospitals and patients, in words
    "sites",  # how many hospitals' patients
    "intended_use",
    "limits",
)  # what every card must say; further fields are kept
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedModel:
    """A model as read: its arrays by name, and its card."""

    arrays: Mapping[str, NDArray[Any]]
    card: Mapping[str, Any]


def save_model(
    folder: Path, name: str, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]
) -> Path:
    """Write `folder/models/NAME.safetensors` and its card; return the tensors' path.

    Args:
        folder: The run's folder while it is written (`RunFolder.partial`).
        name: Lower case letters, digits, `_`, `.` and `-`.
        arrays: At least one array; finite numbers only.
        card: Every field of `CARD_FIELDS`, and what else belongs to the model.

    Raises:
        ValueError: A bad name, a missing field, or a number that is not finite.
    """
    from safetensors.numpy import save

    if not _NAME.fullmatch(name):
        raise ValueError(f"a model's name is made of a-z, 0-9, _, . and -, got {name!r}")
    if missing := [field for field in CARD_FIELDS if field not in card]:
        raise ValueError(f"the card of {name} lacks {', '.join(missing)}")
    tensors = {key: np.ascontiguousarray(array) for key, array in sorted(arrays.items())}
    if not tensors or not all(np.isfinite(array).all() for array in tensors.values()):
        raise ValueError(f"model {name} needs arrays of finite numbers")
    data = save(tensors)
    target = folder / "models" / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    facts = {
        "schema": SCHEMA,
        "name": name,
        **{field: plain(card[field]) for field in CARD_FIELDS},
        **{key: plain(card[key]) for key in sorted(set(card) - set(CARD_FIELDS))},
        "file": target.name,
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "tensors": {key: _shape(array) for key, array in tensors.items()},
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(target, data)
    write_atomic(target.with_suffix(".json"), text.encode())
    return target


def load_model(path: Path) -> SavedModel:
    """Read a model and refuse it unless card and tensors belong together.

    Args:
        path: The `.safetensors` file or its card.

    Raises:
        DataError: `model_missing`, `model_card_invalid`, `model_hash_mismatch` or
            `model_tensor_mismatch`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name = path.name.removesuffix(".safetensors").removesuffix(".json")
    tensors_path, card_path = (path.with_name(name + end) for end in (".safetensors", ".json"))
    card = _read_card(card_path)
    data = _bytes(tensors_path)
    if hashlib.sha256(data).hexdigest() != card["file_sha256"]:
        raise DataError(
            "model_hash_mismatch",
            f"{tensors_path} is not the file that its card describes",
            hint="Fetch both files again from whoever made the run.",
        )
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise DataError("model_tensor_mismatch", f"{tensors_path}: {error}") from error
    if {key: _shape(array) for key, array in arrays.items()} != card["tensors"]:
        raise DataError(
            "model_tensor_mismatch", f"{tensors_path}: names, shapes or types differ from the card"
        )
    return SavedModel(arrays=arrays, card=card)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_bytes(path))
    except ValueError as error:
        raise DataError("model_card_invalid", f"{path} is not JSON") from error
    needed = ("schema", "file_sha256", "tensors", *CARD_FIELDS)
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        raise DataError("model_card_invalid", f"{path} is not a card of {SCHEMA}")
    if missing := [field for field in needed if field not in card]:
        raise DataError("model_card_invalid", f"{path} lacks {', '.join(missing)}")
    return card


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            "model_missing",
            f"there is no {path}",
            hint="A model is two files of one name: .safetensors and .json.",
        ) from error


def _shape(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": list(array.shape)}
