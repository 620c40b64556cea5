"""One run on a real federation: wait for the plan's sites, run the plan, keep what came of it.

The bundle names `app`; the resident runner calls `coordinate` without starting a Python first. A
run says only which plan; the plan itself, the roster and the key are in the coordinator's folder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from ..hosting import read_private
from ..privacy.errors import ConfigError, FedCohortError, PolicyError, ProtocolError
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.roster_file import signed_roster_from_json
from ..study.plan import Plan
from .app import server_app
from .coordinator import run_plan
from .coordinator_setup import CoordinatorSetup, read_coordinator
from .exchange import exchange
from .masked import Masking
from .rounds import Patience, raise_refusal
from .run_folder import RunFolder

__all__ = ["FOLDER_VARIABLE", "Waiting", "app", "coordinate", "enrolled", "give_up_unfinished"]

FOLDER_VARIABLE = "FEDCOHORT_COORDINATOR"
_LOOK_S = 0.3
_HELLO_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long a run waits; it changes speed, never the guarantee.

    Attributes:
        sites_s: For the plan's sites to come online.
        poll_s: Between looks for answers; each costs the SuperLink about 20 ms.
        patience: Within the plan.
    """

    sites_s: float = 300.0
    poll_s: float = 0.2
    patience: Patience = Patience(timeout_s=90.0, attempts=2)  # noqa: RUF009  # frozen


def coordinate(
    setup: CoordinatorSetup,
    grid: Grid,
    *,
    run_id: int,
    plan_sha256: str,
    waiting: Waiting | None = None,
) -> str:
    """Run a submitted plan; return "" or the code of why it failed. Both are in its folder."""
    run = RunFolder(setup.runs / str(run_id))
    waiting = waiting or Waiting()
    try:
        plan = submitted_plan(setup, plan_sha256)
        run.tell("started", plan_sha256=plan.sha256, sites=list(plan.sites))
        paced = _PacedGrid(grid, run, waiting.poll_s)
        nodes = _online(setup, plan, paced, run, waiting.sites_s)
        masking = _masking(setup, plan)
        _greet(plan, paced, nodes)
        run.tell("online")
        outcome = run_plan(
            plan,
            paced,
            nodes,
            masking=masking,
            patience=waiting.patience,
            on_round=lambda done: run.tell("round", round=done),
        )
    except FedCohortError as error:
        run.fail(error)
        return error.code
    except Exception as error:  # whoever waits for the run must learn that it has ended
        failed = ProtocolError(
            "coordinator_error",
            f"the coordinator failed: {type(error).__name__}",
            hint="Its log has the place; nothing of the round was opened.",
        )
        run.fail(failed)
        raise
    run.finish(plan.sha256, outcome)
    return ""


def give_up_unfinished(setup: CoordinatorSetup) -> None:
    """Say of every run that this runner's last life left open that it is lost.

    A run's keys and state were in that process: it cannot go on, and sites spent nothing on
    sums that were not opened but what their ledgers say.
    """
    for folder in sorted(setup.runs.iterdir()):
        run = RunFolder(folder)
        begun = any(event["event"] == "started" for event in run.events())
        if begun and not run.state().ended:
            run.fail(
                ProtocolError(
                    "run_lost",
                    "the coordinator stopped in the middle of the run",
                    hint="Submit the plan again; sites answer a plan's rounds once, so a plan "
                    "that had begun needs a new name.",
                )
            )


def submitted_plan(setup: CoordinatorSetup, plan_sha256: str) -> Plan:
    """Return a plan that was submitted here.

    Raises:
        ConfigError: `plan_not_submitted`.
        PolicyError: `plan_unreadable`, or a file's mode.
    """
    name = plan_sha256 if plan_sha256.isalnum() and len(plan_sha256) == 64 else "none"
    path = setup.plans / f"{name}.json"
    if not path.exists():
        raise ConfigError(
            "plan_not_submitted",
            "no plan of that hash was submitted here",
            hint="fedcohort coordinator submit PLAN",
        )
    plan = Plan.from_json(read_private(path).decode("utf-8", "replace"))
    if plan.sha256 != plan_sha256:
        raise PolicyError("plan_unreadable", "the plan's file is not what its name says")
    return plan


def enrolled(setup: CoordinatorSetup) -> dict[str, int]:
    """Return Flower's node number of each enrolled site."""
    if not setup.sites.exists():
        return {}
    found: Mapping[str, Mapping[str, int]] = json.loads(read_private(setup.sites))
    return {site: int(facts["node_id"]) for site, facts in found.items()}


def _online(
    setup: CoordinatorSetup, plan: Plan, grid: Grid, run: RunFolder, patience_s: float
) -> dict[str, int]:
    """Wait until the plan's sites are there; which node is which site, enrolment decided."""
    known = enrolled(setup)
    strangers = [site for site in plan.sites if site not in known]
    if strangers:
        raise ConfigError(
            "site_not_enrolled",
            f"the plan names sites that were never enrolled here: {', '.join(strangers)}",
            hint="fedcohort coordinator enrol REQUEST",
        )
    deadline = time.monotonic() + patience_s
    told: list[str] | None = None
    while True:
        here = set(grid.get_node_ids())
        missing = [site for site in plan.sites if known[site] not in here]
        if not missing:
            return {site: known[site] for site in plan.sites}
        if missing != told:
            run.tell("waiting", missing=missing)
            told = missing
        if time.monotonic() > deadline:
            raise ProtocolError(
                "sites_offline",
                f"not online within {patience_s:.0f} s: {', '.join(missing)}",
                hint="Ask their data teams whether `fedcohort site status` says running.",
            )
        time.sleep(_LOOK_S)


def _greet(plan: Plan, grid: Grid, nodes: Mapping[str, int]) -> None:
    """Ask each node who it is; a node that says another site's name is refused."""
    content = RecordDict({"hello": ConfigRecord({"plan_sha256": plan.sha256})})
    answers = exchange(grid, nodes, "query.hello", content, group="hello", timeout_s=_HELLO_S)
    raise_refusal(answers.refused)
    for site in nodes:
        reply = answers.replies.get(site)
        if reply is None:
            raise ProtocolError(
                "site_silent",
                f"{site} is online and does not answer",
                hint="Its worker may be down: `fedcohort site status` there.",
            )
        said = reply.config_records.get("answer", ConfigRecord())
        if said.get("site") != site:
            raise ProtocolError("site_mismatch", f"the node of {site} says it is another site")
        if plan.secagg == "masked" and said.get("roster") != plan.roster:
            raise PolicyError(
                "roster_mismatch",
                f"{site} pinned another roster than the plan's",
                hint="Hand it the roster in force, or plan anew.",
            )


def _masking(setup: CoordinatorSetup, plan: Plan) -> Masking | None:
    if plan.secagg != "masked":
        return None
    if not setup.roster.exists():
        raise ConfigError("no_roster", "no roster is in force here", hint="Sites sign one first.")
    roster = signed_roster_from_json(read_private(setup.roster).decode()).roster
    if roster.sha256.hex() != plan.roster:
        raise PolicyError(
            "roster_mismatch",
            "the plan masks under another roster than the one in force",
            hint="Make the plan anew, with the hash of the roster in force.",
        )
    return Masking(roster=roster, identity=load_identity(setup.identity))


class _PacedGrid(Grid):
    """Flower's Grid, looked at no more often than makes sense; times each exchange."""

    def __init__(self, grid: Grid, run: RunFolder, poll_s: float) -> None:
        self._grid = grid
        self._folder = run
        self._poll_s = poll_s
        self._started = self._looked = 0.0
        self._action = ""
        self._open: set[str] = set()

    @property
    def run(self):  # type: ignore[no-untyped-def]  # Flower's own type
        return self._grid.run

    def set_run(self, run) -> None:  # type: ignore[no-untyped-def]
        self._grid.set_run(run)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self._started = time.monotonic()
        self._action = sent[0].metadata.message_type if sent else ""
        names = list(self._grid.push_messages(sent))
        self._open = set(names)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        time.sleep(max(0.0, self._looked + self._poll_s - time.monotonic()))
        found = list(self._grid.pull_messages(message_ids))
        self._looked = time.monotonic()
        self._open -= {reply.metadata.reply_to_message_id for reply in found}
        if found and not self._open:
            seconds = round(self._looked - self._started, 3)
            self._folder.tell("phase", action=self._action, seconds=seconds)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


def _run_here(grid: Grid, context: Context) -> None:
    """Under Flower's own launcher: the folder is the operator's to say, never the run's."""
    setup = read_coordinator(Path(os.environ[FOLDER_VARIABLE]))
    code = coordinate(
        setup,
        grid,
        run_id=context.run_id,
        plan_sha256=str(context.run_config.get("plan-sha256", "")),
    )
    if code:
        raise ProtocolError(code, "the run failed; its folder has the reason")


app = server_app(_run_here)
