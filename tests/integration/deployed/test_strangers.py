"""Nodes that are not what they say: a key without its half, a clock that is off, one shut out.

Flower knows a node by a signature over the time of each request. Asked here as a node asks, by
HTTP, so that each test says what the server answered.
"""

from __future__ import annotations

import base64
import datetime as dt
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)
from flwr.common.constant import (
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from fedcohort.fl_client.site_gate import in_force
from fedcohort.fl_client.supervisor import site_services
from fedcohort.fl_server import submitting
from fedcohort.fl_server.deployed import enrolled
from fedcohort.fl_server.enrolment import enrol, invite, revoke
from fedcohort.hosting import read_private, running_state
from fedcohort.privacy.errors import ConfigError, PolicyError

pytestmark = pytest.mark.deploy

TODAY = dt.datetime.now(dt.UTC).date()
FOURTH = "va_long_beach"


@dataclass(frozen=True)
class Claim:
    """Who a request says that it is from, and who signs it, when.

    Attributes:
        node: Flower's number.
        public: The key it shows.
        signs: The key it signs with.
        off_s: How far its clock is ahead.
    """

    node: int
    public: ec.EllipticCurvePublicKey
    signs: ec.EllipticCurvePrivateKey
    off_s: float = 0.0


def key_of(path: Path) -> ec.EllipticCurvePrivateKey:
    found = load_ssh_private_key(read_private(path), None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def answer_to(federation: Any, claim: Claim) -> int:
    """Ask for messages as a node does; return the status."""
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=claim.off_s)
    stamp = now.isoformat()
    shown = claim.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = claim.signs.sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    request = urllib.request.Request(
        f"https://127.0.0.1:{federation.setup.public_port}/v1/fleet/pull-messages",
        data=PullMessagesRequest(node=Node(node_id=claim.node)).SerializeToString(),
        headers={
            "content-type": "application/protobuf",
            "accept": "application/protobuf",
            "flwr-package-name": "flwr",
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(shown).decode(),
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            TIMESTAMP_HEADER: stamp,
        },
    )
    context = ssl.create_default_context(cafile=str(federation.setup.ca))
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def claim(federation: Any) -> Claim:
    """An enrolled hospital's own, as it should be."""
    site = federation.names[0]
    own = key_of(federation.sites[site].folder.node_key)
    return Claim(node=enrolled(federation.setup)[site], public=own.public_key(), signs=own)


def test_a_stolen_certificate_without_its_key_opens_nothing(federation: Any, claim: Claim) -> None:
    """CA, address, node number and public key are no secrets: whoever has them has nothing."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert answer_to(federation, claim) == 200  # the positive control
    assert answer_to(federation, replace(claim, signs=stranger)) == 401
    own = replace(claim, signs=stranger, public=stranger.public_key())
    assert answer_to(federation, own) == 401  # its own key, another's number
    other = enrolled(federation.setup)[federation.names[1]]
    assert answer_to(federation, replace(claim, node=other)) == 401  # an enrolled one's neighbour


def test_a_node_whose_clock_is_off_is_refused_and_one_that_drifts_is_not(
    federation: Any, claim: Claim
) -> None:
    assert (TIMESTAMP_TOLERANCE, SYSTEM_TIME_TOLERANCE) == (300, 5)
    seen = {off: answer_to(federation, replace(claim, off_s=off)) for off in (-300, -310, 3, 10)}
    assert seen == {-300: 200, -310: 401, 3: 200, 10: 401}


SKEWED = """
import datetime as dt, sys
from flwr.supernode import node_auth_http_interceptor as signing
honest = signing.now
signing.now = lambda: honest() + dt.timedelta(seconds=int(sys.argv[1]))
from fedcohort.fl_client.supernode import main
main(sys.argv[2:])
"""


def skewed_node(federation: Any, folder: Any, off_s: int) -> subprocess.CompletedProcess[bytes]:
    """Run a hospital's SuperNode, with a clock that is off, until it ends."""
    service = site_services(folder, in_force(folder), federation.free_port())[0]
    launcher = federation.root / "skewed.py"
    launcher.write_text(SKEWED, encoding="ascii")
    at = service.command.index("fedcohort.fl_client.supernode")
    command = [sys.executable, str(launcher), str(off_s), *service.command[at + 1 :]]
    return subprocess.run(
        command, env=dict(service.environment), capture_output=True, timeout=90, check=False
    )


@dataclass(frozen=True)
class Fourth:
    """Another hospital: enrolled, in no roster; its clock was wrong, then it was put right.

    Attributes:
        hospital: Its folders.
        skewed: What became of its node while its clock was wrong.
    """

    hospital: Any
    skewed: subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def fourth(federation: Any, wait_until: Callable[..., None]) -> Iterator[Fourth]:
    setup = federation.setup
    invitation = invite(setup, FOURTH, today=TODAY)
    hospital = federation.made_hospital(federation.root / FOURTH, invitation)
    enrol(setup, hospital.request, today=TODAY)
    skewed = skewed_node(federation, hospital.folder, 400)
    federation.start(FOURTH, "fl_client.supervisor", hospital.folder.root)
    try:
        wait_until(lambda: submitting.status(setup).sites[FOURTH] == "online", 60, "the fourth")
        yield Fourth(hospital, skewed)
    finally:
        federation.stop(FOURTH)


def test_a_node_with_a_wrong_clock_ends_and_says_so_and_is_back_once_it_is_right(
    fourth: Fourth,
) -> None:
    """Its supervisor starts it again, 10 s later and then seldom; a run waits for it meanwhile."""
    assert fourth.skewed.returncode != 0
    said = fourth.skewed.stdout + fourth.skewed.stderr
    assert b"Failed to initialize the connection" in said


# ---- shut out


def test_a_node_that_is_shut_out_is_out_at_once(
    federation: Any, fourth: Fourth, wait_until: Callable[..., None]
) -> None:
    hospital = fourth.hospital
    own = key_of(hospital.folder.node_key)
    node = enrolled(federation.setup)[FOURTH]
    claim = Claim(node=node, public=own.public_key(), signs=own)
    assert answer_to(federation, claim) == 200
    revoke(federation.setup, FOURTH)
    assert answer_to(federation, claim) == 401
    assert FOURTH not in submitting.status(federation.setup).sites
    plan = replace(federation.plan, sites=tuple(sorted((*federation.names, FOURTH))))
    with pytest.raises(ConfigError) as refused:
        submitting.submit(federation.setup, plan)
    assert refused.value.code == "site_not_enrolled"
    # Its running process is told as well, by the server it asks.
    log = hospital.folder.logs / "supernode.log"
    wait_until(lambda: b"401" in log.read_bytes() or ended(hospital), 60, "its node to be refused")


def ended(hospital: Any) -> bool:
    state = running_state(hospital.folder.logs)
    return state is not None and bool(state["services"]["supernode"]["exit_codes"])


def test_a_key_of_a_revoked_node_does_not_come_back_under_an_old_invitation(
    federation: Any,
) -> None:
    """Enrolling takes a fresh invitation: the one that was used is burnt."""
    hospital = federation.sites[federation.names[0]]
    with pytest.raises(PolicyError) as refused:
        enrol(federation.setup, hospital.request, today=TODAY)
    assert refused.value.code == "invitation_unknown"


def test_a_node_that_was_never_enrolled_is_refused_whatever_its_clock(
    federation: Any,
) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    for node in (0, 1, enrolled(federation.setup)[federation.names[0]]):
        claim = Claim(node=node, public=stranger.public_key(), signs=stranger)
        assert answer_to(federation, claim) == 401
