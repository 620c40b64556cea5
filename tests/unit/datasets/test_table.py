"""What a table becomes: cohorts, ids, groups, and the same from either file format."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

import fedcohort.datasets
from fedcohort.datasets import Extract, LoadOptions, describe, load_table, read_table
from fedcohort.privacy.errors import DataError

Load = Callable[..., Extract]


def test_a_hospital_is_a_cohort_and_rows_keep_their_order(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    extract = load(frame, risk, codebook=codebook)
    assert [cohort.site for cohort in extract.cohorts] == ["north", "south"]
    north = frame[frame["hospital"] == "north"]
    cohort = extract.cohorts[0]
    assert extract.schema.features == ("age", "sex=male", "smoker")
    assert cohort.features[:, 0] == pytest.approx((north["age"].astype(float) - 60) / 10)
    assert cohort.label is not None
    assert cohort.label.tolist() == north["ill"].astype(float).tolist()
    assert cohort.groups["sex"].tolist() == north["sex"].tolist()
    assert set(cohort.groups["age_band"]) <= {"<50", "50-59", "60-69", "70+"}


def test_survival_has_times_and_events(
    load: Load, frame: pd.DataFrame, survival: LoadOptions, codebook: Path
) -> None:
    codebook.write_text(codebook.read_text() + "horizon_days: 900\n")
    extract = load(frame, survival, codebook=codebook)
    south = frame[frame["hospital"] == "south"]
    cohort = extract.cohorts[1]
    assert cohort.time is not None
    assert cohort.event is not None
    assert cohort.time.tolist() == south["days"].astype(float).tolist()
    assert cohort.event.tolist() == (south["seen"] == "1").tolist()
    assert extract.schema.horizon_days == 900


def test_parquet_and_csv_give_the_same_cohorts(
    tmp_path: Path, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    typed = frame.astype({"age": float, "ill": int})
    typed["smoker"] = typed["smoker"] == "Yes"
    typed.loc[5, "age"] = None
    typed.loc[7, "sex"] = None
    book = codebook.read_text().replace('"Yes", "1"', '"true"').replace('"No", "0"', '"false"')
    codebook.write_text(book)
    csv, parquet = tmp_path / "t.csv", tmp_path / "t.parquet"
    typed.to_csv(csv, index=False)
    with duckdb.connect() as connection:
        connection.register("typed", typed)
        connection.execute(f"COPY typed TO '{parquet}' (FORMAT parquet)")
    options = replace(risk, codebook=codebook)
    one, other = load_table(csv, options), load_table(parquet, options)
    assert one.schema.sha256 == other.schema.sha256
    assert one.missing == other.missing
    assert one.missing["south"] == {"age": 1, "sex": 1, "smoker": 0}
    for left, right in zip(one.cohorts, other.cohorts, strict=True):
        assert (left.features == right.features).all()
        assert (left.patient == right.patient).all()
        assert (left.outcome_flag == right.outcome_flag).all()


def test_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffcode,text,gap\n007, Yes ,N/A\n1e3,,未查\n".encode())
    frame, notes = read_table(path)
    assert frame["code"].tolist() == ["007", "1e3"]
    assert frame["text"].tolist()[0] == "Yes"
    assert frame.isna().to_numpy().tolist() == [[False, False, True], [False, True, True]]
    assert notes == ()


def test_hospitals_set_aside_are_matched_without_case(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    frame.loc[0, "hospital"] = " North "
    extract = load(frame, risk, test_sites=("NORTH",))
    assert [cohort.site for cohort in extract.cohorts] == ["south"]
    assert [cohort.patients for cohort in extract.external] == [40]


@pytest.mark.parametrize(
    "values", [("0", "1"), ("No", "YES"), ("0.0", "1.0"), ("False", "True"), ("否", "是")]
)
def test_usual_spellings_of_an_outcome_need_no_positive(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, values: tuple[str, str]
) -> None:
    expected = (frame["ill"] == "1").sum()
    frame["ill"] = [values[int(value)] for value in frame["ill"]]
    extract = load(frame, risk)
    assert sum(int(cohort.outcome_flag.sum()) for cohort in extract.cohorts) == expected


def test_a_positive_value_is_matched_and_named_in_the_schema(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    frame["ill"] = [["mild", "severe", "none of it"][row % 3] for row in range(80)]
    extract = load(frame, risk, positive="Severe")
    assert sum(int(cohort.outcome_flag.sum()) for cohort in extract.cohorts) == 27
    assert extract.schema.outcome == "ill = severe"


def test_several_rows_of_a_patient_are_one_patient_in_a_risk_table(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    frame["record"] = [f"P{row // 4}{row % 2}" for row in range(80)]
    extract = load(frame, risk)
    assert [(cohort.rows, cohort.patients) for cohort in extract.cohorts] == [(40, 20), (40, 20)]


def test_a_patients_key_cannot_be_had_from_the_id_in_another_process(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    here = load(frame, risk).cohorts[0].patient[0]
    code = (
        "import pandas as pd; from fedcohort.datasets.patients import keyed_ids;"
        "print(keyed_ids(pd.Series(['K-000'], dtype='str'))[0])"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env=dict(os.environ),
    )
    assert there.stdout.strip().isdigit()
    assert here != np.uint64(int(there.stdout))


def test_a_description_counts_by_hospital(
    load: Load, frame: pd.DataFrame, risk: LoadOptions, codebook: Path
) -> None:
    frame.loc[0, "age"] = ""
    shown = describe(load(frame, risk, codebook=codebook, test_sites=("south",))).to_json()
    assert [(site["site"], site["external"]) for site in shown["sites"]] == [
        ("north", False),
        ("south", True),
    ]
    assert shown["sites"][0]["missing"]["age"] == 1 / 40
    assert shown["sites"][0]["patients"] == 40


def test_importing_the_folder_by_its_own_name_says_what_is_wrong(tmp_path: Path) -> None:
    root = Path(fedcohort.datasets.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import datasets"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode != 0
    assert "take the root off the path" in ran.stderr


def test_a_column_named_twice_in_features_is_used_once(
    load: Load, frame: pd.DataFrame, risk: LoadOptions
) -> None:
    assert load(frame, risk, features=("age", "sex", "age")).columns == ("age", "sex")


def test_every_refusal_carries_a_code_and_is_a_data_error(risk: LoadOptions) -> None:
    with pytest.raises(DataError) as caught:
        load_table(Path("nowhere.csv"), risk)
    assert caught.value.exit_code == 1
