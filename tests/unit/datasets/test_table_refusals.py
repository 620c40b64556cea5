"""Each rule a table can break, by its code; no text repeats a patient's value."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fedcohort.datasets import Extract, LoadOptions, load_table
from fedcohort.privacy.errors import DataError

Load = Callable[..., Extract]
Spoil = Callable[[pd.DataFrame], pd.DataFrame]
CANARY = "Q7canary"
NUMBER = "73019"  # a canary where a number is due


def refused(load: Load, frame: pd.DataFrame, options: LoadOptions, **changes: object) -> DataError:
    with pytest.raises(DataError) as caught:
        load(frame, options, **changes)
    assert caught.value.hint, "a refusal names the remedy"
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert CANARY not in shown
    assert NUMBER not in shown
    return caught.value


def put(column: str, value: str, row: int = 3) -> Spoil:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return spoil


def fill(column: str, value: str) -> Spoil:
    return lambda frame: frame.assign(**{column: value})


RISK: list[tuple[str, Spoil, dict[str, object]]] = [
    ("missing_column", lambda f: f, {"site": "clinic"}),
    ("missing_column", lambda f: f, {"patient": "clinic"}),
    ("missing_column", lambda f: f, {"outcome": "clinic"}),
    ("missing_column", lambda f: f, {"features": ("age", "clinic")}),
    ("missing_column", lambda f: f, {"exclude": ("clinic",)}),
    ("no_site", lambda f: f, {"site": None}),
    ("no_outcome", lambda f: f, {"outcome": None}),
    ("no_outcome", lambda f: f, {"outcome": None, "time": "days"}),
    ("no_outcome", lambda f: f, {"outcome": None, "event": "seen"}),
    ("two_outcomes", lambda f: f, {"time": "days", "event": "seen"}),
    ("two_outcomes", lambda f: f, {"time": "days"}),
    ("one_column_two_parts", lambda f: f, {"patient": "hospital"}),
    ("no_features", lambda f: f, {"features": ()}),
    ("no_features", lambda f: f, {"exclude": ("age", "sex", "smoker", "days", "seen")}),
    ("outcome_feature", lambda f: f, {"features": ("age", "ill")}),
    ("identifier_feature", lambda f: f, {"features": ("age", "hospital")}),
    ("identifier_feature", lambda f: f, {"features": ("age", "record")}),
    ("identifier_feature", lambda f: f, {"patient": None}),
    ("identifier_feature", lambda f: f.assign(mrn="1"), {}),
    ("identifier_feature", lambda f: f.assign(PatientID="1"), {}),
    ("identifier_feature", lambda f: f.assign(身份证号="1"), {}),
    ("identifier_feature", lambda f: f.assign(note=[f"{CANARY} {n}" for n in range(80)]), {}),
    ("identifier_feature", lambda f: f.assign(row=range(1, 81)), {}),
    ("identifier_feature", lambda f: f.assign(code=[f"{n:05d}" for n in range(400, 480)]), {}),
    ("identifier_feature", lambda f: f.assign(code=range(13000000, 13000800, 10)), {}),
    ("missing_site", put("hospital", ""), {}),
    ("missing_patient", put("record", "NA"), {}),
    ("one_class", fill("ill", "0"), {}),
    ("one_class", fill("ill", CANARY), {}),
    ("outcome_not_binary", put("ill", CANARY), {}),
    ("unknown_positive", lambda f: f, {"positive": "9"}),
    ("unknown_positive", lambda f: f.assign(ill=[CANARY, "alive"] * 40), {}),
    ("empty_table", lambda f: f.iloc[:0], {}),
    ("empty_table", fill("ill", ""), {}),
    ("unknown_site", lambda f: f, {"test_sites": ("west",)}),
    ("no_sites", lambda f: f, {"test_sites": ("north", "SOUTH")}),
    ("unknown_feature_set", lambda f: f, {"feature_set": "full"}),
    ("too_many_values", lambda f: f.assign(note=[f"{CANARY} {n % 60}" for n in range(80)]), {}),
    ("codebook_unreadable", lambda f: f, {"codebook": Path("no-such.yaml")}),
]


@pytest.mark.parametrize(("code", "spoil", "changes"), RISK)
def test_a_risk_table_that_breaks_a_rule_is_refused(
    load: Load,
    frame: pd.DataFrame,
    risk: LoadOptions,
    code: str,
    spoil: Spoil,
    changes: dict[str, object],
) -> None:
    assert refused(load, spoil(frame), risk, **changes).code == code


SURVIVAL: list[tuple[str, Spoil]] = [
    ("negative_time", put("days", f"-{NUMBER}")),
    ("negative_time", put("days", "-0.5")),
    ("time_not_number", put("days", CANARY)),
    ("time_not_number", put("days", "inf")),
    ("event_not_binary", put("seen", CANARY)),
    ("event_not_binary", put("seen", NUMBER)),
    (
        "several_rows_per_patient",
        lambda f: f.assign(record=["K-1", "K-1", *f["record"][2:]]).assign(hospital="north"),
    ),
    ("one_class", fill("seen", "0")),
]


@pytest.mark.parametrize(("code", "spoil"), SURVIVAL)
def test_a_survival_table_that_breaks_a_rule_is_refused(
    load: Load, frame: pd.DataFrame, survival: LoadOptions, code: str, spoil: Spoil
) -> None:
    assert refused(load, spoil(frame), survival).code == code


def test_a_missing_column_is_answered_with_those_there_are(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    text = str(refused(load, frame, risk, site="clinic"))
    assert "data.site" in text
    assert "hospital" in text


@pytest.mark.parametrize("value", ["0", "1"])
def test_one_class_is_judged_on_the_hospitals_that_train(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, value: str
) -> None:
    frame.loc[frame["hospital"] == "north", "ill"] = value
    assert refused(load, frame, risk, test_sites=("south",)).code == "one_class"


def test_a_column_that_the_codebook_does_not_describe_cannot_be_asked_for(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    error = refused(
        load, frame, replace(risk, exclude=()), codebook=codebook, features=("age", "days")
    )
    assert error.code == "codebook_missing_column"


def test_a_column_of_the_codebook_has_to_be_in_the_table(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    error = refused(load, frame.drop(columns="smoker"), risk, codebook=codebook)
    assert error.code == "missing_column"


def test_survival_needs_a_public_horizon(
    load: Load, frame: pd.DataFrame, survival: LoadOptions, codebook: Path
) -> None:
    error = refused(load, frame, survival, codebook=codebook)
    assert error.code == "codebook_incomplete"
    assert "horizon_days" in error.hint


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("extract.xlsx", b"x", "unsupported_table"),
        ("extract.csv", None, "unreadable_table"),
        ("extract.csv", b"", "empty_table"),
        ("extract.csv", b"a,b\n", "empty_table"),
        ("extract.csv", b"a,b\n1,Q7canary,3\n", "unreadable_table"),
        ("extract.csv", b'a,b\n1,"Q7canary\n', "unreadable_table"),
        ("extract.csv", b"a;b\n1;2\n", "unreadable_table"),
        ("extract.csv", b"a,a\n1,2\n", "duplicate_column"),
        ("extract.csv", b"63,1.5,Q7canary\n64,2.5,x\n", "no_header"),
        ("extract.csv", b"a,b\n\xff\xff,\xfe\n", "unreadable_table"),
        ("extract.parquet", b"PAR1 Q7canary", "unreadable_table"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, risk: LoadOptions, name: str, content: bytes | None, code: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_table(path, risk)
    assert caught.value.code == code
    assert CANARY not in "".join(traceback.format_exception(caught.value))
