"""Every byte that hospitals sent to a coordinator's public port, read by somebody who distrusts.

The same coordinator, restarted with a reader on its wire. A normal masked run shows that nothing
but Flower's own envelopes, known records and masked words crosses; broken hospitals, each with a
patient planted in it, show that a failure crosses as a code, and that the coordinator's folder
holds no more of it than that.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from fedcohort.fl_server import submitting
from fedcohort.fl_server.coordinator_folder import coordinator_services, is_healthy
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.errors import FedCohortError
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of

pytestmark = pytest.mark.deploy

LAUNCHER = Path(__file__).with_name("recording_superlink.py")
NAME, NUMBER, PHONE, WARD = "张三", "110101195003077755", "13912345678", "secret-ward-7"
CANARIES = [
    *(NAME.encode(code) for code in ("utf-8", "gb18030", "utf-16-le", "unicode-escape")),
    *(text.encode() for text in (NUMBER, PHONE, WARD)),
]
ERRORS = re.compile(rb"[A-Za-z]{3,}(?:Error|Exception|Warning)\b|Traceback \(|\.py\b|extract\.csv")
PATHS = {
    f"/v1/fleet/{name}"
    for name in (
        *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages"),
        *("push-messages", "get-run", "get-fab", "push-object", "pull-object"),
        "confirm-message-received",
    )
}
HEADERS = {
    *("host", "accept", "accept-encoding", "connection", "user-agent", "content-length"),
    *("content-type", "transfer-encoding"),
}
KEYS = {
    "answer": {"site", "roster", "plan", "policy", "plan_sha256", "report", "data"},
    "refused": {"code", "exit", "policy"},
}
OBJECTS = {"Message", "RecordDict", "ConfigRecord", "ArrayRecord", "Array", "ArrayChunk"}


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    at: float
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def decoded(self) -> Any:
        """As Flower's protobuf; nothing in it is unknown or left over."""
        found = PROTOBUF_REQUEST_TYPES["POST", self.path].FromString(self.body)
        whole = found.SerializeToString()
        found.DiscardUnknownFields()
        assert len(found.SerializeToString()) == len(whole) == len(self.body)
        return found


class Wire:
    """The recorded coordinator."""

    def __init__(self, federation: Any, file: Path) -> None:
        self.federation = federation
        self.file = file

    def start_runner(self) -> None:
        runner = coordinator_services(self.federation.setup)[1]
        self.start("runner", list(runner.command), dict(runner.environment))

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        log = (self.federation.setup.logs / f"{name}.log").open("ab")
        self.federation.processes[name] = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log
        )
        log.close()

    def requests(self, since: float = 0.0) -> list[Request]:
        lines = map(json.loads, self.file.read_text(encoding="ascii").splitlines())
        return [
            Request(
                at=line["at"],
                path=line["path"],
                query=line["query"],
                headers=dict(line["headers"]),
                body=base64.b64decode(line["body"]),
            )
            for line in lines
            if line["at"] >= since
        ]

    def replies(self, since: float = 0.0) -> list[Message]:
        """Every message that a site pushed, put together from its parts."""
        contents = {
            push.object_id: bytes(push.object_content)
            for push in (r.decoded for r in self.requests() if r.path.endswith("/push-object"))
        }
        found = []
        for request in self.requests(since):
            if request.path.endswith("/push-messages"):
                for tree in request.decoded.message_object_trees:
                    inflated = inflate_object_from_contents(
                        tree.object_id, contents, keep_object_contents=True
                    )
                    assert isinstance(inflated, Message)
                    found.append(inflated)
        return found

    def run(self, plan: Plan, timeout_s: float = 120) -> Any:
        number = submitting.submit(self.federation.setup, plan)
        return submitting.wait(self.federation.setup, number, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def wire(
    federation: Any, wait_until: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Wire]:
    """The coordinator, recorded; afterwards it is the usual one again."""
    federation.stop("coordinator")
    file = tmp_path_factory.mktemp("wire") / "wire.jsonl"
    wire = Wire(federation, file)
    link = coordinator_services(federation.setup)[0]
    command = [sys.executable, str(LAUNCHER), str(federation.setup.folder), str(file)]
    try:
        wire.start("superlink", command, dict(link.environment))
        wait_until(lambda: is_healthy(federation.setup), 60, "the SuperLink")
        wire.start_runner()
        yield wire
    finally:
        federation.stop("runner", "superlink")
        federation.start_coordinator()


# ---- what a normal run sends


def test_a_masked_run_sends_known_records_and_masked_words_alone(wire: Wire) -> None:
    plan = replace(wire.federation.plan, study="recorded")
    wire.federation.approve(plan)
    since = time.time()
    state = wire.run(plan)
    assert state.phase == "done", f"{state}\n{wire.federation.logs()}"
    requests = wire.requests()
    assert {request.path for request in requests} <= PATHS
    assert not any(request.query for request in requests)
    for request in requests:
        own = {name for name in request.headers if name.startswith("flwr-")}
        assert set(request.headers) - own <= HEADERS, request.headers
        _ = request.decoded
        if request.path.endswith("/push-messages"):  # how long the worker took is told to nobody
            assert list(request.decoded.clientapp_runtime_list) == [0.0]
        if request.path.endswith("/push-object"):
            assert request.decoded.object_content.split(b" ")[0].decode() in OBJECTS
    vectors = []
    for message in wire.replies(since):
        assert not message.has_error()
        assert set(message.content) <= {"answer", "refused", "vector"}
        assert not message.content.metric_records
        for name, record in message.content.config_records.items():
            assert set(record) <= KEYS[name]
        for arrays in message.content.array_records.values():
            assert set(arrays) == {"sum"}
            vectors.append(arrays["sum"].numpy())
    analysis: Any = analysis_of(plan)
    sizes = sorted(vector.size for vector in vectors)
    expected = sorted(3 * [1, *2 * [analysis.model.size]])  # a count, then two gradients
    assert sizes == expected
    assert {str(vector.dtype) for vector in vectors} <= {"uint32", "uint64"}
    # A sum's small integers would have the two highest bits alike; masked words have not.
    words = np.concatenate([v.astype(np.uint64) for v in vectors])
    bits = np.concatenate([np.full(v.size, 8 * v.dtype.itemsize, np.uint64) for v in vectors])
    unlike = ((words >> (bits - 1)) ^ (words >> (bits - 2))) & np.uint64(1)
    assert 0.25 < unlike.mean() < 0.75, unlike


def test_a_reader_of_the_wire_would_see_what_is_sent(wire: Wire) -> None:
    """The positive control: what does cross, is found by the same search."""
    names = {
        str(record["site"])
        for message in wire.replies()
        for record in message.content.config_records.values()
        if "site" in record
    }
    assert names == set(wire.federation.names)
    captured = b"".join(request.body for request in wire.requests())
    assert b"cleveland" in captured


# ---- what a broken hospital sends


def text_of(file: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = root / file
        path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")

    return plant


def outcome_is_a_name(text: str) -> str:
    lines = text.splitlines()
    lines[5] = lines[5].rsplit(",", 1)[0] + f",{NAME} {PHONE}"
    return "\n".join(lines)


def noisy(plan: Plan) -> Plan:
    """The plan with a noise that hides nothing: who runs it spends little."""
    privacy = PrivacyTerms(
        epsilon=1.0,
        delta=1e-4,
        noise_multiplier=calibrate(1.0, 1e-4, 3),
        releases=3,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        bound="rdp",
    )
    return replace(plan, privacy=privacy, parameters={**plan.parameters, "clip": 1.0})


PLANTED: dict[str, tuple[Callable[[Path], object], str]] = {
    # With noise no rule looks at the records, and nothing is refused.
    "a name where the outcome is": (text_of("data/extract.csv", outcome_is_a_name), ""),
    "a number for a column": (
        text_of("data/extract.csv", lambda t: t.replace("patient_id", NUMBER)),
        "data_refused",
    ),
    "a name in the codebook": (
        text_of("data/codebook.yaml", lambda t: f"{t}\n{NAME}: {PHONE}\n"),
        "data_refused",
    ),
    "a path in the mapping": (
        text_of("mapping.yaml", lambda t: t.replace("data/extract", f"../{WARD}/{NAME}")),
        "path_outside",
    ),
    "a letter for a list": (
        lambda root: (root / "opt-out.txt").write_bytes(f"{NAME} {NUMBER}".encode() * 99),
        "opt_out_unreadable",
    ),
    "too few patients": (
        text_of("data/extract.csv", lambda t: "\n".join(t.splitlines()[:9]) + "\n"),
        "data_refused",
    ),
    "a name in the policy": (
        text_of("policy.yaml", lambda t: t.replace("to be filled in", f"{NAME} {WARD}")),
        "policy_unsigned",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_broken_hospital_sends_a_code_and_no_patient(name: str, wire: Wire) -> None:
    plant, code = PLANTED[name]
    federation = wire.federation
    hospital = federation.sites[federation.names[0]]
    root = hospital.folder.root
    plan = replace(federation.plan, study=f"planted {sorted(PLANTED).index(name)}")
    if name.startswith("a name where"):
        plan = noisy(plan)
    for site, other in federation.sites.items():
        if site != federation.names[0]:
            other.approve(plan)
    kept = {
        path: path.read_bytes()
        for path in (root / "data" / "extract.csv", root / "data" / "codebook.yaml",
                     root / "mapping.yaml", root / "opt-out.txt", root / "policy.yaml")
    }  # fmt: skip
    since = time.time()
    try:
        if code == "policy_unsigned":
            hospital.approve(plan)
        plant(root)
        if code != "policy_unsigned":
            with contextlib.suppress(FedCohortError, OSError):  # nor can people look at it
                hospital.approve(plan)
        state = wire.run(plan)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    expected = ("failed", code) if code else ("done", "")
    assert (state.phase, state.code) == expected, f"{state}\n{federation.logs()}"
    check_nothing_crossed(wire, since, root, refused=bool(code))


def check_nothing_crossed(wire: Wire, since: float, root: Path, *, refused: bool = True) -> None:
    """In no byte that came, nor in the coordinator's folder."""
    secrets = [*CANARIES, str(root).encode()]
    for request in wire.requests(since):
        raw = request.body + json.dumps(request.headers).encode()
        assert not [secret for secret in secrets if secret in raw], request.path
        assert not ERRORS.findall(request.body), request.path
    refusals = [m for m in wire.replies(since) if "refused" in m.content]
    assert bool(refusals) == refused
    lengths = {len(recorddict_to_proto(m.content).SerializeToString()) for m in refusals}
    # Of a constant size, whatever was refused; one made here is the measure.
    measure = ConfigRecord({"code": " " * 48, "exit": 3, "policy": "0" * 64})
    whole = recorddict_to_proto(RecordDict({"refused": measure})).SerializeToString()
    assert lengths <= {len(whole)}
    for message in wire.replies(since):
        assert not message.has_error()  # Flower's own would carry a text
    for path in wire.federation.setup.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            held = path.read_bytes()
            assert not [secret for secret in secrets if secret in held], path


def test_the_same_search_finds_what_is_planted_at_the_hospital(wire: Wire) -> None:
    assert ERRORS.findall(b"KeyError: 'x'")
    for secret in (NAME.encode(), NUMBER.encode()):
        assert any(canary in secret for canary in CANARIES)


# ---- a coordinator in another country


def test_a_coordinator_that_says_it_is_in_another_country_is_refused(wire: Wire) -> None:
    federation = wire.federation
    file = federation.setup.folder / "coordinator.json"
    kept = file.read_bytes()
    plan = replace(federation.plan, study="abroad")
    federation.approve(plan)
    try:
        federation.stop("runner")
        file.write_bytes(kept.replace(b'"CN"', b'"DE"'))
        assert file.read_bytes() != kept
        wire.start_runner()
        state = wire.run(plan)
    finally:
        file.write_bytes(kept)
        federation.stop("runner")
        wire.start_runner()
    assert (state.phase, state.code) == ("failed", "policy_jurisdiction"), federation.logs()
