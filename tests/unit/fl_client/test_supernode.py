"""Flower's SuperNode, as we start it: no weaker than we say, and quicker while a study runs."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    pull_objects,
)

from fedcohort.fl_client import flower_compat
from fedcohort.fl_client.flower_compat import NodeGoneError, OpenTask, _no_endless, _NoEndlessPull
from fedcohort.fl_client.governance.policy import Policy
from fedcohort.fl_client.node_key import create_node_key, node_public_key
from fedcohort.fl_client.site_folder import init
from fedcohort.fl_client.supernode import check_arguments
from fedcohort.fl_client.supervisor import site_services
from fedcohort.hosting import Service
from fedcohort.privacy.errors import ConfigError, PolicyError

Services = tuple[Service, Service]


@pytest.fixture
def setup(tmp_path: Path) -> Services:
    made = init(tmp_path / "site", "a")
    return site_services(made.folder, Policy.read(made.folder.policy), 9094)


def node_arguments(setup: Services) -> list[str]:
    return list(setup[0].command)[3:]


def test_the_nodes_arguments_are_those_it_must_have(setup: Services) -> None:
    check_arguments(node_arguments(setup))


@pytest.mark.parametrize(
    "name",
    ["--root-certificates", "--auth-supernode-private-key", "--superexec-auth-secret-file"],
)
def test_a_node_without_tls_key_or_secret_is_not_started(setup: Services, name: str) -> None:
    arguments = node_arguments(setup)
    at = arguments.index(name)
    with pytest.raises(ConfigError) as refused:
        check_arguments(arguments[:at] + arguments[at + 2 :])
    assert refused.value.code == "supernode_weakened"


@pytest.mark.parametrize(
    "more", [["--insecure"], ["--allow-runtime-dependency-installation"], ["--insecure=1"]]
)
def test_nothing_that_weakens_it_is_passed_on(setup: Services, more: list[str]) -> None:
    with pytest.raises(ConfigError):
        check_arguments([*node_arguments(setup), *more])


def test_a_node_that_would_run_code_itself_is_not_started(setup: Services) -> None:
    arguments = [("subprocess" if a == "process" else a) for a in node_arguments(setup)]
    with pytest.raises(ConfigError):
        check_arguments(arguments)


def test_every_switch_is_off_and_only_the_worker_sees_the_folder(setup: Services) -> None:
    node, worker = setup
    for service in (node, worker):
        assert service.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert service.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert service.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert "127.0.0.1" in service.environment["NO_PROXY"]
    assert "--site-folder" in worker.command
    assert "--site-folder" not in node.command


def test_it_looks_often_while_a_study_runs_and_seldom_when_none_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    pace = flower_compat._Pace(0.25, 60.0)
    now[0] = 100.0
    pace.sleep(3)  # nothing came for long
    pace.sleep(0.5)  # a message is being answered
    pace.sleep(3)  # and the next may come soon
    now[0] = 300.0
    pace.sleep(3)
    assert slept == [3, 0.125, 0.25, 3]


def test_a_nodes_key_is_read_back_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    public = create_node_key(path)
    assert public.startswith("ecdsa-sha2-nistp384 ")
    assert node_public_key(path) == public
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(PolicyError) as refused:
        create_node_key(path)
    assert refused.value.code == "file_exists"
    path.chmod(0o644)
    with pytest.raises(PolicyError) as refused:
        node_public_key(path)
    assert refused.value.code == "file_mode"


def test_a_message_that_stops_coming_is_given_up() -> None:
    """Else a worker waits two hours for the rest of a message whose run has ended."""

    class Client:
        came = True

        def PullObject(self, request: object) -> SimpleNamespace:  # noqa: N802
            return SimpleNamespace(object_available=self.came)

    client = Client()
    patient, hasty = (_NoEndlessPull(client, stall) for stall in (60.0, 0.0))  # type: ignore[arg-type]
    assert patient.PullObject(None).object_available
    client.came = False
    assert not patient.PullObject(None).object_available
    time.sleep(0.01)
    with pytest.raises(NodeGoneError):
        hasty.PullObject(None)


def test_a_node_gives_up_a_message_that_stops_coming() -> None:
    """The real pull of Flower: one part comes, the other never does."""
    asked: list[str] = []

    def part(object_id: str) -> bytes:
        asked.append(object_id)
        if object_id == "first":
            return b"1"
        raise ObjectUnavailableError(object_id)

    pull = _no_endless(pull_objects, stall_s=0.3)
    assert pull(["first"], pull_object_fn=part) == {"first": b"1"}
    asked.clear()
    with pytest.raises(ObjectPullError):
        pull(["first", "second"], pull_object_fn=part)
    assert asked.count("first") == 1
    assert 2 <= asked.count("second") <= 30  # Flower's own would ask until the end of the run


def test_a_task_that_is_given_up_is_ended_at_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the node takes the task's end, a minute later, for the answer to another message."""
    ended: list[str] = []

    class Client:
        def PullTaskInput(self, request: object) -> object:  # noqa: N802
            raise NodeGoneError("no further part of the message came")

        def PushTaskOutput(self, request: Any) -> None:  # noqa: N802
            ended.append(request.sub_status)

        def SendTaskHeartbeat(self, request: object) -> None:  # noqa: N802
            """It beats."""

    monkeypatch.setattr(flower_compat, "_client", lambda *parts, **named: Client())
    with pytest.raises(NodeGoneError):
        OpenTask("127.0.0.1:1", "token").read()
    assert ended == ["failed"]
