"""The gate of a real site between two messages of one run: what changed since counts at once."""

from __future__ import annotations

import copy
import datetime as dt
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client import site_gate
from fedcohort.fl_client.governance.approvals import Approvals
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.site import Site, open_site
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.site_gate import in_force
from fedcohort.fl_client.site_study import PHASES, SecAggRequest
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.study.bundle import bundle_bytes, bundle_sha256
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import terms_for
from fedcohort.study.submission import sign_submission


@pytest.fixture
def hospital(made_once: Any, tmp_path: Path) -> Any:
    here = copy.copy(made_once)
    shutil.copytree(made_once.folder.root, tmp_path / "site")
    here.folder = type(made_once.folder)(tmp_path / "site")
    return here


def plan_for(hospital: Any, study: str = "s") -> Plan:
    schema = SiteData.read(hospital.folder.root, "cleveland").cohort()[0].schema
    model = {"name": "logistic", "features": len(schema.features), "bound": schema.bound}
    return Plan(
        study=study,
        purpose="p",
        analysis="gradient",
        parameters={"model": model, "steps": 2, "clip": 1.0},
        schema_sha256=schema.sha256,
        sites=("cleveland", "hungarian"),
        privacy=PrivacyTerms(
            epsilon=1.0,
            delta=1e-5,
            noise_multiplier=calibrate(1.0, 1e-5, 3),
            releases=3,
            clip=1.0,
            sharing="each",
            min_survivors=2,
            colluders=1,
            bound="rdp",
        ),
        max_rounds=3,
        max_patients_per_site=1000,
        min_sites=2,
        secagg="plain",
        colluders=0,
        roster="none",
        expires="2099-01-01",
    )


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as refused:
        act()
    return refused.value.code


def reported(site: Site, plan: Plan) -> None:
    analysis = analysis_of(plan)
    state = analysis.initial()
    terms = terms_for(plan, analysis, state, "00" * 16)
    site.node.report(terms.to_json(), dict(state.arrays))


def phase_code(site: Site, plan: Plan, phase: str) -> str:
    return code_of(lambda: site.node.secagg(SecAggRequest(phase=phase, plan_sha256=plan.sha256)))


# ---- between the report of a sum and its opening


def revoke(hospital: Any, plan: Plan) -> str:
    approvals = Approvals(hospital.folder.approvals, in_force(hospital.folder))
    approvals.revoke(plan.sha256, "li.m", load_identity(hospital.keys["li.m"]))
    return "approval_revoked"


def edit_policy(hospital: Any, plan: Plan) -> str:
    hospital.edit_policy(("max_rounds: 200", "max_rounds: 201"))
    return "policy_unsigned"


def forbid(hospital: Any, plan: Plan) -> str:
    hospital.edit_policy(("max_rounds: 200", "max_rounds: 1  "))
    hospital.sign()
    return "policy_rounds"


def replace_extract(hospital: Any, plan: Plan) -> str:
    table = hospital.folder.root / "data" / "extract.csv"
    table.write_text(table.read_text() + "\n")
    return "approval_other_data"


@pytest.mark.parametrize("change", [revoke, edit_policy, forbid, replace_extract])
@pytest.mark.parametrize("phase", PHASES)
def test_a_site_that_reported_opens_no_sum_after_its_people_changed_their_mind(
    phase: str, change: Callable[[Any, Plan], str], hospital: Any
) -> None:
    """The plan sums in plain, so that a phase which passes the gate fails by another code."""
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    site.node.propose(plan.to_json(), "CN")
    reported(site, plan)
    assert phase_code(site, plan, phase) == "no_session"  # it passed: the positive control
    expected = change(hospital, plan)
    assert phase_code(site, plan, phase) == expected


def test_an_approval_that_ends_between_report_and_unmask_opens_no_sum(hospital: Any) -> None:
    days = [0]

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(days=days[0])

    site, plan = open_site(hospital.folder, now=now), plan_for(hospital)
    hospital.approve(plan)
    site.node.propose(plan.to_json(), "CN")
    reported(site, plan)
    assert phase_code(site, plan, "unmask") == "no_session"
    days[0] = 91
    assert phase_code(site, plan, "unmask") == "approval_expired"


def test_a_phase_is_written_down_before_it_is_answered(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    site.node.propose(plan.to_json(), "CN")
    assert phase_code(site, plan, "unmask") == "no_session"
    last = AuditLog(hospital.folder.audit).entries()[-2]
    assert (last.event, last.facts["code"]) == ("phase_asked", "unmask")
    assert last.facts["plan_sha256"] == plan.sha256


# ---- a run and its plan


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_is_bound_to_its_plan_in_masked_phases_too(
    phase: str, hospital: Any, a_coordinator: CoordinatorSetup
) -> None:
    """Both plans are approved and known here; the run was signed for one of them."""
    site = open_site(hospital.folder)
    plan, other = plan_for(hospital), plan_for(hospital, "another")
    identity = load_identity(a_coordinator.identity)
    for one in (other, plan):
        hospital.approve(one)
        signed = sign_submission(identity, bundle_sha256(), one.sha256)
        site.admit(bundle_bytes(), {"plan-sha256": one.sha256, "submission": signed})
        site.node.propose(one.to_json(), "CN")
    assert phase_code(site, plan, phase) == "no_session"
    assert phase_code(site, other, phase) == "run_other_plan"


# ---- what comes back


def test_a_result_beyond_the_size_limit_is_not_kept_and_the_plan_ends_all_the_same(
    hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_gate, "_MOST_NUMBERS", 5)
    site = open_site(hospital.folder)
    for study, sizes, code in (("a", (2, 3), ""), ("b", (2, 4), "result_too_large")):
        plan = plan_for(hospital, study)
        hospital.approve(plan)
        site.node.propose(plan.to_json(), "CN")
        result = {f"part{place}": np.zeros(size) for place, size in enumerate(sizes)}
        if code:
            assert code_of(lambda p=plan, r=result: site.node.close(p.sha256, r)) == code  # type: ignore[misc]
        else:
            site.node.close(plan.sha256, result)
        assert (hospital.folder.results / f"{plan.sha256}.json").exists() == (not code)
        assert site.ledger.book.accounts[plan.sha256].closed


def test_a_refusal_is_written_down_with_the_plan_that_it_was_about(
    hospital: Any, a_coordinator: CoordinatorSetup
) -> None:
    """Whatever refused it: the gate, the run's plan, the plan's rounds."""
    site, plan, other = open_site(hospital.folder), plan_for(hospital), plan_for(hospital, "b")
    signed = sign_submission(load_identity(a_coordinator.identity), bundle_sha256(), plan.sha256)
    site.admit(bundle_bytes(), {"plan-sha256": plan.sha256, "submission": signed})
    for one in (plan, other):
        hospital.approve(one)
    site.node.propose(plan.to_json(), "CN")
    assert code_of(lambda: site.node.propose(other.to_json(), "CN")) == "run_other_plan"
    assert phase_code(site, plan, "share") == "no_session"
    revoke(hospital, plan)
    assert code_of(lambda: reported(site, plan)) == "approval_revoked"
    found = [
        (entry.facts["code"], entry.facts.get("plan_sha256"))
        for entry in AuditLog(hospital.folder.audit).entries()
        if entry.event == "message_refused"
    ]
    assert found == [
        ("run_other_plan", other.sha256),
        ("no_session", plan.sha256),
        ("approval_revoked", plan.sha256),
    ]


def test_the_result_of_a_plan_that_never_ran_here_is_not_kept(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    assert code_of(lambda: site.node.propose(plan.to_json(), "CN")) == "plan_not_approved"
    site.node.close(plan.sha256, {"theta": np.zeros(3)})
    assert not (hospital.folder.results / f"{plan.sha256}.json").exists()


# ---- the extract's stamp


@pytest.mark.parametrize("how", ["written over", "put in its place"])
def test_an_extract_of_equal_size_and_time_is_noticed(how: str, hospital: Any) -> None:
    """Who changes a record can set size and modification time as they were, and nothing else."""
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    site.node.propose(plan.to_json(), "CN")
    table = hospital.folder.root / "data" / "extract.csv"
    before, stamp = table.stat(), SiteData.read(hospital.folder.root, "cleveland").stamp
    assert SiteData.read(hospital.folder.root, "cleveland").stamp == stamp
    lines = table.read_text().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]  # the same bytes in another order
    if how == "written over":
        table.write_text("".join(lines))
    else:
        beside = table.with_name("beside.csv")
        beside.write_text("".join(lines))
        beside.replace(table)
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = table.stat()
    assert (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert SiteData.read(hospital.folder.root, "cleveland").stamp != stamp
    assert phase_code(site, plan, "commit") == "approval_other_data"


@pytest.mark.parametrize("field", ["st_ino", "st_ctime_ns"])
def test_the_stamp_holds_the_files_number_and_the_time_of_its_last_change(
    field: str, hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone: a copy may come with the number of a deleted file, a clock may stand still."""
    data = SiteData.read(hospital.folder.root, "cleveland")
    table, stamp = data.table, data.stamp
    found = table.stat()
    names = ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_dev")
    facts = {name: getattr(found, name) for name in names}

    class Changed:
        pass

    changed = Changed()
    for name, value in {**facts, field: facts[field] + 1}.items():
        setattr(changed, name, value)
    stat = Path.stat

    def stamped(path: Path, **named: Any) -> Any:
        return changed if path == table else stat(path, **named)

    monkeypatch.setattr(Path, "stat", stamped)
    assert data.stamp != stamp


def test_a_plan_that_ended_is_closed_for_every_message(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    site.node.propose(plan.to_json(), "CN")
    site.node.close(plan.sha256)
    assert phase_code(site, plan, "advertise") == "plan_unknown"
    assert code_of(lambda: reported(site, plan)) == "plan_unknown"
