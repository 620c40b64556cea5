"""Runs at the coordinator: their folder, the resident runner, and what the public port serves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_server import deployed, submitting
from fedcohort.fl_server.coordinator import Outcome
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.fl_server.deployed import coordinate
from fedcohort.fl_server.flower_compat import LinkGoneError, RunInput, RunNotRunningException
from fedcohort.fl_server.run_folder import RunFolder, result_of
from fedcohort.fl_server.runner import Runner
from fedcohort.fl_server.sites import InterruptedRunError
from fedcohort.fl_server.superlink import fleet_only, operator_only, superlink_arguments
from fedcohort.privacy.errors import ConfigError, PolicyError
from fedcohort.study.analysis import Result
from fedcohort.study.bundle import bundle_bytes


@pytest.fixture
def setup(tmp_path: Path) -> CoordinatorSetup:
    found = CoordinatorSetup(
        folder=tmp_path,
        federation="f",
        names=("c.example",),
        public_host="0.0.0.0",  # noqa: S104  # nothing listens in this test
        public_port=443,
        loopback_port=8444,
        jurisdiction="DE",
    )
    for folder in (found.runs, found.plans):
        folder.mkdir(mode=0o700)
    return found


def test_a_run_is_told_from_its_folder_alone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "7")
    assert run.state().phase == "submitted"
    run.tell("started")
    run.tell("waiting", missing=["b", "c"])
    run.tell("waiting", missing=["c"])
    assert run.state().waiting_for == ("c",)
    run.tell("online")
    run.tell("round", round=1)
    assert (run.state().phase, run.state().rounds, run.state().ended) == ("running", 1, False)


def test_a_result_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    arrays = {"theta": np.array([[0.1, -0.0], [1e-300, 1 / 3]]), "odd": np.array([np.nan, np.inf])}
    outcome = Outcome(
        result=Result(arrays=arrays, rounds=3),
        rounds=4,
        bytes_up=12,
        seconds=1.5,
        dropped=("a",),
        liars=(),
    )
    run = RunFolder(tmp_path / "7")
    run.finish("ab", outcome)
    found = result_of(run.folder)
    for name, array in arrays.items():
        assert found.result.arrays[name].tobytes() == array.tobytes()
        assert found.result.arrays[name].shape == array.shape
    assert (found.rounds, found.bytes_up, found.dropped) == (4, 12, ("a",))
    assert run.state().phase == "done"


def test_the_first_end_of_a_run_counts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "7")
    run.fail(PolicyError("one", "first", hint="do this"))
    run.fail(PolicyError("two", "second"))
    state = run.state()
    assert (state.phase, state.code, state.hint, state.exit_code) == ("failed", "one", "do this", 3)


@pytest.mark.parametrize("plan", ["", "../../etc/passwd", "0" * 64, "é" * 64])
def test_a_plan_that_was_not_submitted_here_does_not_run(
    setup: CoordinatorSetup, plan: str
) -> None:
    grid: Any = SimpleNamespace()
    assert coordinate(setup, grid, run_id=5, plan_sha256=plan) == "plan_not_submitted"
    assert RunFolder(setup.runs / "5").state().code == "plan_not_submitted"


class FakeRun:
    def __init__(self, bundle: bytes, error: BaseException | None = None) -> None:
        self.bundle = bundle
        self.error = error
        self.ended: list[str] = []
        self.closed = False

    def read(self) -> RunInput:
        if self.error is not None:
            raise self.error
        nothing: Any = None
        settings = {"plan-sha256": "abc"}
        return RunInput(
            run_id=9, settings=settings, bundle=self.bundle, grid=nothing, context=nothing
        )

    def end(self, code: str = "") -> None:
        self.ended.append(code)

    def here(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def run_once(setup: CoordinatorSetup, taken: Any, run: Any) -> float:
    queue: Any = SimpleNamespace(next_run=lambda: taken)
    return Runner(setup, queue, stop=threading.Event(), run=run).step()


def test_a_run_of_our_bundle_is_run_with_its_plan(setup: CoordinatorSetup) -> None:
    taken, seen = FakeRun(bundle_bytes()), []

    def run(*positional: Any, **named: Any) -> str:
        seen.append(named)
        return ""

    assert run_once(setup, taken, run) == 0.0
    assert callable(seen[0].pop("pause"))
    assert seen == [{"run_id": 9, "plan_sha256": "abc"}]
    assert (taken.ended, taken.closed) == ([""], True)


def test_a_run_of_another_bundle_ends_at_once(setup: CoordinatorSetup) -> None:
    taken = FakeRun(bundle_bytes("6.6.6"))
    run_once(setup, taken, lambda *a, **n: pytest.fail("it ran"))
    assert taken.ended == ["bundle_not_allowed"]
    assert RunFolder(setup.runs / "9").state().code == "bundle_not_allowed"


def test_a_stopped_run_says_so(setup: CoordinatorSetup) -> None:
    taken = FakeRun(bundle_bytes())

    def run(*positional: Any, **named: Any) -> str:
        RunFolder(setup.runs / "9").tell("stopping")
        raise RunNotRunningException

    run_once(setup, taken, run)
    assert taken.ended == ["run_stopped"]
    assert RunFolder(setup.runs / "9").state().code == "run_stopped"


@pytest.mark.parametrize(
    ("told", "code"), [("stopping", "run_stopped"), ("online", "superlink_gone")]
)
def test_a_link_that_breaks_since_the_run_was_stopped_is_no_link_that_is_gone(
    told: str, code: str, setup: CoordinatorSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(setup.runs / "9")

    def broken(*given: Any) -> Any:
        run.tell(told)
        raise LinkGoneError("HTTPStatusError")

    monkeypatch.setattr(deployed, "submitted_plan", broken)
    grid: Any = SimpleNamespace()
    assert coordinate(setup, grid, run_id=9, plan_sha256="ab" * 32) == code
    assert run.state().code == code


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("HTTPStatusError", "answered"),
        ("HTTP 403", "answered"),
        ("HTTP 503", "answered"),
        ("ConnectTimeout", "did not answer for"),
    ],
)
def test_a_superlink_that_refuses_is_not_called_silent(
    told: str, words: str, setup: CoordinatorSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> Any:
        raise LinkGoneError(told)

    monkeypatch.setattr(deployed, "submitted_plan", broken)
    grid: Any = SimpleNamespace()
    assert coordinate(setup, grid, run_id=9, plan_sha256="ab" * 32) == "superlink_gone"
    assert words in RunFolder(setup.runs / "9").state().text


def test_a_plan_of_a_run_that_is_open_is_not_submitted_again(
    setup: CoordinatorSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of either would close the plan at the hospitals, and so the other."""
    numbers = iter((7, 8, 9))
    control = SimpleNamespace(start=lambda *_: next(numbers))
    monkeypatch.setattr(submitting, "_Operator", lambda _: contextlib.nullcontext(control))
    monkeypatch.setattr(submitting, "enrolled", lambda _: {"a": 1})
    monkeypatch.setattr(submitting, "check_roster", lambda *_: None)
    monkeypatch.setattr(submitting, "run_settings", lambda *_: {})
    plan: Any = SimpleNamespace(sites=("a",), sha256="ab" * 32, to_json=lambda: "{}")
    other: Any = SimpleNamespace(sites=("a",), sha256="cd" * 32, to_json=lambda: "{}")
    assert submitting.submit(setup, plan) == 7
    with pytest.raises(ConfigError) as refused:
        submitting.submit(setup, plan)
    assert refused.value.code == "run_open"
    assert "run 7 " in str(refused.value)
    assert submitting.submit(setup, other) == 8
    RunFolder(setup.runs / "7").fail(PolicyError("run_stopped", "it was stopped"))
    assert submitting.submit(setup, plan) == 9


def test_a_run_is_left_before_a_sum_is_opened_and_not_within(tmp_path: Path) -> None:
    """A coordinator that is stopped in good order loses no sum."""
    leaving = [True]

    def pause(seconds: float) -> None:
        if leaving:
            raise InterruptedRunError

    journal = deployed._RunJournal(tmp_path, pause)
    with pytest.raises(InterruptedRunError):
        journal.opening(1)
    assert list(tmp_path.iterdir()) == []
    leaving.clear()
    journal.opening(1)
    assert (tmp_path / "opening.json").exists()


def test_the_runner_outlives_a_failure_and_a_superlink_that_went(setup: CoordinatorSetup) -> None:
    def run(*positional: Any, **named: Any) -> str:
        raise ZeroDivisionError

    taken = FakeRun(bundle_bytes())
    run_once(setup, taken, run)
    assert taken.ended == ["coordinator_error"]
    lost = FakeRun(b"", LinkGoneError("ConnectError"))
    run_once(setup, lost, run)
    assert (lost.ended, lost.closed) == ([], True)
    assert 0 < run_once(setup, None, run) < 1


# ---- the public port


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/v1/fleet/pull-messages", True),
        ("/health", True),
        ("/health/", False),
        ("/v1/fleet", False),
        ("/v1/control/start-run", False),
        ("/v1/runtime/acquire-task", False),
        ("/docs", False),
        ("/", False),
        ("//v1/fleet/x", False),
        ("/V1/FLEET/x", False),
    ],
)
def test_only_the_hospitals_paths_reach_flower(path: str, passes: bool) -> None:
    reached, sent = [], []

    async def flower(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def send(event: Any) -> None:
        sent.append(event)

    asyncio.run(fleet_only(flower)({"type": "http", "path": path}, None, send))
    assert bool(reached) is passes
    assert passes or sent[0]["status"] == 404


@pytest.mark.parametrize(
    ("path", "shown", "passes"),
    [
        ("/v1/control/start-run", "secret", True),
        ("/v1/control/start-run", "Secret", False),
        ("/v1/control/start-run", "", False),
        ("/docs", "", False),
        ("/v1/fleetx", "", False),
        ("/v1/runtime/acquire-task", "", True),
        ("/v1/fleet/pull-messages", "", True),
        ("/health", "", True),
    ],
)
def test_on_loopback_the_operator_shows_a_password(path: str, shown: str, passes: bool) -> None:
    reached, sent = [], []

    async def flower(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(b"x-fedcohort-operator", shown.encode())] if shown else []
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(operator_only(flower, "secret")(scope, None, send))
    assert bool(reached) is passes
    assert passes or sent[0]["status"] == 401


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_nothing_but_requests_reaches_flower(kind: str) -> None:
    async def flower(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("it was reached")

    async def send(event: Any) -> None:
        assert event["type"] == "websocket.close"

    asyncio.run(fleet_only(flower)({"type": kind, "path": "/v1/fleet/x"}, None, send))


def test_the_superlink_is_never_started_weaker(setup: CoordinatorSetup) -> None:
    arguments = superlink_arguments(setup)
    assert "--enable-supernode-auth" in arguments
    assert "--disable-runtime-dependency-installation" in arguments
    assert "--insecure" not in arguments
    pairs = dict(pairwise(arguments))
    assert pairs["--host"] == "127.0.0.1"  # whatever the public port binds to
    assert pairs["--isolation"] == "process"
    assert pairs["--database"] == str(setup.database)
    assert pairs["--superexec-auth-secret-file"] == str(setup.secret)


@pytest.mark.parametrize(("public", "loopback"), [(443, 443), (0, 1), (443, 2**16)])
def test_two_ports_are_two_ports(tmp_path: Path, public: int, loopback: int) -> None:
    with pytest.raises(ConfigError) as refused:
        CoordinatorSetup(
            folder=tmp_path,
            federation="f",
            names=(),
            public_host="127.0.0.1",
            public_port=public,
            loopback_port=loopback,
            jurisdiction="DE",
        )
    assert refused.value.code == "coordinator_file"
