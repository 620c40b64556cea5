"""What the two roles take from inside Flower is pinned, name by name and argument by argument."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.proto import control_pb2, node_pb2, run_pb2, runtime_pb2
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.nodestate.in_memory_nodestate import TimeEntry
from flwr.supernode.runtime import run_clientapp

from fedcohort.fl_client import flower_compat as client
from fedcohort.fl_server import flower_compat as server
from fedcohort.fl_server import flower_control as control

TAKEN = {
    client: {
        "flwr.app.Context",
        "flwr.app.Message",
        "flwr.common.constant.SubStatus",
        "flwr.proto.runtime_pb2.AcquireTaskRequest",
        "flwr.proto.runtime_pb2.SendTaskHeartbeatRequest",
        "flwr.supercore.inflatable.inflatable_utils.ObjectPullError",
        "flwr.supercore.inflatable.inflatable_utils.ObjectPushError",
        "flwr.supercore.inflatable.inflatable_utils.ObjectUnavailableError",
        "flwr.supercore.interceptors.RuntimeTokenHttpInterceptor",
        "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor",
        "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor",
        "flwr.supercore.retry.RetryInvoker",
        "flwr.supercore.retry.exponential",
        "flwr.supercore.runtime.RuntimeHttpClient",
        "flwr.supernode.cli.flower_supernode",
        "flwr.supernode.nodestate.in_memory_nodestate",
        "flwr.supernode.runtime.run_clientapp.pull_task_input",
        "flwr.supernode.runtime.run_clientapp.push_message",
        "flwr.supernode.runtime.run_clientapp.push_task_output",
        "flwr.supernode.start_client_internal",
    },
    server: {
        "flwr.app.Context",
        "flwr.app.Message",
        "flwr.app.RecordDict",
        "flwr.common.constant.SubStatus",
        "flwr.common.serde",
        "flwr.proto.runtime_pb2",
        "flwr.serverapp.Grid",
        "flwr.supercore.http_logging.get_uvicorn_log_config",
        "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor",
        "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor",
        "flwr.supercore.run.RunNotRunningException",
        "flwr.supercore.runtime.RuntimeHttpClient",
        "flwr.supercore.task_identity.TaskIdentity",
        "flwr.superlink.cli.flower_superlink",
        "flwr.superlink.grid.HttpGrid",
        "flwr.superlink.main",
    },
    control: {
        "flwr.common.serde",
        "flwr.proto.control_pb2",
        "flwr.supercore.control.ControlHttpClient",
        "flwr.supercore.fab.Fab",
        "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor",
    },
}
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def imported(module: ModuleType) -> set[str]:
    """Return what a module takes from Flower, by `from` or by `importlib`."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("flwr"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            found.add(str(ast.literal_eval(node.args[0])))
    return found


def test_flower_is_the_minor_that_these_symbols_were_read_in() -> None:
    assert version("flwr").split(".")[:2] == ["1", "41"]


@pytest.mark.parametrize("role", TAKEN, ids=lambda role: role.__name__)
def test_a_role_takes_these_symbols_and_no_other(role: ModuleType) -> None:
    assert imported(role) == TAKEN[role]


@pytest.mark.parametrize("role", TAKEN, ids=lambda role: role.__name__)
def test_nothing_else_of_a_role_looks_inside_flower(role: ModuleType) -> None:
    for path in Path(str(role.__file__)).parent.glob("*.py"):
        if path.name not in ("flower_compat.py", "flower_control.py"):
            module = importlib.import_module(f"{role.__package__}.{path.stem}")
            sources = {name.rpartition(".")[0] for name in imported(module)}
            assert sources <= PUBLIC, path


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (run_clientapp.pull_task_input, ["client"]),
        (run_clientapp.push_message, ["client", "message", "context"]),
        (run_clientapp.push_task_output, ["client", "context", "sub_status", "details"]),
        (RuntimeVersionHttpInterceptor, ["component_name"]),
        (RuntimeTokenHttpInterceptor, ["token"]),
        (SuperExecAuthHttpInterceptor, ["master_secret", "protected_methods"]),
        (HttpGrid, ["runtime_api_address", "insecure", "root_certificates", "token"]),
        (
            RuntimeHttpClient.from_server_address,
            ["server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"],
        ),
        (
            ControlHttpClient.from_server_address,
            ["server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"],
        ),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_an_internal_function_takes_what_we_give_it(function: Any, expected: list[str]) -> None:
    assert parameters(function) == expected


def test_a_retry_is_told_when_to_give_up() -> None:
    first = ["wait_gen_factory", "recoverable_exceptions", "max_tries", "max_time"]
    assert parameters(RetryInvoker)[:4] == first


@pytest.mark.parametrize("name", ["AcquireTask", "PullTaskInput", "PushTaskOutput"])
def test_the_runtime_api_has_these_calls(name: str) -> None:
    assert parameters(getattr(RuntimeHttpClient, name)) == ["self", "request"]


@pytest.mark.parametrize(
    "name", ["RegisterNode", "UnregisterNode", "ListNodes", "StartRun", "ListRuns", "StopRun"]
)
def test_the_control_api_has_these_calls(name: str) -> None:
    assert parameters(getattr(ControlHttpClient, name)) == ["self", "request"]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (runtime_pb2.AcquireTaskRequest, {"supported_task_types"}),
        (runtime_pb2.AcquireTaskResponse, {"task", "token"}),
        (runtime_pb2.PullTaskInputResponse, {"context", "run", "fab", "task_id"}),
        (runtime_pb2.PushTaskOutputRequest, {"context", "sub_status", "details"}),
        (control_pb2.RegisterNodeRequest, {"public_key", "name"}),
        (control_pb2.RegisterNodeResponse, {"node_id"}),
        (control_pb2.StartRunRequest, {"fab", "override_config"}),
        (control_pb2.StartRunResponse, {"run_id"}),
        (control_pb2.ListNodesResponse, {"nodes_info"}),
        (control_pb2.ListRunsResponse, {"run_dict"}),
        (node_pb2.NodeInfo, {"node_id", "status", "public_key", "name"}),
        (run_pb2.RunStatus, {"status", "sub_status"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_message_of_flowers_has_the_fields_we_read(message: Any, fields: set[str]) -> None:
    assert fields <= {field.name for field in message.DESCRIPTOR.fields}


def test_a_grid_has_the_connection_and_the_retries_we_share() -> None:
    grid = HttpGrid("127.0.0.1:1", False, None, token="t")  # noqa: S106  # nobody listens
    assert isinstance(grid._runtime_client, RuntimeHttpClient)
    assert isinstance(grid._retry_invoker, RetryInvoker)
    grid.close()


def test_a_stopped_run_is_no_ordinary_exception() -> None:
    assert not issubclass(RunNotRunningException, Exception)  # so we name it where we catch


def test_a_task_has_these_three_numbers() -> None:
    assert {"run_id", "task_id", "node_id"} <= {*dir(TaskIdentity), *dir(type(TaskIdentity))}


# ---- what is exchanged inside Flower's own processes


def test_the_supernode_waits_and_reads_bundles_where_we_reach_it() -> None:
    internal = importlib.import_module("flwr.supernode.start_client_internal")
    source = inspect.getsource(internal)
    waits = [line.strip() for line in source.splitlines() if "time." in line and "#" not in line]
    assert [w for w in waits if w.startswith("time.")] == [
        "time.sleep(3)",
        "time.sleep(0.5)",
        "time.sleep(0.5)",
    ]
    # One place opens a bundle, and it goes through the module's own name.
    assert source.count("get_fused_config_from_fab(fab.content, run_info)") == 1
    assert source.count("fab.content") == 2  # there, and in the hash that a signature covers


def test_a_reply_that_is_not_taken_is_an_exception_of_its_own() -> None:
    assert ObjectPushError.__bases__ == (Exception,)  # so we name it where we catch


def test_a_supernode_takes_a_replys_duration_where_we_reach_it() -> None:
    internal = importlib.import_module("flwr.supernode.start_client_internal")
    source = inspect.getsource(internal)
    assert source.count("clientapp_runtime = state.get_message_processing_duration(") == 1
    assert "send(message, object_tree, clientapp_runtime)" in source
    factory = importlib.import_module("flwr.supernode.nodestate.nodestate_factory")
    assert "self.state_instance = InMemoryNodeState(" in inspect.getsource(factory)

    class Node(factory.InMemoryNodeState):  # type: ignore[misc, name-defined]
        pass

    state = Node(ObjectStoreFactory().store())
    state.msg_store["m"] = object()  # the times of no message are forgotten
    ended = datetime.now(UTC).timestamp()
    state.time_store["m"] = TimeEntry(starting_at=ended - 2.0, finished_at=ended)
    assert state.get_message_processing_duration("m") == pytest.approx(2.0, abs=1e-3)
    client._tell_no_durations(Node)
    assert state.get_message_processing_duration("m") == 0.0


def test_the_superlink_starts_its_server_where_we_reach_it() -> None:
    importlib.import_module("flwr.superlink.cli.flower_superlink")
    cli = sys.modules["flwr.superlink.cli.flower_superlink"]
    main = importlib.import_module("flwr.superlink.main")
    assert parameters(cli._run_superlink_http_api) == ["lifespan_config"]
    assert "_run_superlink_http_api(lifespan_config=config)" in inspect.getsource(
        cli.flower_superlink
    )
    assert parameters(main.create_app) == ["config", "superlink_lifespan_class"]
    assert "lifespan_config.ssl_keyfile" in inspect.getsource(cli._run_superlink_http_api)


def test_flower_asks_for_a_nodes_signature_on_every_path_that_is_public() -> None:
    auth = importlib.import_module("flwr.superlink.routers.fleet.node_auth")
    assert 'startswith("/v1/fleet/")' in inspect.getsource(auth.NodeAuthMiddleware)
