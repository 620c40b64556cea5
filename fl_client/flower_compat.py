"""What a hospital's node takes from inside Flower 1.41, and nothing else does at the client.

A worker of our own takes tasks from Flower's SuperNode over its Runtime API (plain HTTP on
loopback, with a secret), and Flower's SuperNode is started with four changes: it looks for
messages more often while a study runs, it never opens an app bundle, it tells nobody how long the
worker took, and it gives up a message that stops coming. A contract test pins Flower's version
and each symbol.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = ["NodeGoneError", "NodeLink", "OpenTask", "TaskInput", "run_supernode"]

_log = logging.getLogger(__name__)
_COMPONENT = "flwr-clientapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_PATIENCE_S = 15.0  # for a node that does not answer while a task is open
_HEARTBEAT_S = 12.0  # Flower gives a task up after 30 to 60 s without one
# A message of which no further part comes is of a run that ended, or of a link that died: it will
# never be whole. A SuperLink that restarts is away for less than the second.
_WORKER_STALL_S = 30.0
_STALL_S = 45.0


class NodeGoneError(Exception):
    """The SuperNode does not answer, or knows neither our secret nor our task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInput:
    """What a task is.

    Attributes:
        message: What the coordinator sent.
        context: Flower's context.
        bundle: The app bundle it came with, as bytes.
    """

    message: Message
    context: Context
    bundle: bytes


class NodeLink:
    """The worker's way to its own SuperNode.

    Args:
        address: HOST:PORT of the SuperNode's Runtime API; loopback.
        secret: What SuperNode and worker share.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        knock = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=frozenset({_ACQUIRE})
        )
        self._client = _client(address, [knock], patience_s=0.0)

    def next_task(self) -> OpenTask | None:
        """Take the next task, if there is one.

        Raises:
            NodeGoneError: Nobody answers, or the secret is not theirs.
        """
        request = AcquireTaskRequest(supported_task_types=[_COMPONENT])
        try:
            found = self._client.AcquireTask(request)
        except (httpx.HTTPError, ValueError) as error:
            raise NodeGoneError(type(error).__name__) from error
        if not (found.HasField("task") and found.token):
            return None
        return OpenTask(self._address, found.token)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class OpenTask:
    """A task that was taken: read it, answer it, close it."""

    def __init__(self, address: str, token: str) -> None:
        self._client = _client(
            address, [RuntimeTokenHttpInterceptor(token)], patience_s=_PATIENCE_S
        )
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="task-heartbeat", daemon=True).start()

    def read(self) -> TaskInput:
        """Return what is asked.

        Raises:
            NodeGoneError: The SuperNode does not answer, or gave the task up.
        """
        pulled = _NoEndlessPull(self._client, _WORKER_STALL_S)
        try:
            message, context, _, bundle = pull_task_input(pulled)  # type: ignore[arg-type]  # it is one
        except NodeGoneError:
            self._give_up()
            raise
        except Exception as error:  # also of parts that are no message: no reason to end
            self._give_up()
            raise NodeGoneError(type(error).__name__) from error
        return TaskInput(message=message, context=context, bundle=bundle.content)

    def _give_up(self) -> None:
        """End the task at the node.

        Else its token runs out a minute later, the node takes that for the answer to whatever
        message it is at by then, and every later answer leaves one message late.
        """
        try:
            push_task_output(self._client, None, SubStatus.FAILED, "")
        except (httpx.HTTPError, ValueError, RuntimeError) as error:
            _log.info("a task could not be ended: %s", type(error).__name__)

    def answer(self, reply: Message, context: Context) -> None:
        """Send the answer and end the task.

        Raises:
            NodeGoneError: As `read`.
        """
        try:
            push_message(self._client, reply, context)
            push_task_output(self._client, context, SubStatus.COMPLETED, "")
        except (httpx.HTTPError, ValueError, RuntimeError, ObjectPushError) as error:
            raise NodeGoneError(type(error).__name__) from error

    def close(self) -> None:
        """Let go of the task."""
        self._closed.set()
        self._client.close()

    def _beat(self) -> None:
        while not self._closed.wait(_HEARTBEAT_S):
            try:
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except (httpx.HTTPError, ValueError, RuntimeError):
                continue  # the task's own calls will say


class _NoEndlessPull:
    """Stands in for the client where a message is pulled, part by part.

    Flower asks for a part that has not come for two hours. Where the run has ended meanwhile it
    never comes, and a worker that waits for it answers no other run.
    """

    def __init__(self, client: RuntimeHttpClient, stall_s: float) -> None:
        self._client = client
        self._stall_s = stall_s
        self._came = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def PullObject(self, request: Any) -> Any:  # noqa: N802  # Flower's name
        found = self._client.PullObject(request)
        if found.object_available:
            self._came = time.monotonic()
        elif time.monotonic() - self._came > self._stall_s:
            raise NodeGoneError("no further part of the message came")
        return found


def _no_endless(
    pull_objects: Callable[..., dict[str, bytes]], stall_s: float = _STALL_S
) -> Callable[..., dict[str, bytes]]:
    """Return Flower's pull of a message's parts, that gives up where no further one comes.

    Else a message whose sender died holds the node for up to two hours, and it answers nobody.
    """

    def pull(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
        came = time.monotonic()

        def one(object_id: str) -> bytes:
            nonlocal came
            try:
                content = pull_object_fn(object_id)
            except ObjectUnavailableError as error:
                if time.monotonic() - came > stall_s:
                    raise ObjectPullError(object_id, "no further part came") from error
                raise
            came = time.monotonic()
            return content

        return pull_objects(object_ids, pull_object_fn=one)

    return pull


def _client(address: str, interceptors: Sequence[Any], *, patience_s: float) -> RuntimeHttpClient:
    retry = RetryInvoker(
        lambda: exponential(max_delay=2),
        httpx.TransportError,
        max_tries=None if patience_s else 1,
        max_time=patience_s or None,
    )
    return RuntimeHttpClient.from_server_address(
        address,
        True,  # plain HTTP: loopback only
        None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=_COMPONENT), *interceptors],
        retry_invoker=retry,
    )


class _Pace:
    """Stands in for `time` where the SuperNode waits.

    It waits 3 s where no message came, and 0.5 s for the worker's answer. While a study runs we
    look again after `busy_s`; else as seldom as Flower does.
    """

    _IDLE_S = 3.0

    def __init__(self, busy_s: float, busy_for_s: float) -> None:
        self._busy_s = busy_s
        self._busy_for_s = busy_for_s
        self._last_work = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep no longer than makes sense now."""
        now = time.monotonic()
        if seconds < self._IDLE_S:  # an answer is being made
            self._last_work = now
            seconds = min(seconds, self._busy_s / 2)
        elif now - self._last_work < self._busy_for_s:
            seconds = self._busy_s
        time.sleep(seconds)


def _tell_no_durations(state: type[Any]) -> None:
    """Have a SuperNode's state say 0 s where a reply's exact processing time goes with it."""
    measured = state.get_message_processing_duration

    def constant(self: Any, message_id: str) -> float:
        measured(self, message_id)  # it also forgets old entries
        return 0.0

    state.get_message_processing_duration = constant


def run_supernode(
    arguments: Sequence[str], *, busy_s: float = 0.25, busy_for_s: float = 60.0
) -> None:
    """Run Flower's `flower-supernode` in this process, with the four changes named above.

    Args:
        arguments: As on its command line.
        busy_s: Pause between looks while a study runs, seconds.
        busy_for_s: How long after a message a study counts as running, seconds.
    """
    internal = importlib.import_module("flwr.supernode.start_client_internal")
    cli = importlib.import_module("flwr.supernode.cli.flower_supernode")
    cli = sys.modules["flwr.supernode.cli.flower_supernode"]  # a function has the same name
    pace = _Pace(busy_s, busy_for_s)
    internal.time = SimpleNamespace(sleep=pace.sleep)  # type: ignore[attr-defined]
    # A run's own settings are all that ours reads: the node has no reason to open a bundle.
    internal.get_fused_config_from_fab = (  # type: ignore[attr-defined]
        lambda content, run: dict(run.override_config)
    )
    internal.pull_objects = _no_endless(internal.pull_objects)  # type: ignore[attr-defined]
    states = importlib.import_module("flwr.supernode.nodestate.in_memory_nodestate")
    _tell_no_durations(states.InMemoryNodeState)
    sys.argv = ["flower-supernode", *arguments]
    cli.flower_supernode()
