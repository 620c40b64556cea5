"""A deployed run on bad days, in one process: people who take their time, and restarts.

The coordinator is the real one, in its folder; the hospitals are real nodes behind a Grid in this
process, and whoever is asked next may find that a process has died.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedcohort.experiments.simulation.federate import federate, simulated_node
from fedcohort.experiments.simulation.local_grid import InProcessGrid
from fedcohort.fl_client.app import Hello, Teller, client_app, refusal
from fedcohort.fl_client.node import Node
from fedcohort.fl_server import gathering
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.fl_server.deployed import Waiting, coordinate
from fedcohort.fl_server.flower_compat import LinkGrid
from fedcohort.fl_server.rounds import Patience
from fedcohort.fl_server.run_folder import RunFolder, RunState, result_of
from fedcohort.fl_server.sites import InterruptedRunError
from fedcohort.hosting import replace_file
from fedcohort.privacy.secagg.identity import create_identity
from fedcohort.privacy.secagg.roster import Member, Roster, SignedRoster
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.privacy.secagg.site import SiteSession
from fedcohort.privacy.secagg.store import MemoryRoundStore
from fedcohort.privacy.secagg.suite import INTL
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan

SITES = ("a", "b", "c", "d")
SCHEMA = Schema(
    name="long", task="risk", features=("x", "y"), bound=4.0, outcome="o", codebook_sha256="0" * 64
)
MODEL = {"name": "logistic", "features": 2, "bound": 4.0}
QUICK = Waiting(
    sites_s=0.2, poll_s=0.0, patience=Patience(timeout_s=0.3, attempts=2), approval_s=1e6, back_s=0
)
REPORT, PROPOSE, HELLO, CLOSE = "train.report", "query.propose", "query.hello", "query.close"
UNMASK = "query.unmask"
SET_UP = ("query.advertise", "query.share", "query.acknowledge")


@pytest.fixture(scope="module")
def cohorts() -> dict[str, Cohort]:
    """Four hospitals of 40 patients."""
    random = np.random.default_rng(3)
    made = {}
    for number, site in enumerate(SITES):
        features = random.normal(0, 1, (40, 2)).clip(-4, 4)
        label = (random.random(40) < 1 / (1 + np.exp(-features @ [1.0, -1.0]))).astype(float)
        made[site] = Cohort(
            site=site,
            schema=SCHEMA,
            features=features.astype(np.float32),
            patient=np.arange(40, dtype=np.uint64) + 1000 * number,
            label=label,
        )
    return made


class Killed(BaseException):
    """The coordinator's process is gone: nothing of it runs any more."""


class Federation(InProcessGrid):
    """Four hospitals, the coordinator's folder, and every message that passed."""

    def __init__(
        self, folder: Path, cohorts: dict[str, Cohort], secagg: str, min_sites: int
    ) -> None:
        super().__init__(self._answer, SITES)  # type: ignore[arg-type]
        self.cohorts = cohorts
        self.setup = CoordinatorSetup(
            folder=folder,
            federation="long",
            names=("c.example",),
            public_host="127.0.0.1",
            public_port=8443,
            loopback_port=8444,
            jurisdiction="US-CA",
        )
        for place in (self.setup.runs, self.setup.plans):
            place.mkdir(mode=0o700)
        self.identities = {site: Ed25519PrivateKey.generate() for site in SITES}
        self.roster = self._roster(create_identity(self.setup.identity))
        numbers = {site: {"node_id": node} for site, node in self.nodes.items()}
        replace_file(self.setup.sites, json.dumps(numbers).encode())
        self.plan = self._plan(secagg, min_sites)
        replace_file(self.setup.plans / f"{self.plan.sha256}.json", self.plan.to_json().encode())
        self.people = dict.fromkeys(SITES, "approved")
        self.dumb: set[str] = set()  # nodes that say nothing of approvals
        self.hospitals: dict[str, Node] = {}
        self.passed: list[tuple[str, str]] = []  # (action, site)
        self.contents: list[tuple[str, str, RecordDict]] = []
        self.before: Callable[[str, str], str | None] = lambda action, site: None
        self.kill_at = 10**9
        self._client = client_app(
            lambda context: self.hospitals[str(context.node_config["site"])],
            Teller(hello=lambda plan_sha256: Hello(roster=self.plan.roster)),
        )
        for site in SITES:
            self.restart(site)

    def restart(self, site: str) -> None:
        """A node starts: it has its keys, and no memory."""
        session = SiteSession(
            roster=self.roster, name=site, identity=self.identities[site], store=MemoryRoundStore()
        )
        node = simulated_node(self.cohorts[site], self.plan, session)
        terms = node._terms_for
        roster = self.plan.roster
        node._terms_for = lambda plan: _with_roster(terms(plan), roster)
        self.hospitals[site] = node

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:  # one by one: the process may die between two of them
            if len(self.passed) >= self.kill_at:
                raise Killed
            ids += list(super().push_messages([message]))
        return ids

    def coordinate(self, **named: Any) -> str:
        """Run, or go on with, run 7."""
        return coordinate(
            self.setup,
            self,
            run_id=7,
            plan_sha256=self.plan.sha256,
            **{"waiting": QUICK, "pause": lambda seconds: None, **named},
        )

    @property
    def state(self) -> RunState:
        return RunFolder(self.setup.runs / "7").state()

    @property
    def theta(self) -> np.ndarray:
        return result_of(self.setup.runs / "7").result.arrays["theta"]

    def told(self, event: str) -> list[dict[str, Any]]:
        """Events of one kind."""
        return [e for e in RunFolder(self.setup.runs / "7").events() if e["event"] == event]

    def count(self, action: str) -> Counter[str]:
        """How often each site was asked."""
        return Counter(site for asked, site in self.passed if asked == action)

    def _answer(self, message: Message, context: Context) -> Message:
        site, action = str(context.node_config["site"]), message.metadata.message_type
        code = self.before(action, site)
        self.passed.append((action, site))
        self.contents.append((action, site, message.content))
        if action == HELLO and code is None:
            said: dict[str, Any] = {"site": site, "roster": self.plan.roster}
            if site not in self.dumb:
                said |= {"policy": "0" * 64, "plan": self.people[site]}
            return Message(RecordDict({"answer": ConfigRecord(said)}), reply_to=message)
        if action == PROPOSE and self.people[site] not in ("approved", "running"):
            code = "one_person" if self.people[site] == "one_approval" else "plan_not_approved"
        if code is not None:
            return Message(refusal(code, 4 if code == "plan_unknown" else 3), reply_to=message)
        return self._client(message, context)

    def _roster(self, coordinator: Ed25519PrivateKey) -> Roster:
        today = dt.date(2030, 1, 1)
        roster = Roster(
            federation="long",
            version=1,
            suite=INTL.number,
            members=tuple(
                Member(name=site, public=key.public_key().public_bytes_raw())
                for site, key in self.identities.items()
            ),
            coordinator=coordinator.public_key().public_bytes_raw(),
            colluders=1,
            valid_from=today.isoformat(),
            valid_to="2999-01-01",
        )
        text = signed_roster_to_json(SignedRoster.sign(roster, self.identities))
        replace_file(self.setup.roster, text.encode())
        return roster

    def _plan(self, secagg: str, min_sites: int) -> Plan:
        return Plan(
            study="long",
            purpose="To see a run through.",
            analysis="gradient",
            parameters={"model": MODEL, "steps": 2, "learning_rate": 0.5, "l2": 1.0},
            schema_sha256=SCHEMA.sha256,
            sites=SITES,
            privacy=None,
            max_rounds=3,
            max_patients_per_site=1000,
            min_sites=min_sites,
            secagg=secagg,
            colluders=1,
            roster=self.roster.sha256.hex(),
            expires="2999-01-01",
        )


def _with_roster(terms: Any, roster: str) -> Any:
    return replace(terms, roster=roster)


Make = Callable[..., Federation]


@pytest.fixture
def make(tmp_path: Path, cohorts: dict[str, Cohort]) -> Make:
    """Make a federation of its own folder."""

    def made(secagg: str = "masked", *, min_sites: int = 4) -> Federation:
        folder = tmp_path / f"{secagg}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir(mode=0o700)
        return Federation(folder, cohorts, secagg, min_sites)

    return made


@pytest.fixture(scope="module")
def expected(cohorts: dict[str, Cohort], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the plan gives in a simulation, on a good day."""
    folder = tmp_path_factory.mktemp("expected")
    folder.chmod(0o700)
    plan = replace(Federation(folder, cohorts, "plain", 4).plan, roster="simulation")
    return federate(plan, list(cohorts.values())).result.arrays["theta"]


def test_a_good_day_gives_what_the_simulation_gives(make: Make, expected: np.ndarray) -> None:
    for secagg in ("masked", "plain"):
        federation = make(secagg)
        assert federation.coordinate() == ""
        assert np.array_equal(federation.theta, expected)
        assert set(federation.count(PROPOSE).values()) == {1}


def test_every_site_gets_the_model_and_where_the_coordinator_is(make: Make) -> None:
    federation = make()
    federation.coordinate()
    (*_, last) = [content for action, _, content in federation.contents if action == CLOSE]
    given = {name: array.numpy() for name, array in last.array_records["result"].items()}
    assert np.array_equal(given["theta"], federation.theta)
    first = next(content for action, _, content in federation.contents if action == PROPOSE)
    assert first.config_records["plan"]["jurisdiction"] == "US-CA"


# ---- people take their time


def deciding(federation: Federation, days: list[dict[str, str]]) -> Callable[[float], None]:
    """Return a pause during which, one after the other, people decide."""
    left = list(days)

    def pause(seconds: float) -> None:
        if left and federation.state.phase == "approval":
            federation.people |= left.pop(0)

    return pause


def test_a_run_waits_for_people_and_asks_only_where_they_stand(
    make: Make, expected: np.ndarray
) -> None:
    federation = make()
    federation.people |= {"b": "submitted", "d": "submitted"}
    seen: list[RunState] = []
    days = [{}, {"b": "one_approval"}, {"b": "approved"}, {"d": "one_approval"}, {"d": "approved"}]
    decide = deciding(federation, days)

    def pause(seconds: float) -> None:
        seen.append(federation.state)
        assert federation.state.phase != "approval" or not federation.count(CLOSE)
        decide(seconds)

    assert federation.coordinate(pause=pause) == ""
    assert np.array_equal(federation.theta, expected)
    waited = [state for state in seen if state.phase == "approval"]
    assert [state.waiting_for for state in waited] == [("b", "d")] * 3 + [("d",)] * 2
    assert federation.count(PROPOSE) == {"a": 1, "b": 2, "c": 1, "d": 2}
    assert federation.count(HELLO)["a"] == 1
    assert federation.count(HELLO)["d"] == 1 + 6
    assert set(federation.count(CLOSE).values()) == {1}
    assert len(federation.told("approval")) == 2  # a line a change, not a line a question


def test_it_asks_ever_less_often(make: Make) -> None:
    federation = make("plain")
    federation.people["b"] = "submitted"
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 13:
            federation.people["b"] = "approved"

    assert federation.coordinate(pause=pause) == ""
    assert pauses[:3] == [2.0, 3.0, 4.5]
    assert pauses[11:13] == [120.0, 120.0]


def test_a_site_that_was_greeted_too_often_today_is_asked_again_tomorrow(make: Make) -> None:
    federation = make("plain")
    federation.people["b"] = "submitted"
    asked: list[str] = []

    def before(action: str, site: str) -> str | None:
        if (action, site) != (HELLO, "b"):
            return None
        asked.append(federation.people["b"])
        if len(asked) == 6:
            federation.people["b"] = "approved"
        return "policy_requests" if 3 <= len(asked) <= 5 else None

    federation.before = before
    assert federation.coordinate() == ""
    assert len(asked) >= 6
    refusing = make("plain")  # before the run there is nothing to wait for
    refusing.before = lambda action, site: (
        "policy_requests" if (action, site) == (HELLO, "b") else None
    )
    assert refusing.coordinate() == "policy_requests"


def test_no_sum_is_opened_before_it_is_written_down_that_it_is(make: Make) -> None:
    """Whoever takes the run up must know that shares of this sum may have been handed over."""
    federation = make()
    written: list[int] = []

    def before(action: str, site: str) -> None:
        path = federation.setup.runs / "7" / "opening.json"
        rounds = json.loads(path.read_bytes())["rounds"] if path.exists() else -1
        if action == UNMASK:
            written.append(rounds)
            assert rounds == len(federation.told("round"))
        elif action in (REPORT, "query.commit"):
            assert rounds < len(federation.told("round"))

    federation.before = before
    assert federation.coordinate() == ""
    assert sorted(set(written)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("decided", "code"), [("refused", "plan_refused_here"), ("revoked", "approval_revoked")]
)
def test_a_no_ends_the_run_at_once(make: Make, decided: str, code: str) -> None:
    federation = make()
    federation.people |= {"b": "submitted", "d": "submitted"}
    assert federation.coordinate(pause=deciding(federation, [{"b": decided}])) == code
    assert (federation.state.code, federation.state.exit_code) == (code, 3)
    assert federation.count(CLOSE) == {"a": 1, "c": 1}  # they had set its price aside
    assert not federation.count(REPORT)


def test_people_who_never_decide_end_the_run_and_no_site_is_told_of_an_end(make: Make) -> None:
    federation = make()
    federation.people["c"] = "one_approval"
    waiting = Waiting(sites_s=0.2, poll_s=0.0, patience=QUICK.patience, approval_s=0.05, back_s=0.0)
    assert federation.coordinate(waiting=waiting) == "approval_timeout"
    assert "c" in federation.state.text
    assert not federation.count(CLOSE)


def test_another_sites_refusal_does_not_close_who_merely_waits(make: Make) -> None:
    federation = make()
    federation.people["b"] = "submitted"
    federation.before = lambda action, site: (
        "policy_epsilon" if (action, site) == (PROPOSE, "d") else None
    )
    assert federation.coordinate() == "policy_epsilon"
    assert "b" not in federation.count(CLOSE)
    assert federation.count(CLOSE)["a"] == 1


def test_a_node_that_says_nothing_of_approvals_is_taken_at_its_word(make: Make) -> None:
    federation = make()
    federation.dumb = {"b"}
    assert federation.coordinate() == ""
    other = make()
    other.dumb, other.people["b"] = {"b"}, "submitted"
    assert other.coordinate() == "plan_not_approved"


# ---- a node restarts


@pytest.mark.parametrize("secagg", ["masked", "plain"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_node_that_restarts_before_it_reports_is_in_the_sum(
    make: Make, expected: np.ndarray, secagg: str, nth: int
) -> None:
    check_restart(make(secagg), REPORT, nth, expected)


@pytest.mark.parametrize("action", SET_UP)
def test_a_node_that_restarts_in_the_set_up_is_in_the_sum(
    make: Make, expected: np.ndarray, action: str
) -> None:
    check_restart(make(), action, 1, expected)


def check_restart(federation: Federation, action: str, nth: int, expected: np.ndarray) -> None:
    def before(asked: str, site: str) -> None:
        if (asked, site) == (action, "c") and federation.count(action)["c"] == nth - 1:
            federation.restart("c")

    federation.before = before
    assert federation.coordinate() == "", federation.state
    assert np.array_equal(federation.theta, expected)
    assert result_of(federation.setup.runs / "7").dropped == ()
    assert federation.count(PROPOSE) == {"a": 1, "b": 1, "c": 2, "d": 1}
    attempts = {
        json.loads(str(content.config_records["terms"]["json"]))["attempt"]
        for asked, _, content in federation.contents
        if asked == REPORT
    }
    assert len(attempts) == 1


@pytest.mark.parametrize("action", ["query.commit", "query.unmask"])
def test_a_node_that_restarts_when_the_sum_is_opened_is_silent_and_the_threshold_decides(
    make: Make, expected: np.ndarray, action: str
) -> None:
    federation = make()

    def before(asked: str, site: str) -> None:
        if (asked, site) == (action, "c") and not federation.count(action)["c"]:
            federation.restart("c")

    federation.before = before
    assert federation.coordinate() == "", federation.state
    assert np.array_equal(federation.theta, expected)  # its vector was in before it went


def test_a_node_that_cannot_stay_up_ends_the_run_by_a_clear_code(make: Make) -> None:
    federation = make()
    federation.before = lambda action, site: (
        "plan_unknown" if (action, site) == ("query.share", "c") else None
    )
    assert federation.coordinate() == "plan_unknown"
    assert "c" in federation.state.text


@pytest.mark.parametrize("secagg", ["masked", "plain"])
@pytest.mark.parametrize("min_sites", [3, 4])
def test_who_paid_and_died_is_out_of_that_round_only(
    make: Make, secagg: str, min_sites: int
) -> None:
    federation = make(secagg, min_sites=min_sites)
    rounds: list[str] = []

    def before(action: str, site: str) -> str | None:
        if (action, site) != (REPORT, "c"):
            return None
        rounds.append(str(len(federation.told("round"))))
        return "round_already_paid" if rounds[-1] == "1" else None

    federation.before = before
    code = federation.coordinate()
    if min_sites == 4:
        assert code == ("too_few_survivors" if secagg == "masked" else "too_few_sites")
        return
    assert code == ""
    assert result_of(federation.setup.runs / "7").dropped == ("c",)
    assert rounds[-1] == "2"  # it is back for the third sum


def test_any_other_refusal_ends_the_run(make: Make) -> None:
    federation = make()
    federation.before = lambda action, site: (
        "policy_hours" if (action, site) == (REPORT, "c") else None
    )
    assert federation.coordinate() == "policy_hours"
    assert set(federation.count(CLOSE).values()) == {1}


# ---- the coordinator restarts


@pytest.mark.parametrize("secagg", ["masked", "plain"])
def test_a_coordinator_that_is_killed_anywhere_goes_on_or_says_what_was_lost(
    make: Make, expected: np.ndarray, secagg: str
) -> None:
    good = make(secagg)
    good.coordinate()
    ends = Counter[str]()
    for kill_at in range(1, len(good.passed)):
        federation = make(secagg)
        federation.kill_at = kill_at
        with pytest.raises(Killed):
            federation.coordinate()
        federation.kill_at = 10**9
        phase = good.passed[kill_at][0]
        code = federation.coordinate()
        ends[code] += 1
        if code:
            assert (code, phase) == ("sum_lost", "query.unmask"), (kill_at, phase)
            continue
        assert np.array_equal(federation.theta, expected), (kill_at, phase)
        assert {"a", "b", "c", "d"} == set(federation.count(CLOSE))
        terms = [
            json.loads(str(content.config_records["terms"]["json"]))
            for asked, _, content in federation.contents
            if asked == REPORT
        ]
        assert len({asked["attempt"] for asked in terms}) == 1
        assert len({(asked["round"], asked["state_sha256"]) for asked in terms}) == 3
    assert ends["sum_lost"] == (0 if secagg == "plain" else good.count("query.unmask").total())


def test_a_run_that_is_left_goes_on_where_it_was(make: Make, expected: np.ndarray) -> None:
    federation = make()

    def leave(seconds: float) -> None:
        raise InterruptedRunError

    for _ in range(3):
        with pytest.raises(InterruptedRunError):
            federation.coordinate(pause=leave)
        assert not federation.count(CLOSE)
        assert not federation.state.ended
    assert federation.coordinate() == ""
    assert np.array_equal(federation.theta, expected)
    # Left before each sum was opened: reported again, which costs nothing, and opened once.
    assert set(federation.count(UNMASK).values()) == {3}


def test_a_checkpoint_that_was_changed_is_not_gone_on_from(make: Make) -> None:
    federation = make()
    federation.kill_at = 40  # in the second sum
    with pytest.raises(Killed):
        federation.coordinate()
    path = federation.setup.runs / "7" / "checkpoint.json"
    found = json.loads(path.read_bytes())
    array = found["state"]["arrays"]["theta"]
    array["f8"] = ("A" if array["f8"][0] != "A" else "B") + array["f8"][1:]
    replace_file(path, json.dumps(found).encode())
    federation.kill_at = 10**9
    assert federation.coordinate() == "checkpoint_unreadable"


# ---- the SuperLink goes


class Broken(Federation):
    """A federation whose SuperLink does not come back."""

    gone = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if self.count(REPORT):
            self.gone = True
        if self.gone:
            raise httpx.ConnectError("refused")
        return super().pull_messages(message_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        assert not self.gone, "it was asked again, which takes two minutes each time"
        return super().push_messages(messages)


def test_a_superlink_that_stays_away_ends_the_run_by_its_code(
    tmp_path: Path, cohorts: dict[str, Cohort]
) -> None:
    tmp_path.chmod(0o700)
    federation = Broken(tmp_path, cohorts, "plain", 4)
    code = coordinate(
        federation.setup,
        LinkGrid(federation),
        run_id=7,
        plan_sha256=federation.plan.sha256,
        waiting=QUICK,
        pause=lambda seconds: None,
    )
    assert (code, federation.state.code) == ("superlink_gone", "superlink_gone")


class Unlisted(Federation):
    """A SuperLink that takes no messages for one node."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        away = {self.nodes["a"], self.nodes["d"]} if sent[0].metadata.message_type == REPORT else ()
        return [
            "" if message.metadata.dst_node_id in away else next(iter(super_push(self, message)))
            for message in sent
        ]


def super_push(grid: Federation, message: Message) -> Iterable[str]:
    return Federation.push_messages(grid, [message])


def test_nodes_that_the_superlink_takes_no_message_for_are_silent(
    tmp_path: Path, cohorts: dict[str, Cohort]
) -> None:
    tmp_path.chmod(0o700)
    federation = Unlisted(tmp_path, cohorts, "plain", 4)
    assert federation.coordinate() == "too_few_sites"
    assert "a, d" in federation.state.text


def test_a_lost_site_is_waited_for_where_too_few_are_left(
    make: Make, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only then: a plan that allows for its absence goes on without it."""
    monkeypatch.setattr(gathering, "_LOOK_S", 0.01)
    federation = make()
    away = {"left": 0}
    listed = federation.get_node_ids

    def before(action: str, site: str) -> str | None:
        if (action, site) == (REPORT, "d") and not federation.count(REPORT)["d"]:
            away["left"] = 3
            return "round_already_paid"  # as good as gone
        return None

    def online() -> list[int]:
        away["left"] -= 1
        gone = federation.nodes["d"] if away["left"] > 0 else 0
        return [node for node in listed() if node != gone]

    federation.before = before
    monkeypatch.setattr(federation, "get_node_ids", online)
    waiting = Waiting(sites_s=0.2, poll_s=0.0, patience=QUICK.patience, approval_s=1.0, back_s=5.0)
    assert federation.coordinate(waiting=waiting) == "", federation.state
    assert np.array_equal(federation.theta, expected)
    assert [event["missing"] for event in federation.told("waiting")] == [["d"]]
