"""A user's own table, as tables are: tiny hospitals, one class, empty categories, odd patients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

CODEBOOK = """
name: stroke-unit
columns:
  age: {type: number, range: [0, 110], unit: years, centre: 65, scale: 12}
  sex: {type: category, values: [male, female], other: false}
  ward: {type: category, values: [general, stroke, icu]}
  smoker: {type: boolean, true: ["Yes"], false: ["No"]}
"""
TABLE = ("data=table", "data.site=hospital", "data.outcome=died", "data.codebook=codebook.yaml")
NOISY = ("privacy.epsilon=3", "privacy.delta=1e-3")
EVERY_ARM = (
    "arms=[local,pooled,federated,personalised,consensus,dp_sum,dp_each,dp_fedavg]",
    *NOISY,
)

Command = Callable[..., Any]
Study = Callable[..., dict[str, Any]]


def patients(site: str, number: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    age = random.normal(65, 12, number).round(1)
    smoker = random.random(number) < 0.4
    died = random.random(number) < 1 / (1 + np.exp(-((age - 65) / 8 + 1.5 * smoker - 0.5)))
    return pd.DataFrame(
        {
            "pid": [f"{site}-{place:03d}" for place in range(number)],
            "hospital": site,
            "age": age,
            "sex": random.choice(["male", "female"], number),
            "ward": random.choice(["general", "stroke", "icu"], number),
            "smoker": np.where(smoker, "Yes", "No"),
            "died": died.astype(int),
        }
    )


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two hospitals of 100, one of three patients, one of one class, one without a category."""
    none_died = patients("never", 40, 3).assign(died=0)
    no_icu = patients("small", 40, 4).assign(ward="general", sex="female")
    return pd.concat(
        [patients("big", 100, 0), patients("other", 100, 1), patients("tiny", 3, 2), none_died,
         no_icu], ignore_index=True,
    )  # fmt: skip


@pytest.fixture
def study(command: Command, tmp_path: Path) -> Study:
    """Write a table and its codebook, run a study on it and read its results."""

    def run(frame: pd.DataFrame, *overrides: str, form: str = "csv") -> dict[str, Any]:
        (tmp_path / "codebook.yaml").write_text(CODEBOOK)
        path = tmp_path / f"table.{form}"
        if form == "csv":
            frame.to_csv(path, index=False)
        else:
            duckdb.from_df(frame).write_parquet(str(path))
        who = () if any("data.patient" in o for o in overrides) else ("data.patient=one_row_each",)
        asked = (*TABLE, f"data.path={path.name}", f"out={form}", *who, *overrides)
        answer = command("run", *asked)
        assert answer.code == 0, answer.err
        assert "Traceback" not in answer.err
        text = (tmp_path / form / "results.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        return found

    return run


def values(results: dict[str, Any], **wanted: object) -> dict[tuple[Any, ...], float | None]:
    return {
        (row["arm"], row["epsilon"], row["site"], row["repeat"], row["metric"]): row["value"]
        for row in results["rows"]
        if all(row[key] == value for key, value in wanted.items())
    }


def warned(results: dict[str, Any]) -> set[tuple[str, str | None]]:
    return {(warning["code"], warning["site"]) for warning in results["warnings"]}


def test_every_arm_runs_where_hospitals_are_as_they_are(study: Study, frame: pd.DataFrame) -> None:
    results = study(frame, "repeats=3", "data.patient=pid", *EVERY_ARM)
    assert {("few_patients", "tiny"), ("one_class_site", "never")} <= warned(results)
    for site, reason in (("tiny", "few_patients"), ("never", "one_class")):
        rows = [row for row in results["rows"] if row["site"] == site and row["metric"] == "auroc"]
        assert len(rows) == 9 * 3  # personalised twice: from the federated and the noisy model
        assert {row["value"] for row in rows} == {None}
        assert {row["reason"] for row in rows} == {reason}
        (plain, noisy) = (v for v in results["verdicts"] if v["site"] == site)
        for verdict in (plain, noisy):
            assert (verdict["verdict"], verdict["reason"]) == ("not measurable", reason)
    for arm in ("local", "federated", "dp_sum"):
        scored = values(results, arm=arm, site="mean_of_sites", metric="auroc").values()
        assert all(value is not None for value in scored)


def test_the_mean_of_sites_is_over_those_that_could_be_scored(
    study: Study, frame: pd.DataFrame
) -> None:
    results = study(frame, "repeats=1", "arms=[federated]")
    own = values(results, arm="federated", metric="auroc", repeat=0)
    single = [own["federated", None, site, 0, "auroc"] for site in set(frame["hospital"])]
    known = [value for value in single if value is not None]
    assert len(known) == 3
    assert own["federated", None, "mean_of_sites", 0, "auroc"] == pytest.approx(np.mean(known))


def test_parquet_and_csv_give_the_same_numbers(study: Study, frame: pd.DataFrame) -> None:
    arms = "arms=[local,pooled,federated]"
    csv, parquet = (
        study(frame, "repeats=1", "data.patient=pid", arms, form=form)
        for form in ("csv", "parquet")
    )
    assert values(csv) == values(parquet)


def test_federated_is_pooled_on_such_a_table_too(study: Study, frame: pd.DataFrame) -> None:
    results = study(frame, "repeats=2", "arms=[pooled,federated]")
    for (_, *place), value in values(results, arm="pooled", metric="brier").items():
        other = values(results, arm="federated")[("federated", *place)]
        assert other == (None if value is None else pytest.approx(value, abs=1e-6))


def test_several_rows_of_a_patient_are_one_patient(study: Study, frame: pd.DataFrame) -> None:
    random = np.random.default_rng(9)
    rows = frame.loc[frame.index.repeat(random.integers(1, 6, len(frame)))]
    results = study(rows, "repeats=1", "data.patient=pid", *EVERY_ARM)
    for site in results["sites"]:
        here = rows[rows["hospital"] == site["site"]]
        assert (site["patients"], site["rows"]) == (here["pid"].nunique(), len(here))
    assert {fact["unit"] for fact in results["privacy"]} == {"patient"}


def test_a_patient_of_two_hospitals_is_warned_of_and_trains_nowhere_twice(
    study: Study, frame: pd.DataFrame
) -> None:
    frame.loc[frame["hospital"] == "small", "pid"] = [f"big-{place:03d}" for place in range(40)]
    results = study(frame, "repeats=1", "data.patient=pid", *EVERY_ARM)
    assert "patient_in_several_sites" in {code for code, _ in warned(results)}
    codes = {note["code"] for fact in results["privacy"] for note in fact["not_covered"]}
    assert "several_hospitals" in codes


def test_an_unknown_category_and_a_missing_value_stop_nothing(
    study: Study, frame: pd.DataFrame
) -> None:
    frame.loc[::7, "ward"] = "helipad"
    frame.loc[::5, "age"] = np.nan
    frame.loc[::11, "smoker"] = None
    frame.loc[3, "age"] = 1e12
    results = study(frame, "repeats=1", "arms=[federated,dp_sum]", *NOISY)
    assert all(row["value"] is not None or row["reason"] for row in results["rows"])


def test_a_hospital_set_aside_is_scored_and_never_trains(study: Study, frame: pd.DataFrame) -> None:
    results = study(frame, "repeats=1", "data.test_sites=[other]", "arms=[local,federated,dp_sum]",
                    *NOISY)  # fmt: skip
    roles = {site["site"]: site["role"] for site in results["sites"]}
    assert [site for site, role in roles.items() if role == "external"] == ["other"]
    arms = {row["arm"] for row in results["rows"] if row["site"] == "other"}
    assert arms == {"federated", "dp_sum"}


def test_one_hospital_alone_is_no_federation_and_still_runs(
    study: Study, frame: pd.DataFrame
) -> None:
    alone = frame[frame["hospital"] == "big"]
    results = study(alone, "repeats=1", "secagg=plain", *EVERY_ARM)
    assert {fact["colluders"] for fact in results["privacy"]} == {0}


def test_a_survival_table_of_ones_own_runs_with_noise(
    study: Study, frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    random = np.random.default_rng(5)
    frame["days"] = random.integers(1, 1500, len(frame))
    frame = frame.rename(columns={"died": "seen"})
    (tmp_path / "codebook.yaml").write_text("horizon_days: 1095\n" + CODEBOOK)
    frame.to_csv(tmp_path / "table.csv", index=False)
    answer = command(
        "run", "data=table", "data.path=table.csv", "data.site=hospital", "data.time=days",
        "data.event=seen", "data.codebook=codebook.yaml", "data.patient=one_row_each",
        "model=hazard", "repeats=1", "out=run",
        "arms=[local,pooled,federated,personalised,dp_sum]", *NOISY,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["primary_metric"] == "c_index"
    tiny = values(results, site="tiny", metric="c_index")
    assert set(tiny.values()) == {None}
