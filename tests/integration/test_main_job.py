"""The main job, as a researcher runs it: one command, one folder, numbers that hold."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fedcohort.experiments.reporting.models import load_model
from fedcohort.experiments.reporting.results import ALL, ARMS, MEAN_OF_SITES, validate
from fedcohort.study.plan import Plan

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va_long_beach")
WITHOUT_NOISE = ("local", "pooled", "federated", "consensus")
FILES = (
    "comparison.svg",
    "ledgers",
    "models",
    "plan.json",
    "report.html",
    "results.csv",
    "results.json",
)
# Words that would promise what no software can.
FORBIDDEN = ("anonymous", "anonymised", "anonymized", "compliant", "blockchain", "certified")

Run = dict[str, Any]
Runner = Callable[..., Run]


@pytest.fixture(scope="module")
def job(fedcohort: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Run `fedcohort run ARGUMENTS` in an empty folder and read what it left."""

    def run(*arguments: str) -> Run:
        cwd = tmp_path_factory.mktemp("job")
        answer = fedcohort("run", *arguments, cwd=cwd)
        assert answer.code == 0, answer.err
        said = json.loads(answer.out)
        folder = cwd / said["out"]
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return {"cwd": cwd, "folder": folder, "said": said, "results": results, "err": answer.err}

    return run


@pytest.fixture(scope="module")
def heart(job: Runner) -> Run:
    return job("study=heart-disease", "repeats=2")


@pytest.fixture(scope="module")
def heart_again(job: Runner) -> Run:
    return job("study=heart-disease", "repeats=2", "out=again")


def value_of(run: Run, arm: str, site: str, metric: str, repeat: int = 0) -> float:
    (found,) = (
        row["value"]
        for row in run["results"]["rows"]
        if (row["arm"], row["site"], row["metric"], row["repeat"]) == (arm, site, metric, repeat)
        and (row["epsilon"] is None or not arm.startswith("personalised"))
    )
    return float(found)


def numbers_of(run: Run, arms: tuple[str, ...]) -> dict[tuple[Any, ...], float | None]:
    return {
        (row["arm"], row["site"], row["repeat"], row["metric"]): row["value"]
        for row in run["results"]["rows"]
        if row["arm"] in arms and row["epsilon"] is None
    }


def test_stdout_names_the_files_and_every_file_is_there(heart: Run) -> None:
    said = heart["said"]
    assert set(said) == {"out", "results", "comparison", "report"}
    assert all((heart["cwd"] / path).exists() for path in said.values())
    assert said["out"].startswith("runs/heart-disease/")
    assert sorted(path.name for path in heart["folder"].iterdir()) == list(FILES)
    assert all(path.stat().st_size > 0 for path in heart["folder"].rglob("*"))


def test_nothing_but_the_run_folder_is_left_behind(heart: Run) -> None:
    files = [path for path in heart["cwd"].rglob("*") if path.is_file()]
    assert all(heart["folder"] in path.parents for path in files)


def test_the_results_fit_their_schema(heart: Run) -> None:
    validate(heart["results"])
    assert heart["results"]["schema"] == "fedcohort.results/1"
    assert heart["results"]["command"] == "fedcohort run study=heart-disease repeats=2"
    assert tuple(site["site"] for site in heart["results"]["sites"]) == HOSPITALS


def test_the_results_name_the_plan_by_the_hash_of_its_bytes(heart: Run) -> None:
    raw = (heart["folder"] / "plan.json").read_bytes()
    assert heart["results"]["plan_sha256"] == hashlib.sha256(raw).hexdigest()
    cards = [json.loads(path.read_text()) for path in (heart["folder"] / "models").glob("*.json")]
    assert cards
    assert {card["plan_sha256"] for card in cards} == {heart["results"]["plan_sha256"]}


def test_every_plan_inside_is_one_that_a_hospital_could_approve(heart: Run) -> None:
    document = json.loads((heart["folder"] / "plan.json").read_text(encoding="utf-8"))
    assert set(document["plans"]) == {"federated", "dp_sum-eps3", "dp_each-eps3", "dp_fedavg-eps3"}
    for written in document["plans"].values():
        plan = Plan.from_json(json.dumps(written))
        assert Plan.from_json(plan.to_json()) == plan
        assert json.loads(plan.to_json()) == written
        assert plan.sites == HOSPITALS


def test_rows_hold_every_arm_place_repeat_and_metric_once(heart: Run) -> None:
    rows = heart["results"]["rows"]
    metrics = {row["metric"] for row in rows}
    assert {"auroc", "auprc", "brier", "calibration_slope", "accuracy"} <= metrics
    found = Counter(
        (row["arm"], row["epsilon"], row["site"], row["repeat"], row["metric"]) for row in rows
    )
    arms: list[tuple[str, float | None]] = [(arm, None) for arm in (*WITHOUT_NOISE, "personalised")]
    arms += [(arm, 3.0) for arm in ("dp_sum", "dp_each", "dp_fedavg", "personalised")]
    assert {arm for arm, _ in arms} == set(ARMS)
    wanted = {
        (arm, epsilon, place, repeat, metric)
        for (arm, epsilon), place, repeat, metric in product(
            arms, (ALL, MEAN_OF_SITES, *HOSPITALS), range(2), metrics
        )
        if (arm, place) != ("local", ALL)
    }
    assert set(found) == wanted
    assert set(found.values()) == {1}


def test_a_value_that_is_missing_says_why(heart: Run) -> None:
    for row in heart["results"]["rows"]:
        assert row["value"] is not None or row["reason"]


def test_local_is_scored_at_single_sites_and_as_their_mean_only(heart: Run) -> None:
    for part in ("rows", "summary"):
        places = {entry["site"] for entry in heart["results"][part] if entry["arm"] == "local"}
        assert places == {MEAN_OF_SITES, *HOSPITALS}


@pytest.mark.parametrize("repeat", [0, 1])
def test_federated_newton_is_the_pooled_fit(heart: Run, repeat: int) -> None:
    for place in (ALL, MEAN_OF_SITES, *HOSPITALS):
        for metric in ("auroc", "brier"):
            pooled = value_of(heart, "pooled", place, metric, repeat)
            assert value_of(heart, "federated", place, metric, repeat) == pytest.approx(
                pooled, abs=1e-6
            )


def test_every_private_number_states_what_was_asked_and_what_was_spent(heart: Run) -> None:
    facts = {fact["arm"]: fact for fact in heart["results"]["privacy"]}
    assert set(facts) == {"dp_sum", "dp_each", "dp_fedavg"}
    for fact in facts.values():
        assert fact["epsilon"] == 3.0
        # A ledger's currency is dearer than the privacy loss distribution that samples state.
        least = 2.9 if fact["bound"] == "rdp" else 2.5
        assert least < fact["epsilon_spent"] <= 3.0
        assert (fact["bound"] == "pld") == (fact["arm"] == "dp_fedavg")
        assert 0 < fact["same_variance_epsilon"] <= fact["epsilon_spent"]
        assert fact["ledger_cost"] == pytest.approx(fact["ledger_limit"], rel=1e-5)
        assert fact["ledger_cost"] <= fact["ledger_limit"]
        one, two, three = fact["sites_per_person"]
        assert fact["epsilon_spent"] == one < two < three
        assert fact["unit"] == "patient"
    for entry in heart["results"]["summary"]:
        # A personalised model starts from a private one; its own fit has no noise to state.
        stated = entry["epsilon"] is not None and entry["arm"] != "personalised"
        assert stated == (entry["epsilon_spent"] is not None) == (entry["bound"] is not None)
        assert (entry["epsilon"] is None) == (entry["delta"] is None)


def test_an_arms_epsilon_holds_given_the_split_and_a_saved_models_from_the_extract_on(
    heart: Run,
) -> None:
    results = heart["results"]
    assert {fact["epsilon_scope"] for fact in results["privacy"]} == {"given_split"}
    for entry in results["summary"]:
        stated = None if entry["epsilon_spent"] is None else "given_split"
        assert entry["epsilon_scope"] == stated
    models = {(model["arm"], model["epsilon"]): model for model in results["models"]}
    noisy = {("dp_sum", 3.0), ("dp_each", 3.0), ("dp_fedavg", 3.0)}
    assert set(models) == noisy | {(arm, None) for arm in (*WITHOUT_NOISE, "personalised")} | {
        ("personalised", 3.0)
    }
    spent = {fact["arm"]: fact["epsilon_spent"] for fact in results["privacy"]}
    for (arm, epsilon), model in models.items():
        private = (arm, epsilon) in noisy
        assert model["epsilon_scope"] == ("from_the_extract_on" if private else None)
        assert model["epsilon_spent"] == (spent[arm] if private else None)
        assert (model["trained_on"], model["sites"], model["patients"]) == ("all_patients", 4, 920)
        assert model["stays_home"] == (arm in ("local", "personalised"))
        for file in model["files"]:
            card = load_model(heart["folder"] / file).card
            assert card["arm"] == arm
            assert card["epsilon_scope"] == model["epsilon_scope"]
    files = [file for model in models.values() for file in model["files"]]
    saved = (heart["folder"] / "models").glob("*.safetensors")
    assert sorted(files) == sorted(f"models/{path.name}" for path in saved)
    text = " ".join(heart["err"].split())
    assert "eps holds given the split" in text
    assert text.count("from the extract on") == 3
    page = (heart["folder"] / "report.html").read_text(encoding="utf-8")
    for words in ("given the split", "以划分为条件", "from the extract on", "自数据提取起"):
        assert page.count(words) >= 3
    plan = json.loads((heart["folder"] / "plan.json").read_text(encoding="utf-8"))
    assert plan["models"] == "all_patients"


def test_the_line_on_what_epsilon_covers_is_everywhere(heart: Run) -> None:
    line = "Epsilon covers the model, not the test metrics"
    assert line in " ".join(heart["err"].split())
    assert line in (heart["folder"] / "report.html").read_text(encoding="utf-8")
    assert line in (heart["folder"] / "results.json").read_text(encoding="utf-8")


def test_two_repeats_are_too_few_for_a_verdict_and_it_is_said(heart: Run) -> None:
    verdicts = heart["results"]["verdicts"]
    assert {verdict["site"] for verdict in verdicts} == set(HOSPITALS)
    assert {verdict["verdict"] for verdict in verdicts} == {"not measurable"}
    assert {verdict["reason"] for verdict in verdicts} == {"few_repeats"}


def test_every_model_reads_back_and_belongs_to_its_card(heart: Run) -> None:
    paths = sorted((heart["folder"] / "models").glob("*.safetensors"))
    names = {path.name.removesuffix(".safetensors") for path in paths}
    for_all = {"pooled", "federated", "consensus", "dp_sum-eps3", "dp_each-eps3", "dp_fedavg-eps3"}
    kinds = ("local", "personalised", "personalised-eps3")
    assert names == for_all | {f"{kind}-{site}" for kind in kinds for site in HOSPITALS}
    for path in paths:
        assert load_model(path).arrays["theta"].size > 1


def test_piped_streams_hold_no_colours_and_no_progress(heart: Run) -> None:
    assert "\x1b" not in heart["err"]
    assert "\r" not in heart["err"]


def test_no_output_promises_what_software_cannot(heart: Run) -> None:
    texts = [heart["err"]]
    for path in heart["folder"].rglob("*"):
        if path.suffix in (".json", ".csv", ".html", ".svg"):
            texts.append(path.read_text(encoding="utf-8"))
    for text in texts:
        assert not [word for word in FORBIDDEN if word in text.lower()]


def test_the_same_seed_gives_the_same_numbers_and_fresh_noise(heart: Run, heart_again: Run) -> None:
    arms = (*WITHOUT_NOISE, "personalised")
    assert numbers_of(heart, arms) == numbers_of(heart_again, arms)
    assert heart["results"]["plan_sha256"] == heart_again["results"]["plan_sha256"]
    for arm in ("dp_sum", "dp_each", "dp_fedavg"):
        one, other = (value_of(run, arm, ALL, "brier") for run in (heart, heart_again))
        assert one != other
    name = "models/federated.safetensors"
    assert (heart["folder"] / name).read_bytes() == (heart_again["folder"] / name).read_bytes()
    name = "models/dp_sum-eps3.safetensors"
    assert (heart["folder"] / name).read_bytes() != (heart_again["folder"] / name).read_bytes()


def test_another_seed_gives_other_splits(job: Runner, heart: Run) -> None:
    other = job("study=heart-disease", "repeats=1", "seed=1", "arms=[federated]")
    assert value_of(other, "federated", ALL, "auroc") != value_of(heart, "federated", ALL, "auroc")


def test_repeats_are_different_splits(heart: Run) -> None:
    assert value_of(heart, "federated", ALL, "auroc", 0) != value_of(
        heart, "federated", ALL, "auroc", 1
    )


def test_one_natural_cohort_trains_and_the_other_validates(job: Runner) -> None:
    run = job(
        "study=breast-recurrence", "data.site=centre", "data.test_sites=[gbsg]", "repeats=1",
        "arms=[pooled,federated,dp_sum,dp_each]", "secagg=plain",
    )  # fmt: skip
    roles = {site["site"]: site["role"] for site in run["results"]["sites"]}
    assert roles == {"rotterdam": "participant", "gbsg": "external"}
    for arm in ("pooled", "federated", "dp_sum", "dp_each"):
        assert 0.62 < value_of(run, arm, "gbsg", "c_index") < 0.75
        assert 0.1 < value_of(run, arm, "gbsg", "ibs") < 0.25
    # Alone, a site adds all of the noise: no other hospital could take a share off.
    facts = {fact["arm"]: fact for fact in run["results"]["privacy"]}
    assert facts["dp_sum"]["colluders"] == 0


def test_cox_over_six_hospitals_is_exact_and_has_a_baseline(job: Runner) -> None:
    run = job("study=breast-recurrence", "model=cox", "repeats=1", "arms=[local,pooled,federated]")
    assert len(run["results"]["sites"]) == 6
    # Pooled is not stratified by hospital, federated is: near, and not the same.
    pooled, federated = (value_of(run, arm, ALL, "c_index") for arm in ("pooled", "federated"))
    assert federated == pytest.approx(pooled, abs=0.005)
    assert 0.64 < federated < 0.75
    assert value_of(run, "federated", ALL, "ibs") < 0.22


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra `deep`")
def test_a_network_runs_through_the_same_door(job: Runner) -> None:
    run = job(
        "study=heart-disease", "model=mlp", "repeats=1", "arms=[local,pooled,federated,dp_sum]",
        "model.fedavg.rounds=6", "model.private.steps=6", "privacy.epsilon=8",
    )  # fmt: skip
    for arm in ("pooled", "federated", "dp_sum"):
        assert value_of(run, arm, ALL, "auroc") > 0.7
    plan = json.loads(Path(run["folder"] / "plan.json").read_text(encoding="utf-8"))
    assert plan["plans"]["federated"]["analysis"] == "averaging"


def test_the_results_say_how_the_sums_were_made(heart: Run) -> None:
    assert heart["results"]["secagg"] == {
        "mode": "masked",
        "suite": "intl",
        "repeats": "first",
        "sites": 4,
        "threshold": 3,
        "colluders": 1,
        "min_survivors": 4,
        "dropped": [],
        "liars": [],
    }
    assert "masked_sums" in {note["code"] for note in heart["results"]["notes"]}
    assert all(fact["masked"] for fact in heart["results"]["privacy"])


def test_masks_change_no_number_of_a_model_without_noise(job: Runner) -> None:
    arms = ("study=heart-disease", "repeats=2", "arms=[federated]")
    masked = job(*arms, "secagg.repeats=all")
    plain = job(*arms, "secagg=plain")
    assert plain["results"]["secagg"]["mode"] == "plain"
    assert plain["results"]["secagg"]["threshold"] is None
    assert masked["results"]["rows"] == plain["results"]["rows"]  # the same integers
    assert "plain_sums" in {note["code"] for note in plain["results"]["notes"]}
