"""The hospital's policy: what is not written is not allowed, what is written is enforced."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.fl_client.governance.plan_check import (
    check_hours,
    check_plan,
    read_plan,
    study_epsilon,
)
from fedcohort.fl_client.governance.policy import Policy
from fedcohort.fl_client.governance.policy_template import policy_template
from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.ledger.book import Account, Book
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.study.plan import Plan, reservation_of

MakePlan = Callable[..., Plan]
COLUMNS = ("age", "sex", "glucose", "outcome")


def refusal(act: Callable[[], object]) -> PolicyError:
    with pytest.raises(PolicyError) as error:
        act()
    return error.value


# ---- the file


def test_without_a_policy_nothing_runs(tmp_path: Path) -> None:
    error = refusal(lambda: Policy.read(tmp_path / "policy.yaml"))
    assert error.code == "policy_missing"
    assert error.exit_code == 3


def test_the_template_parses_and_allows_nothing() -> None:
    policy = Policy.parse(policy_template("h03"))
    assert policy.mode == "dry_run"
    assert (policy.operations, policy.unnoised, policy.bundle_hashes) == ((), (), ())
    assert policy.dataset.columns == {}
    assert policy.dataset.purposes == ()
    assert policy.dataset.expires < dt.date(2026, 1, 1)


def test_the_template_states_every_default_as_it_is(hospital: Any) -> None:
    told = Policy.parse(policy_template("h03"))
    optional = "code|approval|disclosure|federation|limits"
    text = re.sub(rf"^({optional}):.*\n(  .*\n)*", "", hospital.text, flags=re.MULTILINE)
    assert len(text.splitlines()) < len(hospital.text.splitlines()) - 4
    silent = Policy.parse(text)
    for name in ("bundle_hashes", "valid_days", "disclosure", "min_sites", "secagg", "colluders"):
        assert getattr(silent, name) == getattr(told, name), name
    assert silent.limits == told.limits


def test_a_site_whose_name_is_no_plain_one_gets_no_template() -> None:
    for site in ("../h03", "h 03", "h03\n", "h\u043e3", ""):
        assert refusal(partial(policy_template, site)).code == "text_not_plain"


def test_the_hash_is_of_what_it_says_not_of_how(hospital: Any) -> None:
    commented = "# a comment\n" + hospital.text.replace("mode: enforce", "mode: 'enforce'  # yes")
    assert Policy.parse(commented).sha256 == hospital.policy.sha256
    assert hospital.under(("mode: enforce", "mode: dry_run")).sha256 != hospital.policy.sha256


EDITS = [
    ("id: h03\n", "id: h04\n"),
    ("jurisdiction: CN\n  approvers", "jurisdiction: DE\n  approvers"),
    ("mode: enforce", "mode: dry_run"),
    ("ab" * 32, "ac" * 32),
    ("coord.example:443", "coord.example:444"),
    ("cd" * 32, "ce" * 32),
    ("cross_border: deny", 'cross_border: {stroke risk: "SCC 2026-1"}'),
    ("valid_days: 90", "valid_days: 91"),
    ("admissions 2019-2025", "admissions 2019-2026"),
    ("  level: 3", "  level: 4"),
    ("2026-014", "2026-015"),
    ("purposes: any", "purposes: []"),
    ("age: 2", "age: 1"),
    ("2027-06-30", "2027-07-01"),
    ("[newton_gram, newton, counts]", "[newton, counts]"),
    ("unnoised: [counts]", "unnoised: [counts, newton]"),
    ("min_cohort: 60", "min_cohort: 61"),
    ("min_sites: 3", "min_sites: 4"),
    ("secagg: required", "secagg: optional"),
    ("colluders: 1", "colluders: 0"),
    ("epsilon_per_study: 3.0", "epsilon_per_study: 3.1"),
    ("delta_max: 1e-5", "delta_max: 1e-4"),
    ("ledger: ledger.sqlite", "ledger: other.sqlite"),
    ("max_rounds: 20", "max_rounds: 21"),
    ("max_requests_per_day: 50", "max_requests_per_day: 51"),
    ("hours: always", 'hours: "20:00-06:00"'),
]


def test_every_value_is_in_the_hash(hospital: Any) -> None:
    hashes_ = [hospital.under(edit).sha256 for edit in EDITS]
    assert len({hospital.policy.sha256, *hashes_}) == len(EDITS) + 1


@pytest.mark.parametrize(
    ("old", "new", "code", "named"),
    [
        ("mode: enforce", "mode: enforce\ntelemetry: false", "yaml_unknown_key", "telemetry"),
        ("mode: enforce", "mode: enforce\n_target_: os.system", "yaml_unknown_key", "_target_"),
        ("secagg: required", "secagg: required, audit: no", "yaml_unknown_key", "federation.audit"),
        ("  level: 3\n", "", "yaml_missing_key", "dataset.level"),
        ('  legal_basis: "伦理批件 2026-014"\n', "", "yaml_missing_key", "dataset.legal_basis"),
        ('"伦理批件 2026-014"', '""', "yaml_value", "dataset.legal_basis"),
        ("  level: 3", "  level: 010", "yaml_value", "dataset.level"),
        ("  level: 3", "  level: 6", "yaml_value", "dataset.level"),
        ("age: 2", "age: 0", "yaml_value", "dataset.columns.age"),
        ("min_sites: 3", "min_sites: 3.0", "yaml_value", "federation.min_sites"),
        ("secagg: required", "secagg: yes", "yaml_value", "federation.secagg"),
        ("mode: enforce", "mode: on", "yaml_value", "mode"),
        ("mode: enforce", "mode: [enforce]", "yaml_value", "mode"),
        ("epsilon_per_study: 3.0", "epsilon_per_study: .inf", "yaml_value", "epsilon_per_study"),
        ("epsilon_per_study: 3.0", "epsilon_per_study: 0", "yaml_value", "epsilon_per_study"),
        ("epsilon_per_study: 3.0", "epsilon_per_study: nan", "yaml_value", "epsilon_per_study"),
        ("delta_max: 1e-5", "delta_max: 1", "yaml_value", "privacy.delta_max"),
        ("min_cohort: 60", "min_cohort: 1", "yaml_value", "disclosure.min_cohort"),
        ("2027-06-30", "30.06.2027", "yaml_value", "dataset.expires"),
        ("2027-06-30", "2027-02-30", "yaml_value", "dataset.expires"),
        ("purposes: any", "purposes: some", "yaml_value", "dataset.purposes"),
        ("unnoised: [counts]", "unnoised: [gradient]", "yaml_value", "operations.unnoised"),
        ("unnoised: [counts]", "unnoised: [counts, counts]", "yaml_value", "operations.unnoised"),
        ("unnoised: [counts]", "unnoised: counts", "yaml_value", "operations.unnoised"),
        ("hours: always", "hours: 1:30", "yaml_value", "limits.hours"),
        ("coord.example:443", "coord.example", "yaml_value", "address"),
        ("coord.example:443", "coord.example:99999", "yaml_value", "address"),
        ("coord.example:443", "https://coord.example:443", "yaml_value", "address"),
        ("ab" * 32, "AB" * 32, "yaml_value", "allow_bundle_hashes"),
        ("cd" * 32, "cd", "yaml_value", "ca_sha256"),
        ("jurisdiction: CN\n  approvers", "jurisdiction: China\n  approvers", "yaml_value", "site"),
        ("fedcohort.policy/1", "fedcohort.policy/2", "yaml_value", "schema"),
        ("ledger: ledger.sqlite", "ledger: ../l.sqlite", "path_outside", "privacy.ledger"),
        ("ledger: ledger.sqlite", "ledger: /tmp/l.sqlite", "path_outside", "privacy.ledger"),
        ("ledger: ledger.sqlite", "ledger: ~/l.sqlite", "path_outside", "privacy.ledger"),
        ("ledger: ledger.sqlite", 'ledger: "a\\\\b"', "path_outside", "privacy.ledger"),
        ("id: h03\n", "id: h\u043e3\n", "text_not_plain", "site.id"),
        ("id: h03\n", "id: ../h03\n", "text_not_plain", "site.id"),
        ("某县人民医院", "St. \u041c\u0430ry H\u043espital", "text_not_plain", "site.name"),
        ("age: 2", "\u0430ge: 2", "text_not_plain", "dataset.columns"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_its_key(
    hospital: Any, old: str, new: str, code: str, named: str
) -> None:
    error = refusal(lambda: Policy.parse(hospital.edited((old, new))))
    assert error.code == code
    assert named in str(error)
    assert error.exit_code == 3
    assert "policy.yaml, line" in str(error)


def test_two_approvers_are_two_people_with_two_keys(hospital: Any) -> None:
    keys = [one.key for one in hospital.policy.approvers]
    for edit in [("li.m: ", "zhang.w: "), ("li.m: ", "Zhang.W: "), (keys[1], keys[0])]:
        error = refusal(partial(Policy.parse, hospital.edited(edit)))
        assert error.code == "yaml_value"
        assert "approvers" in str(error)
    error = refusal(lambda: Policy.parse(hospital.edited((f'{{li.m: "{keys[1]}"}}', "{}"))))
    assert "security_officer" in str(error)


@given(st.sampled_from(EDITS), st.integers(0, 10**6), st.characters(codec="utf-8"))
def test_a_file_with_one_character_more_is_the_same_another_or_refused(
    edit: tuple[str, str], place: int, character: str
) -> None:
    text = policy_template("h03")
    where = place % len(text)
    try:
        read = Policy.parse(text[:where] + character + text[where:])
    except PolicyError as error:
        assert error.code.startswith(("yaml_", "text_", "path_"))  # noqa: PT017
    else:
        assert read.mode == "dry_run"
        assert not read.operations


# ---- what it is asked


def test_only_listed_bundles_run(hospital: Any) -> None:
    hospital.policy.check_bundle("ab" * 32)
    assert refusal(lambda: hospital.policy.check_bundle("ac" * 32)).code == "policy_bundle"
    none = hospital.under((f'["{"ab" * 32}"]', "[]"))
    assert refusal(lambda: none.check_bundle("ab" * 32)).code == "policy_bundle"


def test_only_the_pinned_ca_is_trusted(hospital: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(dt.datetime(2026, 1, 1))
        .not_valid_after(dt.datetime(2027, 1, 1))
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM)
    pinned = hospital.under(("cd" * 32, made.fingerprint(hashes.SHA256()).hex()))
    pinned.check_ca(pem)
    for other in (hospital.policy.check_ca, lambda _: pinned.check_ca(b"no certificate")):
        assert refusal(partial(other, pem)).code == "policy_ca"


def test_only_the_ledger_of_the_named_population_pays(hospital: Any) -> None:
    right = Opening(
        hospital="h03",
        population="h03 admissions 2019-2025",
        kind="site",
        budget=None,
        unnoised=False,
    )
    hospital.policy.check_ledger(right)
    for change in ({"hospital": "h04"}, {"population": "others"}, {"kind": "simulation"}):
        wrong = dataclasses.replace(right, **change)  # type: ignore[arg-type]
        assert refusal(partial(hospital.policy.check_ledger, wrong)).code == ("policy_ledger")


# ---- a plan against it


def check(
    policy: Policy,
    plan: Plan,
    *,
    columns: tuple[str, ...] = COLUMNS,
    today: dt.date = dt.date(2026, 11, 22),
    **more: Any,
) -> None:
    check_plan(policy, plan, today=today, columns=columns, **more)


def test_a_plan_within_the_policy_passes(hospital: Any, plan_of: MakePlan) -> None:
    check(hospital.policy, plan_of())
    check(
        hospital.policy,
        plan_of(
            analysis="counts",
            privacy=None,
            parameters={"rows": "sex", "row_values": ["female", "male"]},
        ),
    )


LOOSER: list[tuple[str, dict[str, Any]]] = [
    ("plan_not_for_us", {"sites": ("h01", "h02", "h04", "h05", "h06")}),
    ("policy_operation", {"analysis": "gradient"}),
    ("policy_operation", {"analysis": "newton_gram.x"}),
    ("policy_unnoised", {"privacy": None}),
    ("policy_unnoised", {"privacy": None, "analysis": "newton"}),
    ("policy_epsilon", {"noise": {"epsilon": 3.01}}),
    ("policy_delta", {"noise": {"delta": 1.1e-5}}),
    ("policy_colluders", {"noise": {"colluders": 0}, "colluders": 0}),
    ("policy_rounds", {"max_rounds": 21}),
    ("policy_rounds", {"max_rounds": 10**12}),
    ("policy_secagg", {"secagg": "plain"}),
    ("policy_plan_expiry", {"expires": "2027-07-01"}),
    ("policy_plan_expiry", {"expires": "2026-13-41"}),
    ("policy_parameter", {"parameters": {"_target_": "os.system"}}),
    ("policy_parameter", {"parameters": {"model": {"features": 10**12}}}),
    ("policy_parameter", {"parameters": {"a": [[[[[[[[1]]]]]]]]}}),
    ("text_not_plain", {"study": "stroke r\u0456sk"}),
    ("text_not_plain", {"study": "stroke\u202erisk"}),
    ("text_not_plain", {"study": "../risk"}),
    ("text_not_plain", {"study": "stroke/risk"}),
    ("text_not_plain", {"study": " stroke"}),
    ("text_not_plain", {"study": "x" * 101}),
    ("text_not_plain", {"purpose": "Who is at risk\u2066 after a stroke."}),
    ("text_not_plain", {"purpose": "Who is at risk\x1b[2K after a stroke."}),
    ("text_not_plain", {"purpose": "Who is at risk\nafter a stroke."}),
    ("text_not_plain", {"purpose": "Who is \U0001d41et risk"}),
    ("text_not_plain", {"sites": ("h01", "h02", "h03", "h04", "h\u043e5")}),
    ("text_not_plain", {"analysis": "newton\u200b"}),
    ("text_not_plain", {"roster": "../../etc/passwd"}),
    ("text_not_plain", {"parameters": {"model": {"name": "log\u0456stic"}}}),
]


@pytest.mark.parametrize(("code", "change"), LOOSER)
def test_a_looser_plan_is_refused_by_the_rule_it_breaks(
    hospital: Any, plan_of: MakePlan, code: str, change: dict[str, Any]
) -> None:
    assert refusal(lambda: check(hospital.policy, plan_of(**change))).code == code


STRICTER: list[tuple[str, tuple[str, str]]] = [
    ("policy_purpose", ("purposes: any", "purposes: [Another one.]")),
    ("policy_expired", ("2027-06-30", "2026-11-21")),
    ("policy_plan_expiry", ("2027-06-30", "2027-01-30")),
    ("policy_jurisdiction", ('"cdc', '"cdc')),
    ("policy_column", (", glucose: 3", "")),
    ("policy_column_level", ("  level: 3", "  level: 2")),
    ("policy_min_sites", ("min_sites: 3", "min_sites: 5")),
    ("policy_colluders", ("colluders: 1", "colluders: 2")),
    ("policy_epsilon", ("epsilon_per_study: 3.0", "epsilon_per_study: 2.9")),
    ("policy_delta", ("delta_max: 1e-5", "delta_max: 9e-6")),
    ("policy_operation", ("newton_gram, ", "")),
    ("policy_dry_run", ("mode: enforce", "mode: dry_run")),
]


@pytest.mark.parametrize(("code", "edit"), [one for one in STRICTER if one[1][0] != one[1][1]])
def test_a_stricter_policy_refuses_what_passed(
    hospital: Any, plan_of: MakePlan, code: str, edit: tuple[str, str]
) -> None:
    check(hospital.policy, plan_of())
    assert refusal(lambda: check(hospital.under(edit), plan_of())).code == code


def test_the_same_policy_allows_what_it_names(hospital: Any, plan_of: MakePlan) -> None:
    named = hospital.under(("purposes: any", "purposes: [Who is at risk after a stroke.]"))
    check(named, plan_of())
    optional = hospital.under(("secagg: required", "secagg: optional"))
    check(optional, plan_of(secagg="plain"))
    shared = plan_of(secagg="plain", noise={"colluders": 0})
    assert refusal(lambda: check(optional, shared)).code == "policy_colluders"
    check(optional, plan_of(secagg="plain", noise={"colluders": 0, "sharing": "each"}))


def test_a_column_of_a_higher_level_is_refused_though_it_is_listed(
    hospital: Any, plan_of: MakePlan
) -> None:
    error = refusal(lambda: check(hospital.policy, plan_of(), columns=(*COLUMNS, "hiv")))
    assert error.code == "policy_column_level"
    check(hospital.under(("  level: 3", "  level: 5")), plan_of(), columns=(*COLUMNS, "hiv"))


def test_a_coordinator_abroad_is_refused_but_for_named_studies(
    hospital: Any, plan_of: MakePlan
) -> None:
    abroad = ('"' + "cd" * 32 + '", jurisdiction: CN', '"' + "cd" * 32 + '", jurisdiction: DE')
    code = "policy_jurisdiction"
    assert refusal(lambda: check(hospital.under(abroad), plan_of())).code == code
    assert refusal(lambda: check(hospital.policy, plan_of(), declared="DE")).code == code
    check(hospital.policy, plan_of(), declared="CN")
    named = hospital.under(
        abroad, ("cross_border: deny", 'cross_border: {stroke risk: "SCC 2026-1"}')
    )
    check(named, plan_of(), declared="DE")
    assert refusal(lambda: check(named, plan_of(study="another"), declared="DE")).code == code


def test_a_dry_run_is_checked_like_a_run_and_may_be_one(hospital: Any, plan_of: MakePlan) -> None:
    dry = hospital.under(("mode: enforce", "mode: dry_run"))
    check(dry, plan_of(), release=False)
    error = refusal(lambda: check(dry, plan_of(max_rounds=21), release=False))
    assert error.code == "policy_rounds"


def test_the_epsilon_of_a_study_is_that_of_all_its_plans(hospital: Any, plan_of: MakePlan) -> None:
    opening = Opening(
        hospital="h03", population="p", kind="simulation", budget=None, unnoised=False
    )
    book = Book(opening)
    first, second = plan_of(), plan_of(purpose="Once more.")
    accounts = {first.sha256: Account(reservation=reservation_of(first)), **book.accounts}
    check(hospital.policy, first, accounts=accounts)  # the plan itself is counted once
    assert refusal(lambda: check(hospital.policy, second, accounts=accounts)).code == (
        "policy_epsilon"
    )
    both = study_epsilon(second, accounts, 1e-5)
    assert 3.5 < both < 6  # more than one, less than both by themselves
    check(hospital.policy, plan_of(study="another"), accounts=accounts)
    closed = {first.sha256: Account(reservation=reservation_of(first), closed=True)}
    check(hospital.policy, second, accounts=closed)  # nothing of it was released


def test_a_refusal_repeats_no_text_of_the_plan(hospital: Any, plan_of: MakePlan) -> None:
    for _, change in LOOSER:
        shown = str(refusal(partial(check, hospital.policy, plan_of(**change))))
        assert shown.isascii()
        assert shown.isprintable()


@given(
    epsilon=st.floats(0.01, 10),
    most=st.floats(0.02, 10),
    rounds=st.integers(1, 50),
    allowed=st.integers(1, 50),
)
def test_a_plan_passes_where_it_is_no_looser_in_anything_and_only_there(
    epsilon: float, most: float, rounds: int, allowed: int
) -> None:
    text = _TEXT["text"].replace("epsilon_per_study: 3.0", f"epsilon_per_study: {most:.6f}")
    policy = Policy.parse(text.replace("max_rounds: 20", f"max_rounds: {allowed}"))
    plan = _TEXT["plan_of"](noise={"epsilon": epsilon}, max_rounds=rounds)
    looser = rounds > allowed or epsilon > policy.epsilon_per_study * (1 + 1e-9)
    try:
        check(policy, plan)
    except PolicyError:
        assert looser
    else:
        assert not looser


_TEXT: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _known(hospital: Any, plan_of: MakePlan) -> None:
    _TEXT.update(text=hospital.text, plan_of=plan_of)


def test_a_plan_is_read_only_when_it_is_small(plan_of: MakePlan) -> None:
    plan = plan_of()
    assert read_plan(plan.to_json()) == plan
    assert refusal(lambda: read_plan('{"a": "' + "x" * 300_000 + '"}')).code == "plan_too_large"
    assert refusal(lambda: read_plan("[" * 100_000)).code == "plan_unreadable"


# ---- when, and how often


@pytest.mark.parametrize(
    ("hours", "clock", "open_"),
    [
        ("always", "03:00", True),
        ('"20:00-06:00"', "19:59", False),
        ('"20:00-06:00"', "20:00", True),
        ('"20:00-06:00"', "00:00", True),
        ('"20:00-06:00"', "06:00", False),
        ('"08:00-16:30"', "16:29", True),
        ('"08:00-16:30"', "16:30", False),
        ('"08:00-16:30"', "07:59", False),
    ],
)
def test_a_site_answers_in_its_hours(hospital: Any, hours: str, clock: str, open_: bool) -> None:
    policy = hospital.under(("hours: always", f"hours: {hours}"))
    now = dt.datetime.fromisoformat(f"2026-11-22T{clock}:00+08:00")
    if open_:
        check_hours(policy, now=now)
    else:
        error = refusal(lambda: check_hours(policy, now=now))
        assert error.code == "policy_hours"
