"""What the operator takes from inside Flower 1.41: calls to the SuperLink's Control API.

The other half of `flower_compat.py`, under the same contract test.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import httpx
from flwr.common import serde
from flwr.proto import control_pb2
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from ..hosting import loopback_needs_no_proxy
from .coordinator_setup import PASSWORD_HEADER
from .flower_compat import LinkGoneError

__all__ = ["Control"]


class Control:
    """The operator's calls, over HTTP on loopback: Flower's own command line takes 2 to 3 s each.

    Args:
        address: HOST:PORT of the loopback port.
        ca: The CA's certificate, PEM.
        password: What our launcher asks for; Flower's Control API itself knows none.
    """

    def __init__(self, address: str, ca: bytes, password: str) -> None:
        os.environ.update(loopback_needs_no_proxy())
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        self._client = ControlHttpClient.from_server_address(
            address, False, ca, [version, _Password(password)]
        )

    def register(self, public_pem: bytes, name: str) -> int:
        """Let a node in; return its number, also when it was let in before under this name.

        Raises:
            LinkGoneError: Nobody answers, or the key is another node's.
        """
        request = control_pb2.RegisterNodeRequest(public_key=public_pem, name=name)
        try:
            return int(_called(self._client.RegisterNode, request).node_id)
        except LinkGoneError:
            for node in self._listed():
                if (node.public_key, node.name) == (public_pem, name):
                    return int(node.node_id)
            raise

    def unregister(self, node_id: int) -> None:
        """Shut a node out."""
        _called(self._client.UnregisterNode, control_pb2.UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[int, str]:
        """Return each node's status by its number: registered, online, offline, unregistered."""
        return {int(node.node_id): str(node.status) for node in self._listed()}

    def start(self, bundle: bytes, settings: dict[str, Any]) -> int:
        """Start a run of a bundle; return its number."""
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = control_pb2.StartRunRequest(
            fab=serde.fab_to_proto(fab), override_config=serde.user_config_to_proto(settings)
        )
        found = _called(self._client.StartRun, request)
        if not found.HasField("run_id"):
            raise LinkGoneError("the run was not accepted")
        return int(found.run_id)

    def run_status(self, run_id: int) -> str:
        """Return a run's status: pending, starting, running, or finished:SUB."""
        found = _called(self._client.ListRuns, control_pb2.ListRunsRequest(run_id=run_id))
        status = found.run_dict[run_id].status
        return ":".join(part for part in (status.status, status.sub_status) if part)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        _called(self._client.StopRun, control_pb2.StopRunRequest(run_id=run_id))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _listed(self) -> list[Any]:
        found = _called(self._client.ListNodes, control_pb2.ListNodesRequest())
        return [node for node in found.nodes_info if node.status != "unregistered"]


class _Password:
    """Shows the operator's password with every request."""

    def __init__(self, password: str) -> None:
        self._password = password

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Add the header, go on."""
        context.request.headers[PASSWORD_HEADER] = self._password
        return call_next(context)


def _called(call: Callable[[Any], Any], request: Any) -> Any:
    try:
        return call(request)
    except httpx.HTTPStatusError as error:
        raise LinkGoneError(f"HTTP {error.response.status_code}") from error
    except (httpx.HTTPError, ValueError) as error:
        raise LinkGoneError(type(error).__name__) from error
