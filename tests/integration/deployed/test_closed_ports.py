"""What a stranger reaches of a running coordinator: the hospitals' paths, none without a key."""

from __future__ import annotations

import os
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from fedcohort.fl_client.node_key import create_node_key
from fedcohort.fl_client.site_folder import SiteFolder
from fedcohort.fl_client.site_gate import in_force
from fedcohort.fl_client.supervisor import site_services
from fedcohort.fl_server.flower_compat import LinkGoneError, RunQueue
from fedcohort.fl_server.flower_control import Control

pytestmark = pytest.mark.deploy


def status_of(federation: Any, port: int, path: str, *, post: bool = True) -> int:
    context = ssl.create_default_context(cafile=str(federation.setup.ca))
    request = urllib.request.Request(  # https, to ourselves
        f"https://127.0.0.1:{port}{path}",
        data=b"" if post else None,
        headers={"content-type": "application/protobuf", "accept": "application/protobuf"},
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/runtime/push-task-output",
        "/docs",
        "/openapi.json",
        "/",
        "/v1/fleet",
        "//v1/control/start-run",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/V1/CONTROL/start-run",
    ],
)
def test_the_public_port_knows_the_hospitals_paths_only(federation: Any, path: str) -> None:
    public = federation.setup.public_port
    assert status_of(federation, public, path) == 404
    assert status_of(federation, public, path, post=False) == 404


def test_the_public_port_answers_its_health(federation: Any) -> None:
    assert status_of(federation, federation.setup.public_port, "/health", post=False) == 200
    # Without a node's signature nobody is served there.
    pull = "/v1/fleet/pull-messages"
    assert status_of(federation, federation.setup.public_port, pull) == 401


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/docs", "/openapi.json"])
def test_another_user_of_the_machine_operates_nothing(federation: Any, path: str) -> None:
    for post in (True, False):
        assert status_of(federation, federation.setup.loopback_port, path, post=post) == 401


def test_a_wrong_password_operates_nothing(federation: Any) -> None:
    control = Control(federation.setup.loopback, federation.setup.ca.read_bytes(), "0" * 64)
    with pytest.raises(LinkGoneError, match="401"):
        control.nodes()
    control.close()


def test_nobody_takes_a_run_or_a_task_without_the_secret(federation: Any) -> None:
    stranger = RunQueue(
        federation.setup.loopback, federation.setup.ca.read_bytes(), b"not the secret" * 4
    )
    with pytest.raises(LinkGoneError, match="HTTPStatusError"):
        stranger.next_run()
    stranger.close()


def test_a_node_that_was_never_enrolled_is_refused(federation: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    policy = in_force(federation.sites[federation.names[0]].folder)
    stranger = SiteFolder(tmp_path)
    stranger.ca.write_bytes(federation.setup.ca.read_bytes())
    stranger.secret.write_bytes(os.urandom(48))
    for path in (stranger.ca, stranger.secret):
        path.chmod(0o600)
    create_node_key(stranger.node_key)
    node = site_services(stranger, policy, federation.free_port())[0]
    done = subprocess.run(
        list(node.command), env=dict(node.environment), capture_output=True, timeout=90, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert b"Failed to initialize the connection" in said
    control = Control(
        federation.setup.loopback, federation.setup.ca.read_bytes(), federation.setup.password
    )
    assert len(control.nodes()) == len(federation.names)
    control.close()
