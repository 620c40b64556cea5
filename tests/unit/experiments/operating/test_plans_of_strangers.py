"""Plans, results and refusals are a stranger's: none hides another, none rules a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console

from fedcohort.experiments import commands
from fedcohort.experiments.operating import (
    coordinator_commands,
    coordinator_runs,
    plan_words,
    site_decisions,
    site_previews,
)
from fedcohort.experiments.operating.options import out_file, plain, print_json
from fedcohort.experiments.operating.results_of import read_result
from fedcohort.experiments.refusals import refuse
from fedcohort.fl_client.site_folder import SiteFolder
from fedcohort.fl_client.site_gate import RESULT_FORMAT
from fedcohort.fl_server.coordinator_folder import init_coordinator
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.fl_server.run_folder import RunFolder, RunState
from fedcohort.hosting import replace_file
from fedcohort.privacy.errors import ConfigError, FedCohortError, PolicyError
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, PrivacyTerms

ESC = "\x1b[2J\x9b31m\u202e[red]"
PRIVACY = PrivacyTerms(
    epsilon=1.0,
    delta=1e-5,
    noise_multiplier=9.5,
    releases=4,
    clip=1.25,
    sharing="sum",
    min_survivors=3,
    colluders=1,
    bound="rdp",
)
PLAN = Plan(
    study="stroke risk",
    purpose="Who is at risk.",
    analysis="gradient",
    parameters={
        "model": {"name": "logistic", "features": 3, "bound": 3.0},
        "steps": 2,
        "clip": 1.25,
    },
    schema_sha256="5c" * 32,
    sites=("h01", "h02", "h03", "h04"),
    privacy=PRIVACY,
    max_rounds=4,
    max_patients_per_site=1000,
    min_sites=3,
    secagg="masked",
    colluders=1,
    roster="0f" * 32,
    expires="2099-01-31",
    holdout=Holdout(key="ab" * 32, test_fraction=0.123456, histogram=True, bins=37),
)


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    """A node's folder with a policy of which nothing is in force."""
    from fedcohort.fl_client.site_folder import init

    return init(tmp_path / "site", "h03").folder


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person would see."""
    shown = io.StringIO()
    console = Console(file=shown, width=160, force_terminal=True, color_system=None)
    for module in (coordinator_commands, coordinator_runs, site_decisions, site_previews):
        monkeypatch.setattr(module, "console", console)
    return shown


def keep(site: SiteFolder, plan: Plan) -> str:
    replace_file(site.plans / f"{plan.sha256}.json", plan.to_json().encode())
    return plan.sha256


def run(*words: object) -> None:
    typer.main.get_command(commands.app).main([str(w) for w in words], standalone_mode=False)


def words_of(plan: Plan) -> str:
    shown = io.StringIO()
    plan_words.show_plan(plan, Console(file=shown, width=400))
    return shown.getvalue()


# ---- one plan does not hide the others


STRANGE: dict[str, dict[str, Any]] = {
    "another release's analysis": {"analysis": "unheard_of"},
    "a model that is a text": {"parameters": {"model": "x"}},
    "a model that is a number": {"parameters": {"model": 7, "steps": 2}},
    "a model of strange fields": {"parameters": {"model": {"name": ["x"], "features": {}}}},
    "more patients than there are": {"max_patients_per_site": 10**40},
    "a model that fills the memory": {
        "parameters": {"model": {"name": "logistic", "features": 10**12, "bound": 3.0}}
    },
    "texts that a terminal obeys": {"study": ESC, "purpose": ESC, "analysis": ESC},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_plan_that_cannot_be_described_is_a_row_among_others(
    name: str, site: SiteFolder, screen: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = keep(site, dataclasses.replace(PLAN, **STRANGE[name]))
    usual = keep(site, PLAN)
    run("site", "studies", "--folder", site.root)
    printed = capsys.readouterr().out
    rows = {row["plan_sha256"]: row for row in json.loads(printed)}
    assert set(rows) == {strange, usual}
    assert rows[strange]["stopped_by"]
    assert rows[strange]["bytes"] is None
    assert rows[strange]["epsilon"] == 1.0  # what can be read is
    assert rows[usual]["bytes"] > 0
    assert set(rows[strange]) == set(rows[usual])
    run("site", "studies", "--folder", site.root, "--plan", strange)
    assert "CANNOT BE TOLD" in screen.getvalue()
    for text in (screen.getvalue(), printed, capsys.readouterr().out):
        assert not set("\x1b\x9b\u202e") & set(text)


def test_nor_does_a_file_that_is_no_plan(
    site: SiteFolder, screen: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = keep(site, PLAN)
    replace_file(site.plans / f"{'0' * 64}.json", b"{}")
    (site.plans / "notes.json").write_text("{}")
    run("site", "studies", "--folder", site.root)
    rows = {row["plan_sha256"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["0" * 64]["stopped_by"] == "plan_unreadable"
    assert rows["notes"]["stopped_by"] == "plan_unknown_here"
    assert rows[usual]["study"] == "stroke risk"
    assert "3 plans came in" in screen.getvalue()


def test_what_cannot_be_told_is_a_refusal_with_a_code() -> None:
    assert plan_words.plan_facts(PLAN)["sums"] == 4
    for changes in STRANGE.values():
        with pytest.raises(FedCohortError) as refused:
            plan_words.plan_facts(dataclasses.replace(PLAN, **changes))
        assert refused.value.code


def test_nothing_is_made_as_large_as_a_plan_says() -> None:
    large = dataclasses.replace(PLAN, **STRANGE["a model that fills the memory"])
    with pytest.raises(PolicyError) as refused:
        plan_words.plan_facts(large)
    assert refused.value.code == "policy_parameter"


@pytest.mark.parametrize("error", [MemoryError(), AttributeError("x"), OverflowError("x")])
def test_whatever_goes_wrong_with_a_plan_is_a_code(
    error: Exception, monkeypatch: pytest.MonkeyPatch, site: SiteFolder
) -> None:
    def broken(plan: Plan) -> None:
        raise error

    monkeypatch.setattr(plan_words, "analysis_of", broken)
    with pytest.raises(PolicyError) as refused:
        plan_words.plan_facts(PLAN)
    assert refused.value.code == "plan_unreadable"
    assert plan_words.plan_row(site, keep(site, PLAN))["stopped_by"]


# ---- approvers see what they sign


CHANGED: dict[str, Any] = {
    "study": "other",
    "purpose": "Another.",
    "analysis": "newton",
    "parameters": {**PLAN.parameters, "steps": 3},
    "schema_sha256": "5c" * 31 + "5d",
    "sites": ("h01", "h02", "h03", "h05"),
    "max_rounds": 5,
    "max_patients_per_site": 1001,
    "min_sites": 4,
    "secagg": "plain",
    "colluders": 0,
    "roster": "0f" * 31 + "0e",
    "expires": "2099-01-30",
    "holdout": None,
    "privacy": None,
    "privacy.epsilon": 1.001,
    "privacy.delta": 1.1e-5,
    "privacy.noise_multiplier": 9.501,
    "privacy.releases": 5,
    "privacy.clip": 1.26,
    "privacy.sharing": "each",
    "privacy.min_survivors": 4,
    "privacy.colluders": 2,
    "privacy.bound": "pld",
    "holdout.key": "ac" * 32,
    "holdout.test_fraction": 0.123457,
    "holdout.histogram": False,
    "holdout.bins": 38,
}


@pytest.mark.parametrize("name", CHANGED)
def test_whatever_differs_in_a_plan_is_seen(name: str) -> None:
    part, _, inner = name.rpartition(".")
    value = CHANGED[name]
    if part:
        value = dataclasses.replace(getattr(PLAN, part), **{inner: value})
    other = dataclasses.replace(PLAN, **{part or inner: value})
    first, second = ("\n".join(words_of(p).splitlines()[1:]) for p in (PLAN, other))
    assert first != second


def test_no_field_of_a_plan_was_forgotten_here() -> None:
    holdout = [f"holdout.{field.name}" for field in dataclasses.fields(Holdout)]
    noise = [f"privacy.{field.name}" for field in dataclasses.fields(PrivacyTerms)]
    fields = [*(field.name for field in dataclasses.fields(Plan)), *holdout, *noise]
    # Two have one value each; the third is of noise inside local steps alone, below.
    constant = {"privacy.unit", "privacy.relation", "privacy.sampling_probability"}
    assert set(fields) - constant == set(CHANGED)


def test_a_share_of_the_patients_is_seen() -> None:
    noise = dataclasses.replace(PRIVACY, sharing="local", sampling_probability=0.2)
    assert "share of 0.2" in words_of(dataclasses.replace(PLAN, privacy=noise, holdout=None))


# ---- what a terminal sees


def test_a_strangers_text_is_neither_markup_nor_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(f"a{ESC}b").plain == "a[2J31m[red]b"
    print_json({"a": ESC, "b": "张三"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"a": ESC, "b": "张三"}
    assert "张三" in printed
    assert not set("\x1b\x9b\u202e") & set(printed)
    shown = io.StringIO()
    refuse(ConfigError("a_code", f"it says {ESC}", hint=f"{ESC}\nno"), Console(file=shown))
    assert "[red]" in shown.getvalue()
    assert not set("\x1b\x9b\u202e") & set(shown.getvalue())


def test_a_run_that_failed_for_a_strangers_reason_is_told_all_the_same(
    tmp_path: Path, screen: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = CoordinatorSetup(
        folder=tmp_path / "c",
        federation="f",
        names=("127.0.0.1",),
        jurisdiction="CN",
        public_host="127.0.0.1",
        public_port=1,
        loopback_port=2,
    )
    init_coordinator(setup)
    RunFolder(setup.runs / "7").fail(PolicyError(f"[/b]{ESC}", f"it said [/b]{ESC}"))
    with contextlib.suppress(typer.Exit):
        run("coordinator", "status", "--folder", setup.folder)
    assert "[/b]" in screen.getvalue()
    run("coordinator", "logs", "7", "--folder", setup.folder)
    coordinator_runs._tell(RunState(phase="waiting", waiting_for=(f"[/b]{ESC}",)))
    printed = capsys.readouterr().out
    assert "[/b]" in printed
    for text in (screen.getvalue(), printed):
        assert not set("\x1b\x9b\u202e") & set(text)


# ---- files to hand over


def test_a_file_to_hand_over_is_new_and_its_owners(tmp_path: Path) -> None:
    out_file(tmp_path / "a", "text")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("a", "link"):
        with pytest.raises(ConfigError) as refused:
            out_file(tmp_path / name, "other")
        assert refused.value.code == "out_exists"
    assert (tmp_path / "a").read_text() == "text"
    assert not (tmp_path / "target").exists()


# ---- a result that a coordinator made up


def result(site: SiteFolder, edit: Callable[[dict[str, Any]], object]) -> None:
    document: dict[str, Any] = {
        "format": RESULT_FORMAT,
        "plan_sha256": "ab" * 32,
        "ended": "2026-11-22T10:00:00+00:00",
        "arrays": {"theta": {"shape": [2], "values": [0.5, 1]}},
    }
    edit(document)
    replace_file(site.results / f"{'ab' * 32}.json", json.dumps(document).encode())


def test_a_result_is_read_back(site: SiteFolder) -> None:
    result(site, lambda _: None)
    arrays, ended = read_result(site, "ab" * 32)
    assert np.array_equal(arrays["theta"], [0.5, 1.0])
    assert ended.year == 2026


@pytest.mark.parametrize(
    "changes",
    [
        {"arrays": {"theta": {"shape": [1], "values": ["abc"]}}},
        {"arrays": {"theta": {"shape": [1], "values": ["nan"]}}},
        {"arrays": {"theta": {"shape": [1], "values": [float("nan")]}}},
        {"arrays": {"theta": {"shape": [1], "values": [10**400]}}},
        {"arrays": {"theta": {"shape": [1], "values": [True]}}},
        {"arrays": {"theta": {"shape": [1], "values": [None]}}},
        {"arrays": {"theta": {"shape": [1], "values": [[1.0, 2.0]]}}},
        {"arrays": {"theta": {"shape": [1], "values": 3}}},
        {"arrays": {"theta": {"shape": [3], "values": [1.0]}}},
        {"arrays": {"theta": {"shape": "x", "values": [1.0]}}},
        {"arrays": {"theta": {"shape": [10**30], "values": [1.0]}}},
        {"arrays": {"theta": 3}},
        {"arrays": [1]},
        {"arrays": None},
        {"ended": "yesterday"},
        {"ended": 5},
        {"format": "x"},
        {"plan_sha256": "cd" * 32},
    ],
)
def test_what_is_no_result_is_none(changes: dict[str, Any], site: SiteFolder) -> None:
    result(site, lambda document: document.update(changes))
    with pytest.raises(ConfigError) as refused:
        read_result(site, "ab" * 32)
    assert refused.value.code == "no_result"


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"\xff", b"{}", b"[" * 100_000])
def test_nor_is_what_is_no_document(content: bytes, site: SiteFolder) -> None:
    replace_file(site.results / f"{'ab' * 32}.json", content)
    with pytest.raises(ConfigError) as refused:
        read_result(site, "ab" * 32)
    assert refused.value.code == "no_result"


def test_one_result_that_is_none_does_not_hide_the_others(
    site: SiteFolder, screen: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = (keep(site, dataclasses.replace(PLAN, study=study, holdout=None)) for study in "ab")
    for plan, values in ((good, [1.0]), (bad, ["x"])):
        document = {
            "format": RESULT_FORMAT,
            "plan_sha256": plan,
            "ended": "2026-11-22T10:00:00+00:00",
            "arrays": {"theta": {"shape": [1], "values": values}},
        }
        replace_file(site.results / f"{plan}.json", json.dumps(document).encode())
    run("site", "results", "--folder", site.root)
    told = {one["plan_sha256"]: one for one in json.loads(capsys.readouterr().out)}
    assert told[bad]["code"] == "no_result"
    assert told[good]["study"] == "a"
    assert "a: no patients were held out" in screen.getvalue()
    with pytest.raises(ConfigError):
        run("site", "results", bad, "--folder", site.root)
