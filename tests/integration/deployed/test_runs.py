"""Runs on a real federation: the same numbers, the same ledgers, failures by their codes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedcohort.datasets import LoadOptions, load_catalogue
from fedcohort.experiments.simulation.federate import federate
from fedcohort.fl_client.governance.approvals import Approvals
from fedcohort.fl_client.site_gate import in_force
from fedcohort.fl_server import submitting
from fedcohort.fl_server.run_folder import result_of
from fedcohort.hosting import running_state
from fedcohort.privacy.ledger.store import read_entries
from fedcohort.privacy.secagg.identity import load_identity

pytestmark = pytest.mark.deploy


def test_a_masked_plan_gives_what_it_gives_in_one_process(federation: Any, ours: Any) -> None:
    assert not ours.told, ours.told
    found = result_of(ours.run)
    assert (found.rounds, found.dropped, found.liars) == (3, (), ())
    extract = load_catalogue("heart-disease", LoadOptions())
    cohorts = [cohort for cohort in extract.cohorts if cohort.site in federation.plan.sites]
    here = federate(replace(federation.plan, roster="simulation"), cohorts)
    assert set(found.result.arrays) == set(here.result.arrays)
    for name, array in here.result.arrays.items():
        np.testing.assert_allclose(found.result.arrays[name], array, rtol=0, atol=1e-9)


def test_every_sites_ledger_wrote_each_round_down(federation: Any, ours: Any) -> None:
    assert not ours.told, ours.told
    for hospital in federation.sites.values():
        kinds = [entry.kind for entry in read_entries(hospital.folder.root / "ledger.sqlite")]
        rounds = ["charge", "unmask"] * 3
        assert kinds[:9] == ["open", "reserve", *rounds, "close"]


def test_a_node_that_is_restarted_at_once_is_back_for_the_next_plan(
    federation: Any,
) -> None:
    state = running_state(federation.root / federation.names[0] / "logs")
    assert state is not None
    os.kill(state["services"]["worker"]["pid"], signal.SIGKILL)
    again = replace(federation.plan, study="again")
    federation.approve(again)
    run = submitting.submit(federation.setup, again)
    state_of_run = submitting.wait(federation.setup, run, timeout_s=240)
    assert state_of_run.phase == "done", f"{state_of_run}\n{federation.logs()}"


def test_a_plan_waits_until_two_people_approved_it_everywhere(federation: Any) -> None:
    other = replace(federation.plan, purpose="something else")
    run = submitting.submit(federation.setup, other)
    waiting = submitting.wait(federation.setup, run, timeout_s=15)
    assert (waiting.phase, waiting.waiting_for) == ("approval", federation.plan.sites)
    federation.approve(other)
    state = submitting.wait(federation.setup, run, timeout_s=120)
    assert state.phase == "done", f"{state}\n{federation.logs()}"


def test_a_plan_that_one_person_refused_ends_by_its_code(federation: Any) -> None:
    other = replace(federation.plan, purpose="something that nobody wants")
    hospital = federation.sites[federation.names[0]]
    Approvals(hospital.folder.approvals, in_force(hospital.folder)).refuse(
        other.sha256, "li.m", load_identity(hospital.keys["li.m"])
    )
    run = submitting.submit(federation.setup, other)
    state = submitting.wait(federation.setup, run, timeout_s=120)
    assert (state.phase, state.code, state.exit_code) == ("failed", "plan_refused_here", 3)
