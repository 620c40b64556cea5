"""The preview: every message of one hospital, made of the very plan and of no real row."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedcohort.experiments.deployed.made_up import made_up_cohort
from fedcohort.experiments.deployed.preview import Preview, preview, show_preview
from fedcohort.experiments.deployed.preview_table import reply_in_words
from fedcohort.experiments.simulation.federate import federate
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.errors import FedCohortError, PolicyError
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, PrivacyTerms

SITES = ("a", "b", "c", "d")
SCHEMA = Schema(
    name="made",
    task="risk",
    features=tuple(f"x{number}" for number in range(5)),
    bound=3.0,
    outcome="ill",
    codebook_sha256="0" * 64,
)
SURVIVAL = dataclasses.replace(SCHEMA, task="survival", horizon_days=1000.0)
MODEL = {"name": "logistic", "features": 5, "bound": 3.0}
GRADIENT = {"model": MODEL, "steps": 2, "learning_rate": 0.5, "l2": 1.0}
PHASES = ("advertise", "share", "acknowledge", "commit", "unmask")


def plan_of(schema: Schema = SCHEMA, **changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "study": "s",
        "purpose": "a test",
        "analysis": "gradient",
        "parameters": GRADIENT,
        "schema_sha256": schema.sha256,
        "sites": SITES,
        "privacy": None,
        "max_rounds": 3,
        "max_patients_per_site": 4096,
        "min_sites": 3,
        "secagg": "masked",
        "colluders": 1,
        "roster": "ab" * 32,
        "expires": "2099-01-01",
    }
    return Plan(**(facts | changes))


def noisy(noise_multiplier: float | None = None) -> Plan:
    terms = PrivacyTerms(
        epsilon=2.0,
        delta=1e-5,
        noise_multiplier=noise_multiplier or calibrate(2.0, 1e-5, 1),
        releases=1,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        bound="rdp",
    )
    table = {
        "rows": "ward",
        "row_values": ["north", "south"],
        "columns": "outcome",
        "column_values": ["0", "1"],
        "private": True,
    }
    return plan_of(analysis="counts", parameters=table, privacy=terms, max_rounds=1)


def seen(plan: Plan, schema: Schema = SCHEMA, *, patients: int = 50, rows: int = 60) -> Preview:
    return preview(plan, schema, site="b", patients=patients, rows=rows)


def shown(found: Preview) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    show_preview(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_message_of_the_hospital_is_told_in_both_directions() -> None:
    found = seen(plan_of())
    for out in (True, False):
        counts = {kind.action: kind.count for kind in found.kinds if kind.out == out}
        assert counts == {
            "query.hello": 1,
            "query.propose": 1,
            **{f"query.{phase}": 1 for phase in PHASES[:3]},
            "train.report": 3,
            **{f"query.{phase}": 3 for phase in PHASES[3:]},
            "query.close": 1,
        }
    asked = [message.action for message in found.messages if not message.out]
    assert asked == [message.action for message in found.messages if message.out]
    assert found.rounds == 3
    assert found.ended == ""


def test_a_reply_holds_the_vector_and_its_bytes_are_counted() -> None:
    found = seen(plan_of())
    reports = [m for m in found.messages if m.out and m.action == "train.report"]
    lengths = []
    for message in reports:
        (vector,) = (field for field in message.fields if field.record == "vector")
        assert (vector.name, vector.dtype) == ("sum", "uint64")
        assert message.bytes >= 8 * vector.shape[0]
        lengths.append(vector.shape[0])
    assert lengths[1:] == [6, 6]  # five weights and the intercept
    assert found.total_bytes(out=True) == sum(m.bytes for m in found.messages if m.out)


def test_no_message_tells_how_many_patients_there_are() -> None:
    few, many = seen(plan_of(), patients=10, rows=10), seen(plan_of(), patients=900, rows=2000)
    assert [(m.action, m.out, m.fields) for m in few.messages] == [
        (m.action, m.out, m.fields) for m in many.messages
    ]


def test_a_plan_without_masks_says_that_the_coordinator_reads_the_sums() -> None:
    found = seen(plan_of(secagg="plain"))
    actions = {kind.action for kind in found.kinds}
    assert actions == {"query.hello", "query.propose", "train.report", "query.close"}
    assert "without a mask. The coordinator can read them" in reply_in_words(found)
    assert "look random" in reply_in_words(seen(plan_of()))


def test_the_price_is_the_plans_and_the_sums_are_those_that_a_ledger_pays_for() -> None:
    plan = noisy()
    found = seen(plan)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["releases"], document["most_releases"]) == (1, 1)
    assert (document["epsilon"], document["delta"]) == (2.0, 1e-5)
    assert plan.privacy is not None
    assert document["noise_multiplier"] == plan.privacy.noise_multiplier
    assert document["plan_sha256"] == plan.sha256
    assert "this hospital's share of the noise in it" in reply_in_words(found)
    assert seen(plan_of()).releases == 0


def test_the_json_tells_each_message_with_its_fields() -> None:
    found = seen(plan_of())
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(document["messages"]) == len(found.messages)
    first = document["messages"][0]
    assert (first["action"], first["direction"]) == ("query.hello", "in")
    assert first["fields"] == [
        {"record": "hello", "field": "plan_sha256", "dtype": "text", "shape": [64]}
    ]
    assert document["bytes_in"] == found.total_bytes(out=False)


def test_the_table_has_a_line_for_each_kind_and_says_that_nothing_was_sent() -> None:
    text = shown(seen(noisy()))
    assert text.count("train.report ×1") == 2
    assert "epsilon 2 at delta 1e-05" in text
    assert "Nothing was sent and nothing was charged." in text
    assert "train.report ×3" in shown(seen(plan_of()))


@pytest.mark.parametrize(
    ("analysis", "parameters"),
    [
        ("kaplan_meier", {"horizon_days": 1000.0, "intervals": 12}),
        ("counts", {"rows": "sex", "row_values": ["female", "male"]}),
    ],
)
def test_survival_and_tables_have_previews_too(analysis: str, parameters: dict[str, Any]) -> None:
    plan = plan_of(SURVIVAL, analysis=analysis, parameters=parameters, max_rounds=1)
    found = seen(plan, SURVIVAL, patients=40, rows=40)
    assert (found.rounds, found.ended) == (1, "")


def test_a_plan_that_holds_patients_out_ends_with_its_histogram() -> None:
    holdout = Holdout(key="ab" * 32, test_fraction=0.25, histogram=True, bins=10)
    found = seen(plan_of(holdout=holdout, max_rounds=4))
    assert (found.rounds, found.ended) == (4, "")
    lengths = {
        field.shape
        for message in found.messages
        if message.out
        for field in message.fields
        if field.record == "vector"
    }
    assert (2 * 10,) in lengths


def test_a_run_that_made_up_rows_do_not_finish_shows_what_it_sent() -> None:
    found = seen(plan_of(max_rounds=2))
    assert found.ended == "rounds_exhausted"
    assert {kind.action: kind.count for kind in found.kinds}["train.report"] == 2
    assert "ended early (rounds_exhausted)" in shown(found)


@pytest.mark.parametrize(
    ("plan", "site", "code"),
    [
        (plan_of(), "z", "plan_not_for_us"),
        (plan_of(expires="2020-01-01"), "b", "plan_expired"),
        (plan_of(SURVIVAL), "b", "schema_mismatch"),
        (noisy(noise_multiplier=0.5), "b", "plan_underpriced"),
    ],
)
def test_what_a_node_refuses_whatever_its_rows_is_refused(plan: Plan, site: str, code: str) -> None:
    with pytest.raises(PolicyError) as refused:
        preview(plan, SCHEMA, site=site, patients=50, rows=60)
    assert refused.value.code == code


def test_the_simulation_still_refuses_a_plan_under_a_roster_that_is_not_its_own() -> None:
    cohorts = [cohort(site, number) for number, site in enumerate(SITES)]
    with pytest.raises(FedCohortError) as refused:
        federate(plan_of(), cohorts)
    assert refused.value.code == "roster_mismatch"


# ---- the made-up rows


def cohort(site: str, seed: int, schema: Schema = SCHEMA, **changes: int) -> Cohort:
    shape = {"patients": 40, "rows": 55} | changes
    return made_up_cohort(plan_of(schema), schema, site=site, seed=seed, **shape)


@pytest.mark.parametrize("schema", [SCHEMA, SURVIVAL], ids=["risk", "survival"])
def test_made_up_rows_have_the_shape_and_the_public_ranges(schema: Schema) -> None:
    made = cohort("b", 1, schema)
    assert (made.patients, made.rows, made.schema) == (40, 55, schema)
    assert np.abs(made.features).max() <= schema.bound
    assert np.abs(made.features).max() > 0.9 * schema.bound
    assert 0 < made.outcome_flag.sum() < made.rows
    if made.time is not None:
        assert 0 <= made.time.min() <= made.time.max() <= 1000.0


def test_no_patient_is_made_up_twice() -> None:
    one, other = cohort("a", 0), cohort("b", 1)
    assert not set(one.patient) & set(other.patient)


@pytest.mark.parametrize(("patients", "rows"), [(0, 0), (5, 4)])
def test_an_impossible_shape_is_the_callers_mistake(patients: int, rows: int) -> None:
    with pytest.raises(ValueError, match="patients"):
        cohort("a", 0, patients=patients, rows=rows)
