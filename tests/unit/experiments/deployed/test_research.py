"""A deployed run from the first print to its files; the coordinator is told, not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedcohort.experiments.deployed.waiting import describe
from fedcohort.experiments.predict import predict
from fedcohort.experiments.reporting.models import load_model
from fedcohort.experiments.run import run
from fedcohort.experiments.settings import Settings
from fedcohort.fl_server.run_folder import RunState
from fedcohort.privacy.errors import ConfigError, ProtocolError
from fedcohort.study.plan import Plan

Asked = Callable[..., Settings]
TABLE = Path(__file__).parents[4] / "datasets/tables/heart_disease_4h.csv"
NAMES = ["federated", "dp_sum-eps3", "dp_each-eps3"]
OFFLINE = ProtocolError("sites_offline", "not online within 300 s: va", hint="Ask them.")


def go(settings: Settings, console: Console | None = None) -> Any:
    return run(settings, command="fedcohort run ...", console=console or Console(quiet=True))


def document(folder: Path) -> Any:
    return json.loads((folder / "deployed.json").read_text(encoding="utf-8"))


def test_a_dry_run_shows_whole_hashes_and_touches_nothing(
    asked: Asked, told: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    console = Console(stderr=True, width=100, highlight=False)
    answer = go(asked("dry_run=true", f"out={tmp_path / 'out'}"), console)
    shown = capsys.readouterr().err
    assert [entry["plan"] for entry in answer["plans"]] == NAMES
    assert all(entry["plan_sha256"] in shown for entry in answer["plans"])
    assert (told.submitted, sorted(tmp_path.rglob("*"))) == ([], before)


def test_all_plans_are_there_before_the_first_is_waited_for(
    asked: Asked, told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    real = told.wait

    def looked(*args: Any, **kwargs: Any) -> RunState:
        seen.append((len(told.submitted), sorted(path.name for path in out.glob("plan-*.json"))))
        found: RunState = real(*args, **kwargs)
        return found

    monkeypatch.setattr("fedcohort.fl_server.submitting.wait", looked)
    go(asked(f"out={out}"))
    assert seen[0] == (3, sorted(f"plan-{name}.json" for name in NAMES))
    for plan, name in zip(told.submitted, NAMES, strict=True):
        assert Plan.from_json((out / f"plan-{name}.json").read_text(encoding="utf-8")) == plan


def test_a_run_ends_with_a_document_models_and_a_picture(
    asked: Asked, told: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answer = go(asked(f"out={out}"), Console(stderr=True, width=200, highlight=False))
    found = document(out)
    assert (found["format"], found["federation"]) == ("fedcohort.deployed/1", "test")
    assert [arm["phase"] for arm in found["arms"]] == ["done"] * 3
    assert [arm["run"] for arm in found["arms"]] == [1, 2, 3]
    noisy = found["arms"][1]
    assert (noisy["rounds"], noisy["seconds"], noisy["bytes_up"]) == (3, 5.25, 1234)
    assert noisy["plan_sha256"] == told.submitted[1].sha256
    assert noisy["privacy"]["epsilon_spent"] <= 3.0
    assert found["arms"][0]["privacy"] is None
    assert list(noisy["coefficients"]) == found["features"]
    saved = load_model(out / noisy["model"])
    assert saved.card["plan_sha256"] == told.submitted[1].sha256
    assert noisy["privacy"]["epsilon_scope"] == "from_the_extract_on"
    assert saved.card["epsilon_scope"] == "from_the_extract_on"
    assert "from the extract on" in saved.card["epsilon_covers"]
    assert saved.card["trained_on"].startswith("patients that the plan does not hold out, of ")
    assert saved.card["sites"] == len(found["sites"])
    exact = load_model(out / found["arms"][0]["model"])
    assert (exact.card["epsilon_scope"], exact.card["epsilon_covers"]) == (None, None)
    assert list(noisy["coefficients"].values()) == list(saved.arrays["theta"][:-1])
    assert found["arms"][0]["figures"] is None
    assert noisy["figures"]["noise"] > 0
    assert 0.6 < noisy["figures"]["discrimination"]["value"] < 0.9
    assert "Held-out patients" in Path(answer["picture"]).read_text(encoding="utf-8")
    assert Path(answer["picture"]).read_text(encoding="utf-8").startswith("<?xml")
    shown = capsys.readouterr().err
    assert "waiting for two people's approval at cleveland, va" in shown
    assert "a later phase" in shown
    assert "held out" in shown
    scored = predict(out / noisy["model"], TABLE, out=tmp_path / "scores.csv")
    assert scored["rows"] == 920


def test_one_failed_run_is_the_exit_and_the_others_are_kept(
    asked: Asked, told: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told.ends["newton"] = OFFLINE
    with pytest.raises(ProtocolError) as refusal:
        go(asked(f"out={out}", "arms=[federated,dp_sum]"))
    error = refusal.value
    assert (error.code, error.exit_code, error.hint) == ("sites_offline", 4, "Ask them.")
    assert str(error) == "federated: not online within 300 s: va"
    failed, ended = document(out)["arms"]
    assert (failed["phase"], failed["failure"]["code"], failed["model"]) == (
        "failed",
        "sites_offline",
        None,
    )
    assert (ended["phase"], ended["failure"]) == ("done", None)
    assert sorted(path.name for path in (out / "models").iterdir()) == [
        "dp_sum-eps3.json",
        "dp_sum-eps3.safetensors",
    ]


@pytest.mark.parametrize("end", ["open", "interrupt"])
def test_whoever_stops_waiting_takes_the_runs_up_again(
    asked: Asked, told: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    settings = asked(f"out={tmp_path / 'out'}", "arms=[federated,dp_sum]")
    told.ends["newton"] = end
    console = Console(stderr=True, width=300, highlight=False)
    with pytest.raises((ProtocolError, SystemExit)) as stopped:
        go(settings, console)
    if isinstance(stopped.value, ProtocolError):
        assert (stopped.value.code, stopped.value.exit_code) == ("wait_over", 4)
        assert "fedcohort coordinator status" in stopped.value.hint
    else:
        assert isinstance(stopped.value, SystemExit)
        assert stopped.value.code == 130
        assert "fedcohort coordinator status" in capsys.readouterr().err
    told.ends.clear()
    go(settings, console)
    assert len(told.submitted) == 2  # none was submitted anew
    assert [arm["phase"] for arm in document(tmp_path / "out")["arms"]] == ["done", "done"]


def test_what_was_not_submitted_is_submitted_when_taken_up(
    asked: Asked, told: Any, tmp_path: Path
) -> None:
    settings = asked(f"out={tmp_path / 'out'}", "arms=[federated,dp_sum]")
    told.refuse_after = 1
    with pytest.raises(ProtocolError, match="SuperLink"):
        go(settings)
    told.refuse_after = 99
    go(settings)
    assert [plan.analysis for plan in told.submitted] == ["newton", "whitened"]


def test_a_run_that_has_ended_or_asks_for_another_plan_is_not_taken_up(
    asked: Asked, told: Any, tmp_path: Path
) -> None:
    out = f"out={tmp_path / 'out'}"
    told.ends["newton"] = "open"
    with pytest.raises(ProtocolError):
        go(asked(out, "arms=[federated]"))
    with pytest.raises(ConfigError) as refusal:
        go(asked(out, "arms=[federated]", "model.l2=2"))
    assert refusal.value.code == "out_exists"
    told.ends.clear()
    go(asked(out, "arms=[federated]"))
    with pytest.raises(ConfigError) as refusal:
        go(asked(out, "arms=[federated]"))
    assert refusal.value.code == "out_exists"
    go(asked(out, "arms=[federated]", "overwrite=true"))
    assert len(told.submitted) == 2


def test_a_phase_of_a_later_release_is_told_with_its_sites() -> None:
    state = RunState(phase="signing_off", waiting_for=("a", "b"))
    assert describe(state) == "signing off: a, b"
