"""The same plan over the same sites, our way and Flower's own way: a Python for every message.

Flower's processes remember nothing between messages, so the stock app replays the earlier ones
at each start; the time that takes is written down and taken off, which favours Flower.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_server.coordinator_folder import is_healthy
from fedcohort.fl_server.deployed import FOLDER_VARIABLE
from fedcohort.fl_server.run_folder import RunFolder, result_of
from fedcohort.hosting import service_environment

pytestmark = [pytest.mark.deploy, pytest.mark.slow]

BIN = Path(sys.executable).parent
PROJECT = """\
[project]
name = "stock"
version = "1.0.0"
description = "the same app as code"
license = { text = "Apache-2.0" }
dependencies = []
[tool.flwr.app]
publisher = "test"
[tool.flwr.app.components]
serverapp = "fedcohort.fl_server.deployed:app"
clientapp = "stock_client:app"
[tool.flwr.app.config]
plan-sha256 = ""
"""
CLIENT = """
import hashlib, time
from pathlib import Path
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as Proto
from fedcohort.fl_client.app import PHASES, client_app
from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.fl_client.app import Hello, Teller
from fedcohort.fl_client.site import cohort_of
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.site_folder import SiteFolder
from fedcohort.fl_client.site_gate import in_force
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.privacy.secagg.roster_file import signed_roster_from_json
from fedcohort.privacy.secagg.site import SiteSession
from fedcohort.privacy.secagg.store import MemoryRoundStore

app = ClientApp()


def entropy(seed):
    state = [0]
    def draw(size):
        found = b""
        while len(found) < size:
            state[0] += 1
            found += hashlib.sha256(seed + state[0].to_bytes(8, "big")).digest()
        return found[:size]
    return draw


def fresh(context):
    folder = SiteFolder(Path(context.node_config["site-folder"]))
    policy = in_force(folder)
    site = policy.site
    data = SiteData.read(folder.root, site)
    roster = signed_roster_from_json(folder.roster.read_text()).roster
    session = SiteSession(roster=roster, name=site, identity=load_identity(folder.identity),
                          store=MemoryRoundStore(), entropy=entropy(site.encode()))
    opening = Opening(hospital=site, population="x", kind="simulation", budget=None,
                      unnoised=True)
    terms = SiteTerms(ledger=MemoryLedger(opening), disclosure=NoDisclosureRules(),
                      session=session, roster=roster.sha256.hex())
    node = Node(site=site, cohort=lambda plan: cohort_of(policy, data, plan),
                terms=lambda plan: terms, gate=PlanGate(lambda plan: True))
    teller = Teller(hello=lambda plan: Hello(roster=terms.roster))
    return folder, client_app(lambda context: node, teller)


def answer(message, context):
    folder, inner = fresh(context)
    record = context.state.config_records.get("said", ConfigRecord({"messages": []}))
    began = time.monotonic()
    for earlier in record["messages"]:
        inner(message_from_proto(Proto.FromString(earlier)), context)
    with open(folder.root / "replayed.txt", "a") as file:
        file.write(f"{time.monotonic() - began}\\n")
    kept = [*record["messages"], message_to_proto(message).SerializeToString()]
    context.state["said"] = ConfigRecord({"messages": kept})
    return inner(message, context)


for name in ("hello", "propose", "close", *PHASES):
    app.query(name)(answer)
app.train("report")(answer)
"""


def phases_of(run: Path) -> list[float]:
    return [float(e["seconds"]) for e in RunFolder(run).events() if e["event"] == "phase"]


class Stock:
    """The same folders, run by Flower's own commands."""

    def __init__(self, federation: Any) -> None:
        self.federation = federation
        self.setup = federation.setup
        self.home = self.setup.folder / "home"
        self.environment = service_environment(
            self.home,
            {
                FOLDER_VARIABLE: str(self.setup.folder),
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            },
        )

    def start(self, name: str, *command: str) -> None:
        log = (self.federation.root / f"{name}.log").open("wb")
        self.federation.processes[name] = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=self.environment | {"FLWR_HOME": str(self.federation.root / f"home-{name}")},
            stdout=log,
            stderr=log,
        )
        log.close()

    def flwr(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments, "--format", "json"],
            env=self.environment,
            capture_output=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout)

    def start_superlink(self) -> None:
        self.home.mkdir(mode=0o700)
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "fed"\n[superlink.fed]\naddress = "{self.setup.loopback}"\n'
            f'root-certificates = "{self.setup.ca}"\n',
            encoding="utf-8",
        )
        pki = self.setup.pki
        self.start(
            "stock-superlink",
            *("flower-superlink", "--host", "127.0.0.1"),
            *("--port", str(self.setup.loopback_port), "--ssl-ca-certfile", str(pki / "ca.crt")),
            *("--ssl-certfile", str(pki / "server.pem"), "--ssl-keyfile", str(pki / "server.key")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--database", str(self.setup.database)),
        )

    def register(self) -> None:
        facts = {}
        for site, hospital in self.federation.sites.items():
            public = str(hospital.folder.public_node_key)
            said = self.flwr("supernode", "register", public, "fed", "--name", site)
            identity = hospital.request.identity
            facts[site] = {"node_id": int(said["node-id"]), "identity": identity}
        self.setup.sites.write_text(json.dumps(facts), encoding="ascii")
        self.setup.sites.chmod(0o600)

    def start_nodes(self) -> None:
        for site, hospital in self.federation.sites.items():
            folder = hospital.folder
            self.start(
                f"stock-{site}",
                *("flower-supernode", "--superlink", self.setup.loopback),
                *("--root-certificates", str(folder.ca)),
                *("--auth-supernode-private-key", str(folder.node_key)),
                *("--host", "127.0.0.1", "--port", str(self.federation.free_port())),
                *("--node-config", f'site-folder="{folder.root}"'),
            )

    def run(self) -> Path:
        plan = self.federation.plan
        (self.setup.plans / f"{plan.sha256}.json").write_text(plan.to_json(), encoding="utf-8")
        (self.setup.plans / f"{plan.sha256}.json").chmod(0o600)
        app = self.federation.root / "stock"
        app.mkdir()
        (app / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
        (app / "stock_client.py").write_text(CLIENT, encoding="utf-8")
        setting = f'plan-sha256="{plan.sha256}"'
        said = self.flwr("run", str(app), "fed", "--run-config", setting)
        return Path(self.setup.runs / str(said["run-id"]))


@pytest.fixture(scope="module")
def stock(
    federation: Any, ours: Any, tmp_path_factory: pytest.TempPathFactory, wait_until: Any
) -> Any:
    """A second federation, run Flower's own way after ours has stopped: the machine is its own."""
    assert not ours.told, ours.told
    federation.stop()
    root = tmp_path_factory.mktemp("stock")
    root.chmod(0o700)
    second = type(federation)(root, federation.made_hospital)
    way = Stock(second)
    try:
        second.make_folders()
        way.start_superlink()
        wait_until(lambda: is_healthy(second.setup), 60, "the SuperLink")
        second.step("SuperLink healthy")
        way.register()
        second.agree_on_roster()
        way.start_nodes()
        run = way.run()
        second.step("submitted")
        deadline = time.monotonic() + 900
        while not RunFolder(run).state().ended and time.monotonic() < deadline:
            time.sleep(0.5)
        second.step(f"end: {RunFolder(run).state()}")
        yield second, run
    finally:
        second.stop()


def test_ours_takes_at_most_half_of_what_flowers_own_way_takes(ours: Any, stock: Any) -> None:
    second, run = stock
    assert RunFolder(run).state().phase == "done", second.steps
    logs = [h.folder.root / "replayed.txt" for h in second.sites.values()]
    replayed = [list(map(float, log.read_text().split())) for log in logs]
    each = [max(parts) for parts in zip(*replayed, strict=False)]
    here, there = phases_of(ours.run), phases_of(run)
    fair = [seconds - spent for seconds, spent in zip(there, each, strict=False)]
    total, total_there = ours.steps[-1][1], second.steps[-1][1] - sum(each)
    for name, steps in (("ours", ours.steps), ("Flower's own", second.steps)):
        for step, seconds in steps:
            sys.stdout.write(f"{name:>13} {seconds:7.1f} s  {step}\n")
    sys.stdout.write(f"phases, ours: {here}\nphases, Flower's own: {there}\nreplayed: {each}\n")
    median, median_there = statistics.median(here), statistics.median(fair)
    sys.stdout.write(
        f"cold start to result: {total:.1f} s against {total_there:.1f} s\n"
        f"median per phase: {median:.2f} s against {median_there:.2f} s\n"
    )
    first, other = result_of(ours.run), result_of(run)
    for name, array in first.result.arrays.items():
        np.testing.assert_allclose(other.result.arrays[name], array, rtol=0, atol=1e-9)
    assert total <= total_there / 2
    assert median <= median_there / 2
