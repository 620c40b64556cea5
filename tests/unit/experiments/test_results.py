"""`results.json` and a run's folder: whole, checked, or not there."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcohort.experiments.reporting import results as module
from fedcohort.experiments.reporting._results_json import json_schema
from fedcohort.experiments.reporting.folder import RunFolder, rows_csv, write_atomic
from fedcohort.experiments.reporting.results import Results, Row, read, validate
from fedcohort.privacy.errors import ConfigError, DataError


def test_what_is_written_is_read_back_and_written_the_same(results: Results) -> None:
    text = results.dumps()
    again = Results.from_document(json.loads(text))
    assert again.dumps() == text
    assert again.privacy == results.privacy
    assert set(again.models) == set(results.models)
    assert set(again.rows) == set(results.rows)


def test_the_order_of_the_lists_given_does_not_show(risk: Results) -> None:
    turned = replace(
        risk,
        rows=risk.rows[::-1],
        summary=risk.summary[::-1],
        verdicts=risk.verdicts[::-1],
        privacy=risk.privacy[::-1],
        models=risk.models[::-1],
        software=dict(reversed(list(risk.software.items()))),
    )
    assert turned.dumps() == risk.dumps()


def test_arms_and_places_stand_in_the_order_people_read_them(risk: Results) -> None:
    rows = risk.document()["rows"]
    assert list(dict.fromkeys(row["arm"] for row in rows)) == list(module.ARMS)
    assert list(dict.fromkeys(row["site"] for row in rows))[:3] == [
        "all",
        "mean_of_sites",
        "cleveland",
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")])
def test_nan_is_never_written(risk: Results, value: float) -> None:
    row = replace(risk.rows[0], value=value)
    text = replace(risk, rows=(row,)).dumps()
    assert json.loads(text)["rows"] == [
        {**risk.document()["rows"][0], "value": None, "reason": "not_finite"}
    ]


def test_numpy_numbers_are_written_as_numbers(risk: Results) -> None:
    row = replace(risk.rows[0], value=np.float32(0.5), repeat=np.int64(3))  # type: ignore[arg-type]
    assert json.loads(replace(risk, rows=(row,)).dumps())["rows"][0]["value"] == 0.5


@pytest.mark.parametrize(
    ("definition", "cls"),
    [
        ("row", module.Row),
        ("summary", module.Summary),
        ("verdict", module.Verdict),
        ("site", module.SiteInfo),
        ("warning", module.Warned),
        ("note", module.Note),
        ("curve", module.Curve),
        ("picture", module.PictureData),
        ("privacy", module.PrivacyFact),
        ("model", module.ModelFact),
        ("data", module.DataSource),
        ("method", module.Method),
        (None, module.Results),
    ],
)
def test_the_published_schema_names_every_field_and_no_other(
    definition: str | None, cls: Any
) -> None:
    schema = json_schema()["$defs"][definition] if definition else json_schema()
    assert list(schema["properties"]) == [item.name for item in fields(cls)]
    assert schema["required"] == list(schema["properties"])
    assert schema["additionalProperties"] is False
    assert all("description" in field or "$ref" in field for field in schema["properties"].values())


def _without_plan(document: dict[str, Any]) -> None:
    del document["plan_sha256"]


def _with_a_stray_field(document: dict[str, Any]) -> None:
    document["rows"][0]["patient"] = 17


def _with_another_version(document: dict[str, Any]) -> None:
    document["schema"] = "fedcohort.results/2"


def _as_if_deployed(document: dict[str, Any]) -> None:
    document["simulation"] = False


def _as_if_a_repeat_held_from_the_extract_on(document: dict[str, Any]) -> None:
    document["privacy"][0]["epsilon_scope"] = "from_the_extract_on"


def _as_if_a_saved_model_held_given_the_split(document: dict[str, Any]) -> None:
    document["models"][-1]["epsilon_scope"] = "given_split"


def _with_text_for_a_number(document: dict[str, Any]) -> None:
    document["summary"][0]["mean"] = "0.9"


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (_without_plan, "$"),
        (_with_a_stray_field, "$.rows[0]"),
        (_with_another_version, "$.schema"),
        (_as_if_deployed, "$.simulation"),
        (_as_if_a_repeat_held_from_the_extract_on, "$.privacy[0].epsilon_scope"),
        (_as_if_a_saved_model_held_given_the_split, "$.models[16].epsilon_scope"),
        (_with_text_for_a_number, "$.summary[0].mean"),
    ],
)
def test_a_document_that_breaks_the_schema_is_refused_by_the_field(
    risk: Results, spoil: Callable[[dict[str, Any]], None], field: str
) -> None:
    document = risk.document()
    validate(document)
    spoil(document)
    with pytest.raises(DataError) as refused:
        validate(document)
    assert refused.value.code == "results_invalid"
    assert f"field {field}:" in str(refused.value)


def test_reading_where_no_run_finished_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path)
    assert refused.value.code == "results_missing"


def test_a_finished_run_stands_in_its_folder_and_nothing_is_left_beside(
    tmp_path: Path, risk: Results
) -> None:
    out = tmp_path / "runs" / "heart"
    with RunFolder(out) as folder:
        folder.write("plan.json", b"{}\n")
        folder.write_results(risk)
        assert not out.exists()
    assert sorted(path.name for path in out.iterdir()) == [
        "plan.json",
        "results.csv",
        "results.json",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["heart"]
    assert read(out).dumps() == risk.dumps()


def test_a_run_that_fails_leaves_nothing(tmp_path: Path, risk: Results) -> None:
    def run() -> None:
        with RunFolder(tmp_path / "heart") as folder:
            folder.write_results(risk)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from fedcohort.experiments.reporting.folder import RunFolder
with RunFolder(Path(sys.argv[1])) as folder:
    folder.write("plan.json", b"old")
    (folder.partial / "results.json").write_bytes(b"{")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_no_result_and_the_next_one_clears_it(
    tmp_path: Path, risk: Results
) -> None:
    out = tmp_path / "heart"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(DataError):
        read(out)
    with RunFolder(out) as folder:
        folder.write_results(risk)
    assert sorted(path.name for path in out.iterdir()) == ["results.csv", "results.json"]


def test_results_are_not_replaced_unless_asked(tmp_path: Path, risk: Results) -> None:
    with RunFolder(tmp_path / "heart") as folder:
        folder.write_results(risk)
    with pytest.raises(ConfigError) as refused, RunFolder(tmp_path / "heart"):
        pass
    assert refused.value.code == "out_exists"
    assert "overwrite=true" in refused.value.hint


def test_overwriting_replaces_the_run_and_keeps_what_is_not_ours(
    tmp_path: Path, risk: Results, survival: Results
) -> None:
    out = tmp_path / "heart"
    with RunFolder(out) as folder:
        folder.write("report.html", "old")
        folder.write_results(risk)
    (out / "my_notes.txt").write_text("mine")
    with RunFolder(out, overwrite=True) as folder:
        folder.write_results(survival)
    assert read(out).study == survival.study
    assert sorted(path.name for path in out.iterdir()) == [
        "my_notes.txt",
        "results.csv",
        "results.json",
    ]


def test_a_folder_without_results_may_be_used(tmp_path: Path, risk: Results) -> None:
    (tmp_path / "hydra.log").write_text("mine")
    with RunFolder(tmp_path) as folder:
        folder.write_results(risk)
    assert (tmp_path / "hydra.log").read_text() == "mine"
    assert read(tmp_path).study == risk.study


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "heart").write_text("")
    with pytest.raises(ConfigError) as refused, RunFolder(tmp_path / "heart"):
        pass
    assert refused.value.code == "out_not_a_folder"


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks there")
def test_two_runs_do_not_share_a_folder(tmp_path: Path, risk: Results) -> None:
    with RunFolder(tmp_path / "heart") as first:
        with pytest.raises(ConfigError) as refused, RunFolder(tmp_path / "heart"):
            pass
        assert refused.value.code == "out_busy"
        first.write_results(risk)
    assert read(tmp_path / "heart").study == risk.study


def test_leaving_without_results_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must write its results"), RunFolder(tmp_path / "heart"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_dies_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "results.json"
    write_atomic(target, b"old")

    def die(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(target, b"new and long")
    assert target.read_bytes() == b"old"


def test_the_csv_runs_no_formula_and_opens_everywhere(risk: Results) -> None:
    row = replace(risk.rows[0], site='=HYPERLINK("http://x")', value=-0.25)
    data = rows_csv([row])
    assert data.startswith(b"\xef\xbb\xbf")
    (read_back,) = csv.DictReader(data.decode("utf-8-sig").splitlines())
    assert list(read_back) == [item.name for item in fields(Row)]
    assert read_back["site"] == '\'=HYPERLINK("http://x")'
    assert read_back["value"] == "-0.25"
