"""The resident worker: the gate first, one code for whatever goes wrong, never its text."""

from __future__ import annotations

import threading

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from fedcohort.experiments.simulation.flower_compat import new_run, over_the_wire, stamped
from fedcohort.fl_client import flower_compat
from fedcohort.fl_client.bundle import check_bundle
from fedcohort.fl_client.flower_compat import NodeGoneError, TaskInput
from fedcohort.fl_client.worker import Worker, app
from fedcohort.privacy.errors import PolicyError
from fedcohort.study.bundle import bundle_bytes, bundle_sha256

PATIENT = "patient 张三, born 1950, is dead"


def question(action: str = "query.hello") -> Message:
    new_run()
    return stamped(Message(RecordDict({"q": ConfigRecord({"a": 1})}), 7, action))


class FakeTask:
    def __init__(self, bundle: bytes, *, lost: bool = False) -> None:
        self.bundle = bundle
        self.lost = lost
        self.answered: list[Message] = []
        self.closed = False

    def read(self) -> TaskInput:
        if self.lost:
            raise NodeGoneError("ConnectError")
        context = Context(1, 7, {}, RecordDict(), {})
        return TaskInput(message=question(), context=context, bundle=self.bundle)

    def answer(self, reply: Message, context: Context) -> None:
        self.answered.append(reply)

    def close(self) -> None:
        self.closed = True


class FakeTasks:
    """Hands out what it was given: a task, nothing, or a node that is away."""

    def __init__(self, *given: FakeTask | Exception | None) -> None:
        self.given = list(given)

    def next_task(self) -> FakeTask | None:
        found = self.given.pop(0) if self.given else None
        if isinstance(found, Exception):
            raise found
        return found


class App:
    """A ClientApp that counts its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error

    def __call__(self, message: Message, context: Context) -> Message:
        self.calls += 1
        if self.error is not None:
            raise self.error
        content = RecordDict({"answer": ConfigRecord({"site": "here"})})
        return Message(content, reply_to=message)


def worker(tasks: FakeTasks, run: App, stop: threading.Event | None = None) -> Worker:
    def admit(task: TaskInput) -> None:
        check_bundle(task.bundle, {bundle_sha256()})

    return Worker(tasks, run, admit=admit, stop=stop or threading.Event())


def test_a_message_under_our_bundle_is_answered_by_the_app() -> None:
    task, run = FakeTask(bundle_bytes()), App()
    assert worker(FakeTasks(task), run).step() == 0.0
    assert task.closed
    assert task.answered[0].content.config_records["answer"]["site"] == "here"


def test_under_another_bundle_the_app_is_never_asked() -> None:
    task, run = FakeTask(bundle_bytes("6.6.6")), App()
    worker(FakeTasks(task), run).step()
    assert run.calls == 0
    refused = task.answered[0].content.config_records["refused"]
    assert str(refused["code"]).strip() == "bundle_not_allowed"
    assert refused["exit"] == PolicyError.exit_code


def test_an_exceptions_text_stays_here() -> None:
    task = FakeTask(bundle_bytes())
    worker(FakeTasks(task), App(ValueError(PATIENT))).step()
    said = over_the_wire(stamped(task.answered[0]))
    assert str(said.content.config_records["refused"]["code"]).strip() == "site_error"
    assert PATIENT not in str(said)


def test_every_no_has_the_same_size() -> None:
    sizes = set()
    for bundle, error in ((bundle_bytes(), KeyError(PATIENT)), (b"x", None), (b"", None)):
        task = FakeTask(bundle)
        worker(FakeTasks(task), App(error)).step()
        sizes.add(len(str(task.answered[0].content.config_records["refused"]["code"])))
    assert sizes == {48}


def test_a_node_that_is_away_is_waited_for() -> None:
    task, run = FakeTask(bundle_bytes()), App()
    one = worker(FakeTasks(NodeGoneError("ConnectError"), None, task), run)
    assert one.step() >= 1.0
    assert 0 < one.step() < 1.0
    assert one.step() == 0.0
    assert run.calls == 1


def test_a_task_that_is_lost_on_the_way_is_let_go() -> None:
    lost, task, run = FakeTask(b"", lost=True), FakeTask(bundle_bytes()), App()
    one = worker(FakeTasks(lost, task), run)
    one.step()
    assert lost.closed
    assert not lost.answered
    one.step()
    assert run.calls == 1


def test_it_ends_when_told_to() -> None:
    stop = threading.Event()
    one = worker(FakeTasks(), App(), stop)
    thread = threading.Thread(target=one.serve)
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("action", ["query.hello", "query.propose", "train.report"])
def test_behind_the_bundles_own_component_is_nobodys_data(action: str) -> None:
    reply = app(question(action), Context(1, 7, {}, RecordDict(), {}))
    assert "refused" in reply.content.config_records


@pytest.mark.parametrize("error", [ObjectPushError("id", 1, "session"), ValueError("x")])
def test_an_answer_that_is_not_taken_is_a_task_that_is_lost(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pushed(*given: object) -> None:
        raise error

    monkeypatch.setattr(flower_compat, "push_message", pushed)
    task = flower_compat.OpenTask("127.0.0.1:1", "token")
    with pytest.raises(NodeGoneError):
        task.answer(question(), Context(1, 7, {}, RecordDict(), {}))
    task.close()


@pytest.mark.parametrize("error", [Exception("as DecodeError is"), KeyError("x"), TypeError("x")])
def test_parts_that_are_no_message_are_a_task_that_is_lost(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(client: object) -> None:
        raise error

    monkeypatch.setattr(flower_compat, "pull_task_input", pulled)
    task = flower_compat.OpenTask("127.0.0.1:1", "token")
    with pytest.raises(NodeGoneError):
        task.read()
    task.close()
