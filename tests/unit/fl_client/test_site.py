"""A real site from its folder: its policy, its people and its log decide about every message."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client import site_gate
from fedcohort.fl_client.governance.approvals import Approvals
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.round_memory import FileRoundMemory, Remembered
from fedcohort.fl_client.site import Site, open_site, pin_roster
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.site_gate import in_force
from fedcohort.fl_client.site_study import SecAggRequest
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.hosting import replace_file, write_new
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.ledger.store import SqliteLedger
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.privacy.secagg.roster import Member, Roster, SignedRoster
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analysis import Contribution, State
from fedcohort.study.bundle import bundle_bytes, bundle_sha256
from fedcohort.study.cohort import Cohort
from fedcohort.study.holdout import Holdout
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of, model_of
from fedcohort.study.rounds import terms_for
from fedcohort.study.submission import sign_submission

TODAY = dt.datetime.now(dt.UTC).date()
Made = Callable[..., Any]


@pytest.fixture
def hospital(made_once: Any, tmp_path: Path) -> Any:
    import copy

    here = copy.copy(made_once)
    shutil.copytree(made_once.folder.root, tmp_path / "site")
    here.folder = type(made_once.folder)(tmp_path / "site")
    return here


def plan_for(hospital: Any, **changes: Any) -> Plan:
    schema = SiteData.read(hospital.folder.root, "cleveland").cohort()[0].schema
    model = {"name": "logistic", "features": len(schema.features), "bound": schema.bound}
    facts: dict[str, Any] = {
        "study": "s",
        "purpose": "p",
        "analysis": "gradient",
        "parameters": {"model": model, "steps": 2, "clip": 1.0},
        "schema_sha256": schema.sha256,
        "sites": ("cleveland", "hungarian"),
        "privacy": PrivacyTerms(
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
        "max_rounds": 3,
        "max_patients_per_site": 1000,
        "min_sites": 2,
        "secagg": "plain",
        "colluders": 0,
        "roster": "none",
        "expires": "2099-01-01",
    }
    return Plan(**(facts | changes))


def exact(hospital: Any, **changes: Any) -> Plan:
    plan = plan_for(hospital, privacy=None, **changes)
    return dataclasses.replace(
        plan, parameters={k: v for k, v in plan.parameters.items() if k != "clip"}
    )


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as refused:
        act()
    return refused.value.code


def proposed(site: Site, plan: Plan, country: str = "CN") -> str:
    return site.node.propose(plan.to_json(), country)


def report(site: Site, plan: Plan, state: State | None = None, attempt: str = "00" * 16) -> Any:
    analysis = analysis_of(plan)
    state = analysis.initial() if state is None else state
    terms = terms_for(plan, analysis, state, attempt)
    return site.node.report(terms.to_json(), dict(state.arrays))


def events(hospital: Any) -> list[str]:
    return [entry.event for entry in AuditLog(hospital.folder.audit).entries()]


def test_a_plan_runs_when_two_people_approved_it_and_not_before(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    assert site.hello(plan.sha256).plan == "unknown"
    assert code_of(lambda: proposed(site, plan)) == "plan_not_approved"
    assert site.hello(plan.sha256).plan == "checked"
    hospital.approve(plan, "zhang.w")
    assert code_of(lambda: proposed(site, plan)) == "one_person"
    hospital.approve(plan, "li.m")
    assert site.hello(plan.sha256).plan == "approved"
    assert proposed(site, plan) == plan.sha256
    assert report(site, plan).vector.shape == (analysis_of(plan).size(analysis_of(plan).initial()),)
    assert site.hello(plan.sha256).plan == "running"
    site.node.close(plan.sha256, {"theta": np.arange(3.0)})
    kept = json.loads((hospital.folder.results / f"{plan.sha256}.json").read_text())
    assert [float(text) for text in kept["arrays"]["theta"]["values"]] == [0.0, 1.0, 2.0]
    assert events(hospital)[-3:] == ["round_asked", "round_released", "plan_closed"]


def test_a_refused_plan_opens_no_extract_and_sets_nothing_aside(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital, analysis="breslow")
    (hospital.folder.root / "data" / "extract.csv").write_text("not,a,table\n")
    assert code_of(lambda: proposed(site, plan)) == "policy_operation"
    assert site.ledger.book.accounts == {}


@pytest.mark.parametrize("country", ["", "DE", "CN-BJ"])
def test_a_coordinator_elsewhere_is_refused(hospital: Any, country: str) -> None:
    plan = plan_for(hospital)
    hospital.approve(plan)
    assert code_of(lambda: proposed(open_site(hospital.folder), plan, country)) == (
        "policy_jurisdiction"
    )


def test_a_revoked_plan_stops_at_the_next_message(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    approvals = Approvals(hospital.folder.approvals, in_force(hospital.folder))
    approvals.revoke(plan.sha256, "li.m", load_identity(hospital.keys["li.m"]))
    assert code_of(lambda: report(site, plan)) == "approval_revoked"
    assert code_of(lambda: proposed(site, plan)) == "approval_revoked"


def test_an_edited_policy_stops_everything_until_two_people_sign(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    hospital.edit_policy(("max_rounds: 200", "max_rounds: 201"))
    assert code_of(lambda: report(site, plan)) == "policy_unsigned"
    assert code_of(lambda: site.admit(bundle_bytes(), {})) == "policy_unsigned"
    assert code_of(lambda: open_site(hospital.folder)) == "policy_unsigned"
    hospital.sign("zhang.w")
    assert code_of(lambda: report(site, plan)) == "policy_unsigned"
    hospital.sign()
    assert code_of(lambda: report(site, plan)) == "approval_other_policy"
    hospital.folder.policy.unlink()
    assert code_of(lambda: report(site, plan)) == "policy_missing"


def test_an_approval_is_of_one_extract(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    table = hospital.folder.root / "data" / "extract.csv"
    table.write_text(table.read_text() + "\n")
    assert code_of(lambda: proposed(site, plan)) == "approval_other_data"


def test_requests_of_a_day_are_counted_and_refused_ones_too(hospital: Any) -> None:
    hospital.edit_policy(("max_requests_per_day: 5000", "max_requests_per_day: 3"))
    hospital.sign()
    site = open_site(hospital.folder)
    for _ in range(3):
        assert code_of(lambda: site.node.propose("{}", "CN")) == "plan_unreadable"
    assert code_of(lambda: site.node.propose("{}", "CN")) == "policy_requests"
    again = open_site(hospital.folder)  # a restart forgets none of them
    assert code_of(lambda: again.node.propose("{}", "CN")) == "policy_requests"


def test_a_stricter_policy_stops_a_running_plan_that_was_approved_anew(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    hospital.edit_policy(("max_rounds: 200", "max_rounds: 2"))
    hospital.sign()
    hospital.approve(plan)
    assert code_of(lambda: report(site, plan, later(plan))) == "policy_rounds"


def test_a_dry_run_policy_releases_nothing(hospital: Any) -> None:
    hospital.edit_policy(("mode: enforce", "mode: dry_run"))
    hospital.sign()
    plan = plan_for(hospital)
    hospital.approve(plan)
    assert code_of(lambda: proposed(open_site(hospital.folder), plan)) == "policy_dry_run"


def withdraw(hospital: Any) -> None:
    row = (hospital.folder.root / "data" / "extract.csv").read_text().splitlines()[1]
    token = row.split(",")[0]
    (hospital.folder.root / "opt-out.txt").write_text(f" {token.upper()} \n")


def later(plan: Plan) -> State:
    size = model_of(plan.parameters["model"]).size
    arrays = {"theta": np.zeros(size), "count": np.ones(1), "mean": np.zeros(size)}
    return State(round=1, arrays=arrays)


def test_a_withdrawal_counts_from_the_next_round_and_is_logged(
    hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    computed = Gradient.contribution

    def watched(self: Gradient, cohort: Cohort, state: State) -> Contribution:
        seen.append(cohort.patients)
        return computed(self, cohort, state)

    monkeypatch.setattr(Gradient, "contribution", watched)
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    everybody = report(site, plan).vector
    withdraw(hospital)
    assert (report(site, plan).vector == everybody).all()  # what was made is handed over again
    report(site, plan, later(plan))
    assert seen[1] == seen[0] - 1
    assert len(seen) == 2
    assert events(hospital).count("opt_out_changed") == 1


def test_a_withdrawal_ends_a_plan_without_noise(hospital: Any) -> None:
    """Two exact sums at one state, with a patient and without, tell of that patient."""
    site, plan = open_site(hospital.folder), exact(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    withdraw(hospital)
    assert code_of(lambda: report(site, plan, later(plan))) == "disclosure_difference"
    again = open_site(hospital.folder)  # nor does a restart help
    proposed(again, plan)
    assert code_of(lambda: report(again, plan, later(plan))) == "disclosure_difference"


def test_classes_are_counted_on_the_patients_of_the_sum(hospital: Any) -> None:
    """All but two patients with the outcome withdraw: the extract has enough, the sum has not."""
    header, *rows = (hospital.folder.root / "data" / "extract.csv").read_text().splitlines()
    place = header.split(",").index("disease")
    cells = [row.split(",") for row in rows]
    ill = [patient for patient, *others in cells if others[place - 1] == "1"]
    (hospital.folder.root / "opt-out.txt").write_text("\n".join(ill[2:]) + "\n")
    site, plan = open_site(hospital.folder), exact(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    assert code_of(lambda: report(site, plan)) == "disclosure_class"


@pytest.mark.parametrize("swap", ["a bound lowered by one", "a share moved a little"])
def test_two_exact_plans_may_not_differ_by_a_few_patients(hospital: Any, swap: str) -> None:
    """The difference of their sums is a record, whoever adds what masks to them."""
    share = Holdout(key="5a" * 32, test_fraction=0.3, histogram=False, bins=10)
    first: dict[str, Any]
    second: dict[str, Any]
    if swap == "a bound lowered by one":
        first, second = ({"max_patients_per_site": n} for n in (303, 302))
    else:
        first, second = ({"holdout": replace(share, test_fraction=f)} for f in (0.3, 0.32))
    site = open_site(hospital.folder)
    plans = [exact(hospital, **first), exact(hospital, **second)]
    again = exact(hospital, **first, study="the same patients again")
    for plan in (*plans, again):
        hospital.approve(plan)
        proposed(site, plan)
    report(site, plans[0])
    assert code_of(lambda: report(site, plans[1])) == "disclosure_difference"
    assert report(site, again).vector.size  # over exactly the same: no difference
    restarted = open_site(hospital.folder)
    other = exact(hospital, **second, study="after a restart")
    hospital.approve(other)
    proposed(restarted, other)
    assert code_of(lambda: report(restarted, other)) == "disclosure_difference"
    (hospital.folder.exact_cohorts).write_text("{}")
    fresh = exact(hospital, study="what left before is not known")
    hospital.approve(fresh)
    proposed(restarted, fresh)
    assert code_of(lambda: report(restarted, fresh)) == "exact_cohorts_unreadable"
    (hospital.folder.exact_cohorts).unlink()
    gone = exact(hospital, study="nor whether anything did")
    hospital.approve(gone)
    proposed(restarted, gone)
    assert code_of(lambda: report(restarted, gone)) == "exact_cohorts_unreadable"


def exact_sum(hospital: Any, study: str, **changes: Any) -> str:
    """Return what a hospital that was just started says to a plan without noise; "" for a sum."""
    site, plan = open_site(hospital.folder), exact(hospital, study=study, **changes)
    hospital.approve(plan)
    proposed(site, plan)
    try:
        report(site, plan)
    except FedCohortError as error:
        return error.code
    finally:
        site.close()
    return ""


def test_exact_sums_differ_by_as_many_patients_as_the_policy_says(hospital: Any) -> None:
    smallest = in_force(hospital.folder).disclosure.min_cell_count
    assert smallest > 3
    assert exact_sum(hospital, "all", max_patients_per_site=303) == ""
    fewer = 303 - (smallest - 1)
    assert exact_sum(hospital, "few", max_patients_per_site=fewer) == "disclosure_difference"
    assert exact_sum(hospital, "many", max_patients_per_site=303 - smallest) == ""


def test_a_corrected_record_is_no_difference_of_two_exact_sums(hospital: Any) -> None:
    table = hospital.folder.root / "data" / "extract.csv"
    before = table.read_text()
    assert exact_sum(hospital, "before") == ""
    header, first, *others = before.splitlines()
    cells = first.split(",")
    cells[header.split(",").index("age")] = "77"
    table.write_text("\n".join([header, ",".join(cells), *others]) + "\n")
    assert exact_sum(hospital, "after") == "disclosure_difference"
    table.write_text(before)
    assert exact_sum(hospital, "the same again") == ""


def test_where_each_row_is_a_person_no_exact_sum_is_over_another_table(hospital: Any) -> None:
    mapping: Path = hospital.folder.root / "mapping.yaml"
    table: Path = hospital.folder.root / "data" / "extract.csv"
    mapping.write_text(mapping.read_text().replace("patient: patient_id", "patient: one_row_each"))
    hospital.edit_policy(("  opt_out_file: opt-out.txt", ""))
    hospital.sign()
    assert exact_sum(hospital, "before") == ""
    text = table.read_text()
    assert text.count(",Male,") > 50
    table.write_text(text.replace(",Male,", ",Female,"))  # of more than a few
    assert exact_sum(hospital, "after") == "disclosure_difference"


Rows = list[dict[str, str]]


def pseudonyms_of_its_own(rows: Rows) -> Rows:
    return [row | {"patient_id": f"n{row['patient_id']}"} for row in rows]


def one_decimal_more(rows: Rows) -> Rows:
    return [row | {"oldpeak": f"{float(row['oldpeak']):.2f}"} for row in rows]


@pytest.mark.parametrize("change", [pseudonyms_of_its_own, one_decimal_more])
def test_a_change_for_everybody_that_moves_no_sum_hides_no_corrected_record(
    change: Callable[[Rows], Rows], hospital: Any
) -> None:
    table: Path = hospital.folder.root / "data" / "extract.csv"
    header, *lines = table.read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert exact_sum(hospital, "before") == ""
    rows[7]["oldpeak"] = "4.4"
    changed = [",".join(row.values()) for row in change(rows)]
    table.write_text("\n".join([header, *changed]) + "\n")
    assert exact_sum(hospital, "after") == "disclosure_difference"


def test_a_bound_of_the_codebook_that_one_patient_passes_is_a_difference(hospital: Any) -> None:
    """The texts are the same; what is summed differs for the one whose ST depression is 6.2 mm."""
    codebook: Path = hospital.folder.root / "data" / "codebook.yaml"
    assert exact_sum(hospital, "before") == ""
    text = codebook.read_text()
    assert text.count("range: [-3, 7]") == 1
    codebook.write_text(text.replace("range: [-3, 7]", "range: [-3, 6]"))
    assert exact_sum(hospital, "after") == "disclosure_difference"


def test_an_older_memory_of_exact_sums_is_refused(hospital: Any) -> None:
    memory = hospital.folder.exact_cohorts
    assert exact_sum(hospital, "all", max_patients_per_site=303) == ""
    older = memory.read_bytes()
    assert exact_sum(hospital, "half", max_patients_per_site=250) == ""
    memory.write_bytes(older)
    assert exact_sum(hospital, "third") == "exact_cohorts_unreadable"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_refusal_is_a_round_and_is_not_asked_again(hospital: Any) -> None:
    """At parameters chosen so that the sum overflows for some records, the answer is one bit."""
    site, plan = open_site(hospital.folder), exact(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    size = model_of(plan.parameters["model"]).size
    arrays = {"theta": np.full(size, 1e308), "count": np.ones(1), "mean": np.zeros(size)}
    first = code_of(lambda: report(site, plan, State(round=1, arrays=arrays)))
    assert first in ("not_finite", "out_of_range")
    assert code_of(lambda: report(site, plan, later(plan))) == "round_replayed"


def test_a_clip_norm_without_noise_is_refused(hospital: Any) -> None:
    """It weighs the cells of a histogram, which the smallest cell is held against."""
    site, plan = open_site(hospital.folder), plan_for(hospital, privacy=None)
    hospital.approve(plan)
    assert code_of(lambda: proposed(site, plan)) == "clip_without_noise"


def test_an_extract_that_is_replaced_ends_the_plan(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    table = hospital.folder.root / "data" / "extract.csv"
    table.write_text(table.read_text() + "\n")
    assert code_of(lambda: report(site, plan, later(plan))) == "approval_other_data"
    hospital.approve(plan)  # for the new extract: the rounds before were of the old one
    assert code_of(lambda: report(site, plan, later(plan))) == "data_changed"


def test_a_run_serves_the_plan_that_it_was_signed_for(
    hospital: Any, a_coordinator: CoordinatorSetup
) -> None:
    site, plan, other = (
        open_site(hospital.folder),
        plan_for(hospital),
        plan_for(hospital, study="b"),
    )
    for one in (plan, other):
        hospital.approve(one)
    identity = load_identity(a_coordinator.identity)

    def admit(one: Plan) -> None:
        signed = sign_submission(identity, bundle_sha256(), one.sha256)
        site.admit(bundle_bytes(), {"plan-sha256": one.sha256, "submission": signed})

    admit(plan)
    proposed(site, plan)
    assert code_of(lambda: proposed(site, other)) == "run_other_plan"
    assert code_of(lambda: site.node.close(other.sha256)) == "run_other_plan"
    admit(other)
    proposed(site, other)
    assert code_of(lambda: report(site, plan)) == "run_other_plan"


def test_a_plan_of_an_earlier_life_is_closed(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    site.ledger.dispose()
    again = open_site(hospital.folder)
    assert hospital.folder.round(plan.sha256).exists()
    again.node.close(plan.sha256, {"theta": np.ones(2)})
    assert again.ledger.book.accounts[plan.sha256].closed
    assert not hospital.folder.round(plan.sha256).exists()
    assert (hospital.folder.results / f"{plan.sha256}.json").exists()
    never = plan_for(hospital, study="never ran here")
    assert code_of(lambda: proposed(again, never)) == "plan_not_approved"
    again.node.close(never.sha256, {"theta": np.ones(2)})
    assert not (hospital.folder.results / f"{never.sha256}.json").exists()


def test_nonsense_does_not_fill_the_disk(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_gate, "_MOST_REFUSALS", 3)
    site = open_site(hospital.folder)
    for number in range(6):
        request = SecAggRequest(phase=f"junk {number}", plan_sha256="x")
        assert code_of(lambda r=request: site.node.secagg(r)) == "plan_unknown"  # type: ignore[misc]
    assert events(hospital).count("message_refused") == 3


def test_small_cohorts_leave_nothing_without_noise_and_say_not_why(hospital: Any) -> None:
    hospital.edit_policy(("min_cohort_training: 20", "min_cohort_training: 5000"))
    hospital.sign()
    site, plan = open_site(hospital.folder), exact(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    assert code_of(lambda: report(site, plan)) == "disclosure_cohort"
    assert "round_released" not in events(hospital)


def test_a_run_is_admitted_by_bundle_and_signature(
    hospital: Any, a_coordinator: CoordinatorSetup
) -> None:
    site, plan = open_site(hospital.folder), "ab" * 32
    identity = load_identity(a_coordinator.identity)
    signed = sign_submission(identity, bundle_sha256(), plan)
    site.admit(bundle_bytes(), {"plan-sha256": plan, "submission": signed})
    other = sign_submission(load_identity(hospital.keys["li.m"]), bundle_sha256(), plan)
    for settings in (
        {},
        {"plan-sha256": plan},
        {"plan-sha256": plan, "submission": other},
        {"plan-sha256": "cd" * 32, "submission": signed},
        {"plan-sha256": plan, "submission": "zz"},
    ):
        assert code_of(lambda s=settings: site.admit(bundle_bytes(), s)) == "run_unsigned"  # type: ignore[misc]
    assert code_of(lambda: site.admit(bundle_bytes("6.6.6"), {})) == "bundle_not_allowed"
    assert events(hospital).count("bundle_refused") == 6


# ---- restarts


def test_a_killed_node_hands_the_same_integers_over(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    before = report(site, plan)
    spent = site.ledger.book.spent
    site.ledger.dispose()  # as dead as a process can be within this one
    again = open_site(hospital.folder)
    assert code_of(lambda: report(again, plan)) == "plan_unknown"
    proposed(again, plan)
    after = report(again, plan)
    assert (after.vector == before.vector).all()  # noise is not added a second time
    assert again.ledger.book.spent == spent
    assert code_of(lambda: report(again, plan, attempt="11" * 16)) == "round_replayed"


def test_a_node_killed_after_it_paid_is_out_of_that_round(hospital: Any) -> None:
    site, plan = open_site(hospital.folder), plan_for(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    report(site, plan)
    (hospital.folder.plans / f"{plan.sha256}.round").unlink()  # as if it was not yet written
    again = open_site(hospital.folder)
    proposed(again, plan)
    assert code_of(lambda: report(again, plan)) == "round_already_paid"


def test_a_vector_that_may_be_in_an_opened_sum_is_not_kept(tmp_path: Path) -> None:

    memory = FileRoundMemory(tmp_path / "x.round")
    assert memory.recall() is None
    memory.keep(
        Remembered(attempt="a", next_round=3, terms_sha256="t", vector=np.arange(4), charge_id="7")
    )
    known = memory.recall()
    assert known is not None
    assert (known.attempt, known.next_round, known.terms_sha256) == ("a", 3, "t")
    memory.spend()
    spent = FileRoundMemory(tmp_path / "x.round").recall()
    assert spent is not None
    assert (spent.next_round, spent.vector, spent.terms_sha256) == (3, None, "")
    torn = (tmp_path / "x.round").read_bytes()[:-3]
    replace_file(tmp_path / "x.round", torn)
    assert memory.recall() is None


# ---- power cuts


@pytest.fixture
def on_disk(hospital: Any, disk: Made, tmp_path: Path) -> Callable[[], list[Any]]:
    """The site's folder as it is found after a power cut now, of either kind."""
    # What SQLite syncs is tested where the ledger is.
    watched = disk(hospital.folder.root, trusts=("ledger.sqlite",))
    cuts: list[Path] = []

    def cut() -> list[Any]:
        cuts.append(tmp_path / f"cut-{len(cuts)}")
        return [type(hospital.folder)(path) for path in watched.cuts(cuts[-1])]

    return cut


def test_after_a_power_cut_a_site_knows_all_that_it_did_before(
    hospital: Any, on_disk: Callable[[], list[Any]]
) -> None:
    site, plan = open_site(hospital.folder), exact(hospital)
    hospital.approve(plan)
    proposed(site, plan)
    vector = report(site, plan).vector
    for found in on_disk():
        assert AuditLog(found.audit).entries()[-1].event == "round_released"
        kept = FileRoundMemory(found.round(plan.sha256)).recall()
        assert kept is not None
        assert kept.vector is not None
        assert (kept.vector == vector).all()
        again = open_site(found)
        proposed(again, plan)  # its two approvals are there
        assert (report(again, plan).vector == vector).all()
        other = exact(hospital, max_patients_per_site=302)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hospital, "folder", found)
            hospital.approve(other)
        proposed(again, other)
        # Whom the exact sum was over is known, too.
        assert code_of(lambda s=again, p=other: report(s, p)) == "disclosure_difference"  # type: ignore[misc]
        again.ledger.dispose()
    site.node.close(plan.sha256, {"theta": np.arange(2.0)})
    for found in on_disk():
        assert (found.results / f"{plan.sha256}.json").read_bytes().endswith(b"}")
        assert not found.round(plan.sha256).exists()
        assert AuditLog(found.audit).entries()[-1].event == "plan_closed"


def test_after_a_power_cut_a_no_is_not_forgotten(
    hospital: Any, on_disk: Callable[[], list[Any]]
) -> None:
    plan, policy = plan_for(hospital), in_force(hospital.folder)
    hospital.approve(plan)
    for end, code in (("revoke", "approval_revoked"), ("refuse", "plan_refused_here")):
        asked = plan if end == "revoke" else replace(plan, study="another")
        hospital.approve(asked)
        approvals = Approvals(hospital.folder.approvals, policy)
        getattr(approvals, end)(asked.sha256, "li.m", load_identity(hospital.keys["li.m"]))
        for found in on_disk():  # by its own file: no audit log was told of it
            fingerprint = SiteData.read(found.root, "cleveland").fingerprint
            again = Approvals(found.approvals, policy)
            assert code_of(lambda a=again, p=asked, f=fingerprint: a.approved(p, f, TODAY)) == code  # type: ignore[misc]


def test_after_a_power_cut_what_was_pinned_is_pinned(
    hospital: Any, on_disk: Callable[[], list[Any]]
) -> None:
    pinned = pin_roster(hospital.folder, "cleveland", roster_for(hospital, days=1), today=TODAY)
    hospital.edit_policy(("max_rounds: 200", "max_rounds: 20"))
    hospital.sign()
    replace_file(hospital.folder.policy, hospital.folder.policy.read_bytes())  # an editor's sync
    for found in on_disk():
        assert in_force(found).sha256 == in_force(hospital.folder).sha256
        assert open_site(found).roster() == pinned.sha256.hex()


# ---- what a site starts from


def test_a_site_without_a_ledger_or_with_anothers_does_not_open(hospital: Any) -> None:
    ledger = hospital.folder.root / "ledger.sqlite"
    opening = SqliteLedger(ledger, kind="site").book.opening
    for path in ledger.parent.glob("ledger.sqlite*"):
        path.unlink()
    assert code_of(lambda: open_site(hospital.folder)) == "ledger_missing"
    SqliteLedger.create(ledger, dataclasses.replace(opening, population="others")).dispose()
    assert code_of(lambda: open_site(hospital.folder)) == "policy_ledger"


def test_another_ca_than_the_pinned_one_is_refused(hospital: Any) -> None:
    replace_file(hospital.folder.ca, b"-----BEGIN CERTIFICATE-----\nAAAA\n")
    assert code_of(lambda: open_site(hospital.folder)) == "policy_ca"


def roster_for(hospital: Any, *, days: int, key: bytes | None = None) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    identities = {name: Ed25519PrivateKey.generate() for name in ("a", "b")}
    identities["cleveland"] = load_identity(hospital.folder.identity)
    publics = {name: k.public_key().public_bytes_raw() for name, k in identities.items()}
    publics["cleveland"] = key or publics["cleveland"]
    roster = Roster(
        federation="f",
        version=1,
        suite=1,
        members=tuple(Member(name=name, public=publics[name]) for name in sorted(publics)),
        coordinator=bytes([7]) * 32,
        colluders=1,
        valid_from=(TODAY - dt.timedelta(days=9)).isoformat(),
        valid_to=(TODAY + dt.timedelta(days=days)).isoformat(),
    )
    return signed_roster_to_json(SignedRoster.sign(roster, identities))


def test_the_roster_is_the_one_pinned_now(hospital: Any) -> None:
    site = open_site(hospital.folder)
    assert site.roster() == "none"
    pin_roster(hospital.folder, "cleveland", roster_for(hospital, days=1), today=TODAY)
    assert len(site.roster()) == 64
    replace_file(hospital.folder.roster, roster_for(hospital, days=-1).encode())
    assert code_of(site.roster) == "r_4_dates"
    replace_file(hospital.folder.roster, roster_for(hospital, days=1, key=bytes([3]) * 32).encode())
    assert code_of(lambda: open_site(hospital.folder)) == "r_3_own_key"
    hospital.folder.roster.unlink()
    write_new(hospital.folder.roster, b"{}")
    assert code_of(lambda: open_site(hospital.folder)) == "roster_unreadable"
