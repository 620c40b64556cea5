"""What an answer of a node tells by its time, and what its log tells of a failure."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedcohort.experiments.simulation.flower_compat import new_run, stamped
from fedcohort.fl_client import app as app_module
from fedcohort.fl_client import worker as worker_module
from fedcohort.fl_client.app import Hello, Teller, client_app
from fedcohort.fl_client.flower_compat import TaskInput
from fedcohort.fl_client.worker import Worker, set_up_logging
from fedcohort.privacy.errors import (
    DataError,
    DisclosureError,
    FedCohortError,
    PolicyError,
    ProtocolError,
)

CELL = "zhang-san-HIV-positive"  # a cell of the table, as libraries quote them


class Clock:
    """A clock that stands still but for what is worked and slept."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Node:
    """Stands for a hospital: every message of it takes a while, and ends in one error or none."""

    site = "h"

    def __init__(self, error: Exception | None, clock: Clock | None = None, work_s: float = 0.0):
        self.error = error
        self.clock = clock
        self.work_s = work_s

    def _act(self, *asked: object, **named: object) -> Any:
        if self.clock is not None:
            self.clock.now += self.work_s
        if self.error is not None:
            raise self.error
        return "ab" * 32

    propose = report = secagg = close = _act


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that answers are held by."""
    clock = Clock()
    monkeypatch.setattr(app_module, "time", clock)
    return clock


def asked(node: Any, *, hold_s: float = 0.0, action: str = "query.propose") -> Message:
    new_run()
    content = RecordDict({"plan": ConfigRecord({"json": "{}", "sha256": "ab" * 32})})
    message = stamped(Message(content, 7, action))
    app = client_app(lambda context: node, Teller(hello=lambda plan: Hello(), hold_s=hold_s))
    return app(message, Context(1, 7, {}, RecordDict(), {}))


# ---- when an answer leaves


@pytest.mark.parametrize("work_s", [0.0, 1e-3, 0.4, 0.999, 1.0, 1.001, 7.25])
@pytest.mark.parametrize(
    "error", [DataError("one_class", "x"), DisclosureError("disclosure_cell", "x"), KeyError(CELL)]
)
def test_a_failure_that_data_decided_leaves_at_a_whole_multiple_of_the_hold(
    work_s: float, error: Exception, clock: Clock
) -> None:
    asked(Node(error, clock, work_s), hold_s=1.0)
    after = clock.now - 1000.0
    assert work_s - 1e-9 <= after <= work_s + 1.0 + 1e-9
    assert after == pytest.approx(round(after), abs=1e-9)


@pytest.mark.parametrize(
    "error", [None, PolicyError("plan_not_approved", "x"), ProtocolError("plan_unknown", "x")]
)
def test_what_no_record_decided_leaves_at_once(error: Exception | None, clock: Clock) -> None:
    asked(Node(error, clock, 0.4), hold_s=1.0)
    assert clock.slept == []


def test_a_hospitals_worker_holds_by_whole_seconds() -> None:
    """A simulated node holds nothing (0): a deployed one must not be made like it."""
    site: Any = SimpleNamespace(hello=lambda plan: Hello(), gate=SimpleNamespace(known="ab" * 32))
    told = worker_module.teller_of(site)
    assert (told.hold_s, told.policy()) == (1.0, "ab" * 32)
    assert Teller().hold_s == 0.0


# ---- what its log says


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The worker's log: whatever its own logging writes to the file that the supervisor keeps."""
    loggers = [logging.getLogger(), *map(logging.getLogger, ("fedcohort", "flwr"))]
    before = [(one, one.level, one.propagate, list(one.handlers)) for one in loggers]
    logging.getLogger().handlers.clear()
    written = io.StringIO()
    set_up_logging(written)
    yield written
    for one, level, propagate, handlers in before:
        one.setLevel(level)
        one.propagate = propagate
        one.handlers[:] = handlers


def error_of(how: str) -> Exception:
    if how == "of a library":
        return ValueError(f"could not convert string to float: {CELL!r}")
    behind = ValueError(f"could not convert string to float: {CELL!r}")
    error = RuntimeError(f"in the row {CELL}")
    error.__cause__ = behind
    return error


@pytest.mark.parametrize("action", ["query.propose", "query.close"])
@pytest.mark.parametrize("how", ["of a library", "with another behind it"])
def test_a_librarys_text_reaches_no_line_of_the_workers_log(
    how: str, action: str, log: io.StringIO
) -> None:
    asked(Node(error_of(how)), action=action)
    text = log.getvalue()
    assert "failed at this site" in text  # it is told, with the place and the kind of error
    assert CELL not in text
    assert "Traceback" not in text


def test_nor_does_the_text_of_an_error_around_the_app(log: io.StringIO) -> None:
    def run(message: Message, context: Context) -> Message:
        raise error_of("with another behind it")

    new_run()
    task = TaskInput(
        message=stamped(Message(RecordDict(), 7, "query.hello")),
        context=Context(1, 7, {}, RecordDict(), {}),
        bundle=b"",
    )
    nobody: Any = SimpleNamespace()
    Worker(nobody, run, admit=lambda task: None, stop=nobody).answer_to(task)
    assert "failed at this site" in log.getvalue()
    assert CELL not in log.getvalue()


@pytest.mark.parametrize(
    ("error", "leaves"),
    [
        (DataError("one_class", "x"), "data_refused"),
        (DisclosureError("disclosure_cell", "x"), "data_refused"),
        (PolicyError("plan_not_approved", "x"), "plan_not_approved"),
        (ProtocolError("plan_unknown", "x"), "plan_unknown"),
    ],
)
def test_the_hospitals_own_log_names_the_rule_that_spoke(
    error: FedCohortError, leaves: str, log: io.StringIO
) -> None:
    said = asked(Node(error)).content.config_records["refused"]
    assert str(said["code"]).strip() == leaves
    assert error.code in log.getvalue()


def test_a_log_that_would_take_it_is_noticed(log: io.StringIO) -> None:  # the positive control
    logging.getLogger("fedcohort").setLevel(logging.DEBUG)
    asked(Node(error_of("of a library")))
    assert CELL in log.getvalue()  # on a screen of the hospital's own, if it asks for it
