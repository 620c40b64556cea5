"""What a coordinator's last life left open: taken up again under another number, or ended."""

from __future__ import annotations

import datetime as dt
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_server import deployed, submitting
from fedcohort.fl_server.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup, read_coordinator
from fedcohort.fl_server.flower_compat import LinkGoneError, RunInput, RunNotRunningException
from fedcohort.fl_server.resuming import resume_unfinished, run_settings
from fedcohort.fl_server.run_folder import RunFolder
from fedcohort.fl_server.runner import Runner
from fedcohort.hosting import replace_file
from fedcohort.privacy.errors import ConfigError, FedCohortError, PolicyError
from fedcohort.privacy.secagg.identity import create_identity, load_identity
from fedcohort.study.analysis import Result, State
from fedcohort.study.bundle import RUN_CONFIG, bundle_bytes, bundle_sha256
from fedcohort.study.plan import Plan
from fedcohort.study.submission import verify_submission

TODAY = dt.date(2030, 1, 15)
PLAN = Plan(
    study="s",
    purpose="A test.",
    analysis="newton",
    parameters={"model": {"name": "logistic", "features": 2, "bound": 4.0}, "l2": 1.0},
    schema_sha256="0" * 64,
    sites=("a", "b", "c"),
    privacy=None,
    max_rounds=9,
    max_patients_per_site=1000,
    min_sites=3,
    secagg="plain",
    colluders=1,
    roster="none",
    expires="2030-02-01",
)


@pytest.fixture
def setup(tmp_path: Path) -> CoordinatorSetup:
    tmp_path.chmod(0o700)
    found = CoordinatorSetup(
        folder=tmp_path,
        federation="f",
        names=("c.example",),
        public_host="127.0.0.1",
        public_port=443,
        loopback_port=8444,
        jurisdiction="CN",
    )
    for folder in (found.runs, found.plans, found.logs):
        folder.mkdir(mode=0o700)
    create_identity(found.identity)
    replace_file(found.secret, bytes(48))
    found.pki.mkdir(mode=0o700)
    replace_file(found.ca, b"CA")
    replace_file(found.plans / f"{PLAN.sha256}.json", PLAN.to_json().encode())
    return found


class FakeControl:
    """The SuperLink's Control API; says `status` of every run."""

    def __init__(self, status: str = "running") -> None:
        self.status = status
        self.started: list[dict[str, str]] = []
        self.stopped: list[int] = []
        self.error: LinkGoneError | None = None

    def start(self, bundle: bytes, settings: dict[str, str]) -> int:
        if self.error is not None:
            raise self.error
        assert bundle == bundle_bytes()
        assert set(settings) == set(RUN_CONFIG)
        self.started.append(settings)
        return 900 + len(self.started)

    def run_status(self, run_id: int) -> str:
        return self.status

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)

    def close(self) -> None:
        pass


def begun(setup: CoordinatorSetup, number: int) -> RunFolder:
    run = RunFolder(setup.runs / str(number))
    run.tell("submitted", plan_sha256=PLAN.sha256)
    run.tell("started", plan_sha256=PLAN.sha256)
    return run


def run_at(setup: CoordinatorSetup, *, rounds: int, opening: int | None) -> RunFolder:
    """A run that had opened so many sums; `opening`: how many when it last asked to open one."""
    run = begun(setup, 5)
    state = State(round=rounds, arrays={"theta": np.zeros(3)})
    kept = Checkpoint(plan_sha256=PLAN.sha256, attempt="00" * 16, state=state, rounds=rounds)
    write_checkpoint(run.folder, kept)
    if opening is not None:
        replace_file(run.folder / "opening.json", b'{"rounds": %d}' % opening)
    return run


@pytest.mark.parametrize(
    ("rounds", "opening", "lost"),
    [(0, 0, True), (3, 3, True), (3, 2, False), (3, None, False), (0, None, False)],
)
def test_a_sum_whose_shares_were_asked_for_and_that_is_not_there_is_never_asked_again(
    setup: CoordinatorSetup, rounds: int, opening: int | None, lost: bool
) -> None:
    run = run_at(setup, rounds=rounds, opening=opening)
    if lost:
        with pytest.raises(FedCohortError) as refused:
            deployed._taken_up(run, PLAN)
        assert refused.value.code == "sum_lost"
        return
    start = deployed._taken_up(run, PLAN)
    assert (start.rounds, start.life, start.attempt) == (rounds, 1, "00" * 16)


def test_a_run_that_has_its_result_is_not_lost_by_its_last_sum(setup: CoordinatorSetup) -> None:
    run = run_at(setup, rounds=3, opening=2)
    done = read_checkpoint(run.folder)
    assert done is not None
    result = Result(arrays={"theta": np.ones(3)}, rounds=3)
    write_checkpoint(run.folder, replace(done, state=None, result=result))
    replace_file(run.folder / "opening.json", b'{"rounds": 3}')
    assert deployed._taken_up(run, PLAN).result is not None


def test_every_life_of_a_run_is_written_down_before_it_asks_anybody(
    setup: CoordinatorSetup,
) -> None:
    """Sites answer the attempts at a sum in ascending order: a life that is forgotten repeats."""
    run = run_at(setup, rounds=1, opening=None)
    for life in (1, 2):
        assert deployed._taken_up(run, PLAN).life == life
        kept = read_checkpoint(run.folder)
        assert kept is not None
        assert kept.life == life


def test_a_run_that_was_cut_off_is_started_again_for_its_own_folder(
    setup: CoordinatorSetup,
) -> None:
    run, control = begun(setup, 5), FakeControl()
    assert resume_unfinished(setup, control, today=TODAY) == [5]
    (settings,) = control.started
    assert (settings["plan-sha256"], settings["resumes"]) == (PLAN.sha256, "5")
    public = load_identity(setup.identity).public_key().public_bytes_raw()
    assert verify_submission(public, settings["submission"], bundle_sha256(), PLAN.sha256)
    assert control.stopped == [5]  # nobody answers its messages any more
    assert (run.flower_run, run.state().phase) == (901, "submitted")
    control.status = "pending"
    assert resume_unfinished(setup, control, today=TODAY) == []  # it still waits to be taken


def test_a_run_that_ended_was_stopped_or_expired_is_not(setup: CoordinatorSetup) -> None:
    begun(setup, 1).fail(PolicyError("before", "x"))
    begun(setup, 2).tell("stopping")
    (setup.runs / "notes").mkdir()
    RunFolder(setup.runs / "3").tell("submitted", plan_sha256="0" * 64)
    begun(setup, 4)
    control = FakeControl("finished:failed")
    assert resume_unfinished(setup, control, today=dt.date(2030, 2, 2), busy=()) == []
    codes = [RunFolder(setup.runs / name).state().code for name in "1234"]
    assert codes == ["before", "run_stopped", "plan_not_submitted", "plan_expired"]
    assert (control.started, control.stopped) == ([], [])


def test_a_run_that_this_process_is_at_is_left_alone(setup: CoordinatorSetup) -> None:
    begun(setup, 5)
    assert resume_unfinished(setup, FakeControl(), today=TODAY, busy=[5]) == []


def test_a_superlink_that_is_away_is_asked_later_and_one_that_says_no_is_not(
    setup: CoordinatorSetup,
) -> None:
    run, control = begun(setup, 5), FakeControl()
    control.error = LinkGoneError("ConnectError")
    with pytest.raises(LinkGoneError):
        resume_unfinished(setup, control, today=TODAY)
    assert not run.state().ended
    control.error = LinkGoneError("HTTP 409")
    assert resume_unfinished(setup, control, today=TODAY) == []
    assert run.state().code == "run_lost"


def test_a_checkpoint_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    odd = {"theta": np.array([[0.1, -0.0, np.nan], [np.inf, 1e-310, 1 / 3]]), "e": np.zeros((0, 2))}
    for state, result in (
        (State(round=3, arrays=odd), None),
        (None, Result(arrays=odd, rounds=4)),
        (None, None),
    ):
        folder = tmp_path / str(state is None) / str(result is None)
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        kept = Checkpoint(
            plan_sha256="ab",
            attempt="cd",
            life=2,
            state=state,
            result=result,
            rounds=3,
            bytes_up=7,
            seconds=0.1,
            dropped=("a",),
        )
        write_checkpoint(folder, kept)
        found = read_checkpoint(folder)
        assert found is not None
        for mine, theirs in ((state, found.state), (result, found.result)):
            assert (mine is None) == (theirs is None)
            for name, array in {} if mine is None else mine.arrays.items():
                assert theirs is not None
                assert theirs.arrays[name].tobytes() == array.tobytes()
                assert theirs.arrays[name].shape == array.shape
        rest = ("attempt", "life", "rounds", "bytes_up", "seconds", "dropped", "liars")
        assert [getattr(found, n) for n in rest] == [getattr(kept, n) for n in rest]


# ---- the runner


class Taken:
    """A run that was taken."""

    def __init__(self, number: int, resumes: str = "", plan: str = PLAN.sha256) -> None:
        self.number, self.resumes, self.plan = number, resumes, plan
        self.ended: list[str] = []
        self.spoke = 0

    def read(self) -> RunInput:
        nothing: Any = None
        settings = {"plan-sha256": self.plan, "resumes": self.resumes, "submission": ""}
        return RunInput(
            run_id=self.number,
            settings=settings,
            bundle=bundle_bytes(),
            grid=nothing,
            context=nothing,
        )

    def here(self) -> None:
        self.spoke += 1

    def end(self, code: str = "") -> None:
        self.ended.append(code)

    def close(self) -> None:
        pass


def runner_of(setup: CoordinatorSetup, taken: list[Taken], run: Any, **named: Any) -> Runner:
    queue: Any = SimpleNamespace(next_run=lambda: taken.pop(0) if taken else None)
    return Runner(setup, queue, run=run, **{"stop": threading.Event(), **named})


def test_a_run_goes_on_in_its_folder_and_in_no_other(setup: CoordinatorSetup) -> None:
    begun(setup, 5).is_now(901)
    seen: list[int] = []

    def run(*positional: Any, run_id: int, **named: Any) -> str:
        seen.append(run_id)
        return ""

    ours, older, path = Taken(901, "5"), Taken(900, "5"), Taken(902, "../5")
    runner = runner_of(setup, [ours, older, path], run)
    for _ in range(3):
        runner.step()
    assert seen == [5]
    assert (ours.ended, older.ended, path.ended) == ([""], ["run_unknown"], ["run_unknown"])


def test_a_run_that_waits_lets_another_go_first(setup: CoordinatorSetup) -> None:
    done: list[int] = []
    decided = threading.Event()

    def run(*positional: Any, run_id: int, pause: Any, **named: Any) -> str:
        while run_id == 1 and not decided.is_set():
            pause(0.01)
        done.append(run_id)
        return ""

    first, second = Taken(1), Taken(2)
    runner = runner_of(setup, [first, second], run)
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:
        runner.step()
    assert done == [2]
    decided.set()
    while len(done) < 2 and time.monotonic() < deadline:
        runner.step()
    assert done == [2, 1]
    assert first.spoke > 0  # its messages are stamped as its own again


def test_a_runner_that_is_stopped_leaves_its_run_open(setup: CoordinatorSetup) -> None:
    stop = threading.Event()

    def run(*positional: Any, run_id: int, pause: Any, **named: Any) -> str:
        RunFolder(setup.runs / str(run_id)).tell("started")
        stop.set()
        pause(0.0)
        return ""

    taken = Taken(1)
    runner_of(setup, [taken], run, stop=stop).serve()
    assert taken.ended == []
    assert not RunFolder(setup.runs / "1").state().ended


def test_a_run_that_flower_gave_up_by_itself_is_taken_up_again(setup: CoordinatorSetup) -> None:
    asked: list[frozenset[int]] = []

    def run(*positional: Any, run_id: int, **named: Any) -> str:
        begun(setup, run_id)
        raise RunNotRunningException

    taken = Taken(1)
    runner = runner_of(setup, [taken], run, resume=asked.append)
    runner.step()
    assert not RunFolder(setup.runs / "1").state().ended
    runner.step()
    assert asked == [frozenset(), frozenset()]  # at the start, and for this one, which is free


def test_what_cannot_be_resumed_yet_is_tried_before_any_new_run(setup: CoordinatorSetup) -> None:
    tries: list[int] = []

    def resume(busy: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise LinkGoneError("ConnectError")

    taken = Taken(1)
    runner = runner_of(setup, [taken], lambda *a, **n: "", resume=resume)
    assert [runner.step() > 1 for _ in range(2)] == [True, True]
    assert taken.ended == []
    runner.step()
    assert taken.ended == [""]


# ---- the operator's verbs


@pytest.fixture
def control(setup: CoordinatorSetup, monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    found = FakeControl()
    monkeypatch.setattr(submitting, "Control", lambda *arguments: found)
    sites = dict.fromkeys(PLAN.sites, '{"node_id": 1}')
    text = ", ".join(f'"{site}": {facts}' for site, facts in sites.items())
    replace_file(setup.sites, f"{{{text}}}".encode())
    return found


def test_a_submission_is_signed(setup: CoordinatorSetup, control: FakeControl) -> None:
    assert submitting.submit(setup, PLAN) == 901
    assert control.started == [run_settings(setup, PLAN.sha256)]
    assert control.started[0]["resumes"] == ""


def test_a_plan_under_another_roster_starts_nothing(
    setup: CoordinatorSetup, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = replace(PLAN, secagg="masked", roster="ab" * 32)
    with pytest.raises(ConfigError) as none:
        submitting.submit(setup, masked)
    assert none.value.code == "no_roster"
    in_force = SimpleNamespace(roster=SimpleNamespace(sha256=bytes.fromhex("cd" * 32)))
    monkeypatch.setattr(deployed, "signed_roster_from_json", lambda text: in_force)
    replace_file(setup.roster, b"{}")
    with pytest.raises(PolicyError) as other:
        submitting.submit(setup, masked)
    assert other.value.code == "roster_mismatch"
    assert control.started == []
    assert not (setup.plans / f"{masked.sha256}.json").exists()


def test_a_run_that_went_on_is_stopped_by_the_number_it_has_now(
    setup: CoordinatorSetup, control: FakeControl
) -> None:
    begun(setup, 5).is_now(901)
    submitting.stop_run(setup, 5)
    assert control.stopped == [901]
    assert submitting.run_state(setup, 5).code == "run_stopped"
    submitting.stop_run(setup, 5)
    assert control.stopped == [901]


def test_the_logs_of_a_run_and_of_the_processes(setup: CoordinatorSetup) -> None:
    begun(setup, 5).tell("approval", missing=["a", "b"])
    lines = submitting.logs(setup, 5).splitlines()
    assert lines[-1].endswith(" approval missing=a,b")
    assert len(lines) == 3
    (setup.logs / "runner.log").write_text("x" * 9000 + "\nlast line\n", encoding="utf-8")
    assert submitting.logs(setup) == "== runner.log\nlast line"
    with pytest.raises(ConfigError):
        submitting.logs(setup, 6)


@pytest.mark.parametrize("country", ["", "cn", "CHN", "Germany", "US-", "US-CALI", "DE\n"])
def test_a_coordinator_is_somewhere(setup: CoordinatorSetup, country: str) -> None:
    with pytest.raises(FedCohortError) as refused:
        replace(setup, jurisdiction=country)
    assert refused.value.code == "coordinator_file"
    text = setup.to_json().replace('"CN"', '"US-CA"')
    replace_file(setup.folder / "coordinator.json", text.encode())
    assert read_coordinator(setup.folder).jurisdiction == "US-CA"
    replace_file(setup.folder / "coordinator.json", text.replace("jurisd", "x").encode())
    with pytest.raises(FedCohortError):
        read_coordinator(setup.folder)
