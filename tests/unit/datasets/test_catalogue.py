"""The two tables that ship: counts, features, defects, licences."""

from importlib import resources

import numpy as np
import pandas as pd
import pytest

from fedcohort.datasets import LoadOptions, list_catalogue, load_catalogue
from fedcohort.privacy.errors import DataError


def table(name: str) -> pd.DataFrame:
    with resources.as_file(resources.files("fedcohort.datasets") / "tables" / name) as path:
        return pd.read_csv(path)


def test_heart_disease_is_the_four_hospitals_of_uci() -> None:
    extract = load_catalogue("heart-disease", LoadOptions())
    assert {cohort.site: cohort.patients for cohort in extract.cohorts} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va_long_beach": 200,
    }
    assert [int(cohort.outcome_flag.sum()) for cohort in extract.cohorts] == [139, 106, 115, 149]
    assert len(extract.schema.features) == 13
    assert extract.schema.task == "risk"
    assert extract.schema.public
    assert extract.schema.bound == 4.0
    assert extract.external == ()
    for cohort in extract.cohorts:
        assert np.isfinite(cohort.features).all()
        assert np.abs(cohort.features).max() <= extract.schema.bound
        assert set(cohort.groups) == {"sex", "age_band"}


def test_a_cholesterol_of_zero_is_missing_and_the_warning_says_where() -> None:
    extract = load_catalogue("heart-disease", LoadOptions())
    assert extract.missing["switzerland"]["chol"] == 123
    assert extract.missing["va_long_beach"]["chol"] == 49 + 7
    assert extract.missing["va_long_beach"]["trestbps"] == 56 + 1
    chol = extract.schema.features.index("chol")
    assert (extract.cohorts[2].features[:, chol] == 0).all()
    told = {(w.code, w.column, w.site) for w in extract.warnings}
    assert ("predicts_site", "chol", "switzerland") in told
    assert ("constant_column", "chol", "switzerland") in told


def test_the_full_set_adds_indicators_that_tell_the_hospital() -> None:
    extract = load_catalogue("heart-disease", LoadOptions(feature_set="full"))
    assert len(extract.schema.features) == 13 + 8
    assert {"slope_missing", "ca_missing", "thal_missing"} < set(extract.schema.features)
    told = {(w.code, w.column, w.site) for w in extract.warnings}
    assert ("predicts_site", "ca", "cleveland") in told


def test_breast_recurrence_has_six_sites_and_ten_features() -> None:
    extract = load_catalogue("breast-recurrence", LoadOptions())
    assert {cohort.site: cohort.patients for cohort in extract.cohorts} == {
        "GBSG": 686,
        "H1": 632,
        "H2": 569,
        "H3": 377,
        "H4": 1156,
        "H5": 248,
    }
    assert len(extract.schema.features) == 10
    assert extract.schema.horizon_days == 2555
    assert extract.warnings == ()
    for column in ("year", "chemo", "recur", "death"):
        assert column not in extract.schema.features


@pytest.mark.parametrize(
    ("site", "inside"), [("centre", ["rotterdam"]), (None, ["H1", "H2", "H3", "H4", "H5"])]
)
def test_gbsg_can_be_set_aside_by_either_cut(site: str | None, inside: list[str]) -> None:
    extract = load_catalogue("breast-recurrence", LoadOptions(site=site, test_sites=("gbsg",)))
    assert [cohort.site for cohort in extract.cohorts] == inside
    assert [cohort.patients for cohort in extract.external] == [686]


def test_rotterdam_follows_the_documented_rule_for_deaths_after_follow_up() -> None:
    """R's help page of survival::rotterdam: censored at rtime when death came after it."""
    frame = table("breast_recurrence_rot_gbsg.csv").query("centre == 'rotterdam'")
    late = (frame.recur == 0) & (frame.death == 1) & (frame.recur_days < frame.death_days)
    assert late.sum() == 43
    relapse_first = (frame.recur == 1) | late
    event = np.where(relapse_first, frame.recur, frame.death)
    days = np.where(relapse_first, frame.recur_days, frame.death_days)
    assert (event == frame.rfs_event).all()
    assert (days == frame.rfs_days).all()


def test_the_horizon_leaves_patients_of_both_cohorts_at_risk() -> None:
    frame = table("breast_recurrence_rot_gbsg.csv")
    assert (frame.groupby("centre").rfs_days.max() > 2555).all()


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("stroke", LoadOptions(), "unknown_data"),
        ("heart-disease", LoadOptions(feature_set="all"), "unknown_feature_set"),
        ("breast-recurrence", LoadOptions(feature_set="full"), "unknown_feature_set"),
        ("heart-disease", LoadOptions(features=("age", "num")), "outcome_feature"),
        ("breast-recurrence", LoadOptions(features=("age", "death")), "outcome_feature"),
        ("heart-disease", LoadOptions(features=("age", "patient_id")), "identifier_feature"),
        ("heart-disease", LoadOptions(test_sites=("oxford",)), "unknown_site"),
        ("heart-disease", LoadOptions(outcome="num"), "outcome_not_binary"),
        ("heart-disease", LoadOptions(time="age", event="exang"), "two_outcomes"),
    ],
)
def test_the_catalogue_refuses_what_cannot_be_right(
    name: str, options: LoadOptions, code: str
) -> None:
    if code == "two_outcomes":  # another kind of outcome replaces the default one
        options = LoadOptions(outcome="disease", time="age")
    with pytest.raises(DataError) as caught:
        load_catalogue(name, options)
    assert caught.value.code == code


def test_choices_of_the_person_replace_those_of_the_catalogue() -> None:
    extract = load_catalogue(
        "heart-disease", LoadOptions(exclude=("chol",), outcome="num", positive="4")
    )
    assert "chol" not in extract.columns
    assert sum(int(cohort.outcome_flag.sum()) for cohort in extract.cohorts) == 28
    assert extract.schema.outcome == "num = 4"
    risk = load_catalogue("breast-recurrence", LoadOptions(outcome="rfs_event"))
    assert risk.schema.task == "risk"


def test_each_entry_can_be_cited() -> None:
    for entry in list_catalogue():
        shown = entry.source.to_json()
        assert all(shown.values())
        assert "http" not in str(shown)
