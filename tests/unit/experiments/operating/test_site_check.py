"""`fedcohort site check` tells people what a node may not say; `approve` wants its yes."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from fedcohort.experiments import commands
from fedcohort.fl_client.extract_check import check_extract, extract_check
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.site_gate import in_force
from fedcohort.hosting import private_folder
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.errors import DataError, PolicyError
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, PrivacyTerms

CLI = typer.main.get_command(commands.app)


@pytest.fixture
def hospital(made_once: Any, tmp_path: Path) -> Any:
    here = copy.copy(made_once)
    shutil.copytree(made_once.folder.root, tmp_path / "site")
    here.folder = type(made_once.folder)(tmp_path / "site")
    return here


def check(hospital: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    """Run `site check`; return its exit code, what scripts read, what people read."""
    capsys.readouterr()
    code = CLI.main(["site", "check", "--folder", str(hospital.folder.root)], standalone_mode=False)
    out, err = capsys.readouterr()
    return int(code or 0), json.loads(out), err


def edit(hospital: Any, row: int, **cells: str) -> None:
    path = hospital.folder.root / "data" / "extract.csv"
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    for name, text in cells.items():
        lines[row][lines[0].index(name)] = text
    path.write_text("\n".join(",".join(line) for line in lines) + "\n", encoding="utf-8")


def plan_for(hospital: Any, *, most: int = 1000, **changes: Any) -> Plan:
    """Bring a noisy plan to the hospital."""
    schema = SiteData.read(hospital.folder.root, "cleveland").cohort()[0].schema
    model = {"name": "logistic", "features": len(schema.features), "bound": schema.bound}
    plan = Plan(
        study="s",
        purpose="p",
        analysis="gradient",
        parameters={"model": model, "steps": 2, "clip": 1.0},
        schema_sha256=schema.sha256,
        sites=("cleveland", "hungarian", "switzerland"),
        privacy=PrivacyTerms(
            epsilon=1.0,
            delta=1e-5,
            noise_multiplier=calibrate(1.0, 1e-5, 3),
            releases=3,
            clip=1.0,
            sharing="each",
            min_survivors=3,
            colluders=1,
            bound="rdp",
        ),
        max_rounds=3,
        max_patients_per_site=most,
        min_sites=3,
        secagg="plain",
        colluders=0,
        roster="none",
        expires="2099-01-01",
    )
    plan = dataclasses.replace(plan, **changes)
    private_folder(hospital.folder.plans)
    path = hospital.folder.plans / f"{plan.sha256}.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    path.chmod(0o600)
    return plan


def approve(hospital: Any, plan: Plan) -> None:
    words = ["site", "approve", plan.sha256, "--folder", str(hospital.folder.root)]
    words += ["--as", "zhang.w", "--key", str(hospital.keys["zhang.w"]), "--yes"]
    CLI.main(words, standalone_mode=False)


def test_an_extract_that_breaks_no_rule_is_ready_and_the_yes_is_kept(
    hospital: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, shown = check(hospital, capsys)
    assert (code, told["ready"]) == (0, True)
    assert "breaks no rule" in shown
    policy = in_force(hospital.folder)
    data = SiteData.read(hospital.folder.root, "cleveland")
    kept = extract_check(hospital.folder, policy, data.fingerprint)
    assert kept is not None
    assert kept.fingerprint == told["fingerprint"] == data.fingerprint
    assert "extract_checked" in [e.event for e in AuditLog(hospital.folder.audit).entries()]


def test_every_rule_that_is_broken_is_told_with_its_remedy(
    hospital: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(hospital, 3, disease="unknown to us")
    edit(hospital, 5, patient_id="")
    code, told, shown = check(hospital, capsys)
    assert (code, told["ready"]) == (3, False)
    assert {fault["code"] for fault in told["faults"]} == {"outcome_not_binary", "missing_patient"}
    assert all(fault["hint"] for fault in told["faults"])
    assert "unknown to us" not in shown + json.dumps(told)  # a patient's value
    assert not hospital.folder.extract_check.exists()


@pytest.mark.parametrize("change", ["the extract", "the policy", "the file"])
def test_another_extract_or_policy_wants_another_look(hospital: Any, change: str) -> None:
    policy = in_force(hospital.folder)
    fingerprint = check_extract(hospital.folder, policy).fingerprint
    if change == "the extract":
        edit(hospital, 3, age="44")
    elif change == "the policy":
        hospital.edit_policy(("max_rounds: 200", "max_rounds: 201"))
        hospital.sign()
    else:
        hospital.folder.extract_check.write_text("{}")
    fingerprint = SiteData.read(hospital.folder.root, "cleveland").fingerprint
    assert extract_check(hospital.folder, in_force(hospital.folder), fingerprint) is None


def test_nobody_approves_an_extract_that_breaks_a_rule(hospital: Any) -> None:
    edit(hospital, 5, patient_id="")
    plan = plan_for(hospital)
    with pytest.raises(DataError) as caught:
        approve(hospital, plan)
    assert caught.value.code == "missing_patient"
    assert not hospital.folder.approvals.exists() or "approve" not in (
        hospital.folder.approvals.read_text()
    )


def test_an_opt_out_list_that_cannot_be_read_is_told_by_the_check(hospital: Any) -> None:
    (hospital.folder.root / "opt-out.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError) as caught:
        check_extract(hospital.folder, in_force(hospital.folder))
    assert caught.value.code == "opt_out_unreadable"
    assert not hospital.folder.extract_check.exists()


def test_nobody_approves_a_plan_for_other_columns_than_the_extracts(hospital: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        approve(hospital, plan_for(hospital, schema_sha256="ab" * 32))
    assert caught.value.code == "schema_mismatch"


def test_a_plan_that_holds_patients_out_wants_somebody_to_say_who_is_one(hospital: Any) -> None:
    data = SiteData.read(hospital.folder.root, "cleveland")
    split = Holdout(key="5a" * 32, test_fraction=0.3, histogram=False, bins=10)
    plan = plan_for(hospital, holdout=split)
    data.check_holdout(plan)
    nobody = dataclasses.replace(data, options=dataclasses.replace(data.options, patient=None))
    with pytest.raises(PolicyError) as caught:
        nobody.check_holdout(plan)
    assert caught.value.code == "holdout_no_patient"


@pytest.mark.parametrize(("most", "told"), [(302, True), (303, False)])
def test_whoever_approves_is_told_that_a_plan_counts_fewer_patients(
    hospital: Any, capsys: pytest.CaptureFixture[str], most: int, told: bool
) -> None:
    approve(hospital, plan_for(hospital, most=most))
    assert ("303 patients" in capsys.readouterr().err) == told


def test_whoever_approves_is_shown_what_the_check_said(
    hospital: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in range(1, 60):
        edit(hospital, row, cp="no such pain")
    plan = plan_for(hospital)
    approve(hospital, plan)
    shown = capsys.readouterr().err
    assert "breaks no rule" in shown
    assert "unknown_values" in shown
