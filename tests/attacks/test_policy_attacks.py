"""Who tries to get round a hospital's policy: by files, by plans, by people, by clocks.

A coordinator sends plans that are more than they seem, or huge; an insider edits the policy, signs
for two, or puts an old file back; a file that is read is a bomb. Each attack works on a weak
variant, shown beside it, and is refused here by its code, before much work is done on it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.fl_client.governance.approvals import Approvals
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.governance.plan_check import MAX_PLAN_BYTES, check_plan, read_plan
from fedcohort.fl_client.governance.policy import Policy
from fedcohort.fl_client.governance.policy_template import policy_template
from fedcohort.fl_client.governance.signatures import (
    check_signed,
    pin,
    pinned_approvers,
    sign_policy,
)
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.errors import PolicyError
from fedcohort.study.plan import Plan, PrivacyTerms

Count = Callable[[Callable[[], object]], int]
TODAY = dt.date(2026, 11, 22)
KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, name in enumerate(("zhang.w", "li.m"), start=1)
}
MARKER = f"/tmp/fedcohort-policy-attack-{os.getpid()}"  # noqa: S108 - what an attack writes
DATA = "aa" * 32


def policy_text(**changes: str) -> str:
    """The template, filled in: it allows one analysis with noise, on two columns."""
    people = tuple((name, key.public_key().public_bytes_raw().hex()) for name, key in KEYS.items())
    text = policy_template("h03", approvers=(people[0], people[1]))
    edits = {
        "mode: dry_run": "mode: enforce",
        "columns: {}": "columns: {age: 2, outcome: 3}",
        "purposes: []": "purposes: any",
        '"2000-01-01"': '"2027-06-30"',
        "allow: []": "allow: [newton_gram, newton]",
        "delta_max: 1e-6": "delta_max: 1e-5",
        **changes,
    }
    for old, new in edits.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


POLICY = Policy.parse(policy_text())
PLAN = Plan(
    study="stroke risk",
    purpose="Who is at risk after a stroke.",
    analysis="newton_gram",
    parameters={"model": {"name": "logistic", "features": 1, "bound": 3.0}},
    schema_sha256="0" * 64,
    sites=("h01", "h02", "h03", "h04"),
    privacy=PrivacyTerms(
        epsilon=3.0,
        delta=1e-5,
        noise_multiplier=calibrate(3.0, 1e-5, 1),
        releases=1,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        bound="rdp",
    ),
    max_rounds=1,
    max_patients_per_site=1000,
    min_sites=3,
    secagg="masked",
    colluders=1,
    roster="0" * 64,
    expires="2027-01-31",
)


@pytest.fixture(autouse=True)
def _nothing_runs() -> Iterator[None]:
    Path(MARKER).unlink(missing_ok=True)
    yield
    assert not Path(MARKER).exists(), "an attack ran code"


def refused(act: Callable[[], object]) -> str:
    """Return the code of a refusal."""
    with pytest.raises(PolicyError) as error:
        act()
    assert str(error.value).isprintable()
    return error.value.code


def answer(text: str, policy: Policy = POLICY) -> None:
    """What the node does with a plan that comes in."""
    check_plan(policy, read_plan(text), today=TODAY, columns=("age", "outcome"))


def sent(**changes: Any) -> str:
    """A plan's JSON, with fields changed or added, as a coordinator can write it."""
    return json.dumps({**json.loads(PLAN.to_json()), **changes})


def test_the_plan_passes_as_it_is() -> None:  # or the refusals below prove nothing
    answer(sent())


# ---- plans


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"_target_": "os.system"}, "plan_unreadable"),
        ({"code": f"open('{MARKER}', 'w')"}, "plan_unreadable"),
        ({"parameters": {"_target_": "os.system", "command": f"touch {MARKER}"}},
         "policy_parameter"),
        ({"parameters": {"model": {"_target_": "logging.os.system"}}}, "policy_parameter"),
        ({"parameters": {"model": {"name": "logistic", "__class__": "x"}}}, "policy_parameter"),
        ({"analysis": "../analyses/newton"}, "text_not_plain"),
        ({"analysis": "os"}, "policy_operation"),
        ({"analysis": "_gram"}, "text_not_plain"),
        ({"study": "../../etc/cron.d/x"}, "text_not_plain"),
        ({"study": "stroke\x00risk"}, "text_not_plain"),
        ({"roster": "../roster"}, "text_not_plain"),
        ({"sites": ["../h01", "h02", "h03", "h04"]}, "text_not_plain"),
        ({"max_rounds": 10**9}, "policy_rounds"),
        ({"max_rounds": 10**4000}, "policy_rounds"),
        ({"max_rounds": 1e9}, "plan_unreadable"),
        ({"parameters": {"model": {"name": "logistic", "features": 10**10}}}, "policy_parameter"),
        ({"privacy": None}, "policy_unnoised"),
        ({"secagg": "plain"}, "policy_secagg"),
        ({"secagg": "none"}, "plan_unreadable"),
        ({"expires": "9999-99-99"}, "policy_plan_expiry"),
    ],
)  # fmt: skip
def test_a_plan_that_is_more_than_it_should_be_is_refused(
    changes: dict[str, Any], code: str, calls_in: Count
) -> None:
    text = sent(**changes)
    assert refused(lambda: answer(text)) == code
    assert calls_in(lambda: refused(lambda: answer(text))) < 20_000  # 2,000 as measured


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 50_000,
        '{"format": "' + "x" * 10_000_000 + '"}',
        '{"max_rounds": 1' + "0" * 200_000 + "}",
        json.dumps({"sites": ["h"] * 300_000}),
        "null",
        "",
        "\ud800",
    ],
)
def test_a_giant_or_broken_plan_is_refused_before_it_is_understood(
    text: str, calls_in: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    loads = json.loads

    def watched(given: str, *more: Any, **named: Any) -> Any:
        parsed.append(len(given))
        return loads(given, *more, **named)

    monkeypatch.setattr(json, "loads", watched)
    assert refused(lambda: answer(text)) in {"plan_too_large", "plan_unreadable"}
    assert max(parsed, default=0) <= MAX_PLAN_BYTES
    assert calls_in(lambda: refused(lambda: answer(text))) < 1_000  # 60 as measured


ALIKE = {
    "cyrillic": "str\u043eke risk",
    "greek": "str\u03bfke risk",
    "bidi": "stroke \u202eksir",
    "isolate": "stroke\u2066 risk",
    "zero width": "stroke\u200brisk",
    "soft hyphen": "stro\u00adke risk",
    "tag": "stroke\U000e0041 risk",
    "mathematical": "\U0001d42ctroke risk",
    "fullwidth": "\uff53troke risk",
    "decomposed": unicodedata.normalize("NFD", "strôke risk"),
    "hangul filler": "stroke\u3164 risk",
    "line separator": "stroke\u2028risk",
    "escape": "stroke\x1b[1A\x1b[2Krisk",
    "newline": "stroke\nrisk",
    "surrogate": "stroke\ud800",
}


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("field", ["study", "purpose"])
def test_a_text_that_looks_like_another_is_refused(name: str, field: str) -> None:
    code = refused(lambda: answer(sent(**{field: ALIKE[name]})))
    assert code in {"text_not_plain", "plan_unreadable"}


def test_a_comparison_of_hashes_alone_would_show_the_approver_the_same_words() -> None:
    # The positive control: without the check such a plan is whole, and reads like the other.
    disguised = dataclasses.replace(PLAN, study=ALIKE["cyrillic"])
    assert Plan.from_json(disguised.to_json()).study != PLAN.study
    folded = disguised.study.replace("\u043e", "o")
    assert folded == PLAN.study
    assert disguised.sha256 != PLAN.sha256


def test_texts_in_other_languages_are_fine() -> None:
    for text in ("卒中风险，二期（试点）", "étude AVC – Zürich", "исследование инсульта", "脳卒中"):
        answer(sent(purpose=text))


# ---- files

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{key}: &{key} [*{old}, *{old}]\n" for old, key in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    "laughs": LAUGHS,
    "merge": "a: {b: 1}\nc: {<<: {b: 1}}\n",
    "deep": "a: " + "[" * 1500,
    "deep blocks": "".join(" " * n + f"k{n}:\n" for n in range(1, 300)),
    "wide": "".join(f"k{number}: [x, x, x]\n" for number in range(2500)),
    "long": "a: " + "x" * 30_000,
    "object": f"a: !!python/object/apply:os.system ['touch {MARKER}']\n",
    "new object": f"a: !!python/object/new:os.system ['touch {MARKER}']\n",
    "directive": "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system [x]\n",
    "two documents": "a: 1\n--- \nb: 2\n",
    "twice": "mode: enforce\nmode: dry_run\n",
    "keys": "? {a: {b: [c]}}\n: 1\n",
    "nul": "a: \x00\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_policy_file_that_is_a_bomb_is_refused_at_once(
    name: str, tmp_path: Path, calls_in: Count
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(BOMBS[name])
    assert refused(lambda: Policy.read(path)).startswith("yaml_")
    assert calls_in(lambda: refused(lambda: Policy.read(path))) < 300_000  # 30,000 as measured


def test_the_bombs_are_bombs() -> None:  # the positive control
    grown = json.dumps(yaml.safe_load(BOMBS["laughs"]))
    assert len(grown) > 8 * len(BOMBS["laughs"])
    assert yaml.safe_load(BOMBS["twice"]) == {"mode": "dry_run"}  # the last one wins, unnoticed
    yaml.unsafe_load(BOMBS["object"])  # what must never be done
    assert Path(MARKER).exists()
    Path(MARKER).unlink()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("mode: enforce", "mode: enforce\n_target_: os.system", "yaml_unknown_key"),
        ("mode: enforce", "mode: enforce\ndry_run: no", "yaml_unknown_key"),
        ("mode: enforce", "mode: no", "yaml_value"),
        ("min_sites: 3 ", "min_sites: 03 ", "yaml_value"),
        ("min_sites: 3 ", "min_sites: 1:30 ", "yaml_value"),
        ("min_sites: 3 ", "min_sites: 3_0 ", "yaml_value"),
        ("min_sites: 3 ", "min_sites: 0x3 ", "yaml_value"),
        ("min_sites: 3 ", "min_sites: \uff13 ", "yaml_value"),
        ("ledger: ledger.sqlite", "ledger: ../../ledger.sqlite", "path_outside"),
        ("opt_out_file: opt-out.txt", "opt_out_file: /dev/null", "path_outside"),
        ("id: h03 ", "id: h\u043e3 ", "text_not_plain"),
        ("id: h03 ", "id: h03/../h04 ", "text_not_plain"),
    ],
)
def test_a_policy_is_what_is_written_or_nothing(old: str, new: str, code: str) -> None:
    assert refused(lambda: Policy.parse(policy_text(**{old: new}))) == code


# ---- people


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A folder with a signed policy and a pin, and with the plan approved by two."""
    for name, key in KEYS.items():
        sign_policy(POLICY, name, key, tmp_path / "signatures.json")
    pin(POLICY, tmp_path / "signatures.json", tmp_path / "approvers.json")
    desk = desk_of(tmp_path)
    for name, key in KEYS.items():
        desk.approve(PLAN, DATA, name, key, today=TODAY)
    assert desk.approved(PLAN, DATA, TODAY).people == ("zhang.w", "li.m")
    return tmp_path


def desk_of(folder: Path, policy: Policy = POLICY) -> Approvals:
    return Approvals(folder / "approvals.jsonl", policy, audit=AuditLog(folder / "audit.jsonl"))


def in_force(folder: Path, policy: Policy) -> object:
    pinned = pinned_approvers(folder / "approvers.json")
    return check_signed(policy, folder / "signatures.json", pinned)


LOOSENED = [
    ("epsilon_per_study: 3.0 ", "epsilon_per_study: 99.0 "),
    ("unnoised: [] ", "unnoised: [newton] "),
    ("min_cohort: 50 ", "min_cohort: 3 "),
    ("secagg: required ", "secagg: optional "),
    ("min_sites: 3 ", "min_sites: 2 "),
    ('"2027-06-30"', '"2099-06-30"'),
]


@pytest.mark.parametrize(("old", "new"), LOOSENED)
def test_an_edited_policy_stops_the_node(signed: Path, old: str, new: str) -> None:
    assert in_force(signed, POLICY)
    edits = {old: new} if old != '"2027-06-30"' else {'"2000-01-01"': new}
    edited = Policy.parse(policy_text(**edits))
    assert refused(lambda: in_force(signed, edited)) == "policy_unsigned"
    sign_policy(edited, "zhang.w", KEYS["zhang.w"], signed / "signatures.json")
    assert refused(lambda: in_force(signed, edited)) == "policy_unsigned"  # one is not two
    code = refused(lambda: desk_of(signed, edited).approved(PLAN, DATA, TODAY))
    assert code == "approval_other_policy"


def test_one_person_twice_is_one_person(tmp_path: Path) -> None:
    path = tmp_path / "signatures.json"
    sign_policy(POLICY, "zhang.w", KEYS["zhang.w"], path)
    document = json.loads(path.read_text())
    own = document["signatures"][0]
    document["signatures"] = [own, {**own, "role": "security_officer"}, {**own, "name": "li.m"}]
    path.write_text(json.dumps(document))
    assert refused(lambda: check_signed(POLICY, path, POLICY.approvers)) == "policy_unsigned"
    # A check that counts signatures would have been content: the positive control.
    assert len(document["signatures"]) >= 2
    desk = desk_of(tmp_path)
    for _ in range(2):
        desk.approve(PLAN, DATA, "zhang.w", KEYS["zhang.w"], today=TODAY)
    assert refused(lambda: desk.approved(PLAN, DATA, TODAY)) == "one_person"


def test_an_approval_is_of_this_plan_policy_extract_and_day(signed: Path) -> None:
    desk = desk_of(signed)
    other = dataclasses.replace(PLAN, purpose="Another one.")
    later = TODAY + dt.timedelta(days=91)
    stricter = Policy.parse(policy_text(**{"min_sites: 3 ": "min_sites: 4 "}))
    assert refused(lambda: desk.approved(other, DATA, TODAY)) == "plan_not_approved"
    assert refused(lambda: desk.approved(PLAN, "bb" * 32, TODAY)) == "approval_other_data"
    assert refused(lambda: desk.approved(PLAN, DATA, later)) == "approval_expired"
    earlier = TODAY - dt.timedelta(days=1)  # a clock that was set back
    assert refused(lambda: desk.approved(PLAN, DATA, earlier)) == "approval_expired"
    under = desk_of(signed, stricter)
    assert refused(lambda: under.approved(PLAN, DATA, TODAY)) == "approval_other_policy"


def test_who_asks_cannot_approve(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    desk.submit(PLAN, "ZHANG.W")

    def approve() -> object:
        return desk.approve(PLAN, DATA, "zhang.w", KEYS["zhang.w"], today=TODAY)

    assert refused(approve) == "approver_is_requester"


def test_a_revoked_plan_stays_revoked_whatever_file_is_put_back(signed: Path) -> None:
    files = [signed / "approvals.jsonl", signed / "approvals.jsonl.head"]
    before = [file.read_bytes() for file in files]
    desk_of(signed).revoke(PLAN.sha256, "li.m", KEYS["li.m"])
    assert refused(lambda: desk_of(signed).approved(PLAN, DATA, TODAY)) == "approval_revoked"
    files[0].write_bytes(before[0])
    assert refused(lambda: desk_of(signed).approved(PLAN, DATA, TODAY)) == "log_rolled_back"
    files[1].write_bytes(before[1])
    assert refused(lambda: desk_of(signed).approved(PLAN, DATA, TODAY)) == "approval_revoked"
    blind = Approvals(files[0], POLICY)  # the positive control: without the audit log it is back
    assert blind.approved(PLAN, DATA, TODAY).people == ("zhang.w", "li.m")


def test_a_policy_that_ends_or_is_a_rehearsal_releases_nothing() -> None:
    ended = Policy.parse(policy_text(**{'"2000-01-01"': '"2026-11-21"'}))
    assert refused(lambda: answer(sent(), ended)) == "policy_expired"
    rehearsal = Policy.parse(policy_text(**{"mode: dry_run": "mode: dry_run "}))
    assert refused(lambda: answer(sent(), rehearsal)) == "policy_dry_run"
    assert refused(lambda: Policy.read(Path(os.devnull))) == "policy_missing"
