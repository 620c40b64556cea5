"""Approvals: two named people, this plan, this policy, this extract, until a day."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.fl_client.governance._chained import ChainedFile
from fedcohort.fl_client.governance.approvals import APPROVALS_FORMAT, Approval, Approvals
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.governance.policy import Policy
from fedcohort.fl_client.governance.signatures import sign, verifies
from fedcohort.privacy.errors import PolicyError
from fedcohort.study.plan import Plan

MakePlan = Callable[..., Plan]
DATA, OTHER_DATA = "aa" * 32, "bb" * 32
BOTH = ("zhang.w", "li.m")
TERMS = ("said", "plan_sha256", "fingerprint", "policy_sha256", "since", "until")


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as error:
        act()
    return error.value.code


class Desk:
    """A hospital's people at work on one plan."""

    def __init__(self, hospital: Any, plan: Plan, folder: Path) -> None:
        self.hospital, self.plan, self.folder = hospital, plan, folder
        self.today: dt.date = hospital.today
        self.audit = AuditLog(folder / "audit.jsonl")
        self.approvals = self.under(hospital.policy)

    def under(self, policy: Policy, *, audit: bool = True) -> Approvals:
        path = self.folder / "approvals.jsonl"
        return Approvals(path, policy, audit=self.audit if audit else None)

    def approve(self, *people: str, data: str = DATA, **more: Any) -> None:
        for name in people:
            key = self.hospital.keys[name]
            self.approvals.approve(self.plan, data, name, key, today=self.today, **more)

    def refused(self, *, data: str = DATA, days: int = 0, policy: Policy | None = None) -> str:
        approvals = self.approvals if policy is None else self.under(policy)
        today = self.today + dt.timedelta(days=days)
        return code_of(lambda: approvals.approved(self.plan, data, today))

    def approved(self, *, days: int = 0) -> Approval:
        return self.approvals.approved(self.plan, DATA, self.today + dt.timedelta(days=days))

    def state(self, *, days: int = 0) -> str:
        return self.approvals.state(self.plan, DATA, self.today + dt.timedelta(days=days))


@pytest.fixture
def desk(hospital: Any, plan_of: MakePlan, tmp_path: Path) -> Desk:
    return Desk(hospital, plan_of(), tmp_path)


def test_two_people_approve_and_the_plan_may_run(desk: Desk) -> None:
    desk.approve(*BOTH)
    approval = desk.approved()
    assert approval.people == BOTH
    assert approval.until == dt.date(2027, 1, 31)  # the plan ends before the ninety days
    # It is on disk: another process finds it.
    again = desk.under(desk.hospital.policy)
    assert again.approved(desk.plan, DATA, desk.today) == approval
    assert stat.S_IMODE((desk.folder / "approvals.jsonl").stat().st_mode) == 0o600


def test_nobody_and_one_person_are_not_two(desk: Desk) -> None:
    assert desk.refused() == "plan_not_approved"
    desk.approve("zhang.w")
    assert desk.refused() == "one_person"
    desk.approve("zhang.w", "zhang.w")
    assert desk.refused() == "one_person"


def test_two_people_of_one_role_are_not_two(
    hospital: Any, plan_of: MakePlan, tmp_path: Path
) -> None:
    new = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
    public = new.public_key().public_bytes_raw().hex()
    policy = hospital.under(("{zhang.w: ", f'{{wu.x: "{public}", zhang.w: '))
    approvals = Approvals(tmp_path / "a.jsonl", policy)
    plan = plan_of()
    approvals.approve(plan, DATA, "wu.x", new, today=hospital.today)
    key = hospital.keys["zhang.w"]
    approvals.approve(plan, DATA, "zhang.w", key, today=hospital.today)
    assert code_of(lambda: approvals.approved(plan, DATA, hospital.today)) == "one_person"


@pytest.mark.parametrize("role", ["security_officer", "data_owner"])
def test_one_approver_cannot_fill_two_roles(desk: Desk, role: str) -> None:
    """Who holds one of the two keys signs in the other role too, and adds the line by hand."""
    me = next(one for one in desk.hospital.policy.approvers if one.role != role)
    desk.approve(me.name)
    file = ChainedFile(desk.folder / "approvals.jsonl", format=APPROVALS_FORMAT)
    said = {key: file.lines()[-1].body[key] for key in TERMS}
    both = dataclasses.replace(me, role=role)
    made = sign("plan", said, both, desk.hospital.keys[me.name])
    entry = {**said, "by": me.name, "role": role, "key": made.key, "sig": made.signature}
    assert verifies("plan", said, made)  # the signature is good: the positive control
    file.append(lambda lines: entry)
    assert desk.refused() == "one_person"
    assert desk.state() == "one_approval"


def test_nor_may_the_key_of_one_stand_under_the_name_of_the_other(desk: Desk) -> None:
    desk.approve("zhang.w")
    file = ChainedFile(desk.folder / "approvals.jsonl", format=APPROVALS_FORMAT)
    said = {key: file.lines()[-1].body[key] for key in TERMS}
    mine = desk.hospital.policy.person("zhang.w")
    made = sign(
        "plan",
        said,
        dataclasses.replace(mine, name="li.m", role="security_officer"),
        desk.hospital.keys["zhang.w"],
    )
    entry = {**said, "by": "li.m", "role": made.role, "key": made.key, "sig": made.signature}
    file.append(lambda lines: entry)
    assert desk.refused() == "one_person"


@pytest.mark.parametrize("asker", ["\x1b[2J", "zhang w", "张三", "../x", "a" * 200])
def test_who_asks_has_a_plain_name_or_is_not_written_down(desk: Desk, asker: str) -> None:
    assert code_of(lambda: desk.approvals.submit(desk.plan, asker)) == "text_not_plain"
    assert not (desk.folder / "approvals.jsonl").exists()


def test_another_plan_is_not_the_approved_one(desk: Desk, plan_of: MakePlan) -> None:
    desk.approve(*BOTH)
    desk.plan = plan_of(max_rounds=2)
    assert desk.refused() == "plan_not_approved"


def test_another_policy_or_extract_needs_two_people_again(desk: Desk) -> None:
    desk.approve(*BOTH)
    stricter = desk.hospital.under(("min_sites: 3", "min_sites: 4"))
    assert desk.refused(policy=stricter) == "approval_other_policy"
    assert desk.refused(data=OTHER_DATA) == "approval_other_data"
    desk.approvals = desk.under(stricter)
    desk.approve("zhang.w")
    assert desk.refused() == "one_person"  # one of each policy are not two
    desk.approve("li.m")
    assert desk.approved().people == BOTH


def test_an_approval_ends(desk: Desk, plan_of: MakePlan) -> None:
    desk.plan = plan_of(expires="2027-06-30")
    desk.approve(*BOTH)
    assert desk.approved(days=90).people == BOTH
    assert desk.refused(days=91) == "approval_expired"
    assert desk.refused(days=-1) == "approval_expired"  # the clock was set back
    assert desk.state(days=91) == "expired"
    desk.today += dt.timedelta(days=91)
    desk.approve("zhang.w")
    assert desk.refused() == "one_person"  # one fresh word and an old one
    desk.approve("li.m")
    assert desk.approved().people == BOTH


def test_nothing_is_approved_beyond_the_permission_for_the_data(
    desk: Desk, plan_of: MakePlan
) -> None:
    desk.plan = plan_of(expires="2027-12-31")
    desk.today = dt.date(2027, 6, 1)
    desk.approve(*BOTH)
    assert desk.approved().until == dt.date(2027, 6, 30)
    desk.today = dt.date(2027, 7, 1)
    assert code_of(lambda: desk.approve("zhang.w")) == "plan_expired"


@pytest.mark.parametrize("end", ["refuse", "revoke"])
def test_one_person_says_no_and_it_is_final(desk: Desk, end: str) -> None:
    desk.approve(*BOTH)
    getattr(desk.approvals, end)(desk.plan.sha256, "li.m", desk.hospital.keys["li.m"])
    code = {"refuse": "plan_refused_here", "revoke": "approval_revoked"}[end]
    assert desk.refused() == code
    assert code_of(lambda: desk.approve("zhang.w")) == code
    assert desk.state() == f"{end}d"


@pytest.mark.parametrize("asker", ["zhang.w", "Zhang.W", "key"])
def test_who_asks_does_not_approve(desk: Desk, asker: str) -> None:
    if asker == "key":
        asker = desk.hospital.policy.person("zhang.w").key
    desk.approvals.submit(desk.plan, asker)
    assert code_of(lambda: desk.approve("zhang.w")) == "approver_is_requester"
    desk.approve("li.m")
    assert desk.refused() == "one_person"
    assert code_of(lambda: desk.approve("li.m", requester="li.m")) == "approver_is_requester"


def test_who_asked_is_remembered_and_does_not_approve_later(desk: Desk) -> None:
    desk.approve("zhang.w", requester="li.m")
    assert code_of(lambda: desk.approve("li.m")) == "approver_is_requester"
    desk.approvals = desk.under(desk.hospital.policy)  # another process, another day
    assert code_of(lambda: desk.approve("li.m")) == "approver_is_requester"
    assert desk.refused() == "one_person"


def test_nor_did_who_is_named_only_by_the_second(desk: Desk) -> None:
    desk.approve("zhang.w")
    desk.approve("li.m", requester="zhang.w")
    assert desk.refused() == "approver_is_requester"
    assert code_of(lambda: desk.approve("li.m", requester="\x1b[2J")) == "text_not_plain"


def test_who_turns_out_to_have_asked_has_not_approved(desk: Desk) -> None:
    desk.approve(*BOTH)
    desk.approvals.submit(desk.plan, "zhang.w")
    assert desk.refused() == "approver_is_requester"


def test_only_named_people_with_their_own_keys_are_heard(desk: Desk) -> None:
    keys, plan = desk.hospital.keys, desk.plan

    def approve(name: str, key: Ed25519PrivateKey) -> None:
        desk.approvals.approve(plan, DATA, name, key, today=desk.today)

    assert code_of(lambda: approve("nobody", keys["li.m"])) == "signer_unknown"
    assert code_of(lambda: approve("zhang.w", keys["li.m"])) == "signer_key"
    assert (
        code_of(lambda: desk.approvals.revoke(plan.sha256, "x", keys["li.m"])) == "signer_unknown"
    )
    assert not (desk.folder / "approvals.jsonl").exists()


def said_last(desk: Desk) -> dict[str, str]:
    lines = (desk.folder / "approvals.jsonl").read_text().splitlines()
    body: dict[str, str] = json.loads(lines[-1])["body"]
    return body


def forged(desk: Desk, body: dict[str, str]) -> None:
    """Chain an entry anew after the data owner's, as somebody with the file but no key can."""
    (desk.folder / "approvals.jsonl").unlink()
    (desk.folder / "approvals.jsonl.head").unlink()
    desk.approvals = desk.under(desk.hospital.policy)
    desk.approve("zhang.w")
    desk.approvals._file.append(lambda lines: body)


@pytest.mark.parametrize(
    "changes",
    [
        {"until": "2999-01-01"},
        {"fingerprint": OTHER_DATA},
        {"policy_sha256": "0" * 64},
        {"by": "zhang.w"},
        {"role": "data_owner"},
        {"key": "00" * 32},
        {"sig": "00" * 64},
        {"extra": "x"},
    ],
)
def test_an_entry_that_nobody_signed_approves_nothing(desk: Desk, changes: dict[str, str]) -> None:
    desk.approve(*BOTH)
    said = said_last(desk)
    forged(desk, said | changes)
    assert desk.refused() == "one_person"
    forged(desk, said)  # the positive control: unchanged, it counts
    assert desk.approved().people == BOTH


def test_an_approval_of_one_plan_is_none_of_another(desk: Desk, plan_of: MakePlan) -> None:
    desk.approve(*BOTH)
    other = plan_of(max_rounds=2)
    forged(desk, said_last(desk) | {"plan_sha256": other.sha256})
    desk.plan = other
    assert desk.refused() == "plan_not_approved"


def test_a_person_cannot_give_a_longer_word_than_the_policy_allows(
    desk: Desk, plan_of: MakePlan
) -> None:
    generous = desk.hospital.under(("valid_days: 90", "valid_days: 366"))
    desk.plan = plan_of(expires="2027-06-30")
    for name in BOTH:  # with a tool of their own, which writes any day it likes
        person, key = desk.hospital.policy.person(name), desk.hospital.keys[name]
        own = Approvals(desk.folder / "approvals.jsonl", generous)
        own._policy = generous
        object.__setattr__(generous, "sha256", desk.hospital.policy.sha256)
        assert person is not None
        own.approve(desk.plan, DATA, name, key, today=desk.today)
    assert desk.approved(days=90).people == BOTH
    assert desk.refused(days=91) == "approval_expired"


@pytest.mark.parametrize("end", ["refuse", "revoke"])
def test_a_no_that_the_file_has_forgotten_is_in_the_audit_log(desk: Desk, end: str) -> None:
    desk.approve(*BOTH)
    path, head = desk.folder / "approvals.jsonl", desk.folder / "approvals.jsonl.head"
    before = path.read_bytes(), head.read_text()
    getattr(desk.approvals, end)(desk.plan.sha256, "li.m", desk.hospital.keys["li.m"])
    path.write_bytes(before[0])
    assert desk.refused() == "log_rolled_back"
    head.write_text(before[1])  # both were put back
    desk.approvals = desk.under(desk.hospital.policy)
    code = {"refuse": "plan_refused_here", "revoke": "approval_revoked"}[end]
    assert desk.refused() == code
    forgetful = desk.under(desk.hospital.policy, audit=False)  # the positive control
    assert forgetful.approved(desk.plan, DATA, desk.today).people == BOTH


def test_a_plan_goes_from_state_to_state(desk: Desk) -> None:
    states = [desk.state()]
    desk.approvals.submit(desk.plan, "coordinator")
    desk.approvals.submit(desk.plan, "coordinator")
    states.append(desk.state())
    desk.approvals.mark(desk.plan, "checked")
    states.append(desk.state())
    desk.approve("li.m")
    states.append(desk.state())
    desk.approve("zhang.w")
    states.append(desk.state())
    desk.approvals.mark(desk.plan, "running")
    desk.approvals.mark(desk.plan, "running")
    states.append(desk.state())
    desk.approvals.mark(desk.plan, "finished")
    states.append(desk.state())
    assert states == [
        *("unknown", "submitted", "checked", "one_approval", "approved", "running", "finished")
    ]
    assert len((desk.folder / "approvals.jsonl").read_text().splitlines()) == 6
    told = [(entry.event, entry.facts["person"]) for entry in desk.audit.entries()]
    assert told == [("plan_approved", "li.m"), ("plan_approved", "zhang.w")]


SAYS = st.lists(
    st.tuples(
        st.sampled_from(["approve", "approve", "approve", "revoke", "refuse"]),
        st.sampled_from(BOTH),
        st.sampled_from([DATA, OTHER_DATA]),
        st.integers(0, 60),
    ),
    max_size=6,
)


@given(says=SAYS, day=st.integers(0, 200))
def test_a_plan_runs_only_with_two_living_words_and_no_no(
    hospital_and_plan: tuple[Any, Plan],
    tmp_path_factory: pytest.TempPathFactory,
    says: list[tuple[str, str, str, int]],
    day: int,
) -> None:
    hospital, plan = hospital_and_plan
    approvals = Approvals(tmp_path_factory.mktemp("a") / "a.jsonl", hospital.policy)
    words: dict[str, list[tuple[dt.date, dt.date]]] = {}
    no, when = False, hospital.today
    for said, name, data, later in says:
        when += dt.timedelta(days=later)
        try:
            if said == "approve":
                until = approvals.approve(plan, data, name, hospital.keys[name], today=when)
                if data == DATA:
                    words.setdefault(name, []).append((when, until))
            else:
                getattr(approvals, said)(plan.sha256, name, hospital.keys[name])
                no = True
        except PolicyError as error:
            assert no or error.code == "plan_expired"  # noqa: PT017
    today = hospital.today + dt.timedelta(days=day)
    living = {name for name, held in words.items() if any(a <= today <= b for a, b in held)}
    try:
        approvals.approved(plan, DATA, today)
    except PolicyError:
        assert no or living != set(BOTH)
    else:
        assert not no
        assert living == set(BOTH)


@pytest.fixture(scope="session")
def hospital_and_plan(hospital: Any, plan_of: MakePlan) -> tuple[Any, Plan]:
    return hospital, plan_of(expires="2027-05-01")
