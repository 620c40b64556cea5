"""`python -m fedcohort.fl_server.superlink FOLDER`: Flower's SuperLink, hardened.

One process, two ports. The loopback port has everything, its Control API behind a password of ours
(Flower's knows none) and its Runtime API behind Flower's secret. The public port knows
`/v1/fleet/*` and `/health`. Nodes must be registered, runs survive a restart (SQLite), no code of
a bundle runs here, nothing is installed, nothing is reported.
"""

from __future__ import annotations

import hmac
import sys
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from ..hosting import follow_parent, read_private
from .coordinator_setup import PASSWORD_HEADER, CoordinatorSetup, read_coordinator

__all__ = ["fleet_only", "main", "operator_only", "superlink_arguments"]

_PUBLIC = "/v1/fleet/"
_RUNTIME = "/v1/runtime/"
_HEALTH = "/health"
_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Any, Any], Coroutine[Any, Any, None]]


def superlink_arguments(setup: CoordinatorSetup) -> list[str]:
    """Return the arguments of `flower-superlink`; none of them can be left out."""
    return [
        *("--host", setup.loopback_host, "--port", str(setup.loopback_port)),
        *("--ssl-ca-certfile", str(setup.pki / "ca.crt")),
        *("--ssl-certfile", str(setup.pki / "server.pem")),
        *("--ssl-keyfile", str(setup.pki / "server.key")),
        *("--database", str(setup.database)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(setup.secret)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def fleet_only(app: _App) -> _App:
    """Return an ASGI app that answers 404 to all but the hospitals' paths and the health check."""

    async def inner(scope: _Scope, receive: Any, send: Any) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and (path.startswith(_PUBLIC) or path == _HEALTH):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    return inner


def operator_only(app: _App, password: str) -> _App:
    """Return an ASGI app that answers 401 to whoever does not show the operator's password.

    The runner's paths have a secret of their own, and Flower's pages about itself are closed.
    """
    name, expected = PASSWORD_HEADER.encode(), password.encode()

    async def inner(scope: _Scope, receive: Any, send: Any) -> None:
        path = str(scope.get("path", ""))
        shown = b"".join(value for key, value in scope.get("headers", ()) if key == name)
        open_to_all = path.startswith((_PUBLIC, _RUNTIME)) or path == _HEALTH
        if scope["type"] == "lifespan" or open_to_all or hmac.compare_digest(shown, expected):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return inner


def main(arguments: Sequence[str]) -> None:
    """Run the SuperLink of a coordinator's folder."""
    setup = read_coordinator(Path(arguments[0]))
    for path in (setup.pki / "server.key", setup.secret):
        read_private(path)
    password = setup.password
    follow_parent()
    from .flower_compat import run_superlink

    run_superlink(
        superlink_arguments(setup),
        public_host=setup.public_host,
        public_port=setup.public_port,
        public=fleet_only,
        local=lambda app: operator_only(app, password),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
