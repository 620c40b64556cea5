"""Hostile plans at a whole hospital, and people who are not two: refused by code, at once.

The same attacks as in `test_policy_attacks.py`, through the node that a coordinator reaches. What
they leave behind is a line in the audit log, and the plan itself where it could be read.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.fl_client.governance.approvals import Approvals
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.site import open_site
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.site_gate import in_force
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.privacy.errors import FedCohortError, PolicyError
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.study.plan import Plan

# What every refused plan may touch: the log, and what people look at.
LOGS = {"audit.jsonl", "audit.jsonl.head", "approvals.jsonl", "approvals.jsonl.head"}

CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"_target_": "os.system"}, "plan_unreadable"),
    "a target in a parameter": ({"parameters": {"_target_": "os.system"}}, "policy_parameter"),
    "a target in the model": (
        {"parameters": {"model": {"_target_": "logging.os.system"}}},
        "policy_parameter",
    ),
    "an analysis that is a path": ({"analysis": "../analyses/newton"}, "text_not_plain"),
    "an analysis that is a module": ({"analysis": "os"}, "policy_operation"),
    "a study that is a path": ({"study": "../../etc/cron.d/x"}, "text_not_plain"),
    "a roster that is a path": ({"roster": "../roster"}, "text_not_plain"),
    "a site that is a path": ({"sites": ["../cleveland", "hungarian"]}, "text_not_plain"),
    "a cyrillic letter": ({"study": "str\u043eke"}, "text_not_plain"),
    "a site in cyrillic": ({"sites": ["clevel\u0430nd", "hungarian"]}, "text_not_plain"),
    "a bidi override": ({"purpose": "p\u202ep"}, "text_not_plain"),
    "zero width": ({"purpose": "p\u200bp"}, "text_not_plain"),
    "an escape": ({"study": "s\x1b[2J"}, "text_not_plain"),
    "giant rounds": ({"max_rounds": 10**9}, "policy_rounds"),
    "rounds beyond words": ({"max_rounds": 10**4000}, "policy_rounds"),
    "rounds that are no number": ({"max_rounds": "9" * 400}, "plan_unreadable"),
    "a giant model": (
        {"parameters": {"model": {"name": "logistic", "features": 10**10}}},
        "policy_parameter",
    ),
    "an end that is no day": ({"expires": "9999-99-99"}, "policy_plan_expiry"),
    "no site of ours": ({"sites": ["hungarian", "switzerland"]}, "plan_not_for_us"),
}
MOST_CALLS = 300_000  # 72,000 as measured
RAW = {
    "a deep list": "[" * 200_000,
    "a deep object": '{"a":' * 50_000,
    "ten megabytes": '{"format": "' + "x" * 10_000_000 + '"}',
    "a number without end": '{"max_rounds": 1' + "0" * 200_000 + "}",
    "a list without end": json.dumps({"sites": ["h"] * 300_000}),
    "a yaml bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a yaml object": "!!python/object/apply:os.system ['true']",
    "nothing": "",
    "null": "null",
    "half a pair": "\ud800",
}


def held(root: Path) -> dict[str, str]:
    """What a folder holds: each file's hash."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def sent(name: str, plan: Plan) -> tuple[str, str]:
    if name in RAW:
        return RAW[name], "plan_"
    changes, code = CHANGED[name]
    return json.dumps({**json.loads(plan.to_json()), **changes}), code


@pytest.mark.parametrize("name", [*CHANGED, *RAW])
def test_a_hostile_plan_is_refused_at_once_and_leaves_a_line(
    name: str,
    a_hospital: Any,
    two_plans: dict[str, Plan],
    calls_in: Callable[[Callable[[], object]], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = open_site(a_hospital.folder)
    text, code = sent(name, two_plans["noisy"])
    before, work = held(a_hospital.folder.root), []
    looked: list[str] = []
    monkeypatch.setattr(SiteData, "cohort", lambda self, *given, **named: looked.append("cohort"))

    def propose() -> None:
        with pytest.raises(PolicyError) as refused:
            site.node.propose(text, "CN")
        assert refused.value.code.startswith(code), refused.value.code
        assert str(refused.value).isprintable()

    for _ in range(5):
        work.append(calls_in(propose))
    assert looked == []  # no record is read for it
    # The first checks the hospital's signatures and files; none grows with the plan.
    assert max(work) < MOST_CALLS, work
    after = held(a_hospital.folder.root)
    changed = {path for path in after if after[path] != before.get(path)}
    kept = {path for path in changed if path.startswith("plans/")}
    assert changed - kept <= LOGS, changed
    assert set(before) <= set(after)
    assert len(kept) <= 1
    for path in kept:  # a plan that could be read, under its own hash and no name of the sender's
        assert path == f"plans/{Plan.from_json(text).sha256}.json"
    assert site.ledger.book.accounts == {}
    events = [entry.event for entry in AuditLog(a_hospital.folder.audit).entries()]
    assert events.count("plan_proposed") == events.count("message_refused") == 5


def test_the_plan_passes_as_it_is(a_hospital: Any, two_plans: dict[str, Plan]) -> None:
    a_hospital.approve(two_plans["noisy"])
    site = open_site(a_hospital.folder)
    assert site.node.propose(two_plans["noisy"].to_json(), "CN")


# ---- people


def refused_by(line: Any, plan: Plan) -> str:
    code = line.propose(plan)
    assert line.report(plan) == "plan_unknown"
    return str(code)


@pytest.mark.parametrize("days", [-1, 91])
def test_an_approval_holds_on_its_days_only(
    days: int,
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
) -> None:
    """A clock that went on, or back; on the last day it still holds: the positive control."""
    plan = two_plans["noisy"]
    a_hospital.approve(plan)

    def on(day: int) -> Any:
        def now() -> dt.datetime:
            return dt.datetime.now(dt.UTC) + dt.timedelta(days=day)

        return line_to(a_coordinator, open_site(a_hospital.folder, now=now))

    assert refused_by(on(days), plan) == "approval_expired"
    assert on(90).propose(plan) == ""


def test_an_approval_that_ends_stops_a_plan_between_two_rounds(
    a_hospital: Any, a_coordinator: CoordinatorSetup, two_plans: dict[str, Plan], line_to: Any
) -> None:
    plan, days = two_plans["noisy"], [0]
    a_hospital.approve(plan)

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(days=days[0])

    line = line_to(a_coordinator, open_site(a_hospital.folder, now=now))
    assert line.propose(plan) == ""
    days[0] = 91
    assert line.report(plan) == "approval_expired"


@pytest.mark.parametrize("asked_first", [True, False])
def test_whoever_asks_for_a_study_is_none_of_the_two_who_approve_it(
    asked_first: bool,
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
) -> None:
    """The data owner's key is the coordinator's: one person runs the study and allows it."""
    coordinator = load_identity(a_coordinator.identity)
    public = coordinator.public_key().public_bytes_raw().hex()
    owner = load_identity(a_hospital.keys["zhang.w"]).public_key().public_bytes_raw().hex()
    a_hospital.keys = {**a_hospital.keys, "zhang.w": a_coordinator.identity}
    a_hospital.folder.approvers.unlink()
    a_hospital.edit_policy((owner, public))
    a_hospital.sign()
    plan = two_plans["noisy"]
    line = line_to(a_coordinator, open_site(a_hospital.folder))
    if asked_first:
        assert refused_by(line, plan) == "plan_not_approved"
        with pytest.raises(FedCohortError) as refused:
            a_hospital.approve(plan)
        assert refused.value.code == "approver_is_requester"
        a_hospital.approve(plan, "li.m")
        assert refused_by(line, plan) == "one_person"
    else:  # before the plan came, nobody knew who asks
        a_hospital.approve(plan)
        assert refused_by(line, plan) == "approver_is_requester"


def test_a_stranger_who_signs_in_an_approvers_name_approves_nothing(
    a_hospital: Any, a_coordinator: CoordinatorSetup, two_plans: dict[str, Plan], line_to: Any
) -> None:
    plan = two_plans["noisy"]
    policy, stranger = in_force(a_hospital.folder), Ed25519PrivateKey.generate()
    approvals = Approvals(a_hospital.folder.approvals, policy)
    today = dt.datetime.now(dt.UTC).date()
    with pytest.raises(FedCohortError) as refused:
        approvals.approve(plan, "ab" * 32, "zhang.w", stranger, today=today)
    assert refused.value.code == "signer_key"
    line = line_to(a_coordinator, open_site(a_hospital.folder))
    assert refused_by(line, plan) == "plan_not_approved"


def test_a_policy_that_was_edited_or_that_one_person_signed_stops_the_node(
    a_hospital: Any, a_coordinator: CoordinatorSetup, two_plans: dict[str, Plan], line_to: Any
) -> None:
    plan = two_plans["noisy"]
    a_hospital.approve(plan)
    line = line_to(a_coordinator, open_site(a_hospital.folder))
    assert line.propose(plan) == ""
    a_hospital.edit_policy(("min_cohort: 20", "min_cohort: 10"))
    assert [line.report(plan), line.propose(plan), line.hello(plan)] == 3 * ["policy_unsigned"]
    a_hospital.sign("li.m")
    assert line.report(plan) == "policy_unsigned"
    a_hospital.sign()
    assert line.report(plan) == "approval_other_policy"  # two people look at the plan again
    a_hospital.approve(dataclasses.replace(plan, study="s"))
    assert line.report(plan) == ""
