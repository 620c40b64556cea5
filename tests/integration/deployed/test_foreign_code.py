"""A coordinator that hands out bundles of its own: every site refuses, and nothing of it runs."""

from __future__ import annotations

import hashlib
import io
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from fedcohort.fl_server.coordinator_folder import coordinator_services, is_healthy
from fedcohort.fl_server.exchange import Answers, exchange
from fedcohort.fl_server.flower_compat import LinkGoneError, RunQueue
from fedcohort.fl_server.flower_control import Control
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.study.bundle import MANIFEST, PROJECT_FILE, bundle_bytes, bundle_sha256
from fedcohort.study.submission import sign_submission

pytestmark = pytest.mark.deploy

PLAN = "ab" * 32


def zipped(files: dict[str, bytes]) -> bytes:
    lines = [f"{name},{hashlib.sha256(c).hexdigest()},{8 * len(c)}" for name, c in files.items()]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        for name, content in {**files, MANIFEST: "\n".join(lines).encode()}.items():
            bundle.writestr(name, content)
    return written.getvalue()


def foreign(kind: str, marker: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as ours:
        project = ours.read(PROJECT_FILE)
    code = f"open({str(marker)!r}, 'w').close()\n".encode()
    if kind == "a bundle with code":
        named = project.replace(b"fedcohort.fl_client.worker:app", b"evil:app")
        return zipped({PROJECT_FILE: named, "evil.py": code})
    if kind == "a module that shadows ours":
        return zipped({PROJECT_FILE: project, "fedcohort/__init__.py": code})
    if kind == "one changed byte":
        return zipped({PROJECT_FILE: project.replace(b"holds no code", b"holds No code")})
    if kind == "an agent":
        agent = project.replace(b"clientapp =", b'agentapp = "evil:app"\nclientapp =')
        return zipped({PROJECT_FILE: agent, "evil.py": code})
    raise ValueError(kind)


KINDS = ("a bundle with code", "one changed byte", "a module that shadows ours", "an agent")


@pytest.fixture(scope="module")
def attacker(federation: Any, wait_until: Any) -> Iterator[Any]:
    """The same coordinator with its runner put away: somebody else takes the runs now.

    The SuperLink is restarted with its database; the sites come back by themselves.
    """
    federation.stop("coordinator")
    link = coordinator_services(federation.setup)[0]
    federation.processes["attacker"] = subprocess.Popen(
        list(link.command),
        env=dict(link.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: is_healthy(federation.setup), 60, "the SuperLink")
    yield federation
    federation.stop("attacker")
    federation.start_coordinator()


def signed(federation: Any, bundle: bytes) -> dict[str, str]:
    """The settings of a run that the coordinator's own key signed."""
    identity = load_identity(federation.setup.identity)
    name = hashlib.sha256(bundle).hexdigest()
    return {"plan-sha256": PLAN, "submission": sign_submission(identity, name, PLAN)}


def hello_under(federation: Any, bundle: bytes, settings: dict[str, str]) -> Answers:
    """Start a run of this bundle, take it as the attacker, and greet every site under it."""
    ca, secret = federation.setup.ca.read_bytes(), federation.setup.secret.read_bytes()
    control, queue = Control(federation.setup.loopback, ca, federation.setup.password), None
    try:
        number = control.start(bundle, settings)
        queue = RunQueue(federation.setup.loopback, ca, secret)
        taken = None
        for _ in range(100):
            taken = queue.next_run()
            if taken is not None:
                break
            time.sleep(0.1)
        assert taken is not None
        asked = taken.read()
        assert asked.run_id == number
        nodes: dict[str, int] = {}
        for _ in range(600):
            nodes = {str(node): node for node in asked.grid.get_node_ids()}
            if len(nodes) == len(federation.names):
                break
            time.sleep(0.2)
        content = RecordDict({"hello": ConfigRecord({"plan_sha256": ""})})
        answers = exchange(
            asked.grid, nodes, "query.hello", content, group="x", timeout_s=60, poll_s=0.3
        )
        taken.end()
        taken.close()
        return answers
    finally:
        control.close()
        if queue is not None:
            queue.close()


def test_the_attackers_way_works_with_our_own_bundle(attacker: Any) -> None:
    ours = bundle_bytes()
    answers = hello_under(attacker, ours, signed(attacker, ours))  # the positive control
    assert {str(r.config_records["answer"]["site"]) for r in answers.replies.values()} == set(
        attacker.names
    )


def test_a_run_that_the_coordinators_key_did_not_sign_is_refused(attacker: Any) -> None:
    """Who has the operator's password and the database, and not the key of the roster."""
    stranger = Ed25519PrivateKey.generate()
    for signature in ("", sign_submission(stranger, bundle_sha256(), PLAN)):
        settings = {"plan-sha256": PLAN, "submission": signature}
        answers = hello_under(attacker, bundle_bytes(), settings)
        assert {refusal.code for refusal in answers.refused.values()} == {"run_unsigned"}
        assert len(answers.refused) == len(attacker.names)


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_refuses_foreign_code(attacker: Any, kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    try:
        bundle = foreign(kind, marker)
        answers = hello_under(attacker, bundle, signed(attacker, bundle))
    except LinkGoneError:
        assert kind == "an agent"  # Flower's own server has refused it
    else:
        assert {refusal.code for refusal in answers.refused.values()} == {"bundle_not_allowed"}
        assert len(answers.refused) == len(attacker.names)
        assert not answers.replies
    assert not marker.exists()
