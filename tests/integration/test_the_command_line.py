"""What people type wrongly, and every command beside `run`: one line, a remedy, an exit code."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from fedcohort import __version__
from fedcohort.datasets import LoadOptions, catalogue_codebook, encode_table, load_catalogue
from fedcohort.experiments.reporting.models import load_model
from fedcohort.study.plan import model_of

HEART = Path(__file__).parents[2] / "datasets" / "tables" / "heart_disease_4h.csv"
STUDY = "study=heart-disease"

Command = Callable[..., Any]


def refusal(answer: Any) -> tuple[str, str, str]:
    """Return code, text and hint of a refusal: two lines on stderr and nothing else."""
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert "\x1b" not in answer.err
    lines = answer.err.rstrip("\n").split("\n")
    assert len(lines) == 2, answer.err
    found = re.fullmatch(r"refused \((\w+)\): (.+)", lines[0])
    assert found, answer.err
    return found[1], found[2], lines[1]


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        ("repeets=2", "unknown_key", "Did you mean repeats?"),
        ("epsilon=2", "unknown_key", "Did you mean privacy.epsilon?"),
        ("privacy.epsilom=2", "unknown_key", "Did you mean privacy.epsilon?"),
        ("+comment=1", "override_kind", "KEY=VALUE"),
        ("~privacy", "override_kind", "KEY=VALUE"),
        ("heart-disease", "not_key_value", "heart-disease is not KEY=VALUE"),
        ("arms=[local,pooled", "not_key_value", "'arms=[local,pooled]'"),
        ("arms=local,pooled", "ambiguous_value", "'arms=[local,pooled]'"),
        ("arms=local", "wrong_type", "'arms=[local]'"),
        ("repeats=abc", "wrong_type", "'abc' of type 'str'"),
        ("repeats=2.5", "wrong_type", "'2.5' of type 'float'"),
        ("privacy.delta=small", "wrong_type", "'small' of type 'str'"),
        ("study=hart-disease", "unknown_choice", "breast-recurrence, custom, heart-disease"),
        ("model=forest", "unknown_choice", "cox, hazard, hazard_mlp, logistic, mlp"),
        ("runtime=ray", "unknown_choice", "in_process"),
        ("repeats=0", "repeats_invalid", "got 0"),
        ("seed=-1", "seed_invalid", "got -1"),
        ("test_fraction=1", "test_fraction_invalid", "[0.05, 0.95]"),
        ("out=", "out_invalid", "out=FOLDER"),
        ("privacy.epsilon=-1", "privacy_epsilon_invalid", "got -1"),
        ("privacy.epsilon=0", "privacy_epsilon_invalid", "got 0"),
        ("privacy.epsilon=nan", "privacy_epsilon_invalid", "got nan"),
        ("privacy.epsilon=inf", "privacy_epsilon_invalid", "got inf"),
        ("privacy.epsilon=1e9", "privacy_epsilon_invalid", "leave the dp_* arms out"),
        ("privacy.epsilon=three", "privacy_epsilon_invalid", "got 'three'"),
        ("privacy.epsilon=true", "privacy_epsilon_invalid", "got True"),
        ("privacy.epsilon=[]", "privacy_epsilon_invalid", "[1,3,8]"),
        ("privacy.epsilon=[3,3]", "privacy_epsilon_invalid", "distinct"),
        ("privacy.epsilon=[3,3.0000001]", "privacy_epsilon_invalid", "distinct"),
        ("privacy.delta=2", "privacy_delta_invalid", "got 2"),
        ("privacy.delta=nan", "privacy_delta_invalid", "got nan"),
        ("privacy.clip=-1", "privacy_clip_invalid", "got -1"),
        ("secagg.min_survivors=9", "secagg_min_survivors_invalid", "[3, 4]"),
        ("secagg.min_survivors=2", "secagg_min_survivors_invalid", "[3, 4]"),
        ("secagg.colluders=-1", "secagg_colluders_invalid", "got -1"),
        ("arms=[foo]", "arms_invalid", "no arm 'foo'"),
        ("arms=[]", "arms_invalid", "at least one"),
        ("algorithm=sgd", "algorithm_invalid", "auto, newton, gradient, fedavg"),
        ("algorithm=newton model=mlp", "algorithm_invalid", "convex"),
        ("model=mlp model.hidden=[-3]", "model_hidden_invalid", "got -3"),
        ("model.fedavg.rounds=0", "model_fedavg_rounds_invalid", "got 0"),
        ("model.fedavg.learning_rate=nan", "model_fedavg_learning_rate_invalid", "got nan"),
        ("model.private.clip=0", "model_private_clip_invalid", "got 0"),
        ("model.l2=-1", "model_l2_invalid", ">= 0"),
        ("runtime.timeout_s=-1", "runtime_timeout_s_invalid", "got -1"),
        ("model=cox", "no_per_patient_gradient", "hazard"),
        ("model=hazard", "model_task", "logistic or mlp"),
        ("study=breast-recurrence model=logistic", "model_task", "hazard, hazard_mlp or cox"),
        ("study=breast-recurrence model.intervals=0", "model_intervals_invalid", "got 0"),
        (
            "study=breast-recurrence model=cox arms=[dp_sum]",
            "no_per_patient_gradient",
            "discrete-time hazard",
        ),
        ("data=table data.path=t.csv", "study_data_mismatch", "Leave study= out"),
        ("data.path=t.csv", "data_path_invalid", "data=table data.path=FILE.csv"),
        ("data.test_sites=[bern]", "unknown_site", "cleveland, hungarian"),
        ("data.exclude=[height]", "missing_column", "data.exclude"),
        ("--multirun repeets=1,2", "unknown_key", "Did you mean repeats?"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_a_remedy(
    command: Command, tmp_path: Path, overrides: str, code: str, words: str
) -> None:
    answer = command("run", STUDY, *overrides.split())
    found, text, hint = refusal(answer)
    assert found == code
    assert words in f"{text}\n{hint}"
    assert answer.code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_in_a_process_of_its_own_is_the_same(
    fedcohort: Command, command: Command, tmp_path: Path
) -> None:
    one = fedcohort("run", STUDY, "privacy.epsilon=-1", cwd=tmp_path)
    other = command("run", STUDY, "privacy.epsilon=-1")
    assert (one.code, one.out, one.err) == (other.code, other.out, other.err)
    assert one.code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_any_word_says_where_to_begin(command: Command) -> None:
    code, _, hint = refusal(command("run"))
    assert code == "data_path_invalid"
    assert "study=heart-disease" in hint


def test_a_folder_that_cannot_be_made_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    answer = command("run", STUDY, "arms=[local]", "repeats=1", "out=file/run")
    assert refusal(answer)[0] == "file_error"
    assert answer.code == 1


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """A user's own table of two hospitals; return the overrides that name it."""
    random = np.random.default_rng(3)
    lines = ["hospital,age,smoker,died"]
    for number in range(160):
        age, smoker = random.integers(30, 90), random.random() < 0.4
        died = random.random() < 1 / (1 + np.exp(-(age - 65) / 8 - smoker))
        lines.append(f"{'ab'[number % 2]},{age},{'yes' if smoker else 'no'},{int(died)}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return ["data=table", "data.path=table.csv", "data.site=hospital", "data.outcome=died",
            "data.patient=one_row_each"]  # fmt: skip


CODEBOOK = """columns:
  age: {type: number, range: [0, 110], centre: 60, scale: 12}
  smoker: {type: boolean, true: ["yes"], false: ["no"]}
"""


def test_a_private_arm_on_a_table_of_ones_own_needs_a_delta(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    (tmp_path / "codebook.yaml").write_text(CODEBOOK)
    asked = (*table, "data.codebook=codebook.yaml", "arms=[federated,dp_sum]")
    answer = command("run", *asked, "privacy.epsilon=1")
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("privacy_delta_missing", 1)
    assert "below 1 / patients" in hint
    assert refusal(command("run", *asked, "privacy.delta=1e-4"))[0] == "privacy_epsilon_missing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codebook.yaml", "table.csv"]


def test_a_private_arm_without_a_codebook_is_refused_by_policy(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    asked = (*table, "arms=[federated,dp_sum]", "privacy.epsilon=1", "privacy.delta=1e-4")
    answer = command("run", *asked, "secagg=plain")
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("codebook_required", 3)
    assert "fedcohort data codebook" in hint
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_without_a_codebook_the_other_arms_run_with_a_warning(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    answer = command("run", *table, "repeats=1", "out=run", "secagg=plain")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "no_codebook" in {warning["code"] for warning in results["warnings"]}
    assert "no_codebook" in answer.err


def test_two_hospitals_cannot_be_masked_from_each_other(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    answer = command("run", *table, "repeats=1", "out=run")
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("secagg_too_few_sites", 1)
    assert "secagg=plain" in hint
    assert not (tmp_path / "run").exists()


def test_an_epsilon_needs_to_know_who_is_a_patient(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    (tmp_path / "codebook.yaml").write_text(CODEBOOK)
    unnamed = [override for override in table if not override.startswith("data.patient")]
    answer = command(
        "run", *unnamed, "data.codebook=codebook.yaml", "arms=[dp_sum]", "repeats=1", "out=run",
        "privacy.epsilon=1", "privacy.delta=1e-4", "secagg=plain",
    )  # fmt: skip
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("patient_required", 3)
    assert "one_row_each" in hint
    assert not (tmp_path / "run").exists()


def test_an_epsilon_needs_an_encoding_that_somebody_stated(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    (tmp_path / "codebook.yaml").write_text(CODEBOOK)
    path = next(tmp_path / o.partition("=")[2] for o in table if o.startswith("data.path="))
    header, first, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([header + b",note", first + b",\xd6\xd0",
                                *(line + b",ok" for line in rest)]))  # fmt: skip
    asked = (
        "run", *table, "data.codebook=codebook.yaml", "arms=[dp_sum]", "repeats=1", "out=run",
        "privacy.epsilon=1", "privacy.delta=1e-4", "secagg=plain",
    )  # fmt: skip
    answer = command(*asked)
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("encoding_required", 3)
    assert "data.encoding" in hint
    assert not (tmp_path / "run").exists()
    answer = command(*asked, "data.encoding=gb18030")
    assert answer.code == 0, answer.err


def test_a_statistic_with_noise_needs_to_know_who_is_a_patient(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    (tmp_path / "codebook.yaml").write_text(CODEBOOK)
    path = next(o.partition("=")[2] for o in table if o.startswith("data.path="))
    asked = [o for o in table if o.startswith("data.") and "patient" not in o and "path" not in o]
    words = ("stats", "counts", path, *asked, "data.codebook=codebook.yaml", "--rows", "outcome",
             "--columns", "outcome")  # fmt: skip
    assert command(*words).code == 0
    answer = command(*words, "--epsilon", "1", "--delta", "1e-4")
    assert (refusal(answer)[0], answer.code) == ("patient_required", 3)
    named = command(*words, "data.patient=one_row_each", "--epsilon", "1", "--delta", "1e-4")
    assert named.code == 0, named.err


def test_a_bound_on_patients_leaves_out_the_same_ones_each_time_and_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has another key of patients' ids; the numbers are the same."""
    found = []
    for out, key in (("one", b"1" * 32), ("two", b"2" * 32)):
        monkeypatch.setattr("fedcohort.datasets.patients._KEY", key)
        answer = command(
            "run", STUDY, "repeats=1", "arms=[federated]", "secagg=plain", f"out={out}",
            "secagg.max_patients_per_site=80",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        assert "site_above_bound" in answer.err
        rows = json.loads((tmp_path / out / "results.json").read_text())["rows"]
        found.append([row["value"] for row in rows])
    assert found[0] == pytest.approx(found[1], rel=0, abs=1e-9, nan_ok=True)


def test_a_delta_that_is_too_large_for_the_patients_is_warned_of(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    (tmp_path / "codebook.yaml").write_text(CODEBOOK)
    answer = command(
        "run", *table, "data.codebook=codebook.yaml", "arms=[dp_sum]", "repeats=1", "out=run",
        "privacy.epsilon=1", "privacy.delta=0.1", "secagg=plain",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "delta_large" in answer.err


def test_a_dry_run_prices_every_plan_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    answer = command("run", STUDY, "dry_run=true", "privacy.epsilon=[1,3]", "out=run")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    # Each plan runs once per repeat, and once more for the model that is saved.
    assert said["trainings"] == {"given_split": 5, "all_patients": 1}
    told = " ".join(answer.err.split())
    assert "5 times for the comparison, where epsilon holds given the split" in told
    assert "once more on all patients, for the model that is saved" in told
    priced = {entry["plan"]: entry for entry in said["plans"]}
    assert len(priced) == 7
    assert priced["federated"]["epsilon"] is None
    for name in ("dp_sum-eps1", "dp_each-eps1", "dp_fedavg-eps1"):
        assert 0.85 < priced[name]["epsilon_spent"] <= 1.0
        ledger = priced[name]["ledger"]
        assert ledger["cost"] <= ledger["limit"]
        assert len(ledger["left"]) == 4
        assert all(0 <= left < 1e-5 for left in ledger["left"].values())
        assert priced[name]["bytes_up_per_site"] > 0
    assert "Nothing was computed and nothing was sent." in answer.err
    assert list(tmp_path.iterdir()) == []


def test_results_are_replaced_only_when_asked(command: Command, tmp_path: Path) -> None:
    asked = ("run", STUDY, "arms=[local]", "repeats=1", "out=run")
    assert command(*asked).code == 0
    before = (tmp_path / "run" / "results.json").read_bytes()
    answer = command(*asked)
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("out_exists", 1)
    assert "overwrite=true" in hint
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    assert command(*asked, "overwrite=true", "seed=1").code == 0
    assert (tmp_path / "run" / "results.json").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_sweep_gives_each_job_a_folder_of_its_own(command: Command, tmp_path: Path) -> None:
    answer = command(
        "run", "--multirun", STUDY, "arms=[local]", "repeats=1", "seed=0,1", "out=sweep"
    )
    assert answer.code == 0, answer.err
    said = [json.loads(line) for line in answer.out.splitlines()]
    assert [entry["out"] for entry in said] == ["sweep/job0", "sweep/job1"]
    seeds = [json.loads((tmp_path / entry["results"]).read_text())["seed"] for entry in said]
    assert seeds == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_a_sweep_without_out_makes_separate_folders_too(command: Command, tmp_path: Path) -> None:
    answer = command("run", "-m", STUDY, "arms=[local]", "repeats=1", "seed=0,1")
    assert answer.code == 0, answer.err
    outs = {json.loads(line)["out"] for line in answer.out.splitlines()}
    assert len(outs) == 2
    assert all((tmp_path / out / "results.json").exists() for out in outs)


def test_help_names_every_key_that_people_and_scripts_rely_on(command: Command) -> None:
    answer = command("run", "--help")
    assert answer.code == 0
    for key in (
        "study", "data", "data.path", "data.site", "data.patient", "data.outcome",
        "data.positive", "data.time", "data.event", "data.features", "data.exclude",
        "data.codebook", "data.test_sites", "model", "arms", "algorithm", "privacy.epsilon",
        "privacy.delta", "privacy.clip", "repeats", "seed", "runtime", "dry_run", "out",
        "overwrite", "--multirun",
    ):  # fmt: skip
        assert re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", answer.out), key


def test_the_composed_configuration_can_be_looked_at(command: Command, tmp_path: Path) -> None:
    answer = command("run", STUDY, "--cfg", "job")
    assert answer.code == 0
    assert "epsilon: 3.0" in answer.out
    assert list(tmp_path.iterdir()) == []


# ---- everything but `run`


def test_version_is_the_version(command: Command) -> None:
    assert command("version").out == f"{__version__}\n"


def test_the_catalogue_lists_and_describes_its_data(command: Command) -> None:
    names = [entry["name"] for entry in json.loads(command("data", "list").out)]
    assert names == ["heart-disease", "breast-recurrence"]
    described = json.loads(command("data", "describe", "heart-disease").out)
    assert {site["site"]: site["patients"] for site in described["sites"]} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va_long_beach": 200,
    }


def test_an_unknown_data_set_is_told_what_there_is(command: Command) -> None:
    code, _, hint = refusal(command("data", "describe", "hart-disease"))
    assert code == "unknown_data"
    assert "heart-disease" in hint
    assert refusal(command("stats", "counts", "none.csv"))[0] == "unreadable_table"


def test_an_unknown_key_of_a_command_is_told_what_there_is(command: Command) -> None:
    code, _, hint = refusal(command("data", "describe", "heart-disease", "data.sight=x"))
    assert code == "unknown_key"
    assert "data.site" in hint


def test_a_drafted_codebook_is_refused_until_a_person_completed_it(
    command: Command, table: list[str], tmp_path: Path
) -> None:
    assert command("data", "codebook", "table.csv", "--out", "draft.yaml").code == 0
    answer = command("run", *table, "data.codebook=draft.yaml", "repeats=1", "out=run")
    code, _, hint = refusal(answer)
    assert (code, answer.code) == ("codebook_incomplete", 1)
    assert "public knowledge" in hint
    again = command("data", "codebook", "table.csv", "--out", "draft.yaml")
    assert refusal(again)[0] == "out_exists"
    assert command("data", "codebook", "table.csv").out == (tmp_path / "draft.yaml").read_text()


def test_counts_without_noise_are_the_pooled_counts(command: Command) -> None:
    said = json.loads(command("stats", "counts", "heart-disease", "--rows", "sex").out)
    assert said["federated"] == said["pooled"]
    assert np.sum(said["pooled"]["table"]) == 920
    assert said["epsilon"] is None
    assert said["simulation"] is True


def test_kaplan_meier_without_noise_is_the_pooled_curve(command: Command) -> None:
    said = json.loads(command("stats", "kaplan-meier", "breast-recurrence").out)
    assert said["federated"] == said["pooled"]
    assert len(said["pooled"]["survival"]) == 24
    assert np.all(np.diff(said["pooled"]["survival"]) <= 0)


@pytest.mark.parametrize(
    "asked", [("counts", "heart-disease"), ("kaplan-meier", "breast-recurrence")]
)
def test_statistics_with_noise_differ_and_state_their_epsilon(
    command: Command, asked: tuple[str, str]
) -> None:
    said = json.loads(command("stats", *asked, "--epsilon", "1", "--delta", "1e-5").out)
    assert said["federated"] != said["pooled"]
    assert said["epsilon"] == 1.0
    assert 0.9 < said["epsilon_spent"] <= 1.0
    assert (said["delta"], said["bound"]) == (1e-5, "rdp")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (("counts", "heart-disease", "--epsilon", "1"), "privacy_delta_missing"),
        (("counts", "heart-disease", "--epsilon", "-1", "--delta", "1e-5"), "privacy_range"),
        (("counts", "heart-disease", "--epsilon", "nan", "--delta", "1e-5"), "privacy_range"),
        (("counts", "heart-disease", "--epsilon", "1", "--delta", "1"), "privacy_range"),
        (("counts", "heart-disease", "--rows", "shoe_size"), "unknown_group"),
        (("kaplan-meier", "heart-disease"), "not_survival"),
    ],
)
def test_statistics_that_cannot_be_are_one_line(
    command: Command, asked: tuple[str, ...], code: str
) -> None:
    answer = command("stats", *asked)
    assert refusal(answer)[0] == code
    assert answer.code == 1


# ---- predict and report


@pytest.fixture(scope="module")
def trained(fedcohort: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("trained")
    asked = ("repeats=1", "arms=[federated,dp_sum]", "out=run")
    answer = fedcohort("run", STUDY, *asked, cwd=cwd)
    assert answer.code == 0, answer.err
    return cwd / "run"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the federated model that a test may spoil."""
    for suffix in (".safetensors", ".json"):
        source = trained / "models" / f"federated{suffix}"
        (tmp_path / f"model{suffix}").write_bytes(source.read_bytes())
    return tmp_path / "model.safetensors"


def test_predict_gives_each_patient_the_models_own_risk(command: Command, model: Path) -> None:
    asked = (f"model={model}", f"data.path={HEART}", "data.patient=patient_id", "out=risk.csv")
    answer = command("predict", *asked)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["rows"] == 920
    with (model.parent / "risk.csv").open() as file:
        risks = {row["patient"]: float(row["risk"]) for row in csv.DictReader(file)}
    # The model itself, on the cohorts that the study trains on.
    saved = load_model(model)
    with HEART.open() as file:
        rows = list(csv.DictReader(file))
    for cohort in load_catalogue("heart-disease", LoadOptions()).cohorts:
        expected = model_of(saved.card["model"]).predict(saved.arrays["theta"], cohort).risk
        here = [risks[row["patient_id"]] for row in rows if row["hospital"] == cohort.site]
        np.testing.assert_allclose(here, expected, atol=1e-5)


def test_predict_never_replaces_a_file(command: Command, model: Path) -> None:
    (model.parent / "risk.csv").write_text("mine")
    answer = command("predict", f"model={model}", f"data.path={HEART}", "out=risk.csv")
    assert refusal(answer)[0] == "out_exists"
    assert (model.parent / "risk.csv").read_text() == "mine"


def test_predict_refuses_a_table_that_lacks_a_column(command: Command, model: Path) -> None:
    with HEART.open() as file:
        rows = [[cell for place, cell in enumerate(row) if place != 1] for row in csv.reader(file)]
    (model.parent / "short.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    code, text, _ = refusal(command("predict", f"model={model}", "data.path=short.csv"))
    assert code == "missing_column"
    assert "no column age" in text
    assert not (model.parent / "short.csv.predictions.csv").exists()


@pytest.mark.parametrize("missing", ["model", "data.path"])
def test_predict_says_which_key_is_missing(command: Command, missing: str) -> None:
    given = [f"{key}=x" for key in ("model", "data.path") if key != missing]
    code, text, _ = refusal(command("predict", *given))
    assert code == "missing_key"
    assert missing in text


def spoil_card(tensors: Path, changes: dict[str, object]) -> None:
    path = tensors.with_suffix(".json")
    card = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in card.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema": "other/1"}, "model_card_invalid"),
        ({"plan_sha256": "gone"}, "model_card_invalid"),
        ({"model": "gone"}, "model_card_invalid"),
        ({"schema_document": {}}, "model_card_invalid"),
        ({"model": {"name": "cox", "features": 14, "bound": 4.0, "horizon_days": 1.0}}, None),
        ({"model": {"name": "../evil", "features": 14, "bound": 4.0}}, "unknown_model"),
        ({"codebook_sha256": "0" * 64}, "schema_mismatch"),
        ({"schema_sha256": "0" * 64}, "schema_mismatch"),
        ({"features": ["age", "chol"]}, "schema_mismatch"),
        ({"features": ["age", "height"]}, "codebook_missing_column"),
        ({"file_sha256": "0" * 64}, "model_hash_mismatch"),
        ({"tensors": {}}, "model_tensor_mismatch"),
    ],
)
def test_predict_refuses_a_card_that_was_changed(
    command: Command, model: Path, changes: dict[str, object], code: str | None
) -> None:
    spoil_card(model, changes)
    answer = command("predict", f"model={model}", f"data.path={HEART}", "out=risk.csv")
    if code is not None:  # else: whatever the code, one line
        assert refusal(answer)[0] == code
    assert refusal(answer)
    assert not (model.parent / "risk.csv").exists()


def test_predict_refuses_another_codebook_in_the_card(command: Command, model: Path) -> None:
    document = catalogue_codebook("heart-disease").document
    document["columns"]["age"] |= {"scale": 11.0}
    spoil_card(model, {"codebook": document})
    answer = command("predict", f"model={model}", f"data.path={HEART}")
    assert refusal(answer)[0] == "schema_mismatch"


def test_predict_refuses_a_tensor_that_was_changed(command: Command, model: Path) -> None:
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    model.write_bytes(bytes(raw))
    answer = command("predict", f"model={model}", f"data.path={HEART}")
    assert refusal(answer)[0] == "model_hash_mismatch"


@pytest.mark.parametrize("spoilt", ["not_finite", "short", "renamed"])
def test_predict_refuses_tensors_that_give_no_risk(
    command: Command, model: Path, spoilt: str
) -> None:
    """Card and tensors agree with each other here: whoever writes both can make them."""
    theta = load(model.read_bytes())["theta"]
    arrays = {
        "not_finite": {"theta": np.full_like(theta, np.nan)},
        "short": {"theta": theta[:3].copy()},
        "renamed": {"weights": theta},
    }[spoilt]
    raw = save(arrays)
    model.write_bytes(raw)
    shapes = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape)}
        for name, array in arrays.items()
    }
    spoil_card(model, {"file_sha256": hashlib.sha256(raw).hexdigest(), "tensors": shapes})
    answer = command("predict", f"model={model}", f"data.path={HEART}", "out=risk.csv")
    assert refusal(answer)[0] == "model_card_invalid"
    assert not (model.parent / "risk.csv").exists()


def test_predict_survives_what_the_table_holds(command: Command, model: Path) -> None:
    """Missing, out of range, unknown categories and text: encoded by the public constants."""
    matrix, _ = encode_table(HEART, catalogue_codebook("heart-disease"), ["age"])
    assert np.isfinite(matrix).all()
    with HEART.open() as file:
        header = next(csv.reader(file))
    (model.parent / "odd.csv").write_text(
        ",".join(header) + "\n" + ",".join("" for _ in header) + "\n"
        + ",".join("1e9" if name in ("age", "chol") else "??" for name in header) + "\n"
    )  # fmt: skip
    answer = command("predict", f"model={model}", "data.path=odd.csv", "out=risk.csv")
    assert answer.code == 0, answer.err
    with (model.parent / "risk.csv").open() as file:
        assert all(0 <= float(row["risk"]) <= 1 for row in csv.DictReader(file))


def test_a_report_is_made_again_byte_for_byte(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    page = (trained / "report.html").read_bytes()
    assert command("report", "run", str(trained)).out.encode() == page
    assert command("report", "run", str(trained), "--out", "again.html").code == 0
    assert (tmp_path / "again.html").read_bytes() == page


def test_a_runs_budget_is_reported_checked_and_marked_a_simulation(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    answer = command("report", "budget", str(trained), "--out", "budget.html")
    assert answer.code == 0, answer.err
    assert "SIMULATION" in answer.err
    page = (tmp_path / "budget.html").read_text(encoding="utf-8")
    assert '<p class="huge"><span lang="en">SIMULATION</span>' in page
    document = json.loads((tmp_path / "budget.json").read_text(encoding="utf-8"))
    spent = {one["source"]: one["statement"]["spent"]["share"] for one in document["hospitals"]}
    assert len(spent) == 4
    assert list(spent.values()) == pytest.approx([1.0] * 4, rel=1e-6)
    ledger = trained / next(iter(spent))
    assert command("ledger", "export", str(ledger), "--out", "export.json").code == 0
    checker = Path(__file__).parents[2] / "docs/how-to/check_budget.py"
    files = [str(tmp_path / name) for name in ("export.json", "budget.json")]
    done = subprocess.run([sys.executable, "-I", "-S", str(checker), *files], check=False)
    assert done.returncode == 0


def test_a_report_needs_a_finished_run(command: Command) -> None:
    code, _, hint = refusal(command("report", "run", "nowhere"))
    assert code == "results_missing"
    assert "run it again" in hint


def test_one_hospitals_rows_are_cut_out_with_the_mapping_that_fits(
    command: Command, tmp_path: Path
) -> None:
    listed = json.loads(command("data", "extract", "heart-disease").out)["sites"]
    assert [row["site"] for row in listed] == [
        "cleveland", "hungarian", "switzerland", "va_long_beach",
    ]  # fmt: skip
    asked = ("data", "extract", "heart-disease", "--site", "switzerland")
    assert refusal(command(*asked))[0] == "missing_key"
    answer = command(*asked, "--out", "data")
    said = json.loads(answer.out)
    assert said["rows"] == 123
    assert said["mapping"] in answer.err
    lines = (tmp_path / "data" / "extract.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 123
    assert refusal(command(*asked, "--out", "data"))[0] == "out_exists"
