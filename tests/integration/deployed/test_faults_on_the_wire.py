"""Hospitals and coordinators that die in the middle of a run, on real Flower: who paid for what.

Each run goes on and gives what it gives undisturbed, or ends with a state and a code; and in each
site's ledger stands at least what its own audit log says has left.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_server import submitting
from fedcohort.fl_server.run_folder import RunFolder, result_of
from fedcohort.hosting import running_state
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.ledger.store import read_entries
from fedcohort.study.plan import Plan, PrivacyTerms

pytestmark = pytest.mark.deploy


def noisy(plan: Plan) -> Plan:
    """The plan with noise shared among its sites."""
    privacy = PrivacyTerms(
        epsilon=1.0,
        delta=1e-4,
        noise_multiplier=calibrate(1.0, 1e-4, 3),
        releases=3,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        bound="rdp",
    )
    return replace(plan, privacy=privacy, parameters={**plan.parameters, "clip": 1.0})


def left_and_paid(hospital: Any) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Per plan: the rounds that left by the audit log, the rounds paid for by the ledger."""
    left, paid = defaultdict(set), defaultdict(set)
    for entry in AuditLog(hospital.folder.audit).entries():
        if entry.event == "round_released":
            left[str(entry.facts["plan_sha256"])].add(int(entry.facts["round"]))
    for written in read_entries(hospital.folder.root / "ledger.sqlite"):
        if written.kind == "charge":
            paid[str(written.body["plan_sha256"])].add(int(written.body["round"]))
    return dict(left), dict(paid)


def check_nothing_left_unpaid(federation: Any, plan: Plan, rounds: int) -> None:
    for hospital in federation.sites.values():
        left, paid = left_and_paid(hospital)
        assert len(left[plan.sha256]) >= rounds  # or the comparison would say nothing
        for sha256, numbers in left.items():  # of every plan that ever ran here
            assert numbers <= paid[sha256], (sha256, numbers, paid[sha256])


def killed(federation: Any, site: str, *services: str) -> None:
    state = running_state(federation.root / site / "logs")
    assert state is not None
    for service in services:
        os.kill(state["services"][service]["pid"], signal.SIGKILL)


def run_to_its_first_sum(
    federation: Any, plan: Plan, wait_until: Callable[[Callable[[], bool], float, str], None]
) -> tuple[int, RunFolder]:
    federation.approve(plan)
    number = submitting.submit(federation.setup, plan)
    run = RunFolder(federation.setup.runs / str(number))
    wait_until(lambda: run.state().rounds >= 1 or run.state().ended, 120, "the first sum")
    assert not run.state().ended, run.state()
    return number, run


@pytest.mark.parametrize(
    ("services", "noise"), [(("worker",), True), (("supernode", "worker"), False)]
)
def test_a_hospital_that_dies_in_a_round_comes_back_and_pays_once(
    services: tuple[str, ...],
    noise: bool,
    federation: Any,
    ours: Any,
    wait_until: Callable[[Callable[[], bool], float, str], None],
) -> None:
    plan = replace(federation.plan, study=f"{services[0]} dies")
    plan = noisy(plan) if noise else plan
    number, run = run_to_its_first_sum(federation, plan, wait_until)
    killed(federation, federation.names[1], *services)
    ended = submitting.wait(federation.setup, number, timeout_s=300)
    assert ended.phase == "done", f"{ended}\n{federation.logs()}"
    check_nothing_left_unpaid(federation, plan, 3)
    if not noise:
        for name, array in result_of(ours.run).result.arrays.items():
            found = result_of(run.folder).result.arrays[name]
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-9)


def test_a_coordinator_that_is_stopped_and_started_goes_on_with_the_same_numbers(
    federation: Any,
    ours: Any,
    wait_until: Callable[[Callable[[], bool], float, str], None],
) -> None:
    plan = replace(federation.plan, study="the coordinator was stopped")
    number, run = run_to_its_first_sum(federation, plan, wait_until)
    federation.stop("coordinator")
    assert not run.state().ended
    federation.start_coordinator()
    ended = submitting.wait(federation.setup, number, timeout_s=240)
    assert ended.phase == "done", f"{ended}\n{federation.logs()}"
    for name, array in result_of(ours.run).result.arrays.items():
        found = result_of(run.folder).result.arrays[name]
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-9)
    check_nothing_left_unpaid(federation, plan, 3)


def test_a_run_that_is_stopped_after_a_sum_was_paid_for(
    federation: Any,
    wait_until: Callable[[Callable[[], bool], float, str], None],
) -> None:
    """It ends by its code; what left was paid for, and no round is asked after that."""
    plan = noisy(replace(federation.plan, study="stopped after a sum"))
    number, _ = run_to_its_first_sum(federation, plan, wait_until)
    submitting.stop_run(federation.setup, number)
    state = submitting.wait(federation.setup, number, timeout_s=60)
    assert (state.phase, state.code) == ("failed", "run_stopped")
    check_nothing_left_unpaid(federation, plan, 1)
