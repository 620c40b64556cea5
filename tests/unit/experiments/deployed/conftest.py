"""A coordinator's folder with a roster of four hospitals, and runs that are told, not run."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from fedcohort.conf.schema import register
from fedcohort.experiments.settings import Settings
from fedcohort.fl_server import submitting
from fedcohort.fl_server.coordinator import Outcome
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.fl_server.run_folder import RunFolder, RunState
from fedcohort.hosting import private_folder, write_new
from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.secagg.roster import Member, Roster, SignedRoster
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.privacy.secagg.suite import INTL
from fedcohort.study.analysis import Result
from fedcohort.study.plan import Plan, model_of

SITES = ("cleveland", "hungarian", "switzerland", "va")
TODAY = dt.date(2026, 11, 22)


def key(seed: int) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).public_key().public_bytes_raw()


@pytest.fixture
def setup(tmp_path: Path) -> CoordinatorSetup:
    """A coordinator that nothing runs from, its roster in force."""
    found = CoordinatorSetup(
        folder=private_folder(tmp_path / "coordinator"),
        federation="test",
        jurisdiction="CN",
        names=("c.example",),
        public_host="127.0.0.1",
        public_port=443,
        loopback_port=8444,
    )
    write_new(found.folder / "coordinator.json", found.to_json().encode())
    for folder in (found.plans, found.runs):
        private_folder(folder)
    roster = Roster(
        federation="test",
        version=1,
        suite=INTL.number,
        members=tuple(Member(name=name, public=key(n)) for n, name in enumerate(SITES, start=1)),
        coordinator=key(99),
        colluders=1,
        valid_from="2026-01-01",
        valid_to="2099-01-01",
    )
    signed = SignedRoster(roster=roster, signatures={})
    write_new(found.roster, signed_roster_to_json(signed).encode())
    return found


Asked = Callable[..., Settings]


@pytest.fixture
def asked(setup: CoordinatorSetup) -> Asked:
    """Settings of a deployed run; what is given here counts as stated by the person."""

    def make(*overrides: str, study: str = "study=heart-disease") -> Settings:
        given = [study, "runtime=deployed", f"runtime.coordinator={setup.folder}", *overrides]
        register()
        try:
            with initialize_config_module("fedcohort.conf", version_base="1.3"):
                config = compose("config", [text for text in given if text])
        finally:
            GlobalHydra.instance().clear()
        return Settings.of(config, stated={text.partition("=")[0] for text in given})

    return make


@dataclasses.dataclass
class Told:
    """Runs in the coordinator's folder, as a runner would leave them.

    Attributes:
        setup: The coordinator.
        ends: By analysis, what becomes of its run: `done`, `open`, or an error.
        submitted: Plans, in order; a plan's run is its place, from 1.
    """

    setup: CoordinatorSetup
    ends: dict[str, Any] = dataclasses.field(default_factory=dict)
    submitted: list[Plan] = dataclasses.field(default_factory=list)
    refuse_after: int = 99

    def submit(self, setup: CoordinatorSetup, plan: Plan) -> int:
        if len(self.submitted) >= self.refuse_after:
            raise ProtocolError("superlink_gone", "the SuperLink does not answer")
        self.submitted.append(plan)
        run = len(self.submitted)
        RunFolder(setup.runs / str(run)).tell("submitted", plan_sha256=plan.sha256)
        return run

    def wait(
        self,
        setup: CoordinatorSetup,
        run_id: int,
        *,
        on_change: Callable[[RunState], None] | None = None,
        timeout_s: float | None = None,
    ) -> RunState:
        plan, folder = self.submitted[run_id - 1], RunFolder(setup.runs / str(run_id))
        end = self.ends.get(plan.analysis, "done")
        for state in (
            RunState(phase="waiting", waiting_for=("va",)),
            RunState(phase="approval", waiting_for=("cleveland", "va")),
            RunState(phase="a_later_phase"),
            RunState(phase="running", rounds=2),
        ):
            if on_change is not None:
                on_change(state)
        if end == "open":
            return RunState(phase="running", rounds=2)
        if end == "interrupt":
            raise KeyboardInterrupt
        if isinstance(end, ProtocolError):
            folder.fail(end)
        else:
            folder.finish(plan.sha256, outcome_of(plan))
        state = folder.state()
        if on_change is not None:
            on_change(state)
        return state


def outcome_of(plan: Plan) -> Outcome:
    size = model_of(plan.parameters["model"]).size
    arrays = {"theta": np.linspace(-1, 1, size)}
    if plan.holdout is not None and plan.holdout.histogram:
        falling = np.linspace(90.0, 10.0, plan.holdout.bins)
        arrays["score_histogram"] = np.stack([falling, falling[::-1]])
    return Outcome(
        result=Result(arrays=arrays, rounds=3),
        rounds=3,
        bytes_up=1234,
        seconds=5.25,
        dropped=(),
        liars=(),
    )


@pytest.fixture
def told(setup: CoordinatorSetup, monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told(setup)
    monkeypatch.setattr(submitting, "submit", found.submit)
    monkeypatch.setattr(submitting, "wait", found.wait)
    return found
