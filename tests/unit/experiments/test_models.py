"""Saved models: tensors and card belong together, or the model is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcohort.experiments.reporting.models import CARD_FIELDS, load_model, save_model
from fedcohort.privacy.errors import DataError

CARD: dict[str, Any] = {
    "arm": "dp_sum",
    "algorithm": "logistic",
    "epsilon": 3.0,
    "epsilon_scope": "from_the_extract_on",
    "epsilon_covers": "this model",
    "features": ("age", "sex"),
    "schema_sha256": "a" * 64,
    "codebook_sha256": "b" * 64,
    "plan_sha256": "c" * 64,
    "trained_on": "all patients of 4 hospitals, without a split",
    "sites": 4,
    "intended_use": "research on federated learning",
    "limits": "not for care",
    "repeat": 0,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    arrays = {"weight": np.array([[0.5, -1.0]]), "bias": np.array([0.25], dtype=np.float32)}
    return save_model(tmp_path, "dp_sum.eps3", arrays, CARD)


def test_a_model_is_read_as_it_was_saved(saved: Path) -> None:
    for path in (saved, saved.with_suffix(".json")):
        model = load_model(path)
        np.testing.assert_array_equal(model.arrays["weight"], [[0.5, -1.0]])
        assert model.arrays["bias"].dtype == np.float32
        assert model.card["features"] == ["age", "sex"]
        assert {key: model.card[key] for key in ("epsilon", "repeat")} == {
            "epsilon": 3.0,
            "repeat": 0,
        }


def test_a_changed_tensor_file_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(DataError) as refused:
        load_model(saved)
    assert refused.value.code == "model_hash_mismatch"


def _card(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = saved.with_suffix(".json")
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def test_a_card_of_another_shape_is_refused(saved: Path) -> None:
    _card(saved, lambda card: card["tensors"]["weight"].update(shape=[2]))
    with pytest.raises(DataError) as refused:
        load_model(saved)
    assert refused.value.code == "model_tensor_mismatch"


@pytest.mark.parametrize("field", ["schema", "file_sha256", *CARD_FIELDS])
def test_a_card_that_lacks_a_field_is_refused(saved: Path, field: str) -> None:
    _card(saved, lambda card: card.pop(field))
    with pytest.raises(DataError) as refused:
        load_model(saved)
    assert refused.value.code == "model_card_invalid"


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_model_is_two_files(saved: Path, suffix: str) -> None:
    saved.with_suffix(suffix).unlink()
    with pytest.raises(DataError) as refused:
        load_model(saved)
    assert refused.value.code == "model_missing"


@pytest.mark.parametrize(
    ("name", "arrays", "card"),
    [
        ("../evil", {"w": np.zeros(1)}, CARD),
        ("model", {"w": np.array([np.nan])}, CARD),
        ("model", {}, CARD),
        ("model", {"w": np.zeros(1)}, {"arm": "local"}),
    ],
)
def test_a_bad_model_is_not_saved(
    tmp_path: Path, name: str, arrays: dict[str, Any], card: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"model|card"):
        save_model(tmp_path, name, arrays, card)
    assert list(tmp_path.iterdir()) == []
