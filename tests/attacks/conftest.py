"""A whole hospital for the attacks on its node: from its folder, asked through its worker."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedcohort.experiments.simulation.flower_compat import new_run, over_the_wire, stamped
from fedcohort.fl_client.app import Teller, client_app
from fedcohort.fl_client.flower_compat import TaskInput
from fedcohort.fl_client.site import Site
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.worker import Worker
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.study.bundle import bundle_bytes, bundle_sha256
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import terms_for
from fedcohort.study.submission import sign_submission

NAME, WARD = "张三", "secret-ward-7"  # in the path of every hospital made here
HOLD_S = 0.15


@pytest.fixture
def a_hospital(made_once: Any, tmp_path: Path) -> Any:
    """A copy, in a folder whose name must not leave either."""
    here = copy.copy(made_once)
    root = tmp_path / WARD / NAME
    root.parent.mkdir()
    shutil.copytree(made_once.folder.root, root)
    here.folder = type(made_once.folder)(root)
    return here


@pytest.fixture(scope="session")
def two_plans(made_once: Any) -> dict[str, Plan]:
    """One plan with noise and one without."""
    schema = SiteData.read(made_once.folder.root, "cleveland").cohort()[0].schema
    model = {"name": "logistic", "features": len(schema.features), "bound": schema.bound}
    noise = PrivacyTerms(
        epsilon=1.0,
        delta=1e-5,
        noise_multiplier=calibrate(1.0, 1e-5, 3),
        releases=3,
        clip=1.0,
        sharing="each",
        min_survivors=2,
        colluders=1,
        bound="rdp",
    )
    noisy = Plan(
        study="s",
        purpose="p",
        analysis="gradient",
        parameters={"model": model, "steps": 2, "clip": 1.0},
        schema_sha256=schema.sha256,
        sites=("cleveland", "hungarian"),
        privacy=noise,
        max_rounds=3,
        max_patients_per_site=1000,
        min_sites=2,
        secagg="plain",
        colluders=0,
        roster="none",
        expires="2099-01-01",
    )
    exact = dataclasses.replace(noisy, privacy=None, parameters={"model": model, "steps": 2})
    return {"noisy": noisy, "exact": exact}


class Line:
    """The coordinator's side: asks a site through its worker, and keeps every byte it says."""

    def __init__(self, coordinator: CoordinatorSetup, site: Site, hold_s: float = HOLD_S) -> None:
        self.coordinator = coordinator
        self.site = site
        self.replies: list[Message] = []
        teller = Teller(hello=site.hello, policy=lambda: site.gate.known, hold_s=hold_s)

        def admit(task: TaskInput) -> None:
            site.admit(task.bundle, task.context.run_config)

        run = client_app(lambda context: site.node, teller)
        self.worker = Worker(None, run, admit=admit, stop=threading.Event(), policy=teller.policy)  # type: ignore[arg-type]

    def ask(self, action: str, content: RecordDict, plan: Plan) -> str:
        """Ask; return the code of a no, or ""."""
        new_run()
        signature = sign_submission(
            load_identity(self.coordinator.identity), bundle_sha256(), plan.sha256
        )
        settings: Any = {"plan-sha256": plan.sha256, "submission": signature}
        asked = TaskInput(
            message=stamped(Message(content, 7, action)),
            context=Context(1, 7, {}, RecordDict(), settings),
            bundle=bundle_bytes(),
        )
        reply = stamped(self.worker.answer_to(asked))
        self.replies.append(over_the_wire(reply))
        said = reply.content.config_records.get("refused")
        return "" if said is None else str(said["code"]).strip()

    def propose(self, plan: Plan, json: str | None = None) -> str:
        asked = ConfigRecord(
            {"json": plan.to_json() if json is None else json, "jurisdiction": "CN"}
        )
        return self.ask("query.propose", RecordDict({"plan": asked}), plan)

    def report(self, plan: Plan) -> str:
        analysis = analysis_of(plan)
        state = analysis.initial()
        terms = terms_for(plan, analysis, state, "00" * 16)
        content = RecordDict(
            {
                "terms": ConfigRecord({"json": terms.to_json(), "round_plan": b""}),
                "state": ArrayRecord(
                    {name: Array(np.asarray(array)) for name, array in state.arrays.items()}
                ),
            }
        )
        return self.ask("train.report", content, plan)

    def close(self, plan: Plan) -> str:
        record = RecordDict({"plan": ConfigRecord({"sha256": plan.sha256})})
        return self.ask("query.close", record, plan)

    def hello(self, plan: Plan) -> str:
        record = RecordDict({"hello": ConfigRecord({"plan_sha256": plan.sha256})})
        return self.ask("query.hello", record, plan)


@pytest.fixture(scope="session")
def line_to() -> type[Line]:
    """Speak to a site as a coordinator does: `line_to(a_coordinator, open_site(folder))`."""
    return Line
