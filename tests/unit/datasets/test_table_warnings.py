"""Each thing a person should look at, by its code; and that a clean table is quiet."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedcohort.datasets import DataWarning, Extract, LoadOptions, load_table
from fedcohort.datasets.leakage import known_after_outcome

Load = Callable[..., Extract]
CANARY = "Q7canary"


def codes(extract: Extract) -> set[str]:
    return {warning.code for warning in extract.warnings}


def the(extract: Extract, code: str) -> list[DataWarning]:
    assert CANARY not in "".join(str(warning.to_json()) for warning in extract.warnings)
    return [warning for warning in extract.warnings if warning.code == code]


def test_a_clean_table_with_a_codebook_is_quiet(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    extract = load(frame, risk, codebook=codebook)
    assert extract.warnings == ()
    assert extract.schema.public


def test_without_a_codebook_the_schema_is_not_public(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, survival: LoadOptions
) -> None:
    extract = load(frame, risk)
    assert codes(extract) == {"no_codebook"}
    assert not extract.schema.public
    assert load(frame, survival).schema.horizon_days == frame["days"].astype(float).max()


def test_a_column_that_tells_the_hospital_is_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    shifted = np.where(frame["hospital"] == "north", 10, 20) + np.arange(80) / 9
    found = the(load(frame.assign(lab=shifted), risk), "predicts_site")
    assert {(warning.column, warning.site) for warning in found} == {
        ("lab", "north"),
        ("lab", "south"),
    }


def test_a_category_that_tells_the_hospital_is_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    frame["form"] = np.where(frame["hospital"] == "north", "a", "b")
    assert {w.column for w in the(load(frame, risk), "predicts_site")} == {"form"}


def test_a_column_missing_at_one_hospital_is_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    frame["lab"] = np.where(frame["hospital"] == "north", "", (np.arange(80) % 13).astype(str))
    extract = load(frame, risk)
    found = the(extract, "predicts_site")
    assert found
    assert all("missing" in warning.text for warning in found)
    assert [(w.column, w.site) for w in the(extract, "constant_column")] == [("lab", "north")]


@pytest.mark.parametrize("kind", ["number", "middle", "text", "missing"])
def test_a_column_that_tells_the_outcome_is_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, kind: str
) -> None:
    ill = frame["ill"] == "1"
    frame["code"] = {
        "number": np.where(ill, 90, 10) + np.arange(80) % 9,
        "middle": np.where(ill, 2, np.arange(80) % 2 * 2 + 1),
        "text": np.where(ill, "i50", np.arange(80) % 3).astype(str),
        "missing": np.where(ill, "", np.arange(80) % 9).astype(str),
    }[kind]
    assert [w.column for w in the(load(frame, risk), "predicts_outcome")] == ["code"]


def test_a_column_that_tells_the_time_is_named(
    load: Load, frame: pd.DataFrame, survival: LoadOptions
) -> None:
    frame["visits"] = frame["days"].astype(int) // 3
    assert [w.column for w in the(load(frame, survival), "predicts_outcome")] == ["visits"]


def test_a_column_known_after_the_outcome_is_named_by_its_name(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    late = frame.assign(length_of_stay=np.arange(80) % 9)
    assert [w.column for w in the(load(late, risk), "after_outcome")] == ["length_of_stay"]


@pytest.mark.parametrize(
    ("name", "late"),
    [
        *[(name, True) for name in ("los", "ICU_LOS", "DischargeStatus", "death_days", "died")],
        *[
            (name, True)
            for name in ("ventilation", "outcome_30d", "出院日期", "是否死亡", "住院天数")
        ],
        *[(name, False) for name in ("age", "closure", "blossom", "studied", "deadlift")],
    ],
)
def test_the_published_list_of_late_names(name: str, late: bool) -> None:
    assert known_after_outcome(name) is late


def test_a_column_that_the_codebook_calls_late_is_used_only_when_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    text = codebook.read_text().replace("scale: 10", "scale: 10, after_outcome: true")
    codebook.write_text(text)
    left_out = load(frame, risk, codebook=codebook)
    assert left_out.columns == ("sex", "smoker")
    assert [w.column for w in the(left_out, "after_outcome")] == ["age"]
    named = load(frame, risk, codebook=codebook, features=("age", "sex"))
    assert named.columns == ("age", "sex")
    assert [w.column for w in the(named, "after_outcome")] == ["age"]


def test_columns_outside_the_codebook_are_left_out_and_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    extract = load(frame.assign(mrn="1"), replace(risk, exclude=()), codebook=codebook)
    assert [w.column for w in the(extract, "not_in_codebook")] == ["days", "seen", "mrn"]
    assert extract.columns == ("age", "sex", "smoker")


def test_constant_columns_are_named_once(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    extract = load(frame.assign(ward="b", empty=""), risk)
    found = [(w.column, w.site) for w in the(extract, "constant_column")]
    assert found == [("ward", None), ("empty", None)]
    assert np.isfinite(extract.cohorts[0].features).all()


def test_thin_hospitals_are_named(load: Load, frame: pd.DataFrame, risk: LoadOptions) -> None:
    frame["hospital"] = ["tiny"] * 3 + ["thin"] * 20 + ["one"] * 20 + ["big"] * 37
    frame["ill"] = ["1", "0", "0"] + ["1"] * 4 + ["0"] * 16 + ["0"] * 20 + ["1", "0"] * 18 + ["0"]
    extract = load(frame, risk)
    assert [w.site for w in the(extract, "few_patients")] == ["tiny"]
    assert [w.site for w in the(extract, "few_events")] == ["thin", "tiny"]
    assert [w.site for w in the(extract, "one_class_site")] == ["one"]


def test_a_small_table_is_not_judged_level_by_level(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    small = frame.iloc[:15].assign(lab=np.random.default_rng(1).normal(size=15))
    small["ill"] = ["1", "0", "0"] * 5
    assert not the(load(small, risk), "predicts_outcome")


def test_a_hospital_where_every_event_was_seen_is_fine_in_survival(
    load: Load, frame: pd.DataFrame, survival: LoadOptions
) -> None:
    frame.loc[frame["hospital"] == "north", "seen"] = "1"
    assert not codes(load(frame, survival)) & {"one_class_site", "few_events"}


def test_codes_for_missing_are_not_unknown_values(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    codebook.write_text(
        codebook.read_text().replace("scale: 10", "scale: 10, missing: [not asked]")
    )
    frame.loc[0, "age"] = "Not asked"
    extract = load(frame, risk, codebook=codebook)
    assert extract.warnings == ()
    assert extract.missing["north"]["age"] == 1


def test_few_events_counts_events_in_survival(
    load: Load, frame: pd.DataFrame, survival: LoadOptions
) -> None:
    frame["seen"] = ["1", "1"] * 2 + ["1", "0"] * 38
    extract = load(frame, survival)
    assert [w.site for w in the(extract, "few_events")] == ["south"]


def test_a_patient_of_two_hospitals_keeps_one_id(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    frame.loc[0, "record"], frame.loc[1, "record"] = "A 1", " a1 "
    extract = load(frame, risk)
    assert the(extract, "patient_in_several_sites")
    north, south = extract.cohorts
    assert len(set(north.patient) & set(south.patient)) == 1


def test_rows_without_an_outcome_are_dropped(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, survival: LoadOptions
) -> None:
    frame.loc[0, "ill"], frame.loc[2, "days"], frame.loc[3, "seen"] = "", "NA", "?"
    extract = load(frame, risk)
    assert [w.site for w in the(extract, "missing_outcome")] == ["north"]
    assert [cohort.rows for cohort in extract.cohorts] == [39, 40]
    assert [cohort.rows for cohort in load(frame, survival).cohorts] == [39, 39]


def test_without_a_patient_column_a_row_is_a_patient(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    extract = load(frame.drop(columns="record"), risk, patient=None)
    assert the(extract, "rows_as_patients")
    assert sum(cohort.patients for cohort in extract.cohorts) == 80


def test_values_the_codebook_does_not_know_are_named_by_column_and_hospital(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    frame.loc[0, "age"], frame.loc[1, "sex"], frame.loc[2, "smoker"] = CANARY, CANARY, CANARY
    found = the(load(frame, risk, codebook=codebook), "unknown_values")
    assert [(w.column, w.site) for w in found] == [
        ("age", "north"),
        ("sex", "south"),
        ("smoker", "north"),
    ]


def test_a_number_outside_the_range_is_clipped_and_named(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    frame.loc[0, "age"] = "4321"
    extract = load(frame, risk, codebook=codebook)
    assert [(w.column, w.site) for w in the(extract, "out_of_range")] == [("age", "north")]
    assert "4321" not in the(extract, "out_of_range")[0].text
    assert extract.cohorts[0].features[0, 0] == 5.0  # (110 - 60) / 10
    assert extract.schema.bound == 6.0  # (60 - 0) / 10


def test_gb18030_is_read_and_named(tmp_path: Path, frame: pd.DataFrame, risk: LoadOptions) -> None:
    path = tmp_path / "导出.csv"
    renamed = frame.rename(columns={"hospital": "医院", "age": "年龄"})
    renamed.to_csv(path, index=False, encoding="gb18030")
    extract = load_table(path, replace(risk, site="医院"))
    assert "encoding_guessed" in codes(extract)
    assert extract.columns == ("年龄", "sex", "smoker")
    assert set(extract.cohorts[0].groups) == {"sex", "age_band"}


def test_a_warning_is_json(load: Load, frame: pd.DataFrame, risk: LoadOptions) -> None:
    (warning,) = load(frame, risk).warnings
    assert set(warning.to_json()) == {"code", "column", "site", "text"}
