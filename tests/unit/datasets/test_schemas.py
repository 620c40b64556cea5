"""A schema said without a table is the one that the table itself gives, at each hospital."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fedcohort.datasets import (
    Extract,
    LoadOptions,
    catalogue_codebook,
    catalogue_schema,
    load_catalogue,
    parse_codebook,
    schema_of,
)
from fedcohort.fl_client.site_data import SiteData
from fedcohort.privacy.errors import DataError

CODEBOOK = """
name: smoking
horizon_days: 900
columns:
  age: {type: number, range: [0, 110], centre: 60, scale: 10}
  sex: {type: category, values: [female, male], other: false}
  smoker: {type: boolean, true: ["Yes", "1"], false: ["No", "0"]}
  weight: {type: number, range: [0, 200], after_outcome: true}
"""
RISK = LoadOptions(outcome="ill")
SURVIVAL = LoadOptions(time="days", event="seen")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("heart-disease", LoadOptions()),
        ("heart-disease", LoadOptions(feature_set="full", exclude=("ca",))),
        ("heart-disease", LoadOptions(features=("age", "sex"), outcome="num", positive="1")),
        ("breast-recurrence", LoadOptions()),
        ("breast-recurrence", LoadOptions(outcome="death")),
    ],
)
def test_a_catalogue_table_has_the_schema_that_was_planned(name: str, options: LoadOptions) -> None:
    planned, codebook = catalogue_schema(name, options)
    extract = load_catalogue(name, options)
    assert planned == extract.schema
    assert planned.sha256 == extract.schema.sha256
    assert codebook == extract.codebook


@pytest.mark.parametrize("options", [RISK, SURVIVAL, replace(RISK, positive="1.0")])
@pytest.mark.parametrize("features", [None, ("smoker", "age")])
@pytest.mark.parametrize("exclude", [(), ("sex",)])
def test_a_hospitals_node_makes_the_schema_that_was_planned(
    frame: pd.DataFrame,
    tmp_path: Path,
    options: LoadOptions,
    features: tuple[str, ...] | None,
    exclude: tuple[str, ...],
) -> None:
    """The node drops what nobody named, and has no column of hospitals."""
    asked = replace(options, features=features, exclude=exclude)
    folder = tmp_path / "a_file_of_another_name"
    folder.mkdir()
    frame.assign(weight="70").to_csv(folder / "extract.csv", index=False)
    (folder / "codebook.yaml").write_text(CODEBOOK, encoding="utf-8")
    roles = {"outcome": asked.outcome, "positive": asked.positive}
    roles |= {"time": asked.time, "event": asked.event}
    lines = ["schema: fedcohort.mapping/1", "table: extract.csv", "codebook: codebook.yaml"]
    lines += ["patient: record", f"exclude: [{', '.join(exclude)}]"]
    lines += [f"features: [{', '.join(features)}]"] if features else []
    lines += [f'{key}: "{value}"' for key, value in roles.items() if value is not None]
    (folder / "mapping.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    cohort, _ = SiteData.read(folder, "north").cohort()
    planned = schema_of(parse_codebook(CODEBOOK), asked)
    assert planned == cohort.schema
    assert planned.sha256 == cohort.schema.sha256


def test_a_table_of_ones_own_has_the_schema_that_was_planned(
    load: Callable[..., Extract], frame: pd.DataFrame, risk: LoadOptions, tmp_path: Path
) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(CODEBOOK, encoding="utf-8")
    extract = load(frame.assign(weight="70"), replace(risk, codebook=path, exclude=()))
    assert schema_of(parse_codebook(CODEBOOK), RISK).sha256 == extract.schema.sha256


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (LoadOptions(), "no_outcome"),
        (replace(RISK, time="days", event="seen"), "two_outcomes"),
        (LoadOptions(time="days"), "no_outcome"),
        (replace(RISK, outcome="smoker", features=("smoker",)), "outcome_feature"),
        (replace(RISK, features=("age", "height")), "codebook_missing_column"),
        (replace(RISK, features=("age",), exclude=("age",)), "no_features"),
    ],
)
def test_what_a_hospital_would_refuse_is_refused_before(options: LoadOptions, code: str) -> None:
    with pytest.raises(DataError) as refusal:
        schema_of(parse_codebook(CODEBOOK), options)
    assert refusal.value.code == code


def test_a_name_that_identifies_a_person_is_refused_by_the_name_alone() -> None:
    book = parse_codebook("name: n\ncolumns:\n  mrn: {type: number, range: [0, 9]}\n")
    with pytest.raises(DataError) as refusal:
        schema_of(book, RISK)
    assert refusal.value.code == "identifier_feature"


def test_a_survival_outcome_needs_a_public_end_of_time() -> None:
    book = replace(parse_codebook(CODEBOOK), horizon_days=None)
    with pytest.raises(DataError) as refusal:
        schema_of(book, SURVIVAL)
    assert refusal.value.code == "codebook_incomplete"
    assert schema_of(book, RISK).horizon_days is None


def test_a_codebook_without_a_name_is_refused() -> None:
    """Each hospital would take its own file's name, and its own hash."""
    book = replace(catalogue_codebook("heart-disease"), name="")
    with pytest.raises(DataError) as refusal:
        schema_of(book, RISK)
    assert refusal.value.code == "codebook_unnamed"
