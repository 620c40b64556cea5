"""A hospital's own verdict: its own patients, both models on the same ones, words as ever."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedcohort.datasets import Extract, LoadOptions, load_catalogue
from fedcohort.experiments.deployed.verdict import Verdict, verdict
from fedcohort.experiments.deployed.verdict_table import show_verdict
from fedcohort.experiments.reporting._wording import VERDICT
from fedcohort.experiments.scores.metrics import auroc
from fedcohort.privacy.errors import DataError, PolicyError
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import solve
from fedcohort.study.cohort import Cohort
from fedcohort.study.evaluated import parts
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, model_of

HOLDOUT = Holdout(key="5a" * 32, test_fraction=0.4, histogram=False, bins=10)


@pytest.fixture(scope="module")
def heart() -> Extract:
    return load_catalogue("heart-disease", LoadOptions())


def held(cohort: Cohort, seed: int = 0) -> Cohort:
    ids, index = np.unique(cohort.patient, return_inverse=True)
    draw = np.random.default_rng(seed)
    return dataclasses.replace(cohort, held_out=(draw.random(ids.size) < 0.4)[index])


def plan_of(cohort: Cohort, name: str = "logistic") -> Plan:
    model: dict[str, Any] = {
        "name": name, "features": len(cohort.schema.features), "bound": cohort.schema.bound,
    }  # fmt: skip
    if cohort.schema.horizon_days is not None:
        model["horizon_days"] = cohort.schema.horizon_days
    return Plan(
        study="a study",
        purpose="p",
        analysis="newton",
        parameters={"model": model, "l2": 1.0},
        schema_sha256=cohort.schema.sha256,
        sites=("a", "b", "c"),
        privacy=None,
        max_rounds=60,
        max_patients_per_site=5000,
        min_sites=3,
        secagg="masked",
        colluders=1,
        roster="simulation",
        expires="9999-12-31",
        holdout=HOLDOUT,
    )


def judged(cohort: Cohort, theta: Any = None, name: str = "logistic") -> Verdict:
    plan = plan_of(cohort, name)
    model = model_of(plan.parameters["model"])
    theta = np.zeros(model.size) if theta is None else theta
    return verdict(cohort, plan, {"theta": theta}, site=cohort.site)


def test_the_numbers_are_those_of_the_two_models_on_the_held_out(heart: Extract) -> None:
    cohort = held(heart.cohorts[0])
    training, out = parts(cohort)
    assert out.label is not None
    model = model_of(plan_of(cohort).parameters["model"])
    theta = np.linspace(-0.3, 0.3, model.size)
    found = judged(cohort, theta)
    own = solve(Newton(model=model, l2=1.0), [training]).arrays["theta"]
    first = found.compared[0]
    assert (found.metric, first.metric) == ("auroc", "auroc")
    assert first.shared == pytest.approx(auroc(out.label, model.predict(theta, out).risk))
    assert first.local == pytest.approx(auroc(out.label, model.predict(own, out).risk))
    assert (found.training_patients, found.held_out_patients) == (training.patients, out.patients)
    assert first.low is not None
    assert first.high is not None
    assert first.difference is not None
    assert first.low <= first.difference <= first.high


def test_a_useless_model_loses_and_the_own_model_again_makes_no_difference(heart: Extract) -> None:
    cohort = held(heart.cohorts[0])
    assert judged(cohort).verdict == "loses"  # one risk for all: an AUROC of one half
    model = model_of(plan_of(cohort).parameters["model"])
    own = solve(Newton(model=model, l2=1.0), [parts(cohort)[0]]).arrays["theta"]
    same = judged(cohort, own)
    assert same.verdict == "no clear difference"
    assert [(one.low, one.high) for one in same.compared if one.low is not None] == [(0, 0)] * 2


def test_a_good_model_gains_where_hardly_anybody_is_in_training(heart: Extract) -> None:
    cohort = heart.cohorts[0]
    model = model_of(plan_of(cohort).parameters["model"])
    everybody = solve(Newton(model=model, l2=1.0), list(heart.cohorts)).arrays["theta"]
    few = np.ones(cohort.rows, dtype=bool)
    few[:6] = False
    found = judged(dataclasses.replace(cohort, held_out=few), everybody)
    assert found.verdict == "gains"
    assert found.verdict in VERDICT


@pytest.mark.parametrize("name", ["hazard", "cox"])
def test_survival_is_judged_by_concordance(name: str) -> None:
    cohort = held(load_catalogue("breast-recurrence", LoadOptions()).cohorts[0])
    found = judged(cohort, name=name)
    assert found.metric == "c_index"
    assert [one.metric for one in found.compared] == ["c_index", "ibs"]
    assert found.compared[0].shared == 0.5
    assert found.verdict == "loses"
    assert found.compared[1].lower_is_better


def test_too_few_patients_or_one_class_are_said_and_nothing_else(heart: Extract) -> None:
    cohort = heart.cohorts[0]
    nine = np.zeros(cohort.rows, dtype=bool)
    nine[:9] = True
    nobody = np.zeros(cohort.rows, dtype=bool)
    label = cohort.label
    assert label is not None
    cases = {
        "few_patients": nine,
        "one_class": (label > 0) & (np.arange(cohort.rows) % 2 == 0),
        "few_events": (label == 0) | (np.cumsum(label) <= 3),
    }
    for reason, out in cases.items():
        found = judged(dataclasses.replace(cohort, held_out=out))
        assert (found.verdict, found.reason) == ("not measurable", reason)
        if reason != "few_events":  # a value of few events stands, with its warning
            assert all(one.shared is None and one.low is None for one in found.compared)
    for out in (nobody, ~nobody):
        empty = judged(dataclasses.replace(cohort, held_out=out))
        assert (empty.verdict, empty.reason, empty.compared) == (
            "not measurable", "few_patients", (),
        )  # fmt: skip


def test_what_is_no_result_of_the_plan_is_refused(heart: Extract) -> None:
    cohort = held(heart.cohorts[0])
    for theta in (np.zeros(3), np.full(14, np.nan)):
        with pytest.raises(DataError) as caught:
            judged(cohort, theta)
        assert caught.value.code == "result_unfit"
    with pytest.raises(PolicyError):
        judged(heart.cohorts[0])


@pytest.mark.parametrize("place", [0, 2])
def test_it_is_json_and_a_table(heart: Extract, place: int) -> None:
    found = judged(held(heart.cohorts[place]))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["verdict"] == found.verdict
    assert document["schema"] == "fedcohort.site-verdict/1"
    console = Console(file=io.StringIO(), width=200)
    show_verdict(found, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert found.verdict in said
    assert "AUROC" in said
    assert "no epsilon covers it" in said
    again = judged(held(heart.cohorts[place]))
    assert again == found  # the bootstrap's seed is public
