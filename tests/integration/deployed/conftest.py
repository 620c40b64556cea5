"""A federation as hospitals run it: Flower's own servers as processes, TLS, node keys, masks.

A coordinator and three sites on loopback, each with an extract, a signed policy and a ledger of
its own, started by the same supervisors as at a hospital, once for all tests of this folder.
"""

from __future__ import annotations

import datetime as dt
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedcohort.datasets import LoadOptions, load_catalogue
from fedcohort.fl_client.joining import sign_roster
from fedcohort.fl_client.site import pin_roster
from fedcohort.fl_server import submitting
from fedcohort.fl_server.coordinator_folder import init_coordinator, is_healthy
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.fl_server.enrolment import add_signature, draft_roster, enrol, invite
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.study.plan import Plan

SITES = ("cleveland", "hungarian", "switzerland")
TODAY = dt.datetime.now(dt.UTC).date()
EXTRACT = load_catalogue("heart-disease", LoadOptions())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(said: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that this test started, by its own number."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def plan_under(roster: str) -> Plan:
    """Three sums: a count of patients, then two gradients."""
    schema = EXTRACT.schema
    model = {"name": "logistic", "features": len(schema.features), "bound": schema.bound}
    return Plan(
        study="deployed",
        purpose="a test",
        analysis="gradient",
        parameters={"model": model, "steps": 2, "learning_rate": 0.5, "l2": 1.0},
        schema_sha256=schema.sha256,
        sites=SITES,
        privacy=None,
        max_rounds=3,
        max_patients_per_site=2**12,
        min_sites=3,
        secagg="masked",
        colluders=1,
        roster=roster,
        expires="2099-01-01",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One way of running the plan.

    Attributes:
        run: The run's folder.
        steps: What was done when, seconds after the clock started.
        told: What a failure should show.
    """

    run: Path
    steps: list[tuple[str, float]]
    told: str


class Federation:
    """Folders of a coordinator and three sites, and the processes that run from them."""

    def __init__(self, root: Path, made_hospital: Callable[..., Any]) -> None:
        self.root = root
        self.made_hospital = made_hospital
        self.names = SITES
        self.setup = CoordinatorSetup(
            folder=root / "coordinator",
            federation="test",
            names=("127.0.0.1",),
            jurisdiction="CN",
            public_host="127.0.0.1",
            public_port=free_port(),
            loopback_port=free_port(),
        )
        self.sites: dict[str, Any] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.began = time.monotonic()
        self.steps: list[tuple[str, float]] = []
        self.plan = plan_under("none")
        self.ours: Measured | None = None

    def free_port(self) -> int:
        return free_port()

    def step(self, what: str) -> None:
        self.steps.append((what, time.monotonic() - self.began))

    def make_folders(self) -> None:
        """Keys, certificates, policies signed by two, ledgers, extracts, invitations."""
        init_coordinator(self.setup)
        for site in SITES:
            invitation = invite(self.setup, site, today=TODAY)
            self.sites[site] = self.made_hospital(self.root / site, invitation)
        self.step("folders")

    def start(self, name: str, module: str, folder: Path) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"fedcohort.{module}", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start_coordinator(self) -> None:
        self.start("coordinator", "fl_server.coordinator_folder", self.setup.folder)
        until(lambda: is_healthy(self.setup), 60, "the SuperLink")
        self.step("SuperLink healthy")

    def enrol_everybody(self) -> None:
        for hospital in self.sites.values():
            enrol(self.setup, hospital.request, today=TODAY)
        self.agree_on_roster()

    def agree_on_roster(self) -> None:
        draft = signed_roster_to_json(draft_roster(self.setup, today=TODAY))
        for site, hospital in self.sites.items():
            add_signature(self.setup, sign_roster(hospital.folder, site, draft), today=TODAY)
        signed = self.setup.roster.read_text(encoding="utf-8")
        for site, hospital in self.sites.items():
            roster = pin_roster(hospital.folder, site, signed, today=TODAY)
        self.plan = plan_under(roster.sha256.hex())
        self.step("enrolled, roster pinned")

    def approve(self, plan: Plan) -> None:
        for hospital in self.sites.values():
            hospital.approve(plan)

    def start_sites(self) -> None:
        for site, hospital in self.sites.items():
            self.start(site, "fl_client.supervisor", hospital.folder.root)

    def run_the_plan(self) -> None:
        run = submitting.submit(self.setup, self.plan)
        self.step("submitted")
        state = submitting.wait(self.setup, run, timeout_s=240)
        self.step(f"end: {state.phase}")
        told = f"{state}\n{self.logs()}" if state.phase != "done" else ""
        folder = self.setup.runs / str(run)
        self.ours = Measured(run=folder, steps=list(self.steps), told=told)

    def logs(self) -> str:
        found = sorted(self.root.glob("*/logs/*.log"))
        return "\n".join(f"== {log}\n{log.read_text(errors='replace')[-1500:]}" for log in found)

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.processes):
            end(self.processes.pop(name))


@pytest.fixture(scope="session")
def federation(
    tmp_path_factory: pytest.TempPathFactory, made_hospital: Callable[..., Any]
) -> Iterator[Federation]:
    """A federation, cold: nothing is made and nothing runs before its clock starts."""
    root = tmp_path_factory.mktemp("federation")
    root.chmod(0o700)
    found = Federation(root, made_hospital)
    try:
        found.make_folders()
        found.start_coordinator()
        found.enrol_everybody()
        found.approve(found.plan)
        found.start_sites()
        found.run_the_plan()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="session")
def ours(federation: Federation) -> Measured:
    """What the plan took, straight after the cold start."""
    assert federation.ours is not None
    return federation.ours


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool], float, str], None]:
    """Wait for something, or fail."""
    return until
