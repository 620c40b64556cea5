"""Encoding by public constants: known answers, strictness, and that nothing else is used."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.datasets import (
    Codebook,
    catalogue_codebook,
    draft_codebook,
    encode,
    encode_table,
    parse_codebook,
)
from fedcohort.privacy.errors import DataError

TEXT = """
name: demo
outcome: stroke
horizon_days: 1825
source: a textbook
columns:
  age: {type: number, range: [0, 100], unit: years}
  bp: {type: number, range: [50, 210], centre: 130, scale: 20, missing: [0, not done]}
  nodes: {type: number, range: [0, 60], transform: log1p, centre: 2, scale: 0.5}
  sex: {type: category, values: [female, male], other: false, centre: male}
  ward: {type: category, values: ["1", "2", icu], indicator: true}
  smoker: {type: boolean, true: [Yes, 1], false: [no, 0], missing: [9]}
  statin: {type: boolean, true: ["1"], false: ["0"], centre: true, indicator: true}
"""


def column(name: str, *values: str | None) -> list[list[float]]:
    frame = pd.DataFrame({name: pd.Series(values, dtype="str")})
    return [[float(x) for x in row] for row in encode(frame, parse_codebook(TEXT), [name])[0]]


def test_a_number_is_clipped_centred_and_scaled_by_the_range() -> None:
    assert column("age", "50", "75", "0", "100", "999", "-5", None, "unclear") == [
        [0.0],
        [1.0],
        [-2.0],
        [2.0],
        [2.0],
        [-2.0],
        [0.0],
        [0.0],
    ]


def test_a_number_with_constants_and_missing_codes() -> None:
    assert column("bp", "150", "0", "0e0", "not done", "Not Done ", "1e9", "nan", "inf") == [
        [1.0], [0.0], [0.0], [0.0], [0.0], [4.0], [0.0], [0.0]
    ]  # fmt: skip


def test_log1p_takes_the_centre_in_the_columns_unit_and_the_scale_after_it() -> None:
    expected = (math.log1p(10) - math.log1p(2)) / 0.5
    values = column("nodes", "10", "2", None)
    assert values[0][0] == pytest.approx(expected, rel=1e-6)
    assert values[1][0] == pytest.approx(0, abs=1e-12)
    assert values[2] == [0.0]


def test_a_category_drops_its_reference_and_fills_in_its_centre() -> None:
    assert column("sex", "female", " MALE ", None, "other") == [[0.0], [1.0], [1.0], [1.0]]


def test_an_open_category_has_a_column_for_the_rest_and_an_indicator() -> None:
    assert encode(pd.DataFrame({"ward": ["1"]}), parse_codebook(TEXT), ["ward"])[1] == (
        "ward=2",
        "ward=icu",
        "ward=other",
        "ward_missing",
    )
    assert column("ward", "1.0", "2", "ICU", "burns", None) == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def test_a_boolean_is_yes_or_no_or_its_centre() -> None:
    assert column("smoker", "yes", "1.0", "NO", "9", "maybe", None) == [
        [1.0], [1.0], [0.0], [0.0], [0.0], [0.0]
    ]  # fmt: skip
    assert column("statin", "0", None) == [[0.0, 0.0], [1.0, 1.0]]


@given(st.lists(st.one_of(st.none(), st.text(max_size=8), st.floats().map(str)), max_size=20))
def test_nothing_that_a_cell_may_hold_leaves_the_bound(values: list[str | None]) -> None:
    codebook = parse_codebook(TEXT)
    frame = pd.DataFrame({name: pd.Series(values, dtype="str") for name in codebook.by_name})
    matrix, names = encode(frame, codebook, codebook.by_name)
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(values), len(names))
    assert np.isfinite(matrix).all()
    for name in codebook.by_name:
        assert (np.abs(encode(frame, codebook, [name])[0]) <= codebook.bound([name])).all()


@given(st.lists(st.text(max_size=5), min_size=1, max_size=10), st.integers(0, 9))
def test_a_rows_encoding_depends_on_no_other_row(values: list[str], place: int) -> None:
    codebook = parse_codebook(TEXT)
    frame = pd.DataFrame({name: pd.Series(values, dtype="str") for name in codebook.by_name})
    row = place % len(values)
    together = encode(frame, codebook, codebook.by_name)[0][row]
    alone = encode(frame.iloc[[row]], codebook, codebook.by_name)[0][0]
    assert (together == alone).all()


def test_a_codebook_survives_json() -> None:
    codebook = parse_codebook(TEXT)
    again = Codebook.from_document(json.loads(json.dumps(codebook.document)))
    assert again == codebook
    assert again.sha256 == codebook.sha256
    for name in ("heart-disease", "breast-recurrence"):
        shipped = catalogue_codebook(name)
        assert Codebook.from_document(shipped.document) == shipped


def test_the_hash_changes_with_what_encodes_and_not_with_comments() -> None:
    codebook = parse_codebook(TEXT)
    assert parse_codebook(TEXT + "\n# a comment\n").sha256 == codebook.sha256
    assert parse_codebook(TEXT.replace("scale: 20", "scale: 21")).sha256 != codebook.sha256


def test_encoded_names_lead_back_to_columns() -> None:
    codebook = parse_codebook(TEXT)
    names = codebook.feature_names(["ward", "age", "statin"])
    assert codebook.columns_of(names) == ("ward", "age", "statin")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("columns: {}", "codebook_empty"),
        ("name: x", "codebook_empty"),
        ("[1, 2]", "codebook_type"),
        ("columns: [age]", "codebook_type"),
        ("columns: {age: number}", "codebook_type"),
        ("columns: {age: {type: number, range: [0, 1", "codebook_yaml"),
        ("a: &x 1\ncolumns: *x", "codebook_yaml"),
        ("columns: {a: {type: number, range: [0, 1]}}\nnames: x", "codebook_unknown_key"),
        ("columns: {a: {type: number, range: [0, 1], mean: 3}}", "codebook_unknown_key"),
        ("columns: {a: {type: boolean, true: [a], range: [0, 1]}}", "codebook_unknown_key"),
        ("columns: {a: {type: number, type: number, range: [0, 1]}}", "codebook_duplicate_key"),
        ("columns: {}\ncolumns: {a: {type: number, range: [0, 1]}}", "codebook_duplicate_key"),
        ("columns:\n  a: {type: date}\n  a: {type: number}", "codebook_duplicate_key"),
        ("columns: {a: {type: date}}", "codebook_value"),
        ("columns: {a: {range: [0, 1]}}", "codebook_value"),
        ("columns: {a: {type: number}}", "codebook_range"),
        ("columns: {a: {type: number, range: 5}}", "codebook_range"),
        ("columns: {a: {type: number, range: [1, 1]}}", "codebook_range"),
        ("columns: {a: {type: number, range: [2, 1]}}", "codebook_range"),
        ("columns: {a: {type: number, range: [-1, 1], transform: log1p}}", "codebook_range"),
        ("columns: {a: {type: number, range: [0, 1], centre: 2}}", "codebook_range"),
        ("columns: {a: {type: number, range: [0, 1], scale: 0}}", "codebook_range"),
        ("columns: {a: {type: number, range: [0, .inf]}}", "codebook_value"),
        ("columns: {a: {type: number, range: [0, 1e999]}}", "codebook_value"),
        ("columns: {a: {type: number, range: [0, 1], transform: sqrt}}", "codebook_value"),
        ("columns: {a: {type: number, range: [0, 1], indicator: maybe}}", "codebook_value"),
        ("columns: {a: {type: number, range: ['?', '?']}}", "codebook_incomplete"),
        ("source: '?'\ncolumns: {a: {type: number, range: [0, 1]}}", "codebook_incomplete"),
        ("columns: {a: {type: category, values: []}}", "codebook_value"),
        ("columns: {a: {type: category, values: [x], other: false}}", "codebook_value"),
        ("columns: {a: {type: category, values: [x, X]}}", "codebook_value"),
        ("columns: {a: {type: category, values: x}}", "codebook_type"),
        ("columns: {a: {type: category, values: [x, y], centre: z}}", "codebook_value"),
        ("columns: {a: {type: boolean, true: [x]}}", "codebook_value"),
        ("columns: {a: {type: boolean, true: [x], false: [X]}}", "codebook_value"),
        ("horizon_days: 0\ncolumns: {a: {type: number, range: [0, 1]}}", "codebook_range"),
    ],
)  # fmt: skip
def test_a_codebook_that_breaks_a_rule_is_refused(text: str, code: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_codebook(text)
    assert caught.value.code == code


def test_yaml_does_not_guess_types() -> None:
    book = parse_codebook("columns: {a: {type: category, values: [no, 010, 2020-01-01]}}")
    assert book.document["columns"]["a"]["values"] == ["no", "010", "2020-01-01"]


def test_a_draft_carries_no_number_no_rare_text_and_no_identifier(tmp_path: Path) -> None:
    path = tmp_path / "extract.csv"
    pd.DataFrame(
        {
            "mrn": [f"Q7canary{n}" for n in range(40)],
            "creatinine": [f"{61 + n}.5" for n in range(40)],
            "ward": ["burns"] * 20 + ["icu"] * 18 + ["Q7rare"] * 2,
            "smoker": ["yes", "no"] * 20,
            "surname": ["Q7smith"] * 40,
            "free text": [f"Q7note {n % 35}" for n in range(40)],
            "discharge_day": ["1", "2", "3", "4"] * 10,
        }
    ).to_csv(path, index=False)
    text = draft_codebook(path)
    assert "q7" not in text.lower()
    assert "61.5" not in text
    assert "100.5" not in text
    assert "PLACEHOLDER" in text
    with pytest.raises(DataError) as caught:
        parse_codebook(text)
    assert caught.value.code == "codebook_incomplete"
    completed = text.replace('["?", "?"]', "[0, 1000]").replace('"?"', "x")
    assert list(parse_codebook(completed).by_name) == [
        "creatinine",
        "ward",
        "smoker",
        "discharge_day",
    ]


def test_a_table_is_encoded_for_prediction_without_outcome_or_hospital(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("who,sex,age\n007,male,75\n008,female,\n")
    codebook = parse_codebook(TEXT)
    by_column, ids = encode_table(path, codebook, ["sex", "age"], patient="who")
    by_feature, rows = encode_table(path, codebook, ["sex=male", "age"])
    assert by_column.tolist() == by_feature.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert ids.tolist() == ["007", "008"]
    assert rows.tolist() == ["1", "2"]
    for features, patient, code in [
        (["bp"], None, "missing_column"),
        (["sex"], "mrn", "missing_column"),
        (["weight"], None, "codebook_missing_column"),
    ]:
        with pytest.raises(DataError) as caught:
            encode_table(path, codebook, features, patient=patient)
        assert caught.value.code == code
    path.write_text("who,ward\n1,2\n,1\n")
    for features, patient, code in [
        (["ward=2"], None, "schema_mismatch"),
        (["ward"], "who", "missing_patient"),
    ]:
        with pytest.raises(DataError) as caught:
            encode_table(path, codebook, features, patient=patient)
        assert caught.value.code == code
