"""A coordinator that sends too much: each kind of message has its number a day.

The coordinator holds the right key, so that every message reaches the node. What it sends beyond
the day's number is refused before it is looked at, and leaves a bounded number of lines; an
approved plan is answered all the same.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedcohort.fl_client import site_gate
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.governance.day_limits import TIMES
from fedcohort.fl_client.site import Site, open_site
from fedcohort.fl_client.site_study import PHASES, SecAggRequest
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.privacy.errors import FedCohortError
from fedcohort.study.bundle import bundle_bytes
from fedcohort.study.plan import Plan

MOST = 3  # limits.max_requests_per_day


@pytest.fixture
def strict(a_hospital: Any) -> Any:
    a_hospital.edit_policy(("max_requests_per_day: 5000", f"max_requests_per_day: {MOST}"))
    a_hospital.sign()
    return a_hospital


@pytest.fixture
def line(strict: Any, a_coordinator: CoordinatorSetup, line_to: Any) -> Any:
    return line_to(a_coordinator, open_site(strict.folder), hold_s=0.0)


def lines_of(hospital: Any) -> Counter[str]:
    return Counter(entry.event for entry in AuditLog(hospital.folder.audit).entries())


def phase_of(line: Any, plan: Plan, phase: str = "commit") -> str:
    record = ConfigRecord({"plan_sha256": plan.sha256, "epoch": b"", "rounds": 0, "data": [b"x"]})
    return str(line.ask(f"query.{phase}", RecordDict({"secagg": record}), plan))


def test_a_flood_of_greetings_stops_no_plan_that_was_approved(
    strict: Any, line: Any, two_plans: dict[str, Plan]
) -> None:
    plan = two_plans["noisy"]
    strict.approve(plan)
    codes = [line.hello(plan) for _ in range(10 * MOST + 5)]
    assert codes == [""] * (10 * MOST) + ["policy_requests"] * 5
    assert [line.propose(plan), line.report(plan), line.close(plan)] == ["", "", ""]
    assert lines_of(strict)["message_refused"] == 5


def test_a_flood_of_phases_is_bounded_and_stops_no_round(
    strict: Any, line: Any, two_plans: dict[str, Plan]
) -> None:
    plan = two_plans["noisy"]  # sums in plain: each phase is looked at, and is none of this plan's
    strict.approve(plan)
    assert line.propose(plan) == ""
    codes = [phase_of(line, plan, PHASES[number % 5]) for number in range(5 * MOST + 5)]
    assert codes == ["no_session"] * (5 * MOST) + ["policy_requests"] * 5
    assert line.report(plan) == ""
    assert lines_of(strict)["phase_asked"] == 5 * MOST


def test_a_restart_forgets_no_phase(strict: Any, line: Any, two_plans: dict[str, Plan]) -> None:
    plan = two_plans["noisy"]
    strict.approve(plan)
    assert line.propose(plan) == ""
    for _ in range(5 * MOST):
        assert phase_of(line, plan) == "no_session"
    line.site.ledger.dispose()
    line.site = open_site(strict.folder)
    site: Site = line.site
    site.node.propose(plan.to_json(), "CN")
    with pytest.raises(FedCohortError) as refused:
        site.node.secagg(SecAggRequest(phase="unmask", plan_sha256=plan.sha256))
    assert refused.value.code == "policy_requests"


def test_a_phase_that_does_not_exist_is_refused_before_it_is_written_down(
    strict: Any, line: Any, two_plans: dict[str, Plan]
) -> None:
    plan = two_plans["noisy"]
    strict.approve(plan)
    assert line.propose(plan) == ""
    with pytest.raises(FedCohortError) as refused:
        line.site.node.secagg(SecAggRequest(phase="Zhang San", plan_sha256=plan.sha256))
    assert refused.value.code == "phase_unknown"
    assert lines_of(strict)["phase_asked"] == 0


def test_a_flood_of_ends_is_bounded_and_a_plan_that_is_open_still_ends(
    strict: Any, line: Any, two_plans: dict[str, Plan]
) -> None:
    plan, other = two_plans["noisy"], dataclasses.replace(two_plans["noisy"], study="another")
    for one in (plan, other):
        strict.approve(one)
    assert [line.propose(plan), line.close(plan)] == ["", ""]
    codes = [line.close(plan) for _ in range(MOST + 4)]
    # The end of the plan itself was the first of the day.
    assert codes == [""] * (MOST - 1) + ["policy_requests"] * 5
    assert lines_of(strict)["plan_closed"] == MOST
    assert line.propose(other) == ""
    assert line.close(other) == ""
    assert line.site.ledger.book.accounts[other.sha256].closed


def test_the_end_of_a_plan_of_an_earlier_life_is_never_one_too_many(
    strict: Any, line: Any, two_plans: dict[str, Plan]
) -> None:
    plan, other = two_plans["noisy"], dataclasses.replace(two_plans["noisy"], study="another")
    for one in (plan, other):
        strict.approve(one)
        assert line.propose(one) == ""
    for _ in range(MOST + 1):
        line.close(plan)
    line.site.ledger.dispose()
    again = open_site(strict.folder)
    again.node.close(other.sha256)
    assert again.ledger.book.accounts[other.sha256].closed


def test_requests_beyond_the_days_number_write_no_request_down(
    strict: Any, line: Any, two_plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_gate, "_MOST_REFUSALS", 6)
    plan = two_plans["noisy"]
    codes = [line.propose(plan, json="{}") for _ in range(3 * MOST + 2)]
    assert codes == ["plan_unreadable"] * MOST + ["policy_requests"] * (2 * MOST + 2)
    assert lines_of(strict)["plan_proposed"] == MOST
    assert lines_of(strict)["message_refused"] == 6


def test_a_flood_of_strange_bundles_is_logged_up_to_a_number(
    strict: Any, line: Any, two_plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_gate, "_MOST_REFUSALS", 4)
    plan = two_plans["noisy"]
    for _ in range(9):
        with pytest.raises(FedCohortError):
            line.site.admit(bundle_bytes("6.6.6"), {})
    found = lines_of(strict)
    assert found["bundle_refused"] == 4
    # Nobody's greeting was counted for them, and refusals have a number of their own.
    assert line.hello(plan) == ""
    assert line.propose(plan, json="{}") == "plan_unreadable"
    assert lines_of(strict)["message_refused"] == 1


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.json")}


def test_of_plans_that_the_policy_refuses_a_few_are_kept_and_all_within_it(
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site_gate, "_MOST_STRAY", 2)
    line = line_to(a_coordinator, open_site(a_hospital.folder), hold_s=0.0)
    plan = two_plans["noisy"]
    refused = [
        dataclasses.replace(plan, study=f"study {number}", expires="9999-12-31")
        for number in range(5)
    ]
    for one in refused:
        assert line.propose(one) == "policy_plan_expiry"
    assert kept(a_hospital.folder.plans) == {one.sha256 for one in refused[:2]}
    within = [dataclasses.replace(plan, study=f"within {number}") for number in range(3)]
    for one in within:
        assert line.propose(one) == "plan_not_approved"
    assert kept(a_hospital.folder.plans) >= {one.sha256 for one in within}
    # Once somebody said no to one of the refused, there is room for another.
    policy = site_gate.in_force(a_hospital.folder)
    from fedcohort.fl_client.governance.approvals import Approvals
    from fedcohort.privacy.secagg.identity import load_identity

    desk = Approvals(a_hospital.folder.approvals, policy)
    desk.refuse(refused[0].sha256, "li.m", load_identity(a_hospital.keys["li.m"]))
    assert line.propose(refused[4]) == "policy_plan_expiry"
    assert refused[4].sha256 in kept(a_hospital.folder.plans)


def test_the_numbers_are_those_that_the_policys_page_states() -> None:
    assert TIMES == {"request": 1, "phase": 5, "close": 1, "greeting": 10}
