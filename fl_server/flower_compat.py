"""What the coordinator takes from inside Flower 1.41, and nothing else does at the server.

The SuperLink is started with a second, public port that knows the hospitals' paths only; runs are
taken over its Runtime API on loopback. What the operator does over its Control API is in
`flower_control.py`, the other half of this file. A contract test pins Flower's version and each
symbol.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.common import serde
from flwr.common.constant import SubStatus
from flwr.proto import runtime_pb2
from flwr.serverapp import Grid
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from .grid_around import GridAround
from .sites import InterruptedRunError

__all__ = [
    "LINK_PATIENCE_S",
    "LinkGoneError",
    "LinkGrid",
    "OpenRun",
    "RunInput",
    "RunNotRunningException",
    "RunQueue",
    "run_superlink",
]

_COMPONENT = "flwr-serverapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_HEARTBEAT_S = 12.0
LINK_PATIENCE_S = 120.0  # a SuperLink that its supervisor restarts is back within 10 to 30


class LinkGoneError(InterruptedRunError):
    """The SuperLink does not answer, or does not know our secret or task."""

    @property
    def refused(self) -> bool:
        """Whether it answered, with a no."""
        return str(self).startswith("HTTP 4")


def run_superlink(
    arguments: Sequence[str],
    *,
    public_host: str,
    public_port: int,
    public: Callable[[Any], Any],
    local: Callable[[Any], Any],
) -> None:
    """Run Flower's `flower-superlink` in this process, with the second port.

    Args:
        arguments: As on its command line; `--host` and `--port` are the loopback port.
        public_host: Where hospitals connect.
        public_port: Likewise.
        public: Makes of the whole ASGI app the one that the public port serves.
        local: Likewise for the loopback port.
    """
    importlib.import_module("flwr.superlink.cli.flower_superlink")
    cli: Any = sys.modules["flwr.superlink.cli.flower_superlink"]  # a function has the same name
    main: Any = importlib.import_module("flwr.superlink.main")

    def run(lifespan_config: Any) -> None:
        app = main.create_app(lifespan_config, cli.SuperLinkLifespan)
        common: dict[str, Any] = {
            "ssl_keyfile": lifespan_config.ssl_keyfile,
            "ssl_certfile": lifespan_config.ssl_certfile,
            "workers": 1,
            "access_log": False,
            "server_header": False,
            "log_config": get_uvicorn_log_config(30),
        }
        on_loopback = uvicorn.Config(
            local(app), host=lifespan_config.host, port=lifespan_config.port, **common
        )
        open_to_all = uvicorn.Config(
            public(app), host=public_host, port=public_port, lifespan="off", **common
        )
        asyncio.run(_serve([uvicorn.Server(on_loopback), uvicorn.Server(open_to_all)]))

    cli._run_superlink_http_api = run
    sys.argv = ["flower-superlink", *arguments]
    cli.flower_superlink()


async def _serve(servers: Sequence[uvicorn.Server]) -> None:
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """What a run is.

    Attributes:
        run_id: Flower's number.
        settings: What the submitter set; flat.
        bundle: The app bundle, as bytes.
        grid: Flower's Grid for this run.
        context: Flower's context.
    """

    run_id: int
    settings: dict[str, Any]
    bundle: bytes
    grid: Grid
    context: Context


class RunQueue:
    """The runner's way to its own SuperLink.

    Args:
        address: HOST:PORT of the loopback port.
        ca: The CA's certificate, PEM.
        secret: What SuperLink and runner share.
    """

    def __init__(self, address: str, ca: bytes, secret: bytes) -> None:
        self._address = address
        self._ca = ca
        knock = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=frozenset({_ACQUIRE})
        )
        self._client = RuntimeHttpClient.from_server_address(
            address,
            False,
            ca,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=_COMPONENT), knock],
        )

    def next_run(self) -> OpenRun | None:
        """Take the next run, if there is one.

        Raises:
            LinkGoneError: Nobody answers, or the secret is not theirs.
        """
        try:
            found = self._client.AcquireTask(
                runtime_pb2.AcquireTaskRequest(supported_task_types=[_COMPONENT])
            )
        except (httpx.HTTPError, ValueError) as error:
            raise LinkGoneError(type(error).__name__) from error
        if not (found.HasField("task") and found.token):
            return None
        return OpenRun(self._address, self._ca, found.token)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class OpenRun:
    """A run that was taken: read it, run it, end it."""

    def __init__(self, address: str, ca: bytes, token: str) -> None:
        self._grid = HttpGrid(address, False, ca, token=token)
        # Flower asks again by itself, with back-off, and would do so for ever.
        self._grid._retry_invoker.max_time = LINK_PATIENCE_S
        self._client = self._grid._runtime_client  # one connection for the grid and for us
        self._context: Context | None = None
        self._identity = (0, 0, 0)
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="run-heartbeat", daemon=True).start()

    def read(self) -> RunInput:
        """Return what is to be run.

        Raises:
            LinkGoneError: The SuperLink does not answer, or gave the run up.
        """
        try:
            found = self._client.PullTaskInput(runtime_pb2.PullTaskInputRequest())
        except (httpx.HTTPError, ValueError) as error:
            raise LinkGoneError(type(error).__name__) from error
        self._identity = found.task_id, found.run.run_id, found.context.node_id
        self.here()
        run = serde.run_from_proto(found.run)
        self._grid.set_run(run)
        self._context = serde.context_from_proto(found.context)
        return RunInput(
            run_id=run.run_id,
            settings=dict(run.override_config),
            bundle=bytes(found.fab.content),
            grid=LinkGrid(self._grid),
            context=self._context,
        )

    def here(self) -> None:
        """Say that this process speaks for this run: Flower stamps its messages so."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = self._identity

    def end(self, code: str = "") -> None:
        """End the run; with a code, as failed."""
        if self._context is not None:
            self._context.state = RecordDict()
        request = runtime_pb2.PushTaskOutputRequest(
            context=None if self._context is None else serde.context_to_proto(self._context),
            sub_status=SubStatus.FAILED if code else SubStatus.COMPLETED,
            details=code,
        )
        self._grid._retry_invoker.max_tries = 3
        try:
            self._client.PushTaskOutput(request)
        except (httpx.HTTPError, ValueError, RunNotRunningException) as error:
            raise LinkGoneError(type(error).__name__) from error

    def close(self) -> None:
        """Let go of the run."""
        self._closed.set()
        self._grid.close()

    def _beat(self) -> None:
        while not self._closed.wait(_HEARTBEAT_S):
            try:
                self._client.SendTaskHeartbeat(runtime_pb2.SendTaskHeartbeatRequest())
            except (httpx.HTTPError, ValueError, RuntimeError, RunNotRunningException):
                continue


class LinkGrid(GridAround):
    """Flower's Grid, whose last word on a lost connection is ours.

    Args:
        grid: Asks again by itself for a while: a push that is repeated is one push.
    """

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are online."""
        return _reached(self._grid.get_node_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return _reached(self._grid.push_messages, list(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return _reached(self._grid.pull_messages, list(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull until all are there."""
        return _reached(self._grid.send_and_receive, list(messages), timeout=timeout)


def _reached(call: Callable[..., Any], *positional: Any, **named: Any) -> list[Any]:
    try:
        return list(call(*positional, **named))
    except httpx.HTTPError as error:
        raise LinkGoneError(type(error).__name__) from error
